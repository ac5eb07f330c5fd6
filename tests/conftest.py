"""Options of the suite, and what holds for every test.

`--device cuda` runs the sampler suites there, with every kernel's step forbidden to wait for a value; `--seed-shift N`
runs the suite on other random numbers.
"""

from typing import Any

import jaxtyping
import pytest
import torch

# Tiny models gain nothing from more, and lose much on a busy machine.
torch.set_num_threads(1)

ON_ANY_DEVICE = {"gibbs", "continuous", "discrete", "tempering", "smc", "walkback", "annealed_langevin"}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--device", default="cpu", help="run the sampler suites with all tensors there, such as cuda")
    parser.addoption("--seed-shift", type=int, default=0, help="what is added to every seed")


# Last, because the library must not be imported before the hook that checks its shapes is in place.
@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    import zoo

    zoo.seed_shift = config.getoption("--seed-shift")
    if config.getoption("--device") != "cpu":
        torch.set_default_device(config.getoption("--device"))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--device") != "cpu":
        suites = {f"test_{name}" for name in ON_ANY_DEVICE}
        config.hook.pytest_deselected(items=[item for item in items if item.path.stem not in suites])
        items[:] = [item for item in items if item.path.stem in suites]


@pytest.fixture(autouse=True)
def shapes_are_checked(request: pytest.FixtureRequest) -> None:
    """But where steps are so many and so small that checking takes most of the time: others check the same functions."""
    jaxtyping.config.update("jaxtyping_disable", request.node.get_closest_marker("many_steps") is not None)


@pytest.fixture(autouse=True)
def no_waiting_inside_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU a kernel's step raises where it would wait for a value, or copy one from the host."""
    if torch.get_default_device().type != "cuda":
        return

    from samplers import Kernel

    step = Kernel.step

    def strict_step(self: Kernel, state: Any, generator: torch.Generator) -> Any:
        torch.cuda.set_sync_debug_mode("error")
        try:
            return step(self, state, generator)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    monkeypatch.setattr(Kernel, "step", strict_step)
