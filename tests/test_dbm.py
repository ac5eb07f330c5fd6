"""Deep Boltzmann machines against sums over all their states."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
import torch
from torch import Tensor
from zoo import combinations, generator, grid, some_states, tiny, z_scores

from genmodels import DBM, RBM, BadInput, Bernoulli, Categorical, Gaussian
from genmodels.greedy import HiddenRows, deepened, next_rbm
from genmodels.objectives import variational_pcd
from genmodels.units import Unit


def deep(*layers: Unit, seed: int = 0, scale: float = 0.7) -> DBM:
    """A float64 DBM with random parameters: no bias is 0 and no variance 1."""
    model = DBM(*layers).double()
    randoms = generator(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(0, 0.3 if name.endswith("log_variance") else scale, generator=randoms)
    return model


def two_hidden() -> DBM:
    return deep(Bernoulli(5), Bernoulli(3), Bernoulli(2))


def three_hidden() -> DBM:
    return deep(Bernoulli(5), Bernoulli(3), Categorical(1, 3), Bernoulli(2))


MODELS = {
    "one": lambda: deep(Bernoulli(5), Bernoulli(3)),
    "two": two_hidden,
    "three": three_hidden,
    "gaussian": lambda: deep(Gaussian(2), Bernoulli(3), Gaussian(1), scale=0.4),
}


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest) -> DBM:
    return MODELS[request.param]()


def close(actual: Tensor, expected: Tensor, atol: float = 1e-10) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=atol)


def all_energies(model: DBM, x: Tensor) -> tuple[Tensor, tuple[Tensor, ...], Tensor]:
    """−E(x, z) for every row of x and every z, shape (rows, states); the states z; and the log of their measure."""
    grids = [grid(unit) for unit in model.units[1:]]
    z = combinations(*[states.reshape(len(states), -1) for states, _ in grids])
    num = len(z[0])
    repeated = tuple(layer.repeat(len(x), 1) for layer in z)
    energies = model.energy(x.repeat_interleave(num, 0), repeated).reshape(len(x), num)
    return -energies, z, torch.tensor(sum(measure for _, measure in grids), dtype=torch.float64)


def log_evidence(model: DBM, x: Tensor) -> Tensor:
    """−F(x), exact."""
    log_joint, _, measure = all_energies(model, x)
    return (log_joint + measure).logsumexp(1)


def log_z(model: DBM) -> Tensor:
    x, measure = grid(model.units[0])
    return (log_evidence(model, x) + measure).logsumexp(0)


def all_rows(model: DBM) -> Tensor:
    unit = model.units[0]
    return some_states(unit, 7) if unit.num_states is None else grid(unit)[0]


@torch.no_grad()
def test_mean_field_bounds_the_evidence_of_every_state(model: DBM):
    x = all_rows(model)
    gap = log_evidence(model, x) + model.variational_free_energy(x)
    assert bool((gap > -1e-10).all())
    assert model.exact_posterior == bool((gap < 1e-9).all())


@torch.no_grad()
def test_the_bound_in_closed_form_is_energy_plus_entropy(model: DBM):
    x = all_rows(model)
    fields = model.mean_field(x, num_iterations=2)  # anywhere, not at the fixed point
    log_joint, z, measure = all_energies(model, x)
    log_q = torch.zeros_like(log_joint)
    for unit, field, states in zip(model.units[1:], fields, z, strict=True):
        t = unit.statistic(states)
        log_q += field @ t.reshape(len(states), -1).T + unit.log_base(states) - unit.log_partition(field)[:, None]
    expected = ((log_q + measure).exp() * (log_joint - log_q)).sum(1)
    close(-model.variational_free_energy(x, fields), expected)


@torch.no_grad()
def test_the_bound_is_tight_where_the_hidden_layers_are_uncoupled():
    model = three_hidden()
    for weight in model.weights[1:]:
        weight.zero_()
    x = all_rows(model)
    close(-model.variational_free_energy(x), log_evidence(model, x))


@torch.no_grad()
def test_mean_field_climbs_to_a_fixed_point():
    model, x = three_hidden(), all_rows(three_hidden())
    start = tuple(torch.zeros(len(x), unit.size, dtype=torch.float64) for unit in model.units[1:])
    bounds = [
        -model.variational_free_energy(x, model.mean_field(x, num_iterations=n, tolerance=0.0, start=start))
        for n in range(6)
    ]
    assert all(bool((after >= before - 1e-12).all()) for before, after in pairwise(bounds))
    found = model.mean_field(x, tolerance=1e-13)
    means = model.means(found)
    for i, field in enumerate(found):
        close(field, model.field(i + 1, (x, *means)), atol=1e-9)
    damped = model.mean_field(x, damping=0.5, tolerance=1e-13, num_iterations=1000)
    warm = model.mean_field(x, num_iterations=1, start=found)
    for ends in (damped, warm):
        close(model.variational_free_energy(x, ends), model.variational_free_energy(x, found), atol=1e-9)


@torch.no_grad()
def test_one_hidden_layer_is_the_rbm_to_the_last_digit():
    for kinds in (("Bernoulli", "Bernoulli"), ("Gaussian", "Categorical"), ("Categorical", "Gaussian")):
        rbm = tiny(*kinds)
        model = DBM(*rbm.units).double()
        model.weight[0].copy_(rbm.weight)
        for own, bias in zip(model.bias, rbm.biases, strict=True):
            own.copy_(bias)
        x, h = (some_states(unit, 7) for unit in rbm.units)
        assert torch.equal(model.energy(x, (h,)), rbm.energy(x, (h,)))
        assert torch.equal(model.variational_free_energy(x), rbm.free_energy(x))
        assert torch.equal(model.posterior(x)[0].log_prob(h), rbm.posterior(x)[0].log_prob(h))


def exact_rows(model: DBM) -> tuple[tuple[Tensor, ...], Tensor]:
    """All joint states, and their probabilities."""
    states = combinations(*[grid(unit)[0] for unit in model.units])
    log_p = -model.energy(states[0], states[1:])
    return states, (log_p - log_p.logsumexp(0)).exp()


@pytest.mark.parametrize("centered", [False, True])
def test_the_direction_of_learning_is_the_gradient_of_the_enumerated_bound(centered: bool):
    """Chains that are exact draws, one of each state as often as it is likely, give it up to their number."""
    model = two_hidden()
    x = grid(model.units[0])[0][[3, 3, 17, 30]]
    fields = tuple(field.detach() for field in model.mean_field(x, tolerance=1e-13))
    loss = model.variational_free_energy(x, fields).mean() + log_z(model)
    gradient = torch.autograd.grad(loss, list(model.parameters()))
    objective = variational_pcd(model, num_steps=1, num_iterations=60, centered=centered)
    state = objective.init(x, generator())
    states, p = exact_rows(model)
    index = torch.multinomial(p.detach(), 200_000, replacement=True, generator=generator(1))
    state |= {f"chain.{i}": layer[index] for i, layer in enumerate(states)}
    surrogate, after, _ = objective.step(x, state, generator(2))
    found = torch.autograd.grad(surrogate, list(model.parameters()))
    offsets = [state[f"offset.{i}"] for i in range(3)] if centered else None
    expected = gradient if offsets is None else centered_direction(model, gradient, offsets)
    for f, e in zip(found, expected, strict=True):
        assert float((f - e).abs().max()) < 5.5 * 0.5 * (2 if centered else 1) / 200_000**0.5
    assert not torch.equal(state["chain.0"], after["chain.0"])


def centered_direction(model: DBM, gradient, offsets) -> list[Tensor]:
    """The gradient in the centered parametrisation mapped back: dW_l = G_l − o_l g_{l+1}ᵀ − g_l o_{l+1}ᵀ, and so on."""
    num = len(model.weights)
    weights, biases = gradient[:num], gradient[num:]
    centered = [
        w - offsets[i][:, None] * biases[i + 1] - biases[i][:, None] * offsets[i + 1] for i, w in enumerate(weights)
    ]
    moved = [b.clone() for b in biases]
    for i, w in enumerate(centered):
        moved[i] -= w @ offsets[i + 1]
        moved[i + 1] -= w.T @ offsets[i]
    return [*centered, *moved]


def test_configuration_and_state_build_the_model_again(model: DBM):
    again = DBM.from_config(json.loads(json.dumps(model.config()))).double()
    again.load_state_dict(model.state_dict())
    x = all_rows(model)
    assert torch.equal(again.variational_free_energy(x), model.variational_free_energy(x))


def test_bad_layers_are_refused():
    with pytest.raises(BadInput, match="another kind between"):
        DBM(Bernoulli(3), Gaussian(2), Gaussian(2))
    with pytest.raises(BadInput, match="at least one hidden"):
        DBM(Bernoulli(3))


def test_centering_changes_the_direction_and_not_where_it_vanishes():
    """The centered direction is a positive definite map of the gradient: it has a positive product with it."""
    model = two_hidden()
    gradient = [torch.randn(p.shape, generator=generator(), dtype=torch.float64) for p in model.parameters()]
    offsets = [torch.rand(unit.size, generator=generator(1), dtype=torch.float64) for unit in model.units]
    moved = centered_direction(model, gradient, offsets)
    assert sum(float((g * m).sum()) for g, m in zip(gradient, moved, strict=True)) > 0
    zero = centered_direction(model, [torch.zeros_like(g) for g in gradient], offsets)
    assert all(bool((z == 0).all()) for z in zero)


@torch.no_grad()
def test_a_deepened_rbm_is_still_that_rbm():
    rbm = tiny("Bernoulli", "Bernoulli")
    model = deepened(rbm, 2, scale=0.0, generator=generator()).double()
    x = all_rows(model)
    shift = log_evidence(model, x) + rbm.free_energy(x)
    close(shift, shift[0].expand_as(shift))
    close(-model.variational_free_energy(x), log_evidence(model, x))
    coupled = deepened(rbm, 2, scale=0.5, generator=generator()).double()
    assert float((log_evidence(coupled, x) + rbm.free_energy(x)).std()) > 1e-3


@torch.no_grad()
def test_a_centred_start_leaves_a_single_hidden_unit_alone_up_to_fourth_order():
    rbm = RBM(Bernoulli(5), Bernoulli(1)).double()
    rbm.weight.normal_(generator=generator(1))
    x = all_rows(deepened(rbm, 2))

    def moved(scale: float, mean: torch.Tensor | None) -> float:
        model = deepened(rbm, 3, scale=scale, mean=mean, generator=generator(2))
        return float((log_evidence(model, x) + rbm.free_energy(x)).std())

    mean = torch.tensor([0.3], dtype=torch.float64)
    assert moved(0.2, mean) / moved(0.1, mean) == pytest.approx(16, rel=0.1)
    assert moved(0.2, None) / moved(0.1, None) < 5


@torch.no_grad()
def test_the_first_weights_of_a_top_layer_cost_the_bound_what_their_squares_say():
    rbm = tiny("Bernoulli", "Bernoulli")
    model = deepened(rbm, 2, scale=0.05, generator=generator()).double()
    x = all_rows(model)
    lost = log_evidence(model, x) + model.variational_free_energy(x)
    below, above = (mean * (1 - mean) for mean in model.means(model.mean_field(x, tolerance=0.0)))
    expected = ((below @ model.weight[1].square()) * above).sum(1) / 2
    torch.testing.assert_close(lost, expected, rtol=0.05, atol=0.0)


@torch.no_grad()
def test_the_next_rbm_has_the_distribution_of_the_hidden_layer():
    rbm = tiny("Bernoulli", "Bernoulli")
    upper = next_rbm(rbm, rbm.visible.size, generator=generator()).double()
    h, _ = grid(rbm.hidden)
    x, _ = grid(rbm.visible)
    xs, hs = combinations(x, h)
    marginal = -rbm.energy(xs, (hs,)).reshape(len(x), len(h))
    close(-upper.free_energy(h), marginal.logsumexp(0))
    with pytest.raises(BadInput, match="at least as many"):
        next_rbm(rbm, 2)


def test_hidden_rows_are_draws_of_the_posterior():
    rbm = tiny("Bernoulli", "Categorical").requires_grad_(False)
    x = some_states(rbm.visible, 3)

    class Data:
        def __len__(self) -> int:
            return 3

        def batch(self, index: Tensor, generator: torch.Generator) -> Tensor:
            return x[index]

    rows = HiddenRows(Data(), rbm)
    assert len(rows) == 3
    drawn = rows.batch(torch.full((20_000,), 1), generator())
    # |z| < 6 for 6 sites: false alarms 1e-8; and those of another row are told apart.
    assert float(z_scores(drawn, rbm.posterior(x)[0].mean[1]).abs().max()) < 6
    assert float(z_scores(drawn, rbm.posterior(x)[0].mean[0]).abs().max()) > 12


def test_draws_of_the_mean_field_ask_for_no_gradient():
    z, log_q = three_hidden().recognise(grid(Bernoulli(5))[0], generator=generator())
    assert not any(layer.requires_grad for layer in z)
    assert log_q.shape == (32,)


def test_gaussian_layers_learn_their_variances():
    """From chains that are exact draws; every entry within 6.5 standard errors, by 40 batches: false alarms 1e-6."""
    model = MODELS["gaussian"]()
    x = some_states(model.units[0], 3)
    fields = tuple(field.detach() for field in model.mean_field(x, num_iterations=4, tolerance=0.0))
    h, _ = grid(model.units[1])
    below = model.units[0].log_partition(model.bias[0] + h @ model.weight[0].T)
    above = model.units[2].log_partition(model.bias[2] + h @ model.weight[1])
    log_p = h @ model.bias[1] + below + above
    loss = model.variational_free_energy(x, fields).mean() + log_p.logsumexp(0)
    parameters = dict(model.named_parameters())
    expected = dict(zip(parameters, torch.autograd.grad(loss, list(parameters.values())), strict=True))
    assert {"layers.0.log_variance", "layers.2.log_variance"} < set(expected)

    objective, randoms = variational_pcd(model, num_steps=1, num_iterations=4, centered=False), generator(4)
    state, found = objective.init(x, randoms), []
    for _ in range(40):
        index = torch.multinomial(log_p.detach().softmax(0), 2000, replacement=True, generator=randoms)
        state |= {"chain.0": x[:1].expand(2000, -1), "chain.1": h[index], "chain.2": x[:1, :1].expand(2000, -1)}
        surrogate, _, _ = objective.step(x, state, randoms)
        found.append(torch.autograd.grad(surrogate, list(parameters.values())))
    for name, batches in zip(parameters, zip(*found, strict=True), strict=True):
        stack = torch.stack(batches)
        error = stack.std(0) / len(stack) ** 0.5
        assert bool(((stack.mean(0) - expected[name]).abs() < 6.5 * error + 1e-12).all()), name
