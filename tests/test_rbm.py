"""The RBM as a distribution: identities that hold to rounding, for every pair of unit types."""

import json

import pytest
import torch
from zoo import PAIRS, combinations, deviation, generator, grid, log_prob, log_probs, some_states, tiny

from genmodels import RBM, BadInput, Bernoulli, Gaussian
from genmodels.interface import capabilities
from genmodels.likelihood import exact_log_z

NUM = 7


@pytest.fixture(params=PAIRS, ids="-".join)
def model(request: pytest.FixtureRequest) -> RBM:
    return tiny(*request.param)


def close(actual: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-10)


def paired(model: RBM, num: int = NUM) -> tuple[torch.Tensor, torch.Tensor]:
    return some_states(model.visible, num, seed=1), some_states(model.hidden, num, seed=2)


def joint_energies(model: RBM, x: torch.Tensor, h: torch.Tensor) -> torch.Tensor:
    """E of every row of x with every row of h, shape (rows of x, rows of h)."""
    xs, hs = combinations(x, h)
    return model.energy(xs, (hs,)).reshape(len(x), len(h))


@torch.no_grad()
def test_energy_is_its_formula(model: RBM):
    x, h = paired(model)
    t, u = model.visible.statistic(x), model.hidden.statistic(h)
    for row in range(NUM):
        pairs = sum(t[row, i] * model.weight[i, j] * u[row, j] for i in range(x.shape[1]) for j in range(h.shape[1]))
        sites = t[row].dot(model.visible_bias) + u[row].dot(model.hidden_bias)
        reference = model.visible.log_base(x)[row] + model.hidden.log_base(h)[row]
        close(model.energy(x, (h,))[row], -(pairs + sites + reference))


@torch.no_grad()
def test_free_energy_sums_out_the_hidden_layer(model: RBM):
    x = some_states(model.visible, NUM)
    h, log_measure = grid(model.hidden)
    close(model.free_energy(x), -(log_measure - joint_energies(model, x, h)).logsumexp(1))


@torch.no_grad()
def test_probabilities_sum_to_one(model: RBM):
    x, log_measure = grid(model.visible)
    total = (log_measure - model.free_energy(x)).logsumexp(0) - exact_log_z(model).value
    assert abs(float(total)) < 1e-10


@torch.no_grad()
def test_posterior_is_energy_minus_free_energy(model: RBM):
    x, h = paired(model)
    assert model.exact_posterior
    (posterior,) = model.posterior(x)
    close(posterior.log_prob(h), model.free_energy(x) - model.energy(x, (h,)))


@torch.no_grad()
@pytest.mark.parametrize("layer", [0, 1])
def test_conditionals_are_energy_differences(model: RBM, layer: int):
    states = paired(model)
    moved = tuple(s.flip(0) if i == layer else s for i, s in enumerate(states))
    conditional = model.conditional(layer, states)
    difference = conditional.log_prob(moved[layer]) - conditional.log_prob(states[layer])
    close(difference, model.energy(states[0], states[1:]) - model.energy(moved[0], moved[1:]))


@torch.no_grad()
@pytest.mark.parametrize("layer", [0, 1])
@pytest.mark.parametrize("beta", [0.0, 0.7, 1.0, 1.3])
def test_annealed_fields_are_those_of_the_annealed_density(model: RBM, layer: int, beta: float):
    """log p = β (−E) + (1 − β) base · t up to a constant, with reference measures that do not anneal."""
    states = paired(model)
    base = tuple(0.4 + 0.1 * torch.arange(unit.size, dtype=torch.float64) for unit in model.units)

    def log_density(state: tuple[torch.Tensor, ...]) -> torch.Tensor:
        reference = sum(u.log_base(s) for u, s in zip(model.units, state, strict=True))
        linear = sum(u.statistic(s) @ b for u, s, b in zip(model.units, state, base, strict=True))
        return beta * (-model.energy(state[0], state[1:]) - reference) + reference + (1 - beta) * linear

    field = model.anneal(beta, base).field(layer, states)
    moved = tuple(s.flip(0) if i == layer else s for i, s in enumerate(states))
    unit = model.units[layer]
    close(
        log_prob(unit, field, moved[layer]) - log_prob(unit, field, states[layer]),
        log_density(moved) - log_density(states),
    )


def test_gradients_are_posterior_expectations_of_the_energys(model: RBM):
    """∂F/∂θ = E[∂E/∂θ | x] for every parameter, the variances of Gaussian layers among them."""
    x = some_states(model.visible, NUM)
    h, log_measure = grid(model.hidden)
    energies = joint_energies(model, x, h)
    posterior = (log_measure - energies).softmax(1).detach()
    expected = torch.autograd.grad((posterior * energies).sum(), list(model.parameters()))
    actual = torch.autograd.grad(model.free_energy(x).sum(), list(model.parameters()))
    for a, e in zip(actual, expected, strict=True):
        close(a, e)


def test_gradient_of_log_z_is_the_models_expectation(model: RBM):
    """What learning rests on: ∂ log Z/∂θ = −E[∂F/∂θ], here against a finite difference of the exact log Z."""
    x, log_p = log_probs(model)
    gradients = torch.autograd.grad(-(log_p.exp().detach() @ model.free_energy(x)), list(model.parameters()))
    step = 1e-5
    for parameter, gradient in zip(model.parameters(), gradients, strict=True):
        direction = torch.randn(parameter.shape, generator=generator(), dtype=torch.float64)
        values = []
        for sign in (1, -2, 1):
            with torch.no_grad():
                parameter += sign * step * direction
            values.append(exact_log_z(model).value)
        assert (values[0] - values[1]) / (2 * step) == pytest.approx(
            float((gradient * direction).sum()), rel=1e-6, abs=1e-6
        )


def test_state_dict_names_are_fixed(model: RBM):
    variances = {f"{side}.log_variance" for side in ("visible", "hidden") if isinstance(getattr(model, side), Gaussian)}
    assert set(model.state_dict()) == {"weight", "visible_bias", "hidden_bias"} | variances
    assert model.weight.shape == (model.visible.size, model.hidden.size)


@torch.no_grad()
def test_configuration_and_state_build_the_model_again(model: RBM):
    again = RBM.from_config(json.loads(json.dumps(model.config()))).double()
    again.load_state_dict(model.state_dict())
    x, h = paired(model)
    assert torch.equal(again.energy(x, (h,)), model.energy(x, (h,)))
    assert again.config() == model.config()


@torch.no_grad()
def test_initialising_from_data_gives_the_uncoupled_layer_its_mean(model: RBM):
    x = some_states(model.visible, 500)
    before = {name: parameter.clone() for name, parameter in model.state_dict().items()}
    model.initialise_from_data(x)
    assert float((model.visible.mean(model.visible_bias) - x.mean(0)).abs().max()) < 1 / 500
    changed = {name for name, parameter in model.state_dict().items() if not torch.equal(parameter, before[name])}
    assert changed == {"visible_bias"}


def test_a_generator_fixes_the_initial_weights():
    first, second = (RBM(Bernoulli(7), Bernoulli(5), generator=generator(3)).weight for _ in range(2))
    assert torch.equal(first, second)


def test_capabilities_are_the_class_header():
    assert set(capabilities(RBM)) == {"BlockGibbs", "JointEnergy", "FreeEnergy", "Posterior"}


def gaussian_pair(largest: float) -> RBM:
    """Two Gaussian layers whose coupling W / (σ_x σ_h) has the given largest singular value."""
    model = tiny("Gaussian", "Gaussian")
    with torch.no_grad():
        couplings = model.weight / deviation(model.visible)[:, None] / deviation(model.hidden)
        model.weight *= largest / torch.linalg.matrix_norm(couplings, 2)
    return model


def test_a_gaussian_pair_without_an_integral_is_refused():
    sentence = "no normalisable joint density: .* must stay below 1\\.$"
    with pytest.raises(BadInput, match=sentence):
        RBM(Gaussian(5, variance=1e-3), Gaussian(3, variance=1e-3))
    good, bad = gaussian_pair(0.99), gaussian_pair(1.01)
    good.load_state_dict(gaussian_pair(0.5).state_dict())
    with pytest.raises(BadInput, match=sentence):
        good.load_state_dict(bad.state_dict())
    with pytest.raises(BadInput, match=sentence):
        exact_log_z(bad)


@torch.no_grad()
@pytest.mark.parametrize("largest", [0.1, 0.6, 0.8])
def test_the_closed_form_of_a_gaussian_pair_is_its_integral(largest: float):
    model = gaussian_pair(largest)
    # The marginal is wider than a layer alone: by 1/√(1 − largest²), 1.7 times at most, so 20 σ reach far enough.
    x, log_measure = grid(model.visible)
    integral = float((log_measure - model.free_energy(x)).logsumexp(0))
    assert exact_log_z(model).value == pytest.approx(integral, abs=1e-8)
