"""NUTS: exact draws stay exact, warm-up finds the target, and the randomness is the generator's alone."""

from statistics import NormalDist

import pytest
import torch
from torch import Tensor
from zoo import generator

from samplers.nuts import NutsRun, nuts

pytest.importorskip("pyro")

MEAN = torch.tensor([0.7, -1.3, 2.1], dtype=torch.float64)
ROOT = torch.tensor([[0.5, 0.0, 0.0], [0.9, 1.1, 0.0], [-1.4, 0.3, 2.3]], dtype=torch.float64)
NUM_CHAINS = 199
FALSE_ALARM = 1e-4
SEED = 0


def coordinates(x: Tensor) -> Tensor:
    """Independent standard normal where x is drawn from the target."""
    return (x - MEAN) @ torch.linalg.inv(ROOT).T


def energy(x: Tensor) -> Tensor:
    return coordinates(x).square().sum(-1) / 2


def exact_draws(num: int) -> Tensor:
    return MEAN + torch.randn(num, 3, dtype=torch.float64, generator=generator(SEED + 1000)) @ ROOT.T


def worst_z(x: Tensor) -> tuple[float, float]:
    """The largest z-score of means, variances and covariances of independent draws, and its bound at rate FALSE_ALARM."""
    w = coordinates(x)
    row, column = torch.tril_indices(3, 3)
    same = (row == column).double()
    centred = torch.cat([w, (w[:, row] * w[:, column] - same) / (1 + same).sqrt()], -1)
    z = centred.mean(0) * len(x) ** 0.5
    return float(z.abs().max()), NormalDist().inv_cdf(1 - FALSE_ALARM / (2 * z.numel()))


@pytest.mark.many_steps
@pytest.mark.parametrize("heat", [1.0, 2.0])
def test_exact_draws_stay_exact_and_those_of_another_temperature_do_not(heat: float):
    """Every chain starts from its own exact draw, so that they end as independent."""
    start = exact_draws(NUM_CHAINS)
    chains = nuts(lambda x: energy(x) / heat, start, 1, warm_up=0, step_size=0.4, generator=generator(SEED))
    assert (chains.draws[0] != start).any(-1).double().mean() > 0.8
    z, bound = worst_z(chains.draws[0])
    assert (z < bound) == (heat == 1.0)


def far_start(seed: int, num_steps: int = 60, warm_up: int = 250) -> NutsRun:
    return nuts(energy, torch.full((2, 3), 20.0).double(), num_steps, warm_up=warm_up, generator=generator(seed))


@pytest.mark.many_steps
def test_warm_up_finds_the_target_its_scales_and_the_acceptance():
    chains, variances = far_start(SEED), ROOT.square().sum(-1)
    assert chains.draws.shape == (60, 2, 3)
    assert ((chains.draws.mean((0, 1)) - MEAN) / variances.sqrt()).abs().max() < 0.5
    assert (chains.metric / variances).log().abs().max() < 1 < variances.log().abs().max()
    assert 0.75 < chains.accept_prob.min() <= chains.accept_prob.max() < 0.98
    assert chains.divergences.tolist() == [0, 0]


def test_the_generator_is_all_its_randomness():
    before = torch.random.get_rng_state()
    first, again, other = (far_start(seed, num_steps=3, warm_up=10) for seed in (0, 0, 1))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first.draws, other.draws)
    assert not torch.equal(first.draws[:, 0], first.draws[:, 1])


def test_a_run_goes_on_with_what_another_has_learned():
    first = far_start(SEED, num_steps=3, warm_up=30)
    on = nuts(
        energy,
        first.draws[-1],
        3,
        warm_up=0,
        step_size=first.step_size,
        metric=first.metric,
        generator=generator(SEED + 1),
    )
    assert torch.equal(on.step_size, first.step_size)
    assert torch.equal(on.metric, first.metric)


@pytest.mark.parametrize(("num_steps", "warm_up"), [(0, 3), (3, -1)])
def test_impossible_lengths_are_refused(num_steps: int, warm_up: int):
    with pytest.raises(ValueError, match="num_steps must be at least 1"):
        far_start(SEED, num_steps, warm_up)
