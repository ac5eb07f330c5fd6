"""No kernel's step looks at a value: on a GPU that would make the host wait for the device.

Steps run here on tensors that have shapes and no values. Whatever needs one then raises: a number, a Python branch, a shape
that depends on data. So does a tensor made of Python numbers, which would have to be sent to a GPU. What this cannot see is
seen with `--device cuda`: where a tensor is.
"""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only
from zoo import PAIRS, generator, some_states, tiny

from samplers.annealed_langevin import score_langevin
from samplers.discrete import dmala, gibbs_with_gradients
from samplers.gibbs import Clamp, gibbs
from samplers.hmc import hmc
from samplers.kernel import Kernel
from samplers.langevin import adjusted_underdamped, mala, ula, underdamped
from samplers.tempering import geometric, parallel_tempering
from samplers.walkback import walk_back


class NoConstants(TorchDispatchMode):
    """Refuses tensors made of Python numbers."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.lift_fresh.default:
            raise RuntimeError("A tensor made of Python numbers inside a step.")
        return func(*args, **(kwargs or {}))


@torch.no_grad()
def blind_step(kernel: Kernel, position: Any) -> None:
    """One step, its noise and its update, from a state without values."""
    state = kernel.init(position)
    with FakeTensorMode(allow_non_fake_inputs=True) as blind, NoConstants():
        kernel.step(tree_map_only(Tensor, blind.from_tensor, state), generator())


X = torch.linspace(-1.3, 1.7, 21, dtype=torch.float64).view(7, 3)
METRIC = torch.tensor([0.6, 1.3, 2.1], dtype=torch.float64)
STEPS = torch.linspace(0.1, 0.7, 7, dtype=torch.float64)[:, None]


def energy(x: Tensor) -> Tensor:
    return torch.where(x[:, 0] > 2, math.inf, (x - 0.4).pow(4).sum(-1))


@pytest.mark.parametrize(
    "kernel",
    [
        ula(energy, 0.1, metric=METRIC),
        mala(energy, STEPS, metric=METRIC),
        hmc(energy, 0.1, 3, metric=METRIC),
        hmc(energy, STEPS, 2, persistence=0.8),
        underdamped(energy, 0.1, 0.7, metric=METRIC),
        adjusted_underdamped(energy, STEPS, 0.7),
        score_langevin(lambda x: -x, 0.1),
    ],
    ids=["ula", "mala", "hmc", "persistent hmc", "underdamped", "adjusted_underdamped", "score_langevin"],
)
def test_continuous_steps(kernel: Kernel):
    blind_step(kernel, X)


@pytest.mark.parametrize("levels", [None, 3])
def test_discrete_steps(levels: int | None):
    x = torch.eye(3, dtype=torch.float64) if levels else (X > 0).double()
    blind_step(gibbs_with_gradients(energy, levels=levels), x)
    blind_step(dmala(energy, 0.3, levels=levels), x)


@pytest.mark.parametrize("clamped", [False, True])
@pytest.mark.parametrize("pair", PAIRS, ids="-".join)
def test_gibbs_steps(pair: tuple[str, str], clamped: bool):
    model = tiny(*pair)
    start = tuple(some_states(unit, 7) for unit in model.units)
    clamp: Clamp = {0: torch.arange(model.visible.size) < 1, 1: True} if clamped else {}
    for beta in (0.7, STEPS):
        blind_step(gibbs(model.anneal(beta), clamp=clamp), start)


INNER: dict[str, Callable[[Tensor], Kernel]] = {
    "mala": lambda beta: mala(lambda x: beta[:, 0] * energy(x), 0.1 / beta),
    "hmc": lambda beta: hmc(lambda x: beta[:, 0] * energy(x), 0.1, 3),
    "gibbs_with_gradients": lambda beta: gibbs_with_gradients(lambda x: beta[:, 0] * energy(x)),
}


@pytest.mark.parametrize("make_kernel", INNER.values(), ids=INNER)
def test_tempering_steps(make_kernel: Callable[[Tensor], Kernel]):
    betas = torch.tensor([0.3, 0.7, 1.3], dtype=torch.float64)
    blind_step(parallel_tempering(make_kernel, geometric(energy), betas, 7), (X > 0).double().repeat(3, 1))


@torch.no_grad()
def test_tempering_steps_of_a_machine():
    model, betas = tiny("Bernoulli", "Bernoulli"), torch.tensor([0.3, 0.7, 1.3], dtype=torch.float64)
    log_density = geometric(lambda state: model.energy(state[0], state[1:]))
    kernel = parallel_tempering(lambda beta: gibbs(model.anneal(beta)), log_density, betas, 7)
    blind_step(kernel, tuple(some_states(unit, 21) for unit in model.units))


class Blur:
    """A denoiser of Gaussian noise with a linear mean."""

    def corruption_noise(self, x: Tensor, generator: torch.Generator) -> Tensor:
        return torch.randn(x.shape, dtype=x.dtype, device=x.device, generator=generator)

    reconstruction_noise = corruption_noise

    def corrupt(self, x: Tensor, noise: Tensor) -> Tensor:
        return x + 0.6 * noise

    def reconstruct(self, x_noisy: Tensor) -> Tensor:
        return 0.7 * x_noisy + METRIC

    def draw(self, parameters: Tensor, noise: Tensor) -> Tensor:
        return parameters + 0.4 * noise


@pytest.mark.parametrize("clamp", [None, X[0] > 0, X > 0], ids=["free", "sites", "of each chain"])
def test_walk_back_steps(clamp: Tensor | None):
    blind_step(walk_back(Blur(), clamp=clamp), X)


WAITING: dict[str, Callable[[Tensor], Any]] = {
    "a number": lambda x: x * x.sum().item(),
    "a branch": lambda x: x if x.sum() > 0 else -x,
    "numbers": lambda x: x.tolist(),
    "an array": lambda x: x.numpy(),
    "a mask": lambda x: x[x > 0],
    "positions": lambda x: x.nonzero(),
    "equality": lambda x: x if torch.equal(x, X) else -x,
    "a number from elsewhere": lambda x: x * float(METRIC.sum()),
    "a constant": lambda x: x + torch.tensor([0.1, 0.2, 0.3]),
}


@pytest.mark.parametrize("wait", WAITING.values(), ids=WAITING)
def test_steps_that_wait_are_refused(wait: Callable[[Tensor], Any]):
    kernel = score_langevin(lambda x: -x, 0.1)
    waiting = kernel._replace(update=lambda x, noise: (wait(kernel.update(x, noise)[0]), {}))
    blind_step(kernel, X)
    with pytest.raises(RuntimeError):
        blind_step(waiting, X)
