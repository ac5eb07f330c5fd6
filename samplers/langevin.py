"""Langevin dynamics: overdamped, unadjusted and adjusted, and underdamped, unadjusted and adjusted."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from samplers.hmc import Energy, PhaseState, at_rest, energy_and_gradient, hmc, metropolis, normal, uniform
from samplers.kernel import Info, Kernel


class PointState(NamedTuple):
    """Chains without momentum."""

    position: Float[Tensor, "n d"]
    energy: Float[Tensor, " n"]
    gradient: Float[Tensor, "n d"]


def ula(energy: Energy, step_size: float | Tensor, *, metric: float | Tensor = 1.0) -> Kernel:
    """Unadjusted Langevin: x' = x − h G ∇U(x) + √(2 h G) ξ, with h = `step_size` and G = `metric` (Parisi, 1981).

    Biased by O(h): a Gaussian of variance s² gets s² / (1 − h G / (2 s²)), and from h G ≥ 2 s² on the chain diverges
    (Roberts and Tweedie, 1996). `step_size` is a number or a tensor of shape () or (n, 1), `metric` a number or shape (d,).
    """
    return Kernel(
        init=lambda position: at_point(energy, position),
        noise=normal,
        update=lambda state, fresh: (at_point(energy, propose(state, fresh, step_size, metric)), {}),
    )


def mala(energy: Energy, step_size: float | Tensor, *, metric: float | Tensor = 1.0) -> Kernel:
    """Metropolis-adjusted Langevin: the step of `ula` as a proposal q (Besag, 1994; Roberts and Tweedie, 1996).

    Accepted with probability min(1, exp(U(x) − U(x')) q(x | x') / q(x' | x)): exp(−U) is exactly invariant, and the chain
    reversible. The step equals HMC with one leapfrog step of size √(2 h). The info holds accept_prob, shape (n,); the
    optimum is 0.574 (Roberts and Rosenthal, 1998). Arguments as for `ula`; proposals without a finite energy are rejected.

    >>> import torch
    >>> from samplers.kernel import run
    >>> def energy(x):
    ...     return ((x - 3) / 2).square().sum(-1) / 2
    >>> chains = run(mala(energy, 2.0), torch.zeros(1000, 5), 200, generator=torch.Generator().manual_seed(0))
    >>> torch.allclose(chains.position.mean(0), torch.tensor(3.0), atol=0.3)
    True
    """
    return Kernel(
        init=lambda position: at_point(energy, position),
        noise=lambda state, generator: (normal(state, generator), uniform(state, generator)),
        update=lambda state, noise: mala_update(energy, state, noise, step_size, metric),
    )


def underdamped(energy: Energy, step_size: float | Tensor, friction: float, *, metric: float | Tensor = 1.0) -> Kernel:
    """Underdamped Langevin, unadjusted, by the splitting BAOAB (Leimkuhler and Matthews, 2013).

    dx = √G p dt, dp = −√G ∇U dt − γ p dt + √(2 γ) dW, with γ = `friction` and G = `metric`: kick and drift by half a step,
    p ← c p + √(1 − c²) ξ with c = exp(−γ · step_size), drift and kick by half a step. Biased by O(step_size²) in general;
    the positions of a Gaussian have no bias at all, the momenta have one. Stable for step_size · √G below twice the
    smallest standard deviation. `step_size` here is a time, whose square is twice that of `ula`. A chain's first
    step draws its momentum.
    """
    return Kernel(
        init=lambda position: at_rest(energy, position),
        noise=normal,
        update=lambda state, fresh: (baoab(energy, state, fresh, step_size, friction, metric), {}),
    )


def adjusted_underdamped(
    energy: Energy, step_size: float | Tensor, friction: float, *, metric: float | Tensor = 1.0
) -> Kernel:
    """Underdamped Langevin by the splitting OBABO, its inner part Metropolis-adjusted: exp(−U) is exactly invariant.

    Accepted with min(1, exp(−ΔH)), ΔH being the error of the leapfrog step BAB; a rejected chain turns round (Horowitz,
    1991; Bussi and Parrinello, 2007). The two half refreshments O that meet between steps are drawn as one, with
    c = exp(−friction · step_size). As every rejection turns a chain round, moves stay long only while acceptance is near
    1; aim at 0.9 or more. The chain is not reversible. The info holds accept_prob, shape (n,).
    """
    return hmc(energy, step_size, 1, jitter=0.0, persistence=math.e ** (-friction * step_size), metric=metric)


def at_point(energy: Energy, position: Tensor | PointState) -> PointState:
    """Chains at a position; a state of the same energy goes on as it is."""
    if isinstance(position, PointState):
        return position
    return PointState(position, *energy_and_gradient(energy, position))


def propose(
    state: PointState, fresh: Float[Tensor, "n d"], step_size: float | Tensor, metric: float | Tensor
) -> Float[Tensor, "n d"]:
    """x − h G ∇U(x) + √(2 h G) ξ."""
    return state.position - step_size * metric * state.gradient + (2 * step_size * metric) ** 0.5 * fresh


def mala_update(
    energy: Energy,
    state: PointState,
    noise: tuple[Float[Tensor, "n d"], Float[Tensor, " n"]],
    step_size: float | Tensor,
    metric: float | Tensor,
) -> tuple[PointState, Info]:
    """One step, deterministic given a normal for the proposal and a uniform for the acceptance."""
    fresh, accept = noise
    new = at_point(energy, propose(state, fresh, step_size, metric))
    # The noise that would lead back: q(x | x') / q(x' | x) = exp((|ξ|² − |back|²) / 2) without differences of large numbers.
    back = (step_size * metric / 2) ** 0.5 * (state.gradient + new.gradient) - fresh
    log_correction = (fresh.square() - back.square()).sum(-1) / 2
    return metropolis(state, new, state.energy - new.energy + log_correction, accept)


def baoab(
    energy: Energy,
    state: PhaseState,
    fresh: Float[Tensor, "n d"],
    step_size: float | Tensor,
    friction: float,
    metric: float | Tensor,
) -> PhaseState:
    """One step, deterministic given a normal.

    A chain at rest spends it on its momentum and takes its first step without friction: a whole step of ULA, so that
    restarted chains, too, sample the target.
    """
    half = step_size * metric**0.5 / 2
    rest = 1 - state.moving[:, None]
    kept = rest + (1 - rest) * math.e ** (-friction * step_size)
    momentum = state.momentum + rest * fresh - half * state.gradient
    position = state.position + half * momentum
    momentum = kept * momentum + (1 - kept**2).sqrt() * fresh
    position = position + half * momentum
    value, gradient = energy_and_gradient(energy, position)
    return PhaseState(position, value, gradient, momentum - half * gradient, torch.ones_like(state.moving))
