"""Likelihood estimators against enumeration: exact values, unbiased weights, honest error bars, bounds on the right side."""

from __future__ import annotations

import copy
import inspect
import json
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from zoo import (
    DISCRETE_PAIRS,
    PAIRS,
    combinations,
    exact_draws,
    flipped,
    generator,
    grid,
    log_prob,
    log_probs,
    number,
    some_states,
    tiny,
    z_scores,
)

from genmodels import RBM, BadInput, Bernoulli, Categorical, Gaussian
from genmodels.boltzmann import Layers, is_narrow
from genmodels.likelihood import (
    Estimate,
    ais_log_z,
    annealed,
    exact,
    exact_log_z,
    log_likelihood,
    pseudo_likelihood,
    raise_log_likelihood,
    reverse_ais_log_z,
)
from genmodels.likelihood.annealed import MarginalPath, PathState, RoundedPath
from genmodels.likelihood.estimate import effective_sample_size, log_mean_exp, log_mean_exp_error
from genmodels.likelihood.exact import mean_free_energy
from genmodels.likelihood.report import LikelihoodReport
from samplers import Path, ais_log_weights, reverse_ais_log_weights, salakhutdinov_murray_schedule
from samplers.fused import Precision

in_pairs = pytest.mark.parametrize("pair", PAIRS, ids="-".join)
in_discrete_pairs = pytest.mark.parametrize("pair", DISCRETE_PAIRS, ids="-".join)


def uniform(num_temperatures: int) -> Tensor:
    return torch.linspace(0, 1, num_temperatures + 1, dtype=torch.float64)


def base_of(model: RBM, seed: int = 0) -> Tensor:
    """Visible fields where annealing starts, none of them zero."""
    return 0.5 * torch.randn(model.visible.size, generator=generator(seed + 77), dtype=torch.float64)


def path_of(model: RBM) -> MarginalPath:
    return MarginalPath(model, base_of(model))


# Exact log Z


@torch.no_grad()
@pytest.mark.parametrize("turn", [False, True], ids=["", "flipped"])
@pytest.mark.parametrize("pair", [pair for pair in PAIRS if pair[1] != "Gaussian"], ids="-".join)
def test_exact_log_z_is_the_sum_over_joint_states(pair: tuple[str, str], turn: bool):
    model = flipped(tiny(*pair)) if turn else tiny(*pair)
    (x, log_dx), (h, log_dh) = grid(model.visible), grid(model.hidden)
    xs, hs = combinations(x, h)
    brute_force = log_dx + log_dh + (-model.energy(xs, (hs,))).logsumexp(0)
    estimate = exact_log_z(model)
    assert estimate.value == pytest.approx(float(brute_force), abs=1e-10)
    assert (estimate.bound, estimate.std_error) == ("exact", 0.0)
    # The smaller of the sides that can be enumerated.
    assert estimate.samples == min(unit.num_states for unit in model.units if unit.num_states is not None)


@torch.no_grad()
@in_pairs
def test_both_sides_give_the_same_log_z(pair: tuple[str, str]):
    model = tiny(*pair)
    value = exact_log_z(model).value
    assert exact_log_z(flipped(model)).value == pytest.approx(value, abs=1e-10)
    for side in (model, flipped(model)):
        states, log_measure = grid(side.visible)
        assert float((log_measure - side.free_energy(states)).logsumexp(0)) == pytest.approx(value, abs=1e-8)


@pytest.mark.parametrize("states_a_chunk", [1, 3, 24, 25, 26])
def test_chunks_cover_every_state_once(states_a_chunk: int, monkeypatch: pytest.MonkeyPatch):
    model = tiny("Categorical", "Gaussian")
    whole, sizes, states = exact_log_z(model).value, [], model.visible.states
    monkeypatch.setattr(exact, "_CHUNK_ELEMENTS", states_a_chunk * (model.visible.size + model.hidden.size) + 1)
    monkeypatch.setattr(model.visible, "states", lambda index: (sizes.append(len(index)), states(index))[1])
    assert exact_log_z(model).value == pytest.approx(whole, abs=1e-12)
    assert sum(sizes) == 25
    assert max(sizes) <= states_a_chunk


@in_pairs
def test_exact_log_z_of_float32_weights_is_summed_in_float64(pair: tuple[str, str]):
    single = tiny(*pair).float()
    assert exact_log_z(single).value == pytest.approx(exact_log_z(copy.deepcopy(single).double()).value, abs=1e-10)


@pytest.mark.parametrize(
    ("model", "power"),
    [
        (RBM(Bernoulli(27), Bernoulli(26)), 26),
        (RBM(Gaussian(3), Bernoulli(29)), 29),
        (RBM(Categorical(17, 3), Bernoulli(31)), 27),
    ],
)
def test_too_many_states_are_refused_in_a_sentence(model: RBM, power: int):
    with pytest.raises(
        BadInput, match=f"has 2\\^{power} states, too many .*at most 2\\^25.*use method ais or raise\\.$"
    ):
        exact_log_z(model)


# The annealing path


@torch.no_grad()
@in_pairs
@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0])
def test_path_sums_out_the_hidden_layer_of_the_annealed_model(pair: tuple[str, str], beta: float):
    """log f_β(x) = log Σ_h exp(β (−E) + (1 − β) b⁰ · t(x)), reference measures not annealed."""
    model = tiny(*pair)
    x, base = some_states(model.visible, 7), base_of(model)
    h, log_measure = grid(model.hidden)
    xs, hs = combinations(x, h)
    reference = model.visible.log_base(xs) + model.hidden.log_base(hs)
    joint = beta * (-model.energy(xs, (hs,)) - reference) + reference + (1 - beta) * model.visible.statistic(xs) @ base
    expected = log_measure + joint.reshape(len(x), len(h)).logsumexp(1)
    path = path_of(model)
    torch.testing.assert_close(path.log_density(path.state((x,)), beta), expected, rtol=0, atol=1e-10)


@torch.no_grad()
@in_pairs
def test_path_ends_at_the_model_and_starts_at_a_known_z(pair: tuple[str, str]):
    model = tiny(*pair)
    path, (x, log_measure) = path_of(model), grid(model.visible)
    state = path.state((x,))
    torch.testing.assert_close(path.log_density(state, 1.0), -model.free_energy(x), rtol=0, atol=1e-10)
    start = log_measure + path.log_density(state, 0.0)
    assert float(start.logsumexp(0)) == pytest.approx(path.log_z0, abs=1e-10)
    draws = path.start(20_000, generator()).kept[0]
    model.visible.check(draws)
    # |z| < 6 for at most 10 sites: false alarms 2e-8.
    assert float(z_scores(draws, model.visible.mean(base_of(model))).abs().max()) < 6
    assert isinstance(path, Path)


class Told:
    """Layers that draw what they are told to, and add up the log-probabilities."""

    def __init__(self, layers: Layers | Told, script: Scripted):
        self._layers, self._script = layers, script

    def __getattr__(self, name: str):
        return getattr(self._layers, name)

    def at(self, beta: float, base: list[Tensor]) -> Told:
        return Told(self._layers.at(beta, base), self._script)

    def draw_given(self, layer: int, field: Tensor, generator: torch.Generator, *, beta: float) -> Tensor:
        return self._tell(layer, beta * field)

    def draw(self, layer: int, state: tuple[Tensor, ...], noise: Tensor) -> Tensor:
        return self._tell(layer, self._layers.field(layer, state))

    def _tell(self, layer: int, field: Tensor) -> Tensor:
        drawn = self._script.outcomes[layer]
        self._script.log_prob += log_prob(self._layers.units[layer], field, drawn)
        return drawn


class Scripted(MarginalPath):
    """A path whose draws are told: the exact transition matrix of the real code."""

    outcomes: tuple[Tensor, ...] = ()

    def __init__(self, model: RBM, base: Tensor):
        super().__init__(model, base)
        self._layers = Told(self._layers, self)  # pyright: ignore

    def matrix(self, beta: float) -> Tensor:
        x, h = (grid(unit)[0] for unit in self._units)
        start, *self.outcomes = combinations(x, x, h)  # pyright: ignore[reportAttributeAccessIssue]
        self.log_prob = torch.zeros(len(start), dtype=torch.float64)
        self.transition(self.state((start,)), beta, generator())
        return self.log_prob.exp().reshape(len(x), len(x), len(h)).sum(2)


@torch.no_grad()
@in_discrete_pairs
@pytest.mark.parametrize("beta", [0.0, 0.3, 0.7, 1.0])
def test_transitions_are_reversible(pair: tuple[str, str], beta: float):
    model = tiny(*pair)
    path, (x, _) = Scripted(model, base_of(model)), grid(model.visible)
    matrix, target = path.matrix(beta), path.log_density(path.state((x,)), beta).softmax(0)
    torch.testing.assert_close(matrix.sum(1), torch.ones_like(target), rtol=0, atol=1e-10)
    flow = target[:, None] * matrix
    torch.testing.assert_close(flow, flow.T, rtol=0, atol=1e-10)


def test_schedule_of_salakhutdinov_and_murray():
    betas = salakhutdinov_murray_schedule(14_500)
    assert len(betas) == 14_501
    steps = torch.cat(
        [torch.full((n,), 1 / d, dtype=torch.float64) for n, d in ((500, 1e3), (4000, 1e4), (10_000, 1e5))]
    )
    torch.testing.assert_close(betas.diff(), steps, rtol=0, atol=1e-12)
    for knot, beta in ((0, 0.0), (500, 0.5), (4500, 0.9), (14_500, 1.0)):
        assert betas[knot] == beta


@pytest.mark.parametrize("num_temperatures", [3, 5, 29, 1000, 20_000])
def test_schedule_of_any_length(num_temperatures: int):
    betas = salakhutdinov_murray_schedule(num_temperatures)
    assert len(betas) == num_temperatures + 1
    assert (betas[0], betas[-1], betas.dtype) == (0, 1, torch.float64)
    assert bool((betas.diff() > 0).all())
    with pytest.raises(ValueError, match="at least 3"):
        salakhutdinov_murray_schedule(2)


# Annealed importance sampling


NUM_MODELS, ESTIMATES_A_MODEL, NUM_CHAINS, NUM_TEMPERATURES = 50, 4, 100, 40


class TooWarm(MarginalPath):
    """The fault that AIS must show: transitions at another temperature than the weights."""

    def transition(self, state: PathState, beta: float, generator: torch.Generator) -> PathState:
        return super().transition(state, 0.8 * beta, generator)


def forward_weights(path: MarginalPath | RoundedPath, model: RBM, randoms: torch.Generator) -> Tensor:
    return ais_log_weights(path, uniform(NUM_TEMPERATURES), ESTIMATES_A_MODEL * NUM_CHAINS, generator=randoms)


def reverse_weights(path: MarginalPath | RoundedPath, model: RBM, randoms: torch.Generator) -> Tensor:
    x = exact_draws(model, ESTIMATES_A_MODEL * NUM_CHAINS, randoms)
    return -reverse_ais_log_weights(path, uniform(NUM_TEMPERATURES), path.state((x,)), generator=randoms)


def uncorrected(model: RBM, base: Tensor) -> MarginalPath:
    """A path to the model with its weights rounded to multiples of 0.7."""
    rounded = copy.deepcopy(model)
    rounded.weight.copy_((model.weight / 0.7).round() * 0.7)
    return MarginalPath(rounded, base)


def corrected(model: RBM, base: Tensor) -> RoundedPath:
    """The same, to the model as it is."""
    return RoundedPath(uncorrected(model, base), MarginalPath(model, base))


DIRECTIONS: dict[str, tuple[Callable[..., Any], Callable[..., Tensor], int]] = {
    "forward": (MarginalPath, forward_weights, 1),
    "reverse": (MarginalPath, reverse_weights, -1),
    "forward, corrected": (corrected, forward_weights, 1),
    "reverse, corrected": (corrected, reverse_weights, -1),
    "forward, uncorrected": (uncorrected, forward_weights, 1),
    "reverse, uncorrected": (uncorrected, reverse_weights, -1),
    "forward, too warm": (TooWarm, forward_weights, 1),
    "reverse, too warm": (TooWarm, reverse_weights, -1),
}


@torch.no_grad()
def scores(pair: tuple[str, str], direction: str) -> Tensor:
    """(log Ẑ − log Z) / its standard error, for some estimates of each of many random RBMs."""
    kind, weights, sign = DIRECTIONS[direction]
    z: list[float] = []
    for seed in range(NUM_MODELS):
        model = tiny(*pair, seed=seed, scale=0.6)
        path = kind(model, base_of(model, seed))
        log_weight, log_z = weights(path, model, generator(seed)), exact_log_z(model).value
        for part in log_weight.split(NUM_CHAINS):
            z.append((path.log_z0 + sign * log_mean_exp(part) - log_z) / log_mean_exp_error(part))
    return torch.tensor(z)


def calibrated(z: Tensor) -> bool:
    """200 z-scores: a mean of 5 standard errors and a spread of 6 are allowed, false alarms below 1e-6."""
    return bool(z.mean().abs() < 0.35) and 0.7 < float(z.std()) < 1.4


@pytest.mark.many_steps
@in_pairs
@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_log_z_is_off_by_its_error_bar(pair: tuple[str, str], direction: str):
    assert calibrated(scores(pair, direction))


@pytest.mark.many_steps
@pytest.mark.parametrize("pair", DISCRETE_PAIRS, ids="-".join)
@pytest.mark.parametrize("direction", ["forward, corrected", "reverse, corrected"])
def test_with_rounded_weights_it_still_is(pair: tuple[str, str], direction: str):
    assert calibrated(scores(pair, direction))


@pytest.mark.many_steps
@pytest.mark.parametrize(
    "direction", ["forward, too warm", "reverse, too warm", "forward, uncorrected", "reverse, uncorrected"]
)
@pytest.mark.parametrize("pair", [("Bernoulli", "Categorical"), ("Gaussian", "Bernoulli")], ids="-".join)
def test_faulty_annealing_is_rejected(pair: tuple[str, str], direction: str):
    assert not calibrated(scores(pair, direction))


@pytest.mark.many_steps
@torch.no_grad()
@in_pairs
@pytest.mark.parametrize("num_steps", [1, 2])
def test_weights_are_unbiased_with_few_temperatures(pair: tuple[str, str], num_steps: int):
    """E[w] = Z / Z₀ forward and E[1/w] = Z₀ / Z in reverse. |z| < 6 over 20,000 chains: false alarms below 1e-6."""
    model, betas, num = tiny(*pair, scale=0.5), uniform(5), 20_000
    path, log_z = path_of(model), exact_log_z(model).value
    forward = ais_log_weights(path, betas, num, generator=generator(), num_steps=num_steps)
    start = path.state((exact_draws(model, num, generator(1)),))
    reverse = reverse_ais_log_weights(path, betas, start, generator=generator(), num_steps=num_steps)
    assert forward.dtype == reverse.dtype == torch.float64
    for log_weight in (forward + path.log_z0 - log_z, -(reverse + path.log_z0 - log_z)):
        assert abs(float(z_scores(log_weight.exp(), 1.0))) < 6


@torch.no_grad()
def test_few_chains_of_a_large_machine_take_the_rounded_path():
    model, base = RBM(Bernoulli(331), Bernoulli(211)), torch.zeros(331)

    def kind(num_chains: int, precision: Precision) -> type:
        return type(annealed.annealing_path(model, base, uniform(2), num_chains, 1, precision))

    assert kind(9, "auto") is (RoundedPath if is_narrow(model, "auto") else MarginalPath)
    assert kind(annealed.FEW_CHAINS + 1, "auto") is kind(9, "float32") is MarginalPath


@torch.no_grad()
@in_pairs
def test_few_chains_bracket_log_z(pair: tuple[str, str]):
    """Jensen: with two chains a run forward lies below and reverse above, each by more than 5 standard errors."""
    model, betas, num = tiny(*pair, scale=1.0), uniform(2), 4000
    path, log_z = path_of(model), exact_log_z(model).value
    start = path.state((exact_draws(model, num, generator(1)),))
    forward = ais_log_weights(path, betas, num, generator=generator())
    reverse = -reverse_ais_log_weights(path, betas, start, generator=generator())
    for log_weight, sign in ((forward, 1), (reverse, -1)):
        values = path.log_z0 + sign * (log_weight.reshape(-1, 2).logsumexp(1) - math.log(2))
        assert sign * float(z_scores(values, log_z)) < -5


@torch.no_grad()
@in_pairs
def test_estimates_are_what_the_weights_say(pair: tuple[str, str]):
    model, betas, num = tiny(*pair), uniform(5), 11
    path, base = path_of(model), base_of(model)
    forward = ais_log_z(model, base, betas, num_chains=num, generator=generator())
    log_weight = ais_log_weights(path, betas, num, generator=generator())
    assert forward.value == path.log_z0 + log_mean_exp(log_weight)
    assert forward.std_error == log_mean_exp_error(log_weight)
    assert forward.diagnostics["ess"] == effective_sample_size(log_weight)
    assert (forward.bound, forward.samples) == ("lower", num)

    x = some_states(model.visible, num)
    reverse = reverse_ais_log_z(model, x, base, betas, burn_in=0, generator=generator())
    log_weight = -reverse_ais_log_weights(path, betas, path.state((x,)), generator=generator())
    assert reverse.value == path.log_z0 - log_mean_exp(log_weight)
    assert reverse.std_error == log_mean_exp_error(log_weight)
    assert (reverse.bound, reverse.samples) == ("upper", num)
    assert "0 sweeps from data" in reverse.method

    raised = raise_log_likelihood(model, x, base, betas, num_examples=num, num_chains=3, generator=generator())
    randoms = generator()
    rows = x[torch.randperm(num, generator=randoms)]
    start = path.state((rows.repeat_interleave(3, 0),))
    log_weight = -reverse_ais_log_weights(path, betas, start, generator=randoms).reshape(num, 3)
    log_p = log_weight.logsumexp(1) - math.log(3) - model.free_energy(rows) - path.log_z0
    assert raised.value == pytest.approx(float(log_p.mean()), abs=1e-10)


class Recorded(MarginalPath):
    """Remembers the temperatures of its transitions."""

    def transition(self, state: PathState, beta: float, generator: torch.Generator) -> PathState:
        self.seen = [*getattr(self, "seen", []), beta]
        return super().transition(state, beta, generator)


@pytest.mark.parametrize("num_steps", [1, 3])
def test_every_temperature_takes_its_transitions(num_steps: int):
    """Unbiased weights cannot show a missing transition; more of them only narrow the weights."""
    model, betas = tiny("Bernoulli", "Bernoulli"), uniform(5)
    forward, reverse = (Recorded(model, base_of(model)) for _ in range(2))
    ais_log_weights(forward, betas, 7, generator=generator(), num_steps=num_steps)
    start = reverse.state((some_states(model.visible, 7),))
    reverse_ais_log_weights(reverse, betas, start, generator=generator(), num_steps=num_steps)
    assert forward.seen == betas[1:].repeat_interleave(num_steps).tolist()
    assert reverse.seen == forward.seen[::-1]


@torch.no_grad()
@pytest.mark.parametrize("num", [3, 4, 5, 8])
def test_chains_run_in_groups_of_bounded_size(num: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("genmodels.groups.MAX_PARALLEL_CHAINS", 4)
    model, betas = tiny("Bernoulli", "Gaussian"), uniform(5)
    base, path, x, sizes = base_of(model), path_of(model), some_states(model.visible, num), []
    randoms = generator()
    groups = [ais_log_weights(path, betas, len(rows), generator=randoms) for rows in x.split(4)]
    backwards = [-reverse_ais_log_weights(path, betas, path.state((rows,)), generator=randoms) for rows in x.split(4)]
    draw = model.visible.draw
    monkeypatch.setattr(model.visible, "draw", lambda field, noise: (sizes.append(len(noise)), draw(field, noise))[1])
    randoms = generator()
    forward = ais_log_z(model, base, betas, num_chains=num, generator=randoms)
    reverse = reverse_ais_log_z(model, x, base, betas, burn_in=0, generator=randoms)
    raised = raise_log_likelihood(model, x, base, betas, num_examples=num, num_chains=3, generator=randoms)
    assert forward.value == pytest.approx(path.log_z0 + log_mean_exp(torch.cat(groups)), abs=1e-12)
    assert reverse.value == pytest.approx(path.log_z0 - log_mean_exp(torch.cat(backwards)), abs=1e-12)
    assert (forward.samples, reverse.samples, raised.samples) == (num, num, 3 * num)
    assert max(sizes) <= 4


def two_modes() -> RBM:
    """All units on or all off, unequally often; a chain crosses between them every few sweeps."""
    model = RBM(Bernoulli(11), Bernoulli(7)).double()
    with torch.no_grad():
        model.weight.fill_(0.5)
        model.visible_bias.fill_(-0.5 * 7 / 2 + 0.3)
        model.hidden_bias.fill_(-0.5 * 11 / 2 + 0.1)
    return model


@pytest.mark.many_steps
@pytest.mark.parametrize(("burn_in", "reached"), [(0, False), (1, False), (300, True)])
@pytest.mark.parametrize("seed", range(3))
def test_reverse_annealing_needs_chains_in_equilibrium(burn_in: int, reached: bool, seed: int):
    """From 5,000 rows of the rarer mode: |z| < 6 after many sweeps (false alarms 2e-9) and far from it before."""
    model = two_modes()
    x = torch.zeros(5000, 11, dtype=torch.float64)
    estimate = reverse_ais_log_z(model, x, base_of(model), uniform(30), burn_in=burn_in, generator=generator(seed))
    z = abs(estimate.value - exact_log_z(model).value) / estimate.std_error
    assert z < 6 if reached else z > 12


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"betas": torch.tensor([0.0])}, "rise from 0 to 1"),
        ({"betas": torch.tensor([0.1, 1.0])}, "rise from 0 to 1"),
        ({"betas": torch.tensor([0.0, 0.9])}, "rise from 0 to 1"),
        ({"betas": torch.tensor([0.0, 0.9, 0.5, 1.0])}, "rise from 0 to 1"),
        ({"num_steps": 0}, "at least one chain and one step"),
        ({"num_chains": 0}, "at least one chain and one step"),
    ],
)
def test_impossible_annealing_is_refused(arguments: dict, words: str):
    model = tiny("Bernoulli", "Bernoulli")
    with pytest.raises(BadInput, match=words):
        ais_log_z(model, base_of(model), **{"betas": uniform(5), "generator": generator()} | arguments)


# RAISE


@torch.no_grad()
@in_discrete_pairs
def test_raise_is_unbiased_for_the_probability_under_annealing(pair: tuple[str, str]):
    """E[f₁(x)/Z₀ · 1/w] is the probability that forward AIS, as a generative process, ends in x: here by exact matrices.

    |z| < 6 for at most 32 x, 10,000 chains each: false alarms 6e-8. One transition less must be told apart.
    """
    model, betas, num = tiny(*pair), uniform(2), 10_000
    path, (x, _) = Scripted(model, base_of(model)), grid(model.visible)
    half_way = path.log_density(path.state((x,)), 0.0).softmax(0) @ path.matrix(0.5)
    law, real = half_way @ path.matrix(1.0), path_of(model)
    start = real.state((x.repeat(num, 1),))
    log_weight = reverse_ais_log_weights(real, betas, start, generator=generator()).reshape(num, len(x))
    estimates = torch.exp(-model.free_energy(x) - real.log_z0 - log_weight)
    assert float(z_scores(estimates, law).abs().max()) < 6
    assert float(z_scores(estimates, half_way).abs().max()) > 12


@pytest.mark.many_steps
@torch.no_grad()
@in_pairs
def test_raise_is_a_lower_bound_that_temperatures_tighten(pair: tuple[str, str]):
    """On exact draws of the model the annealed process cannot beat the model (Gibbs' inequality), and nears it."""
    model = tiny(*pair)
    x, base = exact_draws(model, 2000, generator(1)), base_of(model)
    exact_value = -mean_free_energy(model, x)[0] - exact_log_z(model).value
    few, many = (
        raise_log_likelihood(model, x, base, uniform(k), num_examples=2000, num_chains=n, generator=generator())
        for k, n in ((2, 1), (100, 4))
    )
    assert few.bound == many.bound == "lower"
    # Both by more than chance allows: false alarms below 1e-6 each.
    assert few.value < exact_value - 5 * few.std_error
    assert few.value < many.value < exact_value + 5 * many.std_error


@torch.no_grad()
def test_raise_spreads_its_rows_over_all_free_energies():
    """Some rows' log p_RAISE + F stand in for all rows': the estimate from 50 of 500 is off by its error bar."""
    model, z = tiny("Bernoulli", "Bernoulli"), []
    x = some_states(model.visible, 500)
    everything = raise_log_likelihood(model, x, base_of(model), uniform(10), num_examples=500, generator=generator())
    for seed in range(50):
        some = raise_log_likelihood(model, x, base_of(model), uniform(10), num_examples=50, generator=generator(seed))
        z.append((some.value - everything.value) / math.hypot(some.std_error, everything.std_error))
    # Mean within 5 and spread within 4 standard errors; rows drawn without replacement only narrow it.
    assert abs(sum(z) / 50) < 0.7
    assert 0.5 < float(torch.tensor(z).std()) < 1.4


@torch.no_grad()
def test_raise_takes_the_rows_there_are():
    model = tiny("Bernoulli", "Bernoulli")
    x = some_states(model.visible, 7)
    estimate = raise_log_likelihood(model, x, base_of(model), uniform(5), num_examples=50, generator=generator())
    assert estimate.samples == 7 * 4
    assert "7 examples" in estimate.method


# Pseudo-likelihood


@torch.no_grad()
@pytest.mark.parametrize("hidden", ["Bernoulli", "Categorical", "Gaussian"])
def test_pseudo_likelihood_estimates_the_sum_over_sites(hidden: str):
    """log p(x_i | x_{−i}) from the enumerated p(x). |z| < 6 over 100,000 rows: false alarms 2e-9; β = 0.8 is caught."""
    model = tiny("Bernoulli", hidden)
    states, log_p = log_probs(model)
    repeats = 100_000 // len(states)

    def log_conditionals(beta: float) -> float:
        total = torch.zeros(len(states), dtype=torch.float64)
        for site in range(model.visible.size):
            turned = states.clone()
            turned[:, site] = 1 - turned[:, site]
            own, other = (beta * log_p[number([x], [states])] for x in (states, turned))
            total += own - torch.logaddexp(own, other)
        return float(total.mean())

    estimate = pseudo_likelihood(model, states.repeat(repeats, 1), generator=generator())
    assert estimate.bound == "none"
    assert abs(estimate.value - log_conditionals(1.0)) / estimate.std_error < 6
    assert abs(estimate.value - log_conditionals(0.8)) / estimate.std_error > 12


def test_pseudo_likelihood_needs_binary_visible_units():
    model = tiny("Gaussian", "Bernoulli")
    with pytest.raises(BadInput, match="needs Bernoulli visible units"):
        pseudo_likelihood(model, some_states(model.visible, 7), generator=generator())


# Numbers that carry their meaning


def test_an_estimate_prints_its_error_its_bound_and_its_method():
    estimate = Estimate(-84.1234, 0.0456, "lower", "RAISE", 100, {"ess": 3.0})
    assert str(estimate) == "-84.123 ± 0.046 nats (lower bound in expectation; RAISE)"
    assert estimate.to_dict() == {"value": -84.1234, "std_error": 0.0456, "bound": "lower", "method": "RAISE"}
    assert str(Estimate(0.0, 0.0, "exact", "m", 1)) == "0.000 ± 0.000 nats (exact; m)"
    assert "(upper bound in expectation; m)" in str(Estimate(0.0, 0.0, "upper", "m", 1))
    assert "(no bound; m)" in str(Estimate(0.0, 0.0, "none", "m", 1))


def test_averages_of_weights_survive_any_scale():
    log_weight = torch.tensor([0.3, -0.7, 1.1, 0.2])
    weights = log_weight.double().exp()
    for shift in (-1e4, 0.0, 1e4):
        shifted = log_weight.double() + shift
        assert log_mean_exp(shifted) == pytest.approx(shift + float(weights.mean().log()), abs=1e-10)
        relative = float(weights.std() / weights.mean()) / 2
        assert log_mean_exp_error(shifted) == pytest.approx(relative, rel=1e-10)
        assert effective_sample_size(shifted) == pytest.approx(float(weights.sum() ** 2 / weights.square().sum()))
    assert log_mean_exp_error(log_weight[:1]) == math.inf
    assert effective_sample_size(torch.zeros(7)) == pytest.approx(7)
    assert effective_sample_size(torch.tensor([0.0, 900.0, 0.0])) == pytest.approx(1)


# The report


def few_temperatures(model: RBM, x: Tensor, method, **arguments) -> LikelihoodReport:
    settings = {"num_chains": 20, "num_temperatures": 20, "burn_in": 10, "schedule": "uniform"}
    return log_likelihood(model, x, method=method, **settings | arguments)


@torch.no_grad()
@in_pairs
@pytest.mark.parametrize("method", ["auto", "exact"])
def test_small_models_get_the_exact_value(pair: tuple[str, str], method):
    model = tiny(*pair)
    x = some_states(model.visible, 11)
    report = log_likelihood(model, x, method=method)
    log_p = -model.free_energy(x) - exact_log_z(model).value
    assert report.log_likelihood.value == pytest.approx(float(log_p.mean()), abs=1e-10)
    assert (report.log_likelihood.bound, report.log_likelihood.std_error) == ("exact", 0.0)
    assert (report.lower, report.upper, report.bracket_width, report.warnings) == (None, None, 0.0, ())
    assert list(report.rows()) == ["value"]
    assert report.num_examples == 11


@pytest.mark.parametrize(("hidden", "bound"), [(16, "exact"), (17, "upper")])
def test_auto_enumerates_up_to_65536_states(hidden: int, bound: str):
    model = RBM(Bernoulli(19), Bernoulli(hidden))
    assert few_temperatures(model, torch.eye(19), "auto").log_likelihood.bound == bound


@pytest.mark.parametrize(("method", "lower_method"), [("ais", "reverse AIS"), ("raise", "RAISE"), ("auto", "RAISE")])
def test_annealed_reports_are_brackets(method, lower_method: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("genmodels.likelihood.report._AUTO_EXACT_STATES", 1)
    model = tiny("Bernoulli", "Categorical")
    x = exact_draws(model, 500, generator())
    report = few_temperatures(model, x, method, num_chains=400, num_temperatures=200, burn_in=50)
    true = log_likelihood(model, x, method="exact").log_likelihood.value
    assert report.upper is report.log_likelihood
    assert report.lower is not None
    assert report.upper is not None
    assert (report.lower.bound, report.upper.bound, report.log_z.bound) == ("lower", "upper", "lower")
    assert report.lower.method.startswith(lower_method)
    assert report.upper.method.startswith("AIS")
    assert list(report.rows()) == ["upper side", "lower side"]
    # Six standard errors on either side: false alarms 1e-8.
    assert report.lower.value - 6 * report.lower.std_error < true < report.upper.value + 6 * report.upper.std_error
    assert report.bracket_width == report.upper.value - report.lower.value == report.diagnostics["bracket_width"]
    assert report.bracket_width < 0.3
    assert report.upper.value == pytest.approx(-mean_free_energy(model, x)[0] - report.log_z.value, abs=1e-12)
    assert ("reverse_log_z" in report.diagnostics) == (method != "raise")
    assert report.warnings == ()
    assert report.num_examples == 500


def test_the_bracket_of_few_temperatures_is_wide_and_says_so():
    """Three temperatures from a base that is all zeros to a hundred strongly coupled units: some 80 nats."""
    model, randoms = RBM(Bernoulli(101), Bernoulli(7)).double(), generator()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.7, generator=randoms)
    x = (torch.rand(100, 101, generator=randoms) < 0.5).double()
    report = few_temperatures(model, x, "ais", num_temperatures=3, base=torch.zeros_like(x))
    true = log_likelihood(model, x, method="exact").log_likelihood.value
    assert report.lower is not None
    assert report.upper is not None
    assert report.bracket_width > 1
    assert report.lower.value < true < report.upper.value
    assert any(f"The bracket is {report.bracket_width:.2f} nats wide" in warning for warning in report.warnings)
    assert any("effective sample size" in warning for warning in report.warnings)
    assert all(warning.endswith(".") for warning in report.warnings)


@pytest.mark.parametrize("method", ["exact", "ais", "raise"])
def test_reports_are_json(method):
    model = tiny("Bernoulli", "Bernoulli")
    report = few_temperatures(model, some_states(model.visible, 11), method)
    stored = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert set(stored) == {"num_examples", "log_likelihood", "lower", "upper", "log_z", "diagnostics", "seconds"}
    assert set(stored["log_likelihood"]) == {"value", "std_error", "bound", "method"}
    assert (stored["lower"] is None) == (method == "exact")


@pytest.mark.parametrize("method", ["ais", "raise"])
def test_reports_repeat_with_the_same_generator(method):
    model = tiny("Bernoulli", "Bernoulli")
    x = some_states(model.visible, 11)
    first, again, other = (few_temperatures(model, x, method, generator=generator(seed)) for seed in (3, 3, 4))
    assert first.log_likelihood == again.log_likelihood
    assert first.lower == again.lower
    assert first.log_likelihood != other.log_likelihood
    assert few_temperatures(model, x, method).lower == few_temperatures(model, x, method).lower


@pytest.mark.parametrize("method", ["exact", "ais", "raise"])
def test_memory_does_not_grow_with_the_number_of_examples(method, monkeypatch: pytest.MonkeyPatch):
    model, rows = tiny("Bernoulli", "Bernoulli"), []
    free_energy = model.free_energy
    monkeypatch.setattr(model, "free_energy", lambda x: (rows.append(len(x)), free_energy(x))[1])
    few_temperatures(model, some_states(model.visible, 10_001), method)
    assert sum(rows) % 10_001 == 0
    assert max(rows) <= 4096


def test_the_base_rates_may_come_from_other_data():
    model = tiny("Bernoulli", "Bernoulli")
    x, base = some_states(model.visible, 11), some_states(model.visible, 7, seed=1)
    with_base = few_temperatures(model, x, "ais", base=base, generator=generator())
    assert with_base.log_z.value != few_temperatures(model, x, "ais", generator=generator()).log_z.value
    betas, bias = uniform(20), model.visible.bias_from_data(base)
    alone = ais_log_z(model, bias, betas, num_chains=20, generator=generator())
    assert with_base.log_z.value == alone.value


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"method": "magic"}, "Unknown method 'magic'; known are auto, exact, ais, raise"),
        ({"schedule": "magic", "method": "ais"}, "magic"),
        ({"num_temperatures": 2}, "at least 3 temperatures, not 2"),
        ({"num_chains": 1}, "at least 2 chains, not 1"),
        ({"num_steps": 0, "method": "ais"}, "one step"),
        ({"x": torch.zeros(3, 4, dtype=torch.float64)}, r"shape \(3, 4\), but the model takes \(n, 5\)"),
        ({"x": torch.zeros(0, 5, dtype=torch.float64)}, "empty"),
        ({"x": torch.full((3, 5), 0.5, dtype=torch.float64)}, "Row 0, column 0 holds 0.5"),
        ({"x": torch.full((3, 5), math.nan, dtype=torch.float64)}, "Row 0, column 0 holds nan"),
    ],
)
def test_bad_arguments_are_refused_in_a_sentence(arguments: dict, words: str):
    model = tiny("Bernoulli", "Bernoulli")
    given = {"x": some_states(model.visible, 11)} | arguments
    # Unwrapped: the shape checker that runs with the tests would speak first.
    with pytest.raises(BadInput, match=words):
        inspect.unwrap(log_likelihood)(model, **given)


def test_a_gaussian_pair_that_lost_its_integral_is_refused():
    model = tiny("Gaussian", "Gaussian")
    x = some_states(model.visible, 7)
    with torch.no_grad():
        model.weight.mul_(2)
    for method in ("exact", "ais", "raise"):
        with pytest.raises(BadInput, match="no normalisable joint density"):
            few_temperatures(model, x, method)


def test_progress_sees_every_stage():
    model, labels = tiny("Bernoulli", "Bernoulli"), []

    def progress(numbers, label: str):
        labels.append(label)
        return numbers

    for method in ("exact", "ais", "raise"):
        few_temperatures(model, some_states(model.visible, 11), method, progress=progress)
    assert labels == ["exact log Z", "AIS", "burn-in", "reverse AIS", "AIS", "RAISE"]
