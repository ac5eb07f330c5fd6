"""Filling in of missing values against the closed-form conditional of a linear-Gaussian model."""

from __future__ import annotations

import torch
import zoo
from test_latent_ais import LOADING, OFFSET, VARIANCE, linear
from torch import Tensor

from samplers import metropolis_within_gibbs

HELD = torch.tensor([True, False, False])
NUM = 20_000


def exact(first: float) -> tuple[Tensor, tuple[Tensor]]:
    """Draws of (x, z) given that x_0 is `first`."""
    randoms = zoo.generator(20)
    precision = torch.eye(2, dtype=torch.float64) + torch.outer(LOADING[:, 0], LOADING[:, 0]) / VARIANCE
    mean = torch.linalg.solve(precision, LOADING[:, 0] * (first - OFFSET[0]) / VARIANCE)
    root = torch.linalg.cholesky(torch.linalg.inv(precision))
    z = mean + torch.randn(NUM, 2, dtype=torch.float64, generator=randoms) @ root.T
    x = OFFSET + z @ LOADING + VARIANCE**0.5 * torch.randn(NUM, 3, dtype=torch.float64, generator=randoms)
    x[:, 0] = first
    return x, (z,)


def moments(x: Tensor, z: Tensor) -> Tensor:
    state = torch.cat([x[:, 1:], z], 1)
    return torch.cat([state, state**2, state[:, :1] * state[:, 1:]], 1)


class AlwaysTaken:
    """The same model, its joint density hidden from the acceptance: the chain without its correction."""

    def __init__(self, model):
        self.observed, self.encode, self.decode, self._model = model.observed, model.encode, model.decode, model

    def log_joint(self, x, z):
        return self._model.encode(x).log_prob(z)


def worst(model, steps: int = 3) -> float:
    """The largest z-score of moments after some steps from exact draws, against those of other exact draws."""
    x, z = exact(1.4)
    kernel, randoms = metropolis_within_gibbs(model, HELD), zoo.generator(21)
    state, expected = (x, z), moments(x, z[0]).mean(0)
    for _ in range(steps):
        state, info = kernel.step(state, randoms)
        assert 0.1 < float(info["accept_prob"].mean()) <= 1
    assert torch.equal(state[0][:, 0], x[:, 0])
    # Both sides of the comparison are random, and the chains remember where they began: √2 is an upper bound.
    return float(zoo.z_scores(moments(state[0], state[1][0]), expected).abs().max()) / 2**0.5


def test_the_conditional_is_invariant() -> None:
    assert worst(linear()) < 5


def test_without_the_acceptance_it_is_not() -> None:
    assert worst(AlwaysTaken(linear())) > 7


def test_far_starts_reach_the_conditional() -> None:
    x, (z,) = exact(1.4)
    kernel, randoms = metropolis_within_gibbs(linear(), HELD), zoo.generator(22)
    state = (torch.where(HELD, x, torch.tensor(3.0, dtype=x.dtype)), (torch.zeros_like(z),))
    for _ in range(60):
        state, _ = kernel.step(state, randoms)
    assert float(zoo.z_scores(moments(state[0], state[1][0]), moments(x, z).mean(0)).abs().max()) / 2**0.5 < 5
