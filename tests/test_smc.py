"""Sequential Monte Carlo: unbiased estimates of Z on an enumerable machine, and the parts of it one by one."""

import math
import sys
from typing import NamedTuple

import pytest
import torch
from torch import Tensor
from zoo import generator, tiny, z_scores

from genmodels.likelihood.annealed import MarginalPath
from genmodels.likelihood.exact import exact_log_z
from samplers import ais_log_weights
from samplers.smc import Particles, conditional_ess, resample, smc, systematic, take

SEEDS = (0,)
NUM_RUNS = 200
NUM_PARTICLES = 53
# Two-sided, Student's t with 199 degrees of freedom: a false alarm in 1e-5 of all runs.
MAX_Z = 4.53
BETAS = torch.tensor([0.0, 0.2, 0.5, 1.0], dtype=torch.float64)


@pytest.fixture(params=SEEDS)
def seed(request: pytest.FixtureRequest) -> int:
    return request.param


def annealed() -> tuple[MarginalPath, float]:
    """A 5 × 3 machine that needs annealing, the path to it from a base that is not its own, and log Z_1 / Z_0."""
    model = tiny("Bernoulli", "Bernoulli", seed=3, scale=1.7)
    path = MarginalPath(model, torch.linspace(-0.7, 1.1, 5).double())
    return path, exact_log_z(model).value - path.log_z0


def relative_estimates(
    path: MarginalPath, log_z_ratio: float, seed: int, num_runs: int = NUM_RUNS, **settings
) -> Tensor:
    """Ẑ / Z of independent runs."""
    randoms = generator(seed)
    settings = {"num_particles": NUM_PARTICLES, "betas": BETAS} | settings
    runs = [smc(path, generator=randoms, **settings) for _ in range(num_runs)]
    return torch.stack([run.log_z_ratio for run in runs]).sub(log_z_ratio).exp()


@pytest.mark.many_steps
@pytest.mark.parametrize("resample_below", [0.0, 0.8, 1.0])
def test_z_is_unbiased_at_given_temperatures(resample_below: float, seed: int):
    estimates = relative_estimates(*annealed(), seed, resample_below=resample_below)
    assert abs(float(z_scores(estimates, 1.0))) < MAX_Z


@pytest.mark.many_steps
def test_resampling_without_resetting_weights_is_seen(monkeypatch: pytest.MonkeyPatch, seed: int):
    """Particles that keep the weights they were drawn for."""
    monkeypatch.setattr(
        sys.modules["samplers.smc"],
        "resample",
        lambda state, weight, randoms: resample((state, weight), weight, randoms)[0],
    )
    assert abs(float(z_scores(relative_estimates(*annealed(), seed, resample_below=1.0), 1.0))) > 2 * MAX_Z


class TooHot(MarginalPath):
    def log_density(self, state, beta):
        return super().log_density(state, 0.9 * beta)


def test_weights_of_another_temperature_are_seen(seed: int):
    path, log_z_ratio = annealed()
    path.__class__ = TooHot
    assert abs(float(z_scores(relative_estimates(path, log_z_ratio, seed), 1.0))) > 2 * MAX_Z


@pytest.mark.many_steps
@pytest.mark.parametrize("resample_below", [0.0, 0.5])
def test_adaptive_temperatures_agree_within_their_error(resample_below: float, seed: int):
    """Their bias falls as 1 / n and the error as 1 / √n: at this n the former is far below the latter."""
    settings = {"num_particles": 1009, "betas": None, "target_cess": 0.9, "resample_below": resample_below}
    estimates = relative_estimates(*annealed(), seed, 20, **settings)
    # Student's t with 19 degrees of freedom: a false alarm in 1e-5 of all runs.
    assert abs(float(z_scores(estimates, 1.0))) < 5.95


def test_adaptive_temperatures_keep_the_conditional_sample_size():
    path, _ = annealed()
    result = smc(path, 1009, generator=generator(), target_cess=0.9, resample_below=1.0)
    assert result.betas[0] == 0
    assert result.betas[-1] == 1
    assert bool((result.betas.diff() > 0).all())
    # With weights reset at every temperature the conditional size is the plain one.
    torch.testing.assert_close(result.ess[1:-1], torch.full_like(result.ess[1:-1], 0.9), rtol=0, atol=0.005)
    finer = smc(path, 1009, generator=generator(), target_cess=0.99, resample_below=1.0)
    assert 2 < (len(finer.betas) - 1) / (len(result.betas) - 1) < 5


def test_chosen_temperatures_given_back_are_the_same_run():
    path, _ = annealed()
    first = smc(path, 101, generator=generator(), target_cess=0.8)
    again = smc(path, 101, generator=generator(), betas=first.betas)
    assert torch.equal(first.log_weight, again.log_weight)
    assert torch.equal(first.ess, again.ess)


def test_without_resampling_it_is_annealed_importance_sampling():
    path, _ = annealed()
    particles = smc(path, 101, generator=generator(5), betas=BETAS, resample_below=0.0, num_steps=3)
    log_weight = ais_log_weights(path, BETAS, 101, generator=generator(5), num_steps=3)
    torch.testing.assert_close(particles.log_weight, log_weight, rtol=0, atol=1e-12)
    assert len(particles.log_weight.unique()) > 10


def test_weighted_particles_are_draws_from_the_target(seed: int):
    """The weighted mean of each site, over independent runs; a ratio of unbiased sums, whose bias is of order 1 / n."""
    path, _ = annealed()
    model = tiny("Bernoulli", "Bernoulli", seed=3, scale=1.7)
    x = model.visible.states(torch.arange(model.visible.num_states or 0)).double()
    expected = torch.softmax(-model.free_energy(x), 0).detach() @ x

    def mean(particles: Particles) -> Tensor:
        return torch.softmax(particles.log_weight, 0) @ particles.state.kept[0]

    randoms = generator(seed)
    draws = torch.stack([mean(smc(path, 503, generator=randoms, betas=BETAS)) for _ in range(100)])
    # Student's t with 99 degrees of freedom, five sites: a false alarm in 1e-5 of all runs.
    assert z_scores(draws, expected).abs().max() < 5.05


def test_given_temperatures_must_rise_from_0_to_1():
    path, _ = annealed()
    for betas in ([0.0, 0.5], [0.1, 1.0], [0.0, 0.7, 0.7, 1.0]):
        with pytest.raises(ValueError, match="rise from 0 to 1"):
            smc(path, 7, generator=generator(), betas=torch.tensor(betas))
    with pytest.raises(ValueError, match="target_cess"):
        smc(path, 7, generator=generator(), target_cess=1.0)


class Cliff:
    """A path whose densities lose half of the support as soon as β > 0: no step keeps 90% of the particles."""

    def start(self, num: int, generator: torch.Generator) -> Tensor:
        return torch.rand(num, 1, generator=generator, dtype=torch.float64)

    def log_density(self, state: Tensor, beta: float) -> Tensor:
        return torch.where((state[:, 0] > 0.5) & (beta > 0), -math.inf, beta * state[:, 0])

    def transition(self, state: Tensor, beta: float, generator: torch.Generator) -> Tensor:
        return state


def test_annealing_goes_on_where_no_step_keeps_enough():
    particles = smc(Cliff(), 1009, generator=generator(), target_cess=0.9)
    assert particles.betas[-1] == 1
    exact = math.log(math.exp(0.5) - 1)
    assert abs(float(particles.log_z_ratio) - exact) < 0.2


def some_weights(num: int, seed: int) -> Tensor:
    return 1.5 * torch.randn(num, generator=generator(seed), dtype=torch.float64)


def counts(index: Tensor, num: int) -> Tensor:
    return torch.bincount(index, minlength=num).double()


@pytest.mark.parametrize("seed", range(5))
def test_systematic_counts_are_rounded_expectations(seed: int):
    log_weight = some_weights(101, seed)
    expected = 101 * log_weight.softmax(0)
    for uniform in torch.rand(53, generator=generator(seed), dtype=torch.float64):
        count = counts(systematic(log_weight, uniform), 101)
        assert count.sum() == 101
        assert bool(((count == expected.floor()) | (count == expected.ceil())).all())


def test_systematic_counts_are_unbiased():
    """Averaged over a fine grid of the one uniform number, exact up to the grid's step; not so for a grid of half of it."""
    log_weight = some_weights(11, 0)
    expected = 11 * log_weight.softmax(0)
    grid = (torch.arange(10_007, dtype=torch.float64) + 0.5) / 10_007
    every = torch.stack([counts(systematic(log_weight, u), 11) for u in grid])
    torch.testing.assert_close(every.mean(0), expected, rtol=0, atol=2e-4)
    assert (every[: len(grid) // 2].mean(0) - expected).abs().max() > 0.05


def test_systematic_resampling_at_its_edges():
    certain = torch.tensor([-math.inf, 0.0, -math.inf], dtype=torch.float64)
    almost_one = torch.tensor(1 - 2**-53, dtype=torch.float64)
    for uniform in (torch.zeros((), dtype=torch.float64), almost_one):
        assert systematic(certain, uniform).tolist() == [1, 1, 1]
        assert int(systematic(torch.zeros(997, dtype=torch.float64), uniform).max()) == 996


def test_conditional_ess_of_simple_weights():
    zero = torch.zeros(7, dtype=torch.float64)
    one_left = torch.tensor([0.0] + [-math.inf] * 6, dtype=torch.float64)
    assert float(conditional_ess(zero, zero + 3.0)) == pytest.approx(1.0)
    assert float(conditional_ess(zero, one_left)) == pytest.approx(1 / 7)
    assert float(conditional_ess(one_left, some_weights(7, 0))) == pytest.approx(1.0)
    weight, increment = some_weights(7, 1), some_weights(7, 2)
    normalised, factor = weight.softmax(0), increment.exp()
    expected = (normalised * factor).sum() ** 2 / (normalised * factor**2).sum()
    assert float(conditional_ess(weight + 5, increment - 2)) == pytest.approx(float(expected))


class Nested(NamedTuple):
    pair: tuple[Tensor, Tensor]
    single: Tensor


def test_rows_of_nested_states():
    state = Nested((torch.arange(5), torch.arange(10).view(5, 2)), torch.arange(5.0))
    rows = torch.tensor([3, 3, 0])
    taken = take(state, rows)
    assert isinstance(taken, Nested)
    assert torch.equal(taken.pair[1], torch.tensor([[6, 7], [6, 7], [0, 1]]))
    assert torch.equal(taken.single, torch.tensor([3.0, 3.0, 0.0]))
    assert isinstance(take([torch.arange(3)], slice(1, 2)), tuple)
