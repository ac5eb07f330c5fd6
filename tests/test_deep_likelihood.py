"""log Z, bounds and reports of machines with several hidden layers, against sums over all their states."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from test_dbm import deep, exact_rows, log_evidence, log_z
from test_likelihood import Told, calibrated, uniform
from torch import Tensor
from zoo import combinations, generator, grid, number, some_states, sweep_matrix, tiny, z_scores

from genmodels import DBM, Bernoulli, Categorical
from genmodels.likelihood import (
    Estimate,
    ais_log_z,
    exact_log_z,
    importance_bound,
    log_likelihood,
    raise_log_likelihood,
    reverse_ais_log_z,
)
from genmodels.likelihood.annealed import Block, MarginalPath, PathState
from genmodels.likelihood.estimate import log_mean_exp, log_mean_exp_error
from genmodels.likelihood.exact import mean_free_energy
from samplers import ais_log_weights, reverse_ais_log_weights

in_blocks = pytest.mark.parametrize("keep", ["even", "odd"])


def three_hidden(seed: int = 0, scale: float = 0.7) -> DBM:
    return deep(Bernoulli(2), Bernoulli(3), Bernoulli(5), Bernoulli(7), seed=seed, scale=scale)


def small(seed: int = 0) -> DBM:
    """Few enough states for a transition matrix."""
    return deep(Bernoulli(3), Bernoulli(2), Categorical(1, 3), seed=seed)


def base_of(model: DBM, seed: int = 0) -> Tensor:
    return 0.5 * torch.randn(model.units[0].size, generator=generator(seed + 77), dtype=torch.float64)


def kept_of(model: DBM, keep: Block) -> tuple[tuple[int, ...], tuple[int, ...]]:
    odd, even = model.blocks
    return (odd, even) if keep == "odd" else (even, odd)


@torch.no_grad()
def test_enumerating_a_block_gives_the_sum_over_all_states():
    for model in (three_hidden(), small(), deep(Bernoulli(5), Bernoulli(3))):
        found = exact_log_z(model)
        assert found.value == pytest.approx(float(log_z(model)), abs=1e-10)
        assert found.bound == "exact"
    assert exact_log_z(three_hidden()).samples == 2**7


@torch.no_grad()
@in_blocks
@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0])
def test_the_path_sums_out_the_other_block(keep: Block, beta: float):
    model = small()
    path, base = MarginalPath(model, base_of(model), keep=keep), base_of(model)
    kept, summed = kept_of(model, keep)
    grids = [grid(unit)[0] for unit in model.units]
    some, rest = combinations(*[grids[i] for i in kept]), combinations(*[grids[i] for i in summed])
    rows, columns = len(some[0]), len(rest[0])
    state: list[Tensor] = [torch.empty(0)] * len(grids)
    for i, layer in zip(kept, some, strict=True):
        state[i] = layer.repeat_interleave(columns, 0)
    for i, layer in zip(summed, rest, strict=True):
        state[i] = layer.repeat(rows, 1)
    log_f = -beta * model.energy(state[0], tuple(state[1:])) + (1 - beta) * state[0] @ base
    expected = log_f.reshape(rows, columns).logsumexp(1)
    torch.testing.assert_close(path.log_density(path.state(some), beta), expected, rtol=0, atol=1e-10)
    if beta == 0:
        assert float(expected.logsumexp(0)) == pytest.approx(path.log_z0, abs=1e-10)


class Scripted(MarginalPath):
    """A path whose draws are told: the exact transition matrix of the real code."""

    def __init__(self, model: DBM, keep: Block):
        super().__init__(model, base_of(model), keep=keep)
        self._layers = Told(self._layers, self)  # pyright: ignore

    def matrix(self, beta: float) -> tuple[tuple[Tensor, ...], Tensor]:
        grids = [grid(unit)[0] for unit in self._units]
        states = combinations(*[grids[i] for i in self.kept])
        others = combinations(*[grids[i] for i in self._summed])
        num, count = len(states[0]), len(others[0])
        start, end, between = (
            index.flatten() for index in torch.meshgrid(*(torch.arange(n) for n in (num, num, count)), indexing="ij")
        )
        self.outcomes = {i: layer[end] for i, layer in zip(self.kept, states, strict=True)}
        self.outcomes |= {i: layer[between] for i, layer in zip(self._summed, others, strict=True)}
        self.log_prob = torch.zeros(len(start), dtype=torch.float64)
        self.transition(self.state(tuple(layer[start] for layer in states)), beta, generator())
        return states, self.log_prob.exp().reshape(num, num, count).sum(2)


@torch.no_grad()
@in_blocks
@pytest.mark.parametrize("beta", [0.0, 0.7, 1.0])
def test_transitions_are_reversible(keep: Block, beta: float):
    path = Scripted(small(), keep)
    states, matrix = path.matrix(beta)
    target = path.log_density(path.state(states), beta).softmax(0)
    torch.testing.assert_close(matrix.sum(1), torch.ones_like(target), rtol=0, atol=1e-10)
    flow = target[:, None] * matrix
    torch.testing.assert_close(flow, flow.T, rtol=0, atol=1e-10)


@torch.no_grad()
def test_a_sweep_leaves_the_model_as_it_is():
    model = deep(Bernoulli(2), Bernoulli(3), Bernoulli(1), Categorical(1, 3))
    states, matrix = sweep_matrix(model.anneal(), {})
    log_p = -model.energy(states[0], states[1:])
    target = log_p.softmax(0)
    torch.testing.assert_close(target @ matrix, target, rtol=0, atol=1e-10)
    elsewhere = (0.8 * log_p).softmax(0)
    assert float((elsewhere @ matrix - elsewhere).abs().max()) > 1e-4


class TooWarm(MarginalPath):
    """The fault that AIS must show: transitions at another temperature than the weights."""

    def transition(self, state: PathState, beta: float, generator: torch.Generator) -> PathState:
        return super().transition(state, 0.8 * beta, generator)


@torch.no_grad()
def scores(kind: type[MarginalPath], keep: Block, reverse: bool) -> Tensor:
    """(log Ẑ − log Z) / its standard error, for some estimates of each of many random machines."""
    z: list[float] = []
    for seed in range(8):
        model = three_hidden(seed, scale=0.6)
        path, betas, randoms = kind(model, base_of(model, seed), keep=keep), uniform(25), generator(seed)
        if reverse:
            states = combinations(*[grid(model.units[i])[0] for i in path.kept])
            p = path.log_density(path.state(states), 1.0).softmax(0)
            index = torch.multinomial(p, 2500, replacement=True, generator=randoms)
            start = path.state(tuple(layer[index] for layer in states))
            log_weight, sign = -reverse_ais_log_weights(path, betas, start, generator=randoms), -1
        else:
            log_weight, sign = ais_log_weights(path, betas, 2500, generator=randoms), 1
        exact = exact_log_z(model).value
        for part in log_weight.split(100):
            z.append((path.log_z0 + sign * log_mean_exp(part) - exact) / log_mean_exp_error(part))
    return torch.tensor(z)


@in_blocks
@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
def test_log_z_is_off_by_its_error_bar(keep: Block, reverse: bool):
    assert calibrated(scores(MarginalPath, keep, reverse))


def test_faulty_annealing_is_rejected():
    assert not calibrated(scores(TooWarm, "odd", False))


@torch.no_grad()
def test_with_one_hidden_layer_the_estimates_are_those_of_the_rbm():
    rbm = tiny("Bernoulli", "Categorical")
    model = DBM(*rbm.units).double()
    model.weight[0].copy_(rbm.weight)
    for own, bias in zip(model.bias, rbm.biases, strict=True):
        own.copy_(bias)
    x, base = some_states(rbm.visible, 11), base_of(model)
    for estimate in (
        lambda m: ais_log_z(m, base, uniform(7), num_chains=11, generator=generator()),
        lambda m: reverse_ais_log_z(m, x, base, uniform(7), burn_in=3, generator=generator()),
        lambda m: exact_log_z(m),
        lambda m: log_likelihood(m, x, method="exact").log_likelihood,
    ):
        assert estimate(model) == estimate(rbm)


@torch.no_grad()
def test_raise_is_a_lower_bound_that_temperatures_tighten():
    """Below the model's own bound on its own draws, by more than five standard errors with few temperatures."""
    model = three_hidden()
    states, p = exact_rows(model)
    x = states[0][torch.multinomial(p, 2000, replacement=True, generator=generator(1))]
    every = grid(model.units[0])[0]
    log_p = (log_evidence(model, every) - log_z(model))[number((x,), (every,))]
    evidence = float(log_p.mean())
    few, many = (
        raise_log_likelihood(
            model, x, base_of(model), uniform(k), num_examples=2000, num_chains=n, generator=generator()
        )
        for k, n in ((2, 1), (100, 4))
    )
    assert few.bound == many.bound == "lower"
    assert few.value < evidence - 5 * few.std_error
    assert few.value < many.value < evidence
    assert many.value == pytest.approx(-mean_free_energy(model, x)[0] - float(log_z(model)), abs=0.05)


@torch.no_grad()
def test_importance_weights_lift_the_bound_to_the_evidence():
    """Their expectations rise with K: rows are repeated until errors are far below what separates them."""
    model = three_hidden(scale=1.0)
    x = grid(model.units[0])[0]
    exact = exact_log_z(model)
    evidence = float(log_evidence(model, x).mean()) - exact.value
    variational = -mean_free_energy(model, x)[0] - exact.value
    one, few, many = (
        importance_bound(model, x.repeat(repeats, 1), num_samples=k, log_z=exact, generator=generator())
        for k, repeats in ((2, 2000), (20, 2000), (2000, 5))
    )
    assert variational < one.value < few.value < evidence + 5 * few.std_error
    assert one.value < evidence - 5 * one.std_error
    assert many.bound == "lower"
    assert many.value == pytest.approx(evidence, abs=max(5 * many.std_error, 0.01))
    assert evidence - variational > 0.05


@torch.no_grad()
def test_the_draws_of_the_mean_field_have_its_density():
    model = three_hidden()
    x = grid(model.units[0])[0][1:2]
    code = model.encode(x)
    z = combinations(*[grid(unit)[0] for unit in model.units[1:]])
    log_q = code.repeat(len(z[0])).log_prob(z)
    assert float(log_q.logsumexp(0)) == pytest.approx(0, abs=1e-10)
    factors = [q.log_prob(layer) for q, layer in zip(model.posterior(x), z, strict=True)]
    torch.testing.assert_close(log_q, sum(factors), rtol=0, atol=1e-10)
    drawn = code.repeat(20_000).draw(generator())
    # |z| < 6 for 15 means: false alarms 3e-8.
    for layer, mean in zip(drawn, model.means(code.fields), strict=True):
        assert float(z_scores(layer, mean[0]).abs().max()) < 6


@torch.no_grad()
def test_a_report_says_what_its_number_is():
    model = three_hidden()
    x = some_states(model.units[0], 31)
    exact = log_likelihood(model, x)
    assert (exact.log_likelihood.bound, exact.upper, exact.lower) == ("lower", None, None)
    assert exact.log_likelihood.value == pytest.approx(-mean_free_energy(model, x)[0] - exact.log_z.value)
    assert "variational bound" in exact.log_likelihood.method
    assert list(exact.rows()) == ["value"]
    annealed = log_likelihood(model, x, method="ais", num_chains=20, num_temperatures=50, burn_in=50)
    assert (annealed.log_likelihood.bound, annealed.upper) == ("none", None)
    assert annealed.lower is not None
    assert annealed.lower.bound == "lower"
    assert list(annealed.rows()) == ["value", "lower side"]
    conservative = log_likelihood(model, x, method="raise", num_chains=20, num_temperatures=50)
    assert isinstance(conservative.lower, Estimate)
    assert math.isfinite(conservative.lower.value)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak of memory is read as Linux gives it")
def test_ten_thousand_examples_stay_within_two_gibibytes():
    """Mean field and annealing of a 784-500-1000 machine, in a process of its own, whose getrusage would begin at ours."""
    code = """
import torch
from pathlib import Path
from genmodels import DBM, Bernoulli
from genmodels.likelihood import log_likelihood
generator = torch.Generator().manual_seed(0)
model = DBM(Bernoulli(784), Bernoulli(500), Bernoulli(1000), generator=generator).requires_grad_(False)
x = torch.rand(10_000, 784, generator=generator).round()
log_likelihood(model, x, method="ais", num_chains=100, num_temperatures=3, burn_in=1, generator=generator)
lines = Path("/proc/self/status").read_text().splitlines()
print(next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 2**20)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 2.0
