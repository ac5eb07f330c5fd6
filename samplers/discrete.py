"""Gradient-informed Metropolis samplers of discrete variables: Gibbs with gradients, and the discrete Langevin proposal.

Both read the energy change of every possible move of a site off one gradient, which is exact to first order, and correct
what that misses by Metropolis–Hastings. An energy takes binary or one-hot floats and must extend differentiably between
them; how it extends decides how well the proposals fit, never what is sampled.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import pad

from samplers.hmc import Energy, metropolis, uniform
from samplers.kernel import Info, Kernel
from samplers.langevin import PointState, at_point

Gains = Float[Tensor, "n a s"]
"""First-order estimates of log p(y) − log p(x) for the y that differ from x in one site: `a` alternatives at `s` sites."""
Moves = Bool[Tensor, "n a s"]
"""Which alternatives a proposal takes: at most one a site."""


def gibbs_with_gradients(energy: Energy, *, levels: int | None = None) -> Kernel:
    """Gibbs with gradients: change one site, chosen with probability ∝ exp(gain / 2), and accept or reject it.

    The gain of y is (y − x) · ∇log p(x). Grathwohl et al. (2021), algorithm 1, and for categorical sites its extension to
    all other levels of all sites. exp(−energy) is invariant and the chain reversible.

    Positions have shape (n, d): d binary sites, or with `levels` = k the one-hot codes of d / k sites laid out flat, as in
    the `Categorical` units. One gradient a step, the one at the proposal: the state keeps the other. The info holds
    accept_prob, shape (n,).

    >>> from samplers.kernel import run
    >>> randoms = torch.Generator().manual_seed(0)
    >>> kernel = gibbs_with_gradients(lambda x: -(x @ torch.tensor([0.8, -0.8])))
    >>> chains = run(kernel, torch.zeros(10_000, 2), 10, generator=randoms)
    >>> (chains.position.mean(0) - torch.tensor([0.69, 0.31])).abs().max() < 0.02
    tensor(True)
    """
    return metropolis_hastings(energy, Binary() if levels is None else OneHot(levels), OneChange())


def dmala(energy: Energy, step_size: float | Tensor, *, levels: int | None = None) -> Kernel:
    """Discrete Metropolis-adjusted Langevin: every site moves at once, independently, and all are accepted or rejected.

    q(y | x) ∝ exp(½ (y − x) · ∇log p(x) − |y − x|² / (2 α)) with α = `step_size`, a number or one a chain, shape (n, 1). It
    factorises over sites, and a larger α moves more of them (Zhang, Liu and Liu, 2022, algorithm 1). exp(−energy) is
    invariant and the chain reversible; the optimum of acceptance is near 0.574 (Sun, Dai and Schuurmans, 2022). Positions,
    cost and info as `gibbs_with_gradients`.
    """
    sites = Binary() if levels is None else OneHot(levels)
    return metropolis_hastings(energy, sites, EverySite(step_size, sites.squared_distance))


@runtime_checkable
class Sites(Protocol):
    """How positions, shape (n, d), hold discrete sites."""

    @property
    def squared_distance(self) -> float:
        """|y − x|² of one change."""
        ...

    def gains(self, state: PointState) -> Gains: ...

    def moves(self, start: Tensor, end: Tensor) -> Moves:
        """The moves that lead from one position to another."""
        ...

    def moved(self, start: Tensor, moves: Moves) -> Tensor:
        """The position where the moves lead."""
        ...


@runtime_checkable
class Proposal(Protocol):
    """A distribution over moves, given their gains."""

    def noise(self, gains: Gains, generator: torch.Generator) -> Tensor: ...

    def draw(self, gains: Gains, noise: Tensor) -> Moves:
        """A deterministic function of the noise."""
        ...

    def log_prob(self, gains: Gains, moves: Moves) -> Float[Tensor, " n"]: ...


def metropolis_hastings(energy: Energy, sites: Sites, proposal: Proposal) -> Kernel:
    """The kernel that proposes moves of the sites and accepts with min(1, p(y) q(x | y) / (p(x) q(y | x)))."""
    return Kernel(
        init=lambda position: at_point(energy, position),
        noise=lambda state, generator: (proposal.noise(sites.gains(state), generator), uniform(state, generator)),
        update=lambda state, noise: update(energy, sites, proposal, state, noise),
    )


def update(
    energy: Energy, sites: Sites, proposal: Proposal, state: PointState, noise: tuple[Tensor, Tensor]
) -> tuple[PointState, Info]:
    """One step, deterministic given the proposal's noise and a uniform for the acceptance."""
    gains = sites.gains(state)
    moves = proposal.draw(gains, noise[0])
    new = at_point(energy, sites.moved(state.position, moves))
    back = proposal.log_prob(sites.gains(new), sites.moves(new.position, state.position))
    log_ratio = state.energy - new.energy + back - proposal.log_prob(gains, moves)
    return metropolis(state, new, log_ratio, noise[1])


class Binary:
    """Sites in {0, 1}, whose one alternative is the flip: d(x)_i = (1 − 2 x_i) ∂_i log p(x)."""

    squared_distance = 1.0

    def gains(self, state: PointState) -> Gains:
        return ((2 * state.position - 1) * state.gradient)[:, None]

    def moves(self, start: Tensor, end: Tensor) -> Moves:
        return (start != end)[:, None]

    def moved(self, start: Tensor, moves: Moves) -> Tensor:
        return torch.where(moves[:, 0], 1 - start, start)


class OneHot(NamedTuple):
    """One-hot sites laid out flat: d(x)_ij = ∂_ij log p(x) − x_i · ∂_i log p(x), and −∞ for the level a site has."""

    levels: int

    @property
    def squared_distance(self) -> float:
        return 2.0

    def gains(self, state: PointState) -> Gains:
        x, slope = self._by_level(state.position), -self._by_level(state.gradient)
        return (slope - (slope * x).sum(1, keepdim=True)).masked_fill(x > 0, -torch.inf)

    def moves(self, start: Tensor, end: Tensor) -> Moves:
        return self._by_level(end) > self._by_level(start)

    def moved(self, start: Tensor, moves: Moves) -> Tensor:
        x = torch.where(moves.any(1, keepdim=True), moves.to(start.dtype), self._by_level(start))
        return x.transpose(1, 2).flatten(1)

    def _by_level(self, flat: Tensor) -> Tensor:
        return flat.unflatten(1, (-1, self.levels)).transpose(1, 2)


class OneChange:
    """Exactly one move: q ∝ exp(gain / 2) over all alternatives of all sites."""

    def noise(self, gains: Gains, generator: torch.Generator) -> Tensor:
        return torch.rand(gains.shape, dtype=gains.dtype, device=gains.device, generator=generator)

    def draw(self, gains: Gains, noise: Tensor) -> Moves:
        # Gumbel-max: never a move of probability 0, whatever the rounding.
        score = (gains / 2 - torch.log(-torch.log(noise))).flatten(1)
        chosen = score.argmax(1, keepdim=True)
        return (torch.arange(score.shape[1], device=score.device) == chosen).view(gains.shape)

    def log_prob(self, gains: Gains, moves: Moves) -> Float[Tensor, " n"]:
        log_q = torch.log_softmax(gains.flatten(1) / 2, -1)
        return torch.where(moves.flatten(1), log_q, 0).sum(1)


class EverySite(NamedTuple):
    """Each site alone: q ∝ exp(gain / 2 − squared_distance / (2 step_size)) for its alternatives, and ∝ 1 for staying."""

    step_size: float | Tensor
    squared_distance: float

    def noise(self, gains: Gains, generator: torch.Generator) -> Tensor:
        num, _, sites = gains.shape
        return torch.rand(num, sites, dtype=gains.dtype, device=gains.device, generator=generator)

    def draw(self, gains: Gains, noise: Tensor) -> Moves:
        cdf = self._log_q(gains)[:, 1:].exp().cumsum(1)
        before = pad(cdf[:, :-1], (0, 0, 1, 0))
        return (before <= noise[:, None]) & (noise[:, None] < cdf)

    def log_prob(self, gains: Gains, moves: Moves) -> Float[Tensor, " n"]:
        log_q = self._log_q(gains)
        change = torch.where(moves, log_q[:, 1:] - log_q[:, :1], 0).sum((1, 2))
        return change + log_q[:, 0].sum(1)

    def _log_q(self, gains: Gains) -> Float[Tensor, "n b s"]:
        """Log-probabilities of staying, first, and of the alternatives."""
        penalty = self.squared_distance / (2 * self.step_size)
        logits = gains / 2 - (penalty[..., None] if isinstance(penalty, Tensor) else penalty)
        return torch.log_softmax(pad(logits, (0, 0, 1, 0)), 1)
