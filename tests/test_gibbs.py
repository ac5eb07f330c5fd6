"""Block Gibbs: exact transition matrices of the real update, then the chains against those matrices."""

import math

import pytest
import torch
from scipy.stats import kstest, norm
from torch import Tensor
from zoo import (
    DISCRETE_PAIRS,
    PAIRS,
    Tensors,
    accepted,
    chi_square,
    deviation,
    generator,
    grid,
    log_prob,
    number,
    rejected,
    some_states,
    sweep_matrix,
    tiny,
)

from genmodels import RBM, Bernoulli, Categorical
from genmodels.boltzmann import Layers
from genmodels.units import Unit
from samplers import Conditionals, Kernel, Trace, gibbs, run
from samplers.gibbs import Clamp, draw_noise, update

BETA = 0.7
NUM_CHAINS = 100_000
CLAMPS = ("nothing", "visible sites", "hidden sites", "both sites", "visible layer", "hidden layer")


def base_of(model: RBM) -> Tensors:
    """Base fields, none of them zero."""
    return tuple(0.8 * torch.randn(u.size, generator=generator(5)).to(model.weight) for u in model.units)


def annealed(model: RBM, beta: float | Tensor = BETA) -> Layers:
    return model.anneal(beta, base_of(model))


def some_sites(unit: Unit) -> Tensor:
    """A mask of a few sites: whole groups of categorical ones."""
    mask = torch.zeros(unit.size, dtype=torch.bool)
    mask[: unit.levels if isinstance(unit, Categorical) else 2] = True
    return mask


def clamp_of(model: RBM, name: str) -> Clamp:
    masks = [some_sites(unit) for unit in model.units]
    return {
        "nothing": {},
        "visible sites": {0: masks[0]},
        "hidden sites": {1: masks[1]},
        "both sites": dict(enumerate(masks)),
        "visible layer": {0: True},
        "hidden layer": {1: True},
    }[name]


def stationary(model: RBM, states: Tensors, beta: float = BETA) -> Tensor:
    """exp(−β E + (1 − β) base · s), normalised over all joint states of two discrete layers."""
    linear = sum(s @ b for s, b in zip(states, base_of(model), strict=True))
    return (-beta * model.energy(states[0], states[1:]) + (1 - beta) * linear).softmax(0)


@torch.no_grad()
@pytest.mark.parametrize("name", CLAMPS)
@pytest.mark.parametrize("pair", DISCRETE_PAIRS, ids="-".join)
def test_a_sweep_leaves_the_joint_invariant(pair: tuple[str, str], name: str):
    model = tiny(*pair)
    states, matrix = sweep_matrix(annealed(model), clamp_of(model, name))
    target = stationary(model, states)
    torch.testing.assert_close(matrix.sum(1), torch.ones_like(target), rtol=0, atol=1e-10)
    torch.testing.assert_close(target @ matrix, target, rtol=0, atol=1e-10)
    wrong = stationary(model, states, beta=0.8)
    assert float((wrong @ matrix - wrong).abs().sum()) > 1e-4


@torch.no_grad()
@pytest.mark.parametrize("pair", DISCRETE_PAIRS, ids="-".join)
def test_the_visible_chain_satisfies_detailed_balance(pair: tuple[str, str]):
    model = tiny(*pair)
    states, joint = sweep_matrix(annealed(model), {})
    shape = [len(grid(unit)[0]) for unit in model.units]
    matrix = joint.reshape(*shape, *shape).sum(3)
    # The next x depends on x alone, so the chain of x is Markov.
    torch.testing.assert_close(matrix, matrix[:, :1].expand_as(matrix), rtol=0, atol=1e-10)
    flow = stationary(model, states).reshape(*shape).sum(1)[:, None] * matrix[:, 0]
    torch.testing.assert_close(flow, flow.T, rtol=0, atol=1e-10)


def start_of(model: RBM) -> Tensors:
    return tuple(some_states(u, 1, seed=6).to(model.weight).expand(NUM_CHAINS, -1) for u in model.units)


@pytest.mark.many_steps
@torch.no_grad()
@pytest.mark.parametrize("name", CLAMPS)
@pytest.mark.parametrize("pair", DISCRETE_PAIRS, ids="-".join)
def test_chains_follow_the_exact_matrix(pair: tuple[str, str], name: str):
    """χ² over all joint states after one step, chains in float32. False alarms: 1e-5 a case."""
    model = tiny(*pair, scale=1.3).float()
    clamp = clamp_of(model, name)
    start = start_of(model)
    after = gibbs(annealed(model), clamp=clamp).step(start, generator())[0]
    model.double()
    states, matrix = sweep_matrix(annealed(model), clamp)
    _, wrong = sweep_matrix(annealed(model, 1.0), clamp)
    origin = int(number([s[:1] for s in start], states))
    index = number(after, states)
    assert accepted(chi_square(index, matrix[origin]))
    assert rejected(chi_square(index, wrong[origin]))


class MeanField:
    """The fault that looks most like Gibbs: the hidden layer takes its mean instead of a draw."""

    def __init__(self, layers: Layers):
        self.blocks, self.noise, self._layers = layers.blocks, layers.noise, layers

    def draw(self, layer: int, state: Tensors, noise: Tensor) -> Tensor:
        return self._layers.mean(1, state) if layer == 1 else self._layers.draw(layer, state, noise)


@torch.no_grad()
@pytest.mark.parametrize("pair", DISCRETE_PAIRS, ids="-".join)
def test_the_visible_chain_has_drawn_hidden_units(pair: tuple[str, str]):
    """χ² over the states of x after one step. False alarms: 1e-5 a case. Mean-field hidden units must be caught."""
    model = tiny(*pair, scale=1.3)
    start = start_of(model)
    (x, h), matrix = sweep_matrix(annealed(model), {})
    row = matrix[int(number([s[:1] for s in start], (x, h)))].reshape(len(grid(model.visible)[0]), -1).sum(1)

    def p_value(conditionals: Conditionals) -> float:
        after = gibbs(conditionals).step(start, generator())[0]
        return chi_square(number(after[:1], grid(model.visible)[:1]), row)

    assert accepted(p_value(annealed(model)))
    assert rejected(p_value(MeanField(annealed(model))))


@torch.no_grad()
@pytest.mark.parametrize("hidden", ["Bernoulli", "Categorical"])
def test_gaussian_chains_are_the_exact_mixture(hidden: str):
    """Kolmogorov and Smirnov for each site after one step: a Gaussian for every hidden state. False alarms: 4e-5."""
    model = tiny("Gaussian", hidden, scale=1.3)
    start, base, sd = start_of(model), base_of(model), deviation(model.visible)
    h, _ = grid(model.hidden)
    field = BETA * (model.hidden_bias + start[0][:1] / sd**2 @ model.weight) + (1 - BETA) * base[1]
    weight = log_prob(model.hidden, field, h).exp()
    after = gibbs(annealed(model)).step(start, generator())[0][0]
    for site in range(model.visible.size):

        def mixture(value, beta: float, site: int = site):
            means = beta * (model.visible_bias + h @ model.weight.T)[:, site] + (1 - beta) * base[0][site]
            return sum(
                w * norm(m, float(sd[site])).cdf(value) for w, m in zip(weight.tolist(), means.tolist(), strict=True)
            )

        assert accepted(kstest(after[:, site].cpu(), lambda v: mixture(v, BETA)).pvalue)
        assert rejected(kstest(after[:, site].cpu(), lambda v: mixture(v, 1.0)).pvalue)


@torch.no_grad()
@pytest.mark.parametrize("pair", PAIRS, ids="-".join)
def test_an_update_is_deterministic_given_its_noise(pair: tuple[str, str]):
    model, n = tiny(*pair), 11
    layers = annealed(model)
    start = tuple(some_states(unit, n) for unit in model.units)
    before = [s.clone() for s in start]
    noise = draw_noise(layers, start, {}, generator())
    first, second = (update(layers, start, noise, {}) for _ in range(2))
    stepped = gibbs(layers).step(start, generator())[0]
    for a, b, c in zip(first, second, stepped, strict=True):
        assert torch.equal(a, b)
        assert torch.equal(a, c)
    assert all(torch.equal(s, b) for s, b in zip(start, before, strict=True))


@torch.no_grad()
@pytest.mark.parametrize("pair", PAIRS, ids="-".join)
def test_a_beta_for_every_chain_is_each_chain_at_its_beta(pair: tuple[str, str]):
    model, betas = tiny(*pair), [0.0, 0.3, 0.7, 1.0, 1.2]
    start = tuple(some_states(unit, len(betas)) for unit in model.units)
    together = annealed(model, torch.tensor(betas, dtype=torch.float64)[:, None])
    noise = draw_noise(together, start, {}, generator())
    after = update(together, start, noise, {})
    for row, beta in enumerate(betas):
        one = slice(row, row + 1)
        own_noise = {layer: numbers[one] for layer, numbers in noise.items()}
        alone = update(annealed(model, beta), tuple(s[one] for s in start), own_noise, {})
        for a, b in zip(alone, after, strict=True):
            torch.testing.assert_close(a, b[one])


@torch.no_grad()
@pytest.mark.parametrize("name", CLAMPS)
@pytest.mark.parametrize("pair", PAIRS, ids="-".join)
def test_clamped_sites_keep_their_values_and_others_move(pair: tuple[str, str], name: str):
    model, n = tiny(*pair), 50
    clamp = clamp_of(model, name)
    start = tuple(some_states(unit, n) for unit in model.units)
    after = run(gibbs(annealed(model), clamp=clamp), start, 5, generator=generator())
    for layer, unit in enumerate(model.units):
        held = torch.as_tensor(clamp.get(layer, False)).expand(unit.size)
        assert torch.equal(after[layer][:, held], start[layer][:, held])
        assert bool((after[layer] != start[layer])[:, ~held].any(0).all())


@torch.no_grad()
def test_a_mask_may_differ_from_chain_to_chain():
    model, n = tiny("Bernoulli", "Bernoulli"), 50
    mask = torch.rand(n, model.visible.size, generator=generator(1)) < 0.5
    start = tuple(some_states(unit, n) for unit in model.units)
    each = gibbs(annealed(model), clamp={0: mask}).step(start, generator())[0][0]
    for row in range(n):
        shared = gibbs(annealed(model), clamp={0: mask[row]}).step(start, generator())[0][0]
        assert torch.equal(each[row], shared[row])


@pytest.mark.parametrize(("m", "n"), [(0, 3), (5, 0), (5, 7)])
def test_runs_continue(m: int, n: int):
    model = tiny("Bernoulli", "Gaussian")
    kernel = gibbs(annealed(model))
    start = tuple(some_states(unit, 11) for unit in model.units)
    randoms = generator(3)
    parts = run(kernel, run(kernel, start, m, generator=randoms), n, generator=randoms)
    whole = run(kernel, start, m + n, generator=generator(3))
    assert all(torch.equal(a, b) for a, b in zip(parts, whole, strict=True))


COUNTER = Kernel(
    init=lambda position: position.clone(),
    noise=lambda state, randoms: 1,
    update=lambda state, noise: (state.add_(1), {}),
)


@pytest.mark.parametrize(
    ("thin", "wanted", "steps"),
    [(1, None, [0, 1, 2, 3, 4, 5, 6, 7]), (3, None, [0, 3, 6]), (2, (0, 3, 4, 99), [0, 4]), (9, None, [0])],
)
def test_a_trace_keeps_what_it_is_told_to(thin: int, wanted: tuple[int, ...] | None, steps: list[int]):
    # The counting kernel changes its state in place, so that only copies pass.
    trace = Trace(lambda state: state[:, 0], wanted)
    end = run(COUNTER, torch.zeros(2, 3), 7, generator=generator(), thin=thin, observe=trace)
    assert trace.steps == steps
    assert torch.equal(trace.stacked(), torch.tensor(steps, device="cpu")[:, None].expand(-1, 2).float())
    assert torch.equal(end, torch.full((2, 3), 7.0))


def test_run_reports_its_steps_and_refuses_nonsense():
    seen: list[int] = []

    def track(numbers):
        for step in numbers:
            seen.append(step)
            yield step

    run(COUNTER, torch.zeros(2, 3), 5, generator=generator(), track=track)
    assert seen == [1, 2, 3, 4, 5]
    for num_steps, thin in ((-1, 1), (3, 0)):
        with pytest.raises(ValueError, match="num_steps"):
            run(COUNTER, torch.zeros(2, 3), num_steps, generator=generator(), thin=thin)


def test_layers_are_conditionals():
    model = RBM(Bernoulli(7), Bernoulli(5))
    assert isinstance(model.anneal(), Conditionals)
    assert model.anneal().blocks == model.blocks == ((1,), (0,))


@torch.no_grad()
@pytest.mark.parametrize("pair", PAIRS, ids="-".join)
def test_the_mean_of_a_layer_is_the_mean_of_its_draws(pair: tuple[str, str]):
    """100,000 draws a site, |z| < 5: false alarms 6e-7 a site."""
    model = tiny(*pair)
    layers, start = annealed(model), start_of(model)
    for layer in (0, 1):
        draws = layers.draw(layer, start, layers.noise(layer, NUM_CHAINS, generator(layer)))
        z = (draws.mean(0) - layers.mean(layer, start)[0]) / draws.std(0) * math.sqrt(NUM_CHAINS)
        assert float(z.abs().max()) < 5
