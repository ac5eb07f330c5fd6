"""Observers: what a run keeps of the states, or of the infos, that it passes through."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

Observe = Callable[[int, Any], object]
"""observe(step, state), called after the step of that number; or observe(step, info)."""


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


class Moments(NamedTuple):
    """Running count, mean and sum of squared deviations of everything seen: all chains, all steps."""

    num: int
    mean: Float[Tensor, "*d"]
    squares: Float[Tensor, "*d"]

    @classmethod
    def empty(cls, like: Float[Tensor, "*d"]) -> Moments:
        """Nothing seen yet of what has the shape and dtype of `like`."""
        return cls(0, torch.zeros_like(like), torch.zeros_like(like))

    def add(self, batch: Float[Tensor, "n ..."]) -> Moments:
        """Welford's update by whole batches (Chan, Golub and LeVeque, 1983, equation 2.1)."""
        new, num = len(batch), self.num + len(batch)
        batch_mean = batch.mean(0)
        delta = batch_mean - self.mean
        within = (batch - batch_mean).square().sum(0)
        between = delta.square() * (self.num * new / num)
        return Moments(num, self.mean + delta * (new / num), self.squares + within + between)

    @property
    def variance(self) -> Float[Tensor, "*d"]:
        """The unbiased estimate, with num − 1 in the denominator; for dependent draws biased as that of any trace."""
        return self.squares / (self.num - 1)


class RunningMoments:
    """Observer of the mean and variance of select(state), shape (chains, ...), over all chains and steps, in float64.

    It keeps no draw, only `moments`, so a run may be of any length. Give the `moments` of an earlier run to go on from them.

    >>> from samplers.kernel import run
    >>> from samplers.langevin import mala
    >>> kernel = mala(lambda x: (x / torch.tensor([1.0, 3.0])).square().sum(-1) / 2, 1.3)
    >>> seen = RunningMoments(lambda state: state.position)
    >>> generator = torch.Generator().manual_seed(0)
    >>> _ = run(kernel, torch.zeros(1000, 2), 300, generator=generator, burn_in=100, observe=seen)
    >>> [round(variance) for variance in seen.moments.variance.tolist()]
    [1, 9]
    """

    def __init__(self, select: Callable[[Any], Tensor], moments: Moments | None = None):
        self._select = select
        self.moments = Moments.empty(torch.zeros((), dtype=torch.float64)) if moments is None else moments

    def __call__(self, step: int, state: Any) -> None:
        self.moments = self.moments.add(self._select(state).detach().double())


def together(observe: Observe | Sequence[Observe] | None) -> Observe:
    """No observer, one or several as one."""
    observers = [observe] if callable(observe) else list(observe or ())

    def call_all(step: int, state: Any) -> None:
        for each in observers:
            each(step, state)

    return call_all
