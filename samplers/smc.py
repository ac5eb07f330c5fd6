"""Sequential Monte Carlo along any path of distributions, at given or adaptive temperatures; without resampling, AIS."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from samplers.annealing import Path

Choose = Callable[[Path, Any, Tensor, float], float]
"""choose(path, state, log_weight, beta) → the next inverse temperature, above beta."""

_TOLERANCE = 0.01
_SMALLEST_STEP = 1e-9


class Particles(NamedTuple):
    """Weighted draws from the end of a path, and how they came there."""

    state: Any
    log_weight: Float[Tensor, " n"]
    """Their exponentials average to the estimate of Z_1 / Z_0, float64. Resampling makes them dependent."""
    betas: Float[Tensor, " k"]
    """The inverse temperatures, given or chosen, from 0 to 1."""
    ess: Float[Tensor, " k"]
    """Effective sample size as a fraction of n on arrival at each of them, before any resampling there."""

    @property
    def log_z_ratio(self) -> Float[Tensor, ""]:
        """log of the estimate of Z_1 / Z_0, nats."""
        return log_mean_exp(self.log_weight)


@torch.no_grad()
def smc(
    path: Path,
    num_particles: int,
    *,
    generator: torch.Generator,
    betas: Float[Tensor, " k"] | None = None,
    target_cess: float = 0.99,
    resample_below: float = 0.5,
    num_steps: int = 1,
) -> Particles:
    """Sequential Monte Carlo from β = 0 to 1 (Del Moral, Doucet and Jasra, 2006, with transitions that keep f_β invariant).

    At each temperature the weights are multiplied by f_β / f_β', the particles resampled systematically where their effective
    sample size is below `resample_below` · n, and then moved by `num_steps` transitions.

    Given `betas`, which rise from 0 to 1, the estimate of Z_1 / Z_0 is unbiased, so its logarithm is a stochastic lower
    bound. Otherwise each β is the furthest one that keeps the conditional effective sample size at `target_cess` · n (Zhou,
    Johansen and Aston, 2016): the estimate is biased, though consistent in n (Beskos et al., 2016), and a second run on the
    `betas` that the first one chose is unbiased. The number of temperatures grows as 1 / √(1 − target_cess).

    `resample_below` = 0 never resamples: annealed importance sampling, with adaptive temperatures or as `ais_log_weights`.
    """
    if not (0 < target_cess < 1 and 0 <= resample_below <= 1):
        raise ValueError(
            f"target_cess lies within (0, 1), resample_below in [0, 1]; not {target_cess}, {resample_below}."
        )
    choose = _adaptive(target_cess) if betas is None else _given(betas)
    state = path.start(num_particles, generator)
    log_weight = torch.zeros_like(path.log_density(state, 0.0))
    visited, ess = [0.0], [1.0]
    while visited[-1] < 1:
        last, beta = visited[-1], choose(path, state, log_weight, visited[-1])
        log_weight = log_weight + increment(path, state, last, beta)
        visited.append(beta)
        ess.append(float(conditional_ess(torch.zeros_like(log_weight), log_weight)))
        if not ess[-1] > 0:
            raise ValueError(f"At β = {beta:.3g} no particle has a finite log-density.")
        if ess[-1] < resample_below:
            state, log_weight = resample(state, log_weight, generator)
        for _ in range(num_steps):
            state = path.transition(state, beta, generator)
    return Particles(state, log_weight, *(torch.tensor(numbers, dtype=torch.float64) for numbers in (visited, ess)))


def increment(path: Path, state: Any, last: float, beta: float) -> Float[Tensor, " n"]:
    """log f_β − log f_last; −∞ for particles that have left the support, which would be the difference of two infinities."""
    change = path.log_density(state, beta) - path.log_density(state, last)
    return change.nan_to_num(nan=-math.inf, posinf=math.inf, neginf=-math.inf)


def conditional_ess(log_weight: Float[Tensor, " n"], change: Float[Tensor, " n"]) -> Float[Tensor, ""]:
    """(Σ W w)² / Σ W w² for normalised weights W and incremental ones w, as a fraction of n: in (0, 1].

    w = exp(change). Zhou, Johansen and Aston (2016). For equal W it is the effective sample size of w (Kong, 1992).
    """
    mean = torch.logsumexp(log_weight + change, 0)
    square = torch.logsumexp(log_weight + 2 * change, 0)
    return torch.exp(2 * mean - square - torch.logsumexp(log_weight, 0))


def resample(
    state: Any, log_weight: Float[Tensor, " n"], generator: torch.Generator
) -> tuple[Any, Float[Tensor, " n"]]:
    """Equally weighted particles: every weight becomes the mean weight, so that estimates of Z carry on unbiased."""
    uniform = torch.rand((), dtype=log_weight.dtype, device=log_weight.device, generator=generator)
    return take(state, systematic(log_weight, uniform)), log_mean_exp(log_weight).expand_as(log_weight)


def systematic(log_weight: Float[Tensor, " n"], uniform: Float[Tensor, ""]) -> Int[Tensor, " n"]:
    """Systematic resampling (Kitagawa, 1996): n indices, each occurring ⌊n W⌋ or ⌈n W⌉ times, and n W times on average."""
    num = len(log_weight)
    cdf = torch.softmax(log_weight, 0).cumsum(0)
    # Rounded up to 1, the last point would fall on a particle of weight 0.
    points = ((torch.arange(num, device=cdf.device) + uniform) / num).clamp(max=1 - torch.finfo(cdf.dtype).eps)
    return torch.searchsorted(cdf / cdf[-1], points, right=True)


def take(state: Any, rows: Tensor | slice) -> Any:
    """The given rows of every tensor in nested tuples."""
    if isinstance(state, Tensor):
        return state[rows]
    parts = [take(part, rows) for part in state]
    return type(state)(*parts) if hasattr(state, "_fields") else tuple(parts)


def log_mean_exp(log_weight: Float[Tensor, " n"]) -> Float[Tensor, ""]:
    """log of the mean of exp(log_weight)."""
    return torch.logsumexp(log_weight, 0) - math.log(len(log_weight))


def _given(betas: Float[Tensor, " k"]) -> Choose:
    if betas[0] != 0 or betas[-1] != 1 or bool((betas.diff() <= 0).any()):
        raise ValueError("Inverse temperatures must rise from 0 to 1.")
    numbers = iter(betas.tolist()[1:])
    return lambda *_: next(numbers)


def _adaptive(target_cess: float) -> Choose:
    def choose(path: Path, state: Any, log_weight: Tensor, beta: float) -> float:
        def keeps(further: float) -> bool:
            return bool(conditional_ess(log_weight, increment(path, state, beta, further)) >= target_cess)

        return 1.0 if keeps(1.0) else _first_failure(keeps, beta)

    return choose


def _first_failure(keeps: Callable[[float], bool], beta: float) -> float:
    """Where `keeps` turns false, by bisection; above beta even if it never holds, so that annealing goes on."""
    low, high = beta, 1.0
    while high - low > max(_TOLERANCE * (high - beta), _SMALLEST_STEP):
        middle = (low + high) / 2
        low, high = (middle, high) if keeps(middle) else (low, middle)
    return high
