"""Hamiltonian Monte Carlo, and the parts of it that Langevin dynamics shares.

Momenta are kept in units in which they are standard normal, p = M^(−1/2) · (mass-weighted momentum): the Hamiltonian is
H(x, p) = U(x) + |p|²/2 for any mass M, and a diagonal `metric`, the inverse mass, only scales the velocity √metric · p. The
best metric is the target's variances.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from samplers.kernel import Info, Kernel

Energy = Callable[[Tensor], Tensor]
"""−log p̃(x) in nats: positions (n, d) → (n,), each chain's from its own position alone, differentiable."""
AnyState = TypeVar("AnyState", bound=tuple)


class PhaseState(NamedTuple):
    """Chains with momentum."""

    position: Float[Tensor, "n d"]
    energy: Float[Tensor, " n"]
    gradient: Float[Tensor, "n d"]
    momentum: Float[Tensor, "n d"]
    moving: Float[Tensor, " n"]
    """0 for a chain whose momentum is yet to be drawn, then 1."""


def hmc(
    energy: Energy,
    step_size: float | Tensor,
    num_leapfrog: int,
    *,
    jitter: float = 0.2,
    persistence: float | Tensor = 0.0,
    metric: float | Tensor = 1.0,
    gradient: Callable[[Tensor], Tensor] | None = None,
) -> Kernel:
    """Hamiltonian Monte Carlo (Duane et al., 1987; Neal, 2011), and the generalised one with persistent momenta (Horowitz, 1991).

    One step draws p ← c p + √(1 − c²) ξ with c = `persistence`, runs `num_leapfrog` leapfrog steps to (x', p'), and accepts
    those with probability min(1, exp(H(x, p) − H(x', p'))); a rejected chain keeps x and gets −p. It leaves exp(−U)
    exactly invariant, for c = 0 reversibly. The flip costs nothing then; for c > 0 it is what makes the step correct.

    `jitter` multiplies each chain's step size at each step by its own uniform number from 1 ± jitter: a length of time,
    num_leapfrog · step_size, that is a period of some direction would never leave it (Mackenzie, 1989; Neal, 2011, section
    5.3.2). The number is drawn apart from the state, so every one of these kernels is exact and so is their mixture; and
    lengths differ at the same number of gradients, where unequal numbers of steps would leave chains waiting.

    `step_size` is a number or a tensor of shape () or (n, 1), `metric` a number or shape (d,), the inverse mass. `gradient` is
    ∇U, for energies of which it costs less alone than with U: all of a trajectory but its end needs no more. A proposal
    whose energy or momentum is not finite is rejected. The step costs `num_leapfrog` gradients. The info holds accept_prob,
    shape (n,); the optimum is 0.65 (Beskos et al., 2013), and up to 0.8 is safer.
    """

    return Kernel(
        init=lambda position: at_rest(energy, position),
        noise=lambda state, generator: (normal(state, generator), uniform(state, generator), uniform(state, generator)),
        update=lambda state, noise: update(
            energy, state, noise, step_size, num_leapfrog, jitter, persistence, metric, gradient
        ),
    )


def update(
    energy: Energy,
    state: PhaseState,
    noise: tuple[Float[Tensor, "n d"], Float[Tensor, " n"], Float[Tensor, " n"]],
    step_size: float | Tensor,
    num_leapfrog: int,
    jitter: float,
    persistence: float | Tensor,
    metric: float | Tensor,
    gradient: Callable[[Tensor], Tensor] | None = None,
) -> tuple[PhaseState, Info]:
    """One step, deterministic given a normal, a uniform for the acceptance, and a uniform for the jitter."""
    fresh, accept, stretch = noise
    jittered = step_size * (1 + jitter * (2 * stretch[:, None] - 1))
    start = state._replace(momentum=refresh(state, fresh, persistence), moving=torch.ones_like(state.moving))
    end = leapfrog(energy, start, jittered, metric, num_leapfrog, gradient)
    flipped = start._replace(momentum=-start.momentum)
    return metropolis(flipped, end, hamiltonian(start) - hamiltonian(end), accept)


def leapfrog(
    energy: Energy,
    state: PhaseState,
    step_size: float | Tensor,
    metric: float | Tensor,
    num_steps: int,
    gradient: Callable[[Tensor], Tensor] | None = None,
) -> PhaseState:
    """Störmer–Verlet steps: kick by half, drift, kick by half.

    Keeps volume, and is its own inverse between two flips of the momentum; its error in H is O(step_size²) for a fixed
    length of time.
    """
    pace = step_size * metric**0.5
    position, value, slope = state.position, state.energy, state.gradient
    momentum = state.momentum - pace / 2 * slope
    for left in reversed(range(num_steps)):
        position = position + pace * momentum
        if gradient is not None and left > 0:
            slope = gradient(position)
        else:
            value, slope = energy_and_gradient(energy, position)
        momentum = momentum - pace * slope
    return PhaseState(position, value, slope, momentum + pace / 2 * slope, state.moving)


def refresh(state: PhaseState, fresh: Float[Tensor, "n d"], persistence: float | Tensor) -> Float[Tensor, "n d"]:
    """c p + √(1 − c²) ξ, which leaves N(0, I) invariant; all of it new where the chain has no momentum yet."""
    kept = persistence * state.moving[:, None]
    return kept * state.momentum + (1 - kept**2).sqrt() * fresh


def hamiltonian(state: PhaseState) -> Float[Tensor, " n"]:
    """H = U + |p|²/2 of each chain, nats."""
    return state.energy + state.momentum.square().sum(-1) / 2


def at_rest(energy: Energy, position: Tensor | PhaseState) -> PhaseState:
    """Chains at a position, their momenta drawn by the first step; a state of the same energy goes on as it is."""
    if isinstance(position, PhaseState):
        return position
    value, gradient = energy_and_gradient(energy, position)
    return PhaseState(position, value, gradient, torch.zeros_like(position), torch.zeros_like(value))


def energy_and_gradient(
    energy: Energy, position: Float[Tensor, "n d"]
) -> tuple[Float[Tensor, " n"], Float[Tensor, "n d"]]:
    """U and ∇U of each chain. An energy that is not finite counts as +∞: no chain goes there."""
    with torch.enable_grad():
        leaf = position.detach().requires_grad_()
        value = energy(leaf)
        if value.shape != position.shape[:1]:
            raise ValueError(
                f"The energy of {len(position)} chains must have shape ({len(position)},), not {tuple(value.shape)}."
            )
        (gradient,) = torch.autograd.grad(value.sum(), leaf)
    return value.detach().nan_to_num(math.inf, math.inf, math.inf), gradient


def metropolis(
    old: AnyState, new: AnyState, log_ratio: Float[Tensor, " n"], uniform: Float[Tensor, " n"]
) -> tuple[AnyState, Info]:
    """Each chain's new state with probability min(1, exp(log_ratio)), its old one otherwise; NaN is a rejection."""
    accept_prob = log_ratio.clamp(max=0).exp().nan_to_num(nan=0.0)
    return select(uniform < accept_prob, new, old), {"accept_prob": accept_prob}


def select(mask: Bool[Tensor, " n"], yes: AnyState, no: AnyState) -> AnyState:
    """`yes` for the chains of the mask, `no` for the others, in every tensor of a named tuple."""
    pairs: Any = zip(yes, no, strict=True)
    return type(yes)(*(a if a is b else torch.where(mask.view(-1, *[1] * (a.ndim - 1)), a, b) for a, b in pairs))


def normal(state: Any, generator: torch.Generator) -> Float[Tensor, "n d"]:
    """Standard normal numbers, one for each coordinate of each chain."""
    x = state.position
    return torch.randn(x.shape, dtype=x.dtype, device=x.device, generator=generator)


def uniform(state: Any, generator: torch.Generator) -> Float[Tensor, " n"]:
    """Uniform numbers in [0, 1), one for each chain."""
    x = state.position
    return torch.rand(len(x), dtype=x.dtype, device=x.device, generator=generator)
