"""Unit types as exponential families: against enumeration, quadrature and exact probabilities."""

import pytest
import torch
from scipy.stats import kstest, norm
from torch import Tensor
from zoo import accepted, chi_square, deviation, generator, grid, log_prob, number, rejected

from genmodels import BadInput, Bernoulli, Categorical, Gaussian
from genmodels.joined import Joined
from genmodels.units import Binomial, Unit, unit_from_config

NUM_DRAWS = 100_000
MAKE = {
    "Bernoulli": lambda: Bernoulli(7),
    "Categorical": lambda: Categorical(2, 5),
    "Categorical, more groups than levels": lambda: Categorical(5, 3),
    "Gaussian": lambda: Gaussian(3, variance=1.7),
    "Binomial": lambda: Binomial(3, 2),
    "Binomial, more trials": lambda: Binomial(2, 5),
    "Joined": lambda: Joined(Bernoulli(2), Categorical(1, 5)),
    "Joined, within itself": lambda: Joined(Categorical(2, 3), Joined(Bernoulli(1), Bernoulli(2))),
}
DISCRETE = [name for name in MAKE if name != "Gaussian"]


def make(name: str) -> Unit:
    unit = MAKE[name]().double()
    with torch.no_grad():
        for parameter in unit.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator(1))
    return unit


def fields(unit: Unit, num: int, seed: int = 0) -> Tensor:
    return 1.3 * torch.randn(num, unit.size, generator=generator(seed), dtype=torch.float64)


@pytest.fixture(params=MAKE)
def unit(request: pytest.FixtureRequest) -> Unit:
    return make(request.param)


@pytest.fixture(params=DISCRETE)
def discrete(request: pytest.FixtureRequest) -> Unit:
    return make(request.param)


def test_log_partition_is_the_sum_over_states(unit: Unit):
    field = fields(unit, 11)
    states, log_measure = grid(unit)
    terms = field @ unit.statistic(states).T + unit.log_base(states) + log_measure
    torch.testing.assert_close(unit.log_partition(field), terms.logsumexp(-1), rtol=0, atol=1e-10)


def test_mean_is_the_gradient_of_log_partition(unit: Unit):
    field = fields(unit, 11).requires_grad_()
    (gradient,) = torch.autograd.grad(unit.log_partition(field).sum(), field)
    torch.testing.assert_close(unit.statistic(unit.mean(field)), gradient, rtol=0, atol=1e-10)


def test_leading_axes_are_batch_axes(unit: Unit):
    field = fields(unit, 33)
    deep = field.reshape(3, 11, -1)
    torch.testing.assert_close(unit.log_partition(deep), unit.log_partition(field).reshape(3, 11))
    torch.testing.assert_close(unit.mean(deep), unit.mean(field).reshape(3, 11, -1))


def test_distribution_is_the_exponential_family(unit: Unit):
    field = fields(unit, 11)
    states = grid(unit)[0][5:16]
    distribution = unit.distribution(field)
    assert distribution.batch_shape == (11,)
    assert distribution.event_shape == (unit.size,)
    torch.testing.assert_close(distribution.mean, unit.mean(field))
    torch.testing.assert_close(distribution.log_prob(states), log_prob(unit, field, states), rtol=0, atol=1e-10)


@torch.no_grad()
def test_entropy_is_the_mean_of_minus_log_p(unit: Unit):
    field = fields(unit, 11)
    states, log_measure = grid(unit)
    log_p = torch.stack([log_prob(unit, row, states) for row in field])
    expected = -(torch.exp(log_p + log_measure) * log_p).sum(1)
    torch.testing.assert_close(unit.distribution(field).entropy(), expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("seed", range(3))
def test_discrete_draws_have_the_exact_joint_probabilities(discrete: Unit, seed: int):
    """χ² over all joint states: also sees sites that share their noise. False alarms: 1e-5."""
    field = fields(discrete, 1, seed).expand(NUM_DRAWS, -1)
    draws = discrete.draw(field, discrete.noise(NUM_DRAWS, field, generator(seed)))
    states, _ = grid(discrete)
    index = number([draws], [states])
    assert accepted(chi_square(index, log_prob(discrete, field[:1], states).exp()))
    assert rejected(chi_square(index, log_prob(discrete, 0.85 * field[:1], states).exp()))


@pytest.mark.parametrize("seed", range(3))
def test_gaussian_draws_have_their_mean_and_variance(seed: int):
    """Kolmogorov and Smirnov, a site at a time, and all pairs of sites by their sum. False alarms: 6e-5."""
    unit = make("Gaussian")
    field = fields(unit, 1, seed)
    draws = unit.draw(field.expand(NUM_DRAWS, -1), unit.noise(NUM_DRAWS, field, generator(seed)))
    variance = deviation(unit).square()
    for a, b in ((0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2)):
        sites = sorted({a, b})
        total, mean, sd = draws[:, sites].sum(1).detach(), field[0, sites].sum(), variance[sites].sum().sqrt()
        assert accepted(kstest(total, norm(mean, sd).cdf).pvalue)
        assert rejected(kstest(total, norm(mean + 0.05 * sd, sd).cdf).pvalue)
        assert rejected(kstest(total, norm(mean, 1.1 * sd).cdf).pvalue)


def test_draws_are_a_function_of_their_noise(unit: Unit):
    field = fields(unit, 11)
    noise = unit.noise(11, field, generator(3))
    assert noise.shape == (11, unit.num_draws)
    assert noise.dtype == field.dtype
    kept = noise.clone(), field.clone()
    assert torch.equal(unit.draw(field, noise), unit.draw(field, noise))
    assert torch.equal(noise, kept[0])
    assert torch.equal(field, kept[1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [1e3, 1e30])
def test_extreme_fields_draw_valid_states(discrete: Unit, dtype: torch.dtype, size: float):
    field = size * fields(discrete, 1000).sign().to(dtype)
    field[:, ::3] = 0
    below_one = 1 - torch.finfo(dtype).eps / 2
    for level in (0.0, below_one, None):
        noise = discrete.noise(1000, field, generator())
        draws = discrete.draw(field, noise if level is None else torch.full_like(noise, level))
        assert draws.dtype == dtype
        discrete.check(draws)
        # A state of probability 0 is never drawn, not even where the noise sits at an end of its range.
        assert bool((log_prob(discrete, field.double(), draws.double()) > -99).all())


@pytest.mark.parametrize("name", DISCRETE)
def test_bias_from_data_has_the_mean_of_the_data(name: str):
    unit = make(name)
    x = grid(unit)[0][torch.randint(unit.num_states or 0, (500,), generator=generator())]
    constant = x[:1].expand(500, -1)
    assert float((unit.mean(unit.bias_from_data(x)) - x.mean(0)).abs().max()) < 1 / 500
    # Columns that never vary get a finite field, as close to certain as so many rows allow.
    assert float((unit.mean(unit.bias_from_data(constant)) - constant[0]).abs().max()) < 1 / 500
    assert bool(torch.isfinite(unit.bias_from_data(constant)).all())


def test_gaussian_bias_from_data_is_the_mean_of_the_data():
    unit, x = make("Gaussian"), torch.randn(500, 3, generator=generator(), dtype=torch.float64)
    torch.testing.assert_close(unit.mean(unit.bias_from_data(x)), x.mean(0))


BAD = [
    ("Bernoulli", 0.5, "Row 2, column 4 holds 0.5"),
    ("Bernoulli", -1.0, "Row 2, column 4 holds -1"),
    ("Bernoulli", float("nan"), "Row 2, column 4 holds nan"),
    ("Categorical", 0.5, "Row 2, column 4 holds 0.5"),
    ("Categorical", float("inf"), "Row 2, column 4 holds inf"),
    ("Binomial", 0.5, "Row 2, column 1 holds 0.5"),
    ("Binomial", 3.0, "Row 2, column 1 holds 3"),
    ("Gaussian", float("inf"), "Row 2, column 1 holds inf"),
    ("Gaussian", float("nan"), "Row 2, column 1 holds nan"),
]


@pytest.mark.parametrize(("name", "value", "start"), BAD)
def test_check_names_row_and_column(name: str, value: float, start: str):
    unit = make(name)
    x = grid(unit)[0][:11].clone()
    unit.check(x)
    x[2, 1 if name in ("Gaussian", "Binomial") else 4] = value
    x[7, 0] = value
    with pytest.raises(BadInput, match=f"^{start}, .*\\.$"):
        unit.check(x)


def test_joined_layers_check_each_part_and_name_its_columns():
    unit = Joined(Bernoulli(2), Categorical(1, 5))
    x = unit.states(torch.arange(11))
    unit.check(x)
    x[3, 1] = 0.5
    with pytest.raises(BadInput, match=r"^Of columns 0 to 1, counted from 0: Row 3, column 1 holds 0.5"):
        unit.check(x)
    x[3, 1] = 1.0
    x[4, 2:] = 1.0
    with pytest.raises(BadInput, match=r"^Of columns 2 to 6, counted from 2: Row 4, column 0 .*one-hot"):
        unit.check(x)


def test_joined_layers_may_be_part_continuous():
    unit = Joined(Gaussian(2, variance=1.7), Bernoulli(3)).double()
    assert unit.num_states is None
    assert not unit.is_binary
    field = fields(unit, 11)
    parts = unit.parts
    torch.testing.assert_close(unit.mean(field), torch.cat([field[:, :2], parts[1].mean(field[:, 2:])], 1))
    drawn = unit.draw(field, unit.noise(11, field, generator()))
    expected = log_prob(parts[0], field[:, :2], drawn[:, :2]) + log_prob(parts[1], field[:, 2:], drawn[:, 2:])
    torch.testing.assert_close(unit.log_prob(field, drawn), expected)
    torch.testing.assert_close(log_prob(unit, field, drawn), expected)
    assert unit.distribution(field).sample().shape == (11, 5)
    with pytest.raises(BadInput, match="continuous"):
        unit.states(torch.arange(2))


@pytest.mark.parametrize("second", [0.0, 1.0])
def test_check_wants_one_hot_groups(second: float):
    unit = Categorical(2, 5)
    x = unit.states(torch.tensor([0, 1, 24]))
    x[1, 5:] = second
    with pytest.raises(BadInput, match=r"Row 1, column 5 .*one-hot"):
        unit.check(x)


def test_states_are_all_states_once(discrete: Unit):
    assert discrete.num_states is not None
    states = discrete.states(torch.arange(discrete.num_states))
    assert states.shape == (discrete.num_states, discrete.size)
    assert len(states.unique(dim=0)) == discrete.num_states
    discrete.check(states)
    some = torch.tensor([3, 1, 2])
    assert torch.equal(discrete.states(some), states[some])


def test_continuous_states_cannot_be_enumerated():
    assert Gaussian(3).num_states is None
    with pytest.raises(BadInput, match="continuous"):
        Gaussian(3).states(torch.arange(2))


def test_configuration_builds_the_layer_again(unit: Unit):
    again = unit_from_config(dict(unit.config()))
    assert type(again) is type(unit)
    assert again.config() == unit.config()
    assert (again.size, again.num_states, again.num_draws) == (unit.size, unit.num_states, unit.num_draws)


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: Bernoulli(0), "at least one unit"),
        (lambda: Categorical(3, 1), "at least two levels"),
        (lambda: Gaussian(3, variance=0.0), "must be positive"),
        (lambda: Binomial(3, 0), "at least one trial"),
        (lambda: Joined(Bernoulli(3)), "at least two layers"),
        (lambda: unit_from_config({"type": "Poisson", "size": 3}), "Unknown unit type 'Poisson'"),
    ],
)
def test_impossible_layers_are_refused(build, words: str):
    with pytest.raises(BadInput, match=words):
        build()
