"""Kernel, the one driver, and observers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

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


class Trace:
    """Observer that keeps select(state) after the given step numbers (1 is the first step; 0 the start), on the CPU.

    With `steps=None` it keeps every observed state. Memory grows with what is kept and nothing else.
    """

    def __init__(self, select: Callable[[Any], Tensor], steps: Iterable[int] | None = None):
        self._select = select
        self._wanted = None if steps is None else frozenset(steps)
        self.steps: list[int] = []
        self._kept: list[Tensor] = []

    def __call__(self, step: int, state: Any) -> None:
        if self._wanted is None or step in self._wanted:
            self.steps.append(step)
            self._kept.append(self._select(state).detach().to("cpu", copy=True))

    def stacked(self) -> Tensor:
        """What was kept, shape (times, chains, ...)."""
        return torch.stack(self._kept)


@torch.no_grad()
def run(
    kernel: Kernel,
    position: Any,
    num_steps: int,
    *,
    generator: torch.Generator,
    thin: int = 1,
    observe: Callable[[int, Any], None] | None = None,
    track: Callable[[Iterable[int]], Iterable[int]] | None = None,
) -> Any:
    """Run all chains `num_steps` steps from `position` and return their last state.

    `observe(step, state)` is called for the start (step 0) and after every `thin`-th step; it alone decides what is kept,
    so memory does not grow with the length of the run. `track` wraps the step counter, for a progress bar.

    Runs continue: a run of m steps and one of n from its result, on the same generator, equal one of m + n.
    """
    if num_steps < 0 or thin < 1:
        raise ValueError(f"num_steps must be at least 0 and thin at least 1, not {num_steps} and {thin}.")
    state = kernel.init(position)
    if observe is not None:
        observe(0, state)
    for step in _counter(num_steps, track):
        state, _ = kernel.step(state, generator)
        if observe is not None and step % thin == 0:
            observe(step, state)
    return state


def _counter(num_steps: int, track: Callable[[Iterable[int]], Iterable[int]] | None) -> Iterator[int]:
    numbers = range(1, num_steps + 1)
    return iter(numbers if track is None else track(numbers))
