"""Metropolis with a score alone, against the same chain with the energy."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal
from zoo import generator, z_scores

from samplers import line_integral, mala, run, score_mala

CENTRES = torch.tensor([[1.5, 0.5, -0.3], [-1.5, -1.0, 0.8]], dtype=torch.float64)
MIXTURE = MixtureSameFamily(
    Categorical(torch.tensor([0.7, 0.3], dtype=torch.float64)),
    Independent(Normal(CENTRES, 0.8 * torch.ones_like(CENTRES)), 1),
)
WIDTH = torch.tensor([0.4, 0.9, 1.7], dtype=torch.float64)


def mixture_score(x: Tensor) -> Tensor:
    with torch.enable_grad():
        leaf = x.detach().requires_grad_()
        return torch.autograd.grad(MIXTURE.log_prob(leaf).sum(), leaf)[0]


def gaussian_score(x: Tensor) -> Tensor:
    return (0.3 - x) / WIDTH**2


def points(num: int, seed: int) -> Tensor:
    return 1.5 * torch.randn(num, 3, dtype=torch.float64, generator=generator(seed))


def test_it_is_the_difference_of_log_densities() -> None:
    x, y = points(50, 1), points(50, 2)
    truth = MIXTURE.log_prob(y) - MIXTURE.log_prob(x)
    torch.testing.assert_close(line_integral(mixture_score, x, y, num_nodes=60), truth, rtol=0, atol=1e-8)
    assert float((line_integral(mixture_score, x, y, num_nodes=1) - truth).abs().max()) > 0.1
    errors = [float((line_integral(mixture_score, x, y, num_nodes=k) - truth).abs().max()) for k in (2, 4, 8, 16)]
    assert errors == sorted(errors, reverse=True)
    back = line_integral(mixture_score, y, x, num_nodes=3)
    torch.testing.assert_close(back, -line_integral(mixture_score, x, y, num_nodes=3))
    normal = Independent(Normal(torch.full((3,), 0.3, dtype=torch.float64), WIDTH), 1)
    exact = normal.log_prob(y) - normal.log_prob(x)
    torch.testing.assert_close(line_integral(gaussian_score, x, y, num_nodes=1), exact)


@pytest.mark.parametrize(("nodes", "same"), [(60, True), (1, False)])
def test_the_chain_is_that_of_mala(nodes: int, same: bool) -> None:
    x, step = points(200, 3), 0.6
    ours, theirs = score_mala(mixture_score, step, num_nodes=nodes), mala(lambda at: -MIXTURE.log_prob(at), step)
    found = ours.step(ours.init(x), generator(4))
    right = theirs.step(theirs.init(x), generator(4))
    close = [
        torch.allclose(found[1]["accept_prob"], right[1]["accept_prob"], atol=1e-7),
        torch.allclose(found[0].position, right[0].position, atol=1e-7),
    ]
    assert all(close) == same
    if same:
        torch.testing.assert_close(found[0].score, -right[0].gradient)


@pytest.mark.many_steps
@pytest.mark.parametrize("adjusted", [True, False])
def test_moments_are_those_of_the_density_only_with_the_correction(adjusted: bool) -> None:
    start = 0.3 + WIDTH * torch.randn(20_000, 3, dtype=torch.float64, generator=generator(5))
    step = 0.12
    if adjusted:
        x = run(score_mala(gaussian_score, step, num_nodes=1), start, 60, generator=generator(6)).position
    else:
        x, randoms = start, generator(6)
        for _ in range(60):
            noise = torch.randn(x.shape, dtype=x.dtype, generator=randoms)
            x = x + step * gaussian_score(x) + math.sqrt(2 * step) * noise
    moments = torch.cat([(x - 0.3) / WIDTH, ((x - 0.3) / WIDTH).square()], 1)
    expected = torch.tensor([0.0] * 3 + [1.0] * 3, dtype=torch.float64)
    worst = float(z_scores(moments, expected).abs().max())
    assert worst < 5 if adjusted else worst > 20


def test_a_rule_needs_a_node() -> None:
    with pytest.raises(ValueError, match="at least one node"):
        line_integral(gaussian_score, points(1, 1), points(1, 2), num_nodes=0)
