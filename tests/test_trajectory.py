"""Trajectory tempering: exact densities on every rung, an invariant target, and log Z against enumeration."""

import math

import pytest
import torch
from torch import Tensor
from zoo import (
    DISCRETE_PAIRS,
    accepted,
    chi_square,
    exact_draws,
    generator,
    log_probs,
    number,
    rejected,
    some_states,
    tiny,
)

from genmodels import RBM, BadInput, Bernoulli, Gaussian
from genmodels.likelihood import exact_log_z, trajectory_log_z
from genmodels.likelihood.bridge import bennett, bennett_variance
from genmodels.trajectory import Trajectory, permuted_log_density
from samplers import adapt_ladder, rung

in_discrete_pairs = pytest.mark.parametrize("pair", DISCRETE_PAIRS, ids="-".join)


def snapshots(model: RBM, other: RBM) -> list[dict[str, Tensor]]:
    """Two models on the way: another one, and half of the way from there."""
    last, first = model.state_dict(), other.state_dict()
    return [first, {name: torch.lerp(first[name], last[name], 0.5) for name in last}]


def tiny_trajectory(pair: tuple[str, str], scale: float = 0.9) -> tuple[RBM, Trajectory]:
    model = tiny(*pair, seed=1, scale=scale)
    return model, Trajectory(model, snapshots(model, tiny(*pair, seed=2, scale=0.5)))


def model_at(trajectory: Trajectory, model: RBM, point: float) -> RBM:
    """The model at a point, from its parameters by hand."""
    weights, biases = trajectory._weights, trajectory._biases
    low = min(int(point), trajectory.length - 1)
    parts = [torch.lerp(t[low], t[low + 1], point - low) for t in (*weights, *biases)]
    other = RBM(model.visible, model.hidden).double()
    with torch.no_grad():
        for own, part in zip((other.weight, other.visible_bias, other.hidden_bias), parts, strict=True):
            own.copy_(part)
    return other


@in_discrete_pairs
@torch.no_grad()
def test_every_rung_is_the_interpolated_model(pair: tuple[str, str]):
    """Densities of all groups of rows, at their own rung and at a partner's, are minus the model's free energy."""
    model, trajectory = tiny_trajectory(pair)
    ladder = torch.tensor([0.0, 0.7, 1.0, 2.3, 3.0], dtype=torch.float64)
    rungs, x = trajectory.rungs(ladder), some_states(model.visible, 35)
    state = (x, some_states(model.hidden, 35))
    models = [model_at(trajectory, model, float(point)) for point in ladder]
    groups = x.split(7)
    expected = torch.cat([-m.free_energy(part) for m, part in zip(models, groups, strict=True)])
    torch.testing.assert_close(rungs.log_density(state), expected)
    partner = torch.tensor([1, 0, 3, 2, 4])
    swapped = torch.cat([-models[j].free_energy(part) for j, part in zip(partner.tolist(), groups, strict=True)])
    torch.testing.assert_close(permuted_log_density(rungs, state, partner, 7), swapped)
    for layer in (0, 1):
        fields = [m.field(layer, tuple(s[7 * i : 7 * i + 7] for s in state)) for i, m in enumerate(models)]
        torch.testing.assert_close(rungs.field(layer, state), torch.cat(fields))
    assert float(rungs.log_z_independent()[0]) == pytest.approx(exact_log_z(models[0]).value, abs=1e-10)


@torch.no_grad()
def tempered(pair: tuple[str, str], wrong_partner: bool = False) -> list[float]:
    """p-values of every rung's states after five steps from exact draws."""
    model, trajectory = tiny_trajectory(pair)
    ladder, num = torch.tensor([0.0, 1.0, 2.0, 3.0], dtype=torch.float64), 30_000
    models = [model_at(trajectory, model, float(point)) for point in ladder]
    randoms = generator(3)
    x = torch.cat([exact_draws(m, num, randoms) for m in models])
    kernel = trajectory.tempering(ladder, num)
    if wrong_partner:
        # The densities of a ladder whose rungs stand elsewhere: swaps without the right energy difference.
        other = trajectory.tempering(ladder, num)
        shifted = Trajectory(tiny(*pair, seed=5, scale=2.0), snapshots(model, tiny(*pair, seed=6, scale=2.0)))
        kernel = other._replace(update=shifted.tempering(ladder, num).update)
    state = kernel.init((x, x.new_zeros(len(x), model.hidden.size)))
    for _ in range(5):
        state, _ = kernel.step(state, randoms)
    values = []
    for index, m in enumerate(models):
        states, log_p = log_probs(m)
        values.append(chi_square(number((rung(state, index)[0],), (states,)), log_p.exp()))
    return values


@in_discrete_pairs
def test_a_step_keeps_every_rung_at_its_model(pair: tuple[str, str]):
    assert all(accepted(p) for p in tempered(pair))


def test_rungs_of_another_trajectory_are_rejected():
    assert rejected(min(tempered(("Bernoulli", "Bernoulli"), wrong_partner=True)))


@pytest.mark.many_steps
def test_log_z_of_twenty_hidden_units_agrees_with_enumeration():
    """|z| < 5 at all ladders: false alarms below 1e-5. The two exponential averages hold it between them."""
    randoms = generator(1)
    model = RBM(Bernoulli(53), Bernoulli(20), generator=randoms).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.35, generator=randoms)
    half = {name: 0.5 * tensor for name, tensor in model.state_dict().items()}
    trajectory = Trajectory(model, [half])
    exact = exact_log_z(model).value
    ladder, _ = adapt_ladder(
        lambda points: trajectory.tempering(points, 20),
        trajectory.evenly(8),
        trajectory.climb(trajectory.evenly(8), 20, generator=randoms),
        generator=randoms,
        num_rounds=3,
        swap_rate=0.5,
    )
    found = trajectory_log_z(trajectory, ladder, num_chains=40, num_steps=200, burn_in=20, generator=randoms)
    assert found.log_z.std_error < 0.1
    for estimate in (found.log_z, found.lower, found.upper):
        assert abs(estimate.value - exact) < 5 * estimate.std_error + 0.02
    assert found.upper.value - found.lower.value > -3 * found.upper.std_error
    assert found.round_trips > 0
    assert float(found.along[-1]) == pytest.approx(found.log_z.value)
    assert abs(found.log_z.value - exact_log_z(model_at(trajectory, model, 1.0)).value) > 20 * found.log_z.std_error


def test_bennett_is_exact_for_gaussians_and_better_than_either_average():
    """u = x·a between N(0, 1) and N(a, 1): log Z_1 / Z_0 = a² / 2. z over 200 runs has mean ±0.35 and spread 0.8 to 1.2."""
    a, n, m, runs = 1.5, 300, 170, 200
    randoms = generator()
    errors, stated, plain = [], [], []
    for _ in range(runs):
        x = torch.randn(n, generator=randoms, dtype=torch.float64)
        y = torch.randn(m, generator=randoms, dtype=torch.float64) + a
        errors.append(float(bennett(a * x, a * y)) - a**2 / 2)
        stated.append(float(bennett_variance(a * x, a * y).sqrt()))
        plain.append(float(torch.logsumexp(a * x, 0)) - math.log(n) - a**2 / 2)
    error = torch.tensor(errors)
    z = error / torch.tensor(stated)
    assert abs(float(z.mean())) < 0.35
    assert 0.8 < float(z.std()) < 1.2
    assert float(error.std()) < 0.8 * float(torch.tensor(plain).std())


def test_bennett_of_equal_distributions_is_zero_and_of_shifted_ones_the_shift():
    zeros = torch.zeros(7)
    assert float(bennett(zeros, zeros[:3])) == pytest.approx(0, abs=1e-12)
    assert float(bennett(zeros + 300, zeros[:3] + 300)) == pytest.approx(300, abs=1e-9)
    with pytest.raises(ValueError, match="draws of both"):
        bennett(zeros, zeros[:0])


def test_what_no_trajectory_can_do_is_refused():
    model = tiny("Bernoulli", "Bernoulli")
    with pytest.raises(BadInput, match="at least one snapshot"):
        Trajectory(model, [])
    with pytest.raises(BadInput, match="without parameters of their own"):
        Trajectory(RBM(Gaussian(3), Bernoulli(2)), [])
    with pytest.raises(BadInput, match="shape"):
        Trajectory(model, [RBM(Bernoulli(5), Bernoulli(7)).state_dict()])
    trajectory = Trajectory(model, [model.state_dict()])
    with pytest.raises(BadInput, match="between 0 and 2"):
        trajectory.rungs(torch.tensor([0.0, 2.5]))
    with pytest.raises(BadInput, match="from 0 to the trained model at 2"):
        trajectory_log_z(trajectory, torch.tensor([0.0, 1.0]), generator=generator())
