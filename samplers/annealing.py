"""Annealed importance sampling along any path of distributions, forward and in reverse."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

Track = Callable[[Iterable[int]], Iterable[int]]


@runtime_checkable
class Path(Protocol):
    """Unnormalised densities f_β from an easy one (β = 0) to the target (β = 1).

    A state may carry whatever makes the next density cheap.
    """

    def start(self, num: int, generator: torch.Generator) -> Any:
        """Independent exact draws at β = 0."""
        ...

    def log_density(self, state: Any, beta: float) -> Tensor:
        """log f_β of each chain's state, shape (n,), float64."""
        ...

    def transition(self, state: Any, beta: float, generator: torch.Generator) -> Any:
        """A transition that is reversible with respect to f_β."""
        ...


def salakhutdinov_murray_schedule(num_temperatures: int = 14_500) -> Tensor:
    """Inverse temperatures 0 → 0.5 → 0.9 → 1 with 500, 4,000 and 10,000 of every 14,500 steps, evenly within each part.

    Salakhutdinov and Murray (2008), section 4.2, for `num_temperatures` = 14,500. Returns num_temperatures + 1 numbers, float64,
    from 0 to 1.
    """
    if num_temperatures < 3:
        raise ValueError(f"The schedule has three parts and needs at least 3 temperatures, not {num_temperatures}.")
    first = max(1, round(num_temperatures * 500 / 14_500))
    second = max(1, round(num_temperatures * 4_000 / 14_500))
    third = num_temperatures - first - second
    ends = torch.tensor([0.0, 0.5, 0.9, 1.0], dtype=torch.float64)
    parts = [
        torch.linspace(float(a), float(b), n + 1, dtype=torch.float64)[1:]
        for a, b, n in zip(ends, ends[1:], (first, second, third), strict=False)
    ]
    return torch.cat([ends[:1], *parts])


@torch.no_grad()
def ais_log_weights(
    path: Path,
    betas: Tensor,
    num_chains: int,
    *,
    generator: torch.Generator,
    num_steps: int = 1,
    track: Track | None = None,
) -> Tensor:
    """Log-weights of annealed importance sampling (Neal, 2001), shape (num_chains,), float64.

    The mean of exp(log-weight) is an unbiased estimate of Z_1 / Z_0, so log-mean-exp underestimates log(Z_1 / Z_0) in
    expectation. `betas` rises from 0 to 1; every temperature takes `num_steps` transitions.
    """
    state = path.start(num_chains, generator)
    log_weight = 0.0
    numbers = range(1, len(betas))
    values = betas.tolist()
    for k in numbers if track is None else track(numbers):
        log_weight = log_weight + path.log_density(state, values[k]) - path.log_density(state, values[k - 1])
        for _ in range(num_steps):
            state = path.transition(state, values[k], generator)
    return torch.as_tensor(log_weight)


@torch.no_grad()
def reverse_ais_log_weights(
    path: Path,
    betas: Tensor,
    state: Any,
    *,
    generator: torch.Generator,
    num_steps: int = 1,
    track: Track | None = None,
) -> Tensor:
    """Log-weights along the path run backwards from `state` at β = 1, shape (n,), float64.

    If the states are exact draws from the target, the mean of exp(−log-weight) is an unbiased estimate of Z_0 / Z_1, so
    minus log-mean-exp of the negatives overestimates log(Z_1 / Z_0) in expectation (Grosse, Ghahramani and Adams, 2015).
    From any other x, f_1(x) / Z_0 · exp(−log-weight) is an unbiased estimate of the probability of x under forward AIS
    as a generative process (RAISE: Burda, Grosse and Salakhutdinov, 2015, eq. 12).
    """
    log_weight = 0.0
    numbers = range(len(betas) - 1, 0, -1)
    values = betas.tolist()
    for k in numbers if track is None else track(numbers):
        for _ in range(num_steps):
            state = path.transition(state, values[k], generator)
        log_weight = log_weight + path.log_density(state, values[k]) - path.log_density(state, values[k - 1])
    return torch.as_tensor(log_weight)
