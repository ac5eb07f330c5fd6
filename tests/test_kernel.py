"""The driver, its observers, and chains on disk: what is seen, what is kept, and that a killed run goes on as if it lived."""

import gc
import math
import os
import signal
from collections.abc import Callable
from itertools import takewhile
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor
from zoo import generator, some_states, tiny

from samplers import Kernel, Trace, gibbs, hmc, mala, parallel_tempering, run
from samplers.observers import Moments, RunningMoments
from samplers.storage import DiskTrace, load_chains, read_blocks, save_chains
from samplers.tempering import geometric, position_of, rung

# Counts its steps in place, so that only copies pass.
COUNTER = Kernel(
    init=lambda position: position,
    noise=lambda state, randoms: 1,
    update=lambda state, noise: (state.add_(noise), {"twice": 2 * state}),
)
WALK = Kernel(
    init=lambda position: position,
    noise=lambda state, randoms: torch.randn(state.shape, dtype=state.dtype, generator=randoms),
    update=lambda state, noise: (state + noise, {}),
)


def identity(state: Tensor) -> Tensor:
    return state


# The driver.

SETTINGS = {
    (7, 0, 1): [0, 1, 2, 3, 4, 5, 6, 7],
    (7, 0, 3): [0, 3, 6],
    (7, 3, 1): [3, 4, 5, 6, 7],
    (11, 2, 3): [2, 5, 8, 11],
    (7, 7, 5): [7],
    (0, 0, 2): [0],
}


@pytest.mark.parametrize("setting", SETTINGS)
def test_steps_are_observed_after_burn_in_and_thinned_from_there(setting: tuple[int, int, int]):
    num_steps, burn_in, thin = setting
    states, more, infos = Trace(identity), Trace(identity), Trace(lambda info: info["twice"])
    run(
        COUNTER,
        torch.zeros(2, 3),
        num_steps,
        generator=generator(),
        burn_in=burn_in,
        thin=thin,
        observe=[states, more],
        observe_info=infos,
    )
    assert states.steps == more.steps == SETTINGS[setting]
    assert torch.equal(states.stacked()[:, 0, 0], torch.tensor(states.steps).float())
    assert infos.steps == [step for step in states.steps if step > 0]
    assert not infos.steps or torch.equal(infos.stacked()[:, 1, 2], 2.0 * torch.tensor(infos.steps))


@pytest.mark.parametrize("burn_in", [0, 3])
@pytest.mark.parametrize("stop", [1, 2, 3, 5, 11])
def test_a_stopped_run_goes_on_with_the_numbers_it_would_have_had(stop: int, burn_in: int):
    trace, state = Trace(identity), torch.zeros(1)
    counted: list[int] = []
    for steps_done, last in ((0, stop), (stop, 11)):

        def track(numbers, last=last):
            for step in takewhile(lambda step: step <= last, numbers):
                counted.append(step)
                yield step

        settings: dict[str, Any] = {"burn_in": burn_in, "thin": 2, "steps_done": steps_done}
        state = run(COUNTER, state, 11, generator=generator(), observe=trace, track=track, **settings)
    assert counted == list(range(1, 12))
    assert trace.steps == list(range(burn_in, 12, 2))
    assert trace.stacked().flatten().tolist() == trace.steps


@pytest.mark.parametrize("wrong", [{"burn_in": -1}, {"burn_in": 6}, {"steps_done": 6}, {"steps_done": -1}, {"thin": 0}])
def test_run_refuses_nonsense(wrong: dict[str, Any]):
    with pytest.raises(ValueError, match="must be at least 0"):
        run(COUNTER, torch.zeros(2, 3), 5, generator=generator(), **wrong)


# Moments.


def offset_draws(num: int) -> Tensor:
    return 1e3 + torch.randn(num, 3, 5, generator=generator(1), dtype=torch.float64)


def close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_moments_do_not_depend_on_how_draws_are_split(seed: int):
    x, cuts = offset_draws(101), torch.randperm(100, generator=generator(seed))[: 1 + 20 * seed].sort().values + 1
    moments = Moments.empty(x[0])
    for batch in x.tensor_split(cuts):
        moments = moments.add(batch)
    variance, mean = torch.var_mean(x, 0)
    assert moments.num == 101
    close(moments.mean, mean)
    close(moments.variance, variance)


@pytest.mark.parametrize("shape", [(7,), (7, 3), (7, 3, 2)])
def test_running_moments_are_those_of_the_trace_in_float64(shape: tuple[int, ...]):
    trace, moments = Trace(identity), RunningMoments(identity)
    start = 1e3 + torch.zeros(shape)
    state = run(WALK, start, 40, generator=generator(), burn_in=5, thin=2, observe=(trace, moments))
    moments = RunningMoments(identity, moments.moments)
    run(WALK, state, 9, generator=generator(1), observe=[trace, moments])
    draws = trace.stacked().flatten(0, 1)
    variance, mean = torch.var_mean(draws.double(), 0)
    assert moments.moments.num == len(draws) == 7 * (18 + 10)
    close(moments.moments.mean, mean)
    close(moments.moments.variance, variance)
    assert (Moments.empty(draws[0]).add(draws).mean - mean).abs().max() > 1e-6


# Traces on disk.


def disk_trace(folder: Path, num_steps: int, block_size: int) -> tuple[DiskTrace, Trace]:
    kept, trace = DiskTrace(folder, identity, block_size=block_size), Trace(identity)
    run(WALK, torch.zeros(7, 3), num_steps, generator=generator(), thin=2, observe=[kept, trace])
    return kept, trace


@pytest.mark.parametrize("block_size", [1, 5, 7, 100])
@pytest.mark.parametrize("num_steps", [0, 8, 27])
def test_a_trace_on_disk_is_that_in_memory(tmp_path: Path, num_steps: int, block_size: int):
    kept, trace = disk_trace(tmp_path / "new" / "trace", num_steps, block_size)
    assert torch.equal(kept.stacked(), trace.stacked())
    blocks = list(read_blocks(tmp_path / "new" / "trace"))
    assert [step for block in blocks for step in block.steps.tolist()] == trace.steps
    assert {len(block.steps) for block in blocks[:-1]} <= {block_size}


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.bfloat16, torch.float64])
def test_a_trace_on_disk_keeps_the_type(tmp_path: Path, dtype: torch.dtype):
    kept = DiskTrace(tmp_path, lambda state: state.T.to(dtype), block_size=3)
    run(WALK, torch.zeros(7, 2), 5, generator=generator(), observe=kept)
    assert kept.stacked().dtype == dtype
    assert kept.stacked().shape == (6, 2, 7)


def live_tensors(shape: tuple[int, ...]) -> int:
    return sum(type(thing) is Tensor and thing.shape == shape for thing in gc.get_objects())


@pytest.mark.parametrize("on_disk", [True, False])
def test_a_trace_on_disk_holds_one_block_in_memory(tmp_path: Path, on_disk: bool):
    """Counted when a block ends and in the next one; a trace in memory shows that growth would be seen."""
    counts: list[int] = []
    trace = DiskTrace(tmp_path, identity, block_size=5) if on_disk else Trace(identity)

    def count(step: int, _: Any) -> None:
        if step in (54, 55, 58):
            counts.append(live_tensors((1009, 2)))

    run(WALK, torch.zeros(1009, 2), 60, generator=generator(), observe=[trace, count])
    end, first, fourth = counts
    assert (first - end, fourth - first) == ((-4, 3) if on_disk else (1, 3))
    assert (end < 5 + 5) == on_disk


def test_a_flushed_trace_is_read_while_its_run_goes_on(tmp_path: Path):
    trace = DiskTrace(tmp_path, identity, block_size=5)
    for step in range(8):
        trace(step, torch.full((2,), float(step)))
    assert [block.steps.tolist() for block in read_blocks(tmp_path)] == [[0, 1, 2, 3, 4]]
    trace.flush()
    trace.flush()
    assert [block.steps.tolist() for block in read_blocks(tmp_path)] == [[0, 1, 2, 3, 4], [5, 6, 7]]
    for step in range(8, 11):
        trace(step, torch.full((2,), float(step)))
    assert torch.equal(trace.stacked()[:, 1], torch.arange(11.0))
    assert [len(block.steps) for block in read_blocks(tmp_path)] == [5, 5, 1]


@pytest.mark.parametrize("block_size", [2, 5, 9])
@pytest.mark.parametrize("steps_done", [1, 8, 9, 12, 20])
def test_a_trace_goes_on_from_the_saved_step(tmp_path: Path, steps_done: int, block_size: int):
    """Observed are the even steps up to 20, in blocks of 5."""
    kept, trace = disk_trace(tmp_path, 20, 5)
    kept.flush()
    again = DiskTrace(tmp_path, identity, block_size=block_size, steps_done=steps_done)
    assert [step for block in read_blocks(tmp_path) for step in block.steps.tolist()] == [
        step for step in trace.steps if step <= steps_done
    ]
    for step, values in zip(trace.steps, trace.stacked(), strict=True):
        if step > steps_done:
            again(step, values)
    assert torch.equal(again.stacked(), trace.stacked())
    assert [step for block in read_blocks(tmp_path) for step in block.steps.tolist()] == trace.steps


def test_a_trace_is_not_overwritten_by_another(tmp_path: Path):
    disk_trace(tmp_path, 20, 5)
    with pytest.raises(ValueError, match="steps_done"):
        DiskTrace(tmp_path, identity)


# Chains on disk.


class Cell(NamedTuple):
    x: Tensor
    number: int


def nested() -> dict[str, Any]:
    shared = torch.randn(5, 3, generator=generator(2))
    return {
        "a.b": (shared, [shared.T, shared[1:]]),
        "a": {"b": Cell(torch.tensor([True, False]), 2**60 + 1)},
        "numbers": [0.1, -3, True, math.inf],
        "z": (torch.tensor(7), torch.randn(2, generator=generator(3), dtype=torch.float64), ()),
    }


def same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, tuple | list):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and a == b


def test_any_nest_of_tensors_and_numbers_comes_back(tmp_path: Path):
    path, randoms = tmp_path / "new" / "chains", generator(5)
    torch.randn(3, generator=randoms)
    save_chains(path, nested(), randoms, 17)
    expected = torch.randn(7, generator=randoms)
    resumed = generator(11)
    state, step = load_chains(path, like=nested(), generator=resumed)
    assert step == 17
    assert same(state, nested())
    assert not same(state, nested() | {"a": {"b": Cell(torch.tensor([True, True]), 2**60 + 1)}})
    assert torch.equal(torch.randn(7, generator=resumed), expected)


def test_chains_of_another_kind_are_refused(tmp_path: Path):
    path, state = tmp_path / "chains", (torch.zeros(5, 3), torch.zeros(5))
    save_chains(path, state, generator(), 1)
    for like in (
        (torch.zeros(7, 3), state[1]),
        (state[0].double(), state[1]),
        state[:1],
        (*state, state[0]),
        {"x": state},
    ):
        randoms = generator(1)
        with pytest.raises(ValueError, match=r"state.*give a state of the kernel"):
            load_chains(path, like=like, generator=randoms)
        assert torch.equal(randoms.get_state(), generator(1).get_state())
    with pytest.raises(ValueError, match=r"state\['name'\] is of type str"):
        save_chains(path, {"name": "x"}, generator(), 1)


def test_damaged_and_foreign_files_are_refused(tmp_path: Path):
    path, state = tmp_path / "chains", torch.zeros(5, 3)
    save_chains(path, state, generator(), 1)
    whole = path.read_bytes()
    for content in (whole[:-1], whole[:100], b"", whole.replace(b"samplers", b"SAMPLERS")):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="damaged or not of this library"):
            load_chains(path, like=state, generator=generator())


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "chains"
    save_chains(path, torch.zeros(5), generator(), 1)

    def fail(_: int) -> None:
        raise OSError("full")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="full"):
        save_chains(path, torch.ones(5), generator(), 2)
    state, step = load_chains(path, like=torch.zeros(5), generator=generator())
    assert (float(state.sum()), step) == (0.0, 1)


# A killed run.


class Case(NamedTuple):
    kernel: Kernel
    start: Any
    select: Callable[[Any], Tensor]


def gibbs_case() -> Case:
    model = tiny("Bernoulli", "Gaussian")
    start = tuple(some_states(unit, 11) for unit in model.units)
    return Case(gibbs(model.anneal(0.7)), start, lambda state: state[0])


def wells(x: Tensor) -> Tensor:
    return -torch.logaddexp(-(x + 2).square().sum(-1), -(x - 2).square().sum(-1) / 3)


def hmc_case() -> Case:
    return Case(hmc(wells, 0.3, 3, persistence=0.5), torch.ones(7, 3), lambda state: state.position)


def tempering_case() -> Case:
    betas = torch.tensor([0.1, 0.5, 1.3])
    kernel = parallel_tempering(lambda beta: mala(lambda x: beta[:, 0] * wells(x), 0.2), geometric(wells), betas, 5)
    return Case(kernel, torch.ones(15, 3), lambda state: rung(state).position)


CASES = {"gibbs": gibbs_case, "hmc": hmc_case, "tempering": tempering_case}


def long_run(
    case: Case, folder: Path, state: Any, randoms: torch.Generator, steps_done: int, kill_at: int | None
) -> Any:
    """50 steps, saved after every 10th one, with a trace whose blocks end elsewhere."""
    trace = DiskTrace(folder / "trace", case.select, block_size=7, steps_done=steps_done)

    def save(step: int, state: Any) -> None:
        if step % 10 == 0:
            trace.flush()
            save_chains(folder / "chains", state, randoms, step)
        if step == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    return run(case.kernel, state, 50, generator=randoms, steps_done=steps_done, observe=[trace, save])


@pytest.mark.parametrize("name", CASES)
def test_a_killed_run_ends_with_the_same_bits(tmp_path: Path, name: str):
    """Killed at step 37, when the trace on disk has run ahead of the chains saved after step 30."""
    case = CASES[name]()
    randoms = generator(3)
    whole = long_run(case, tmp_path / "whole", case.start, randoms, 0, None)
    child = get_context("fork").Process(
        target=long_run, args=(case, tmp_path / "killed", case.start, generator(3), 0, 37)
    )
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGKILL
    assert max(int(block.steps[-1]) for block in read_blocks(tmp_path / "killed" / "trace")) == 34
    resumed = generator(11)
    like = case.kernel.init(case.start)
    state, step = load_chains(tmp_path / "killed" / "chains", like=like, generator=resumed)
    assert step == 30
    assert type(state) is type(whole)
    ended = long_run(case, tmp_path / "killed", state, resumed, step, None)
    assert same(ended, whole)
    assert torch.equal(resumed.get_state(), randoms.get_state())
    for ours, theirs in zip(*(read_blocks(tmp_path / name / "trace") for name in ("killed", "whole")), strict=True):
        assert torch.equal(ours.steps, theirs.steps)
        assert torch.equal(ours.values, theirs.values)
    assert not same(run(case.kernel, state, 50, generator=generator(3), steps_done=30), whole)


@pytest.mark.parametrize("name", ["hmc", "tempering"])
def test_a_position_alone_does_not_hold_the_chains(tmp_path: Path, name: str):
    """Negative control: chains restarted from their positions, at the saved random numbers, end elsewhere."""
    case, randoms = CASES[name](), generator(3)
    state = run(case.kernel, case.start, 5, generator=randoms)
    saved = randoms.get_state()
    whole = run(case.kernel, state, 5, generator=randoms)
    inner = position_of(state.inner) if name == "tempering" else state.position
    assert not same(run(case.kernel, inner, 5, generator=randoms.set_state(saved)), whole)
    assert same(run(case.kernel, state, 5, generator=randoms.set_state(saved)), whole)
