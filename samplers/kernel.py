"""Kernel, and the one driver."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from samplers.observers import Observe, together

Info = dict[str, Tensor]


class Kernel(NamedTuple):
    """A Markov transition of pure functions; chains are the leading axis of every tensor.

    A step draws its noise and then updates: the update alone is deterministic, so it can be tested without statistics.
    """

    init: Callable[[Any], Any]
    """init(position) -> state: what the chain carries."""
    noise: Callable[[Any, torch.Generator], Any]
    """noise(state, generator) -> all random numbers of one step."""
    update: Callable[[Any, Any], tuple[Any, Info]]
    """update(state, noise) -> (state, info): one transition of every chain."""

    def step(self, state: Any, generator: torch.Generator) -> tuple[Any, Info]:
        """One transition of every chain."""
        return self.update(state, self.noise(state, generator))


@torch.no_grad()
def run(
    kernel: Kernel,
    position: Any,
    num_steps: int,
    *,
    generator: torch.Generator,
    burn_in: int = 0,
    thin: int = 1,
    steps_done: int = 0,
    observe: Observe | Sequence[Observe] | None = None,
    observe_info: Observe | Sequence[Observe] | None = None,
    track: Callable[[Iterable[int]], Iterable[int]] | None = None,
) -> Any:
    """Run all chains `num_steps` steps from `position` and return their last state.

    `observe(step, state)` is called after the steps burn_in, burn_in + thin, burn_in + 2 thin, ..., where step 0 is the start;
    `observe_info(step, info)` after the same ones but the start, which has no info. Each is one observer or several; they
    alone decide what is kept, so memory does not grow with the length of the run. `track` wraps the step counter, for a
    progress bar.

    Runs continue: a run of m steps and one of n from its result, on the same generator, equal one of m + n. To number and
    observe the steps of a run that was stopped as if it had not been, call it as before but with its state as the `position`
    and with its `steps_done`, which count towards `num_steps` (`samplers.storage` keeps both on disk).
    """
    if num_steps < 0 or thin < 1 or not (0 <= burn_in <= num_steps and 0 <= steps_done <= num_steps):
        raise ValueError(
            "num_steps must be at least 0, thin at least 1, burn_in and steps_done from 0 to num_steps; "
            f"not {num_steps}, {thin}, {burn_in} and {steps_done}."
        )
    see, see_info = together(observe), together(observe_info)
    state = kernel.init(position)
    if burn_in == steps_done == 0:
        see(0, state)
    for step in _counter(steps_done, num_steps, track):
        state, info = kernel.step(state, generator)
        if step >= burn_in and (step - burn_in) % thin == 0:
            see(step, state)
            see_info(step, info)
    return state


def _counter(steps_done: int, num_steps: int, track: Callable[[Iterable[int]], Iterable[int]] | None) -> Iterator[int]:
    numbers = range(steps_done + 1, num_steps + 1)
    return iter(numbers if track is None else track(numbers))
