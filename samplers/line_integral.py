"""Metropolis with a score alone: energy differences as integrals of the score along the line between two points."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from samplers.hmc import metropolis, normal, uniform
from samplers.kernel import Info, Kernel

Score = Callable[[Tensor], Tensor]


class ScoredState(NamedTuple):
    """Chains and the score where they are."""

    position: Float[Tensor, "n d"]
    score: Float[Tensor, "n d"]


def score_mala(score: Score, step_size: float | Tensor, *, num_nodes: int = 8) -> Kernel:
    """Metropolis-adjusted Langevin from a score s, (n, d) → (n, d), of which no energy is known.

    Proposes x' = x + h s(x) + √(2 h) ξ, h = `step_size`, a number or shape () or (n, 1), and accepts it as `mala` does, with
    `line_integral` from x to x' for log p(x') − log p(x) (Alain and Bengio, 2014, on sampling by a denoiser's energy
    differences). Where s is a gradient, exp of its potential is invariant up to the error of the quadrature. A learned
    s is no gradient in general: then differences along closed paths do not cancel, and what is invariant is not known. A step
    costs num_nodes + 1 scores. The info holds accept_prob, shape (n,).

    >>> import torch
    >>> from samplers.kernel import run
    >>> start, randoms = torch.zeros(1000, 5), torch.Generator().manual_seed(0)
    >>> chains = run(score_mala(lambda x: (3 - x) / 4, 2.0, num_nodes=1), start, 200, generator=randoms)
    >>> torch.allclose(chains.position.mean(0), torch.tensor(3.0), atol=0.3)
    True
    """

    def update(state: ScoredState, noise: tuple[Tensor, Tensor]) -> tuple[ScoredState, Info]:
        fresh, accept = noise
        position = state.position + step_size * state.score + (2 * step_size) ** 0.5 * fresh
        new = ScoredState(position, score(position))
        back = -((step_size / 2) ** 0.5) * (state.score + new.score) - fresh
        log_correction = (fresh.square() - back.square()).sum(-1) / 2
        rise = line_integral(score, state.position, position, num_nodes=num_nodes)
        return metropolis(state, new, rise + log_correction, accept)

    return Kernel(
        init=lambda x: x if isinstance(x, ScoredState) else ScoredState(x, score(x)),
        noise=lambda state, generator: (normal(state, generator), uniform(state, generator)),
        update=update,
    )


def line_integral(
    score: Score, start: Float[Tensor, "n d"], end: Float[Tensor, "n d"], *, num_nodes: int = 8
) -> Float[Tensor, " n"]:
    """∫₀¹ s(x + t (x' − x)) · (x' − x) dt from x = `start` to x' = `end`: log p(x') − log p(x) where s = ∇ log p, nats.

    By Gauss and Legendre's rule, exact where s along the line is a polynomial of degree below 2 `num_nodes`; one node does
    for a Gaussian. From `end` to `start` it is minus the same.
    """
    if num_nodes < 1:
        raise ValueError(f"The rule needs at least one node, not {num_nodes}.")
    nodes, weights = (part.to(start) for part in _gauss_legendre(num_nodes))
    along = end - start
    points = start + nodes[:, None, None] * along
    slopes = (score(points.flatten(0, 1)).view_as(points) * along).sum(-1)
    return weights @ slopes


@lru_cache
def _gauss_legendre(num: int) -> tuple[Float[Tensor, " k"], Float[Tensor, " k"]]:
    """Nodes and weights on [0, 1], from the eigenvectors of the recurrence (Golub and Welsch, 1969)."""
    k = torch.arange(1, num, dtype=torch.float64, device="cpu")
    off = k / (4 * k.square() - 1).sqrt()
    values, vectors = torch.linalg.eigh(torch.diag(off, 1) + torch.diag(off, -1))
    return (values + 1) / 2, vectors[0].square()
