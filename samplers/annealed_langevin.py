"""Annealed Langevin dynamics: a score at falling noise levels leads chains from noise to data."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from samplers.kernel import Kernel, run
from samplers.observers import Observe, together
from samplers.tempering import position_of

Score = Callable[[Tensor, float], Tensor]
"""score(x, sigma) → ∇ log p_σ(x), (n, d) → (n, d), where p_σ is the target smoothed with Gaussian noise of deviation σ."""


@torch.no_grad()
def annealed_langevin(
    score: Score,
    position: Float[Tensor, "n d"],
    sigmas: Float[Tensor, " k"],
    *,
    step_size: float,
    num_steps: int,
    generator: torch.Generator,
    denoise: bool = True,
    clamp: tuple[Bool[Tensor, "*m d"], Float[Tensor, "*k d"]] | None = None,
    observe: Observe | Sequence[Observe] | None = None,
    track: Callable[[Iterable[int]], Iterable[int]] | None = None,
) -> Float[Tensor, "n d"]:
    """Chains after `num_steps` of x' = x + h s(x, σ) + √(2 h) ξ at each of the falling noise levels, h = step_size · σ².

    Song and Ermon (2019, algorithm 1; their ε is 2 step_size σ_k², and step_size σ_k² in 2020); steps ∝ σ² keep the ratio
    of drift to noise the same at all levels. `best_step_size` and `geometric_noise_levels` choose. Start from noise as wide
    as p_σ at the first level. `denoise` returns x + σ_k² s(x, σ_k), the mean of the data given the last x, which is no draw
    but for small σ_k near one (Song and Ermon, 2020; Jolicoeur-Martineau et al., 2021).

    `clamp` is a mask of sites, (d,) or (n, d), and the values that they have: after every step they are set to these values
    plus noise of the level (in-painting; Song and Ermon, 2019), which is a heuristic: the free sites hear of them by the
    score alone.

    Biased, and nothing corrects it: without `denoise` the chains approach p_σ at the last level, not the target, up to
    O(step_size) and what the chains of each level had no time for. Modes that are joined at the first level get their
    weights to the same accuracy, where those of plain Langevin are the accidents of its start. For the Metropolis-adjusted
    chains of an energy see `run_levels`, and there for `observe` and `track`. The score is called without gradients.

    >>> def score(x, sigma):  # of N(3, 2²)
    ...     return (3 - x) / (4 + sigma**2)
    >>> randoms, sigmas = torch.Generator().manual_seed(0), geometric_noise_levels(10.0, 0.1, 20)
    >>> start = 10 * torch.randn(1000, 1, generator=randoms)
    >>> x = annealed_langevin(score, start, sigmas, step_size=0.2, num_steps=10, generator=randoms)
    >>> bool((x.mean() - 3).abs() < 0.3)
    True
    """

    def make_kernel(sigma: float) -> Kernel:
        kernel = score_langevin(lambda x: score(x, sigma), step_size * sigma**2)
        return kernel if clamp is None else _clamped(kernel, *clamp, sigma)

    x = run_levels(make_kernel, position, sigmas, num_steps, generator=generator, observe=observe, track=track)
    last = float(sigmas[-1])
    x = x + last**2 * score(x, last) if denoise else x
    return x if clamp is None else torch.where(clamp[0], clamp[1], x)


def _clamped(kernel: Kernel, held: Tensor, values: Tensor, sigma: float) -> Kernel:
    def update(x: Tensor, noise: tuple[Tensor, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        moved, info = kernel.update(x, noise[0])
        return torch.where(held, values + sigma * noise[1], moved), info

    return Kernel(
        init=kernel.init,
        noise=lambda x, generator: (kernel.noise(x, generator), kernel.noise(x, generator)),
        update=update,
    )


def score_langevin(score: Callable[[Tensor], Tensor], step_size: float | Tensor) -> Kernel:
    """Unadjusted Langevin from a score: x' = x + h s(x) + √(2 h) ξ, h = `step_size`, a number or shape () or (n, 1).

    The chain of `ula` for s = −∇U, with its bias; the score need not be the gradient of any energy.
    """
    return Kernel(
        init=lambda x: x,
        noise=lambda x, generator: torch.randn(x.shape, dtype=x.dtype, device=x.device, generator=generator),
        update=lambda x, fresh: (x + step_size * score(x) + (2 * step_size) ** 0.5 * fresh, {}),
    )


@torch.no_grad()
def run_levels(
    make_kernel: Callable[[float], Kernel],
    position: Any,
    sigmas: Float[Tensor, " k"],
    num_steps: int,
    *,
    generator: torch.Generator,
    observe: Observe | Sequence[Observe] | None = None,
    track: Callable[[Iterable[int]], Iterable[int]] | None = None,
) -> Any:
    """Run `num_steps` of make_kernel(σ) at each of the falling noise levels; each level starts where the last one ended.

    With an energy of the smoothed target, `lambda sigma: mala(lambda x: energy(x, sigma), step_size * sigma**2)` leaves
    p_σ exactly invariant at every level; the annealing itself stays a start, better the longer the levels are.
    `observe(level, position)`, one or several, is called for the start (level 0) and after every level, and decides alone
    what is kept; `track` wraps the counter of the levels. Returns the last position.
    """
    if bool((sigmas <= 0).any() | (sigmas.diff() >= 0).any()):
        raise ValueError("Noise levels must be positive and fall.")
    see, values = together(observe), sigmas.tolist()
    see(0, position)
    levels = range(1, len(values) + 1)
    for level in levels if track is None else track(levels):
        position = position_of(run(make_kernel(values[level - 1]), position, num_steps, generator=generator))
        see(level, position)
    return position


def geometric_noise_levels(largest: float, smallest: float, num_levels: int) -> Float[Tensor, " k"]:
    """σ_i = largest · (smallest / largest)^((i − 1) / (num_levels − 1)), float64.

    Song and Ermon (2020, techniques 1 and 2): `largest` about the greatest distance between two data points, and in d
    dimensions a ratio of neighbours near 1 + 3 / √(2 d), so that the shells where their noise lives overlap.
    """
    if not (0 < smallest < largest and num_levels > 1):
        raise ValueError(f"Noise levels fall from largest to smallest > 0, not from {largest} to {smallest}.")
    ends = torch.tensor([largest, smallest], dtype=torch.float64).log()
    return torch.linspace(float(ends[0]), float(ends[1]), num_levels, dtype=torch.float64).exp()


def width_after_level(step_size: float, ratio: float, num_steps: int) -> float:
    """Var / σ² of chains that come from a level `ratio` times as wide and take `num_steps` at σ, for a target of one point.

    (1 − a)^(2 num_steps) (ratio² − 2 / (2 − a)) + 2 / (2 − a), a = step_size; 1 would be perfect, and is never reached
    (Song and Ermon, 2020, what technique 4 rests on).
    """
    stationary = 2 / (2 - step_size)
    return (1 - step_size) ** (2 * num_steps) * (ratio**2 - stationary) + stationary


def best_step_size(ratio: float, num_steps: int) -> float:
    """The `step_size` of `annealed_langevin` that brings `width_after_level` closest to 1 (Song and Ermon, 2020, technique 4).

    Below it chains stay as wide as the level before, above it the steps themselves add width. It gives the step sizes that
    Song and Ermon published for CIFAR-10, CelebA, FFHQ and LSUN bedrooms, not the one for LSUN churches, twice as large.

    >>> round(best_step_size(1.04, 5), 3)
    0.065
    """
    low, high = 0.0, 1.0
    while high - low > 1e-9:
        left, right = (2 * low + high) / 3, (low + 2 * high) / 3
        rises = width_after_level(left, ratio, num_steps) < width_after_level(right, ratio, num_steps)
        low, high = (low, right) if rises else (left, high)
    return low
