"""Training with trajectory tempering: its exchange is exact, its log Z is the enumerated one, and it undoes what goes too far."""

import math

import pytest
import torch
from torch import Tensor
from zoo import (
    DISCRETE_PAIRS,
    PAIRS,
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

from genmodels import RBM, BadInput, Bernoulli
from genmodels.data import load
from genmodels.likelihood import exact_log_z
from genmodels.objectives import ptt
from genmodels.objectives.ptt import Frozen, Swap, acceptance_at_equilibrium, autocorrelation_time, propose, sweep

in_pairs = pytest.mark.parametrize("pair", PAIRS, ids="-".join)
in_discrete_pairs = pytest.mark.parametrize("pair", DISCRETE_PAIRS, ids="-".join)


def equilibrium(pair: tuple[str, str], num: int) -> tuple[RBM, RBM, Frozen, dict[str, Tensor]]:
    """A model and another as its checkpoint, chains and reservoir drawn exactly from each."""
    model, other = tiny(*pair, seed=1, scale=0.8), tiny(*pair, seed=2, scale=0.8)
    frozen = Frozen(model, "float32")
    frozen.load({f"frozen.{name}": p.detach() for name, p in other.named_parameters()})
    reservoir = exact_draws(other, 2 * num, generator(4))
    state = {
        "chains": exact_draws(model, num, generator(3)),
        "reservoir": reservoir,
        "reservoir_energy": other.free_energy(reservoir).detach(),
    }
    state["chain_energy"] = other.free_energy(state["chains"]).detach()
    return model, other, frozen, state


def p_value(model: RBM, x: Tensor) -> float:
    states, log_p = log_probs(model)
    return chi_square(number((x,), (states,)), log_p.exp())


@torch.no_grad()
def exchanged(pair: tuple[str, str], *, forget_checkpoint: bool = False) -> tuple[float, float, float]:
    """p-values of chains and reservoir after three exchanges and sweeps, and the last acceptance."""
    model, other, frozen, state = equilibrium(pair, 50_000)
    layers, randoms = model.anneal(), generator(5)
    accept_prob = 0.0
    for _ in range(3):
        swap = propose(model, layers, state, randoms)
        if forget_checkpoint:
            accept = torch.rand(len(swap.accept), generator=randoms) < 0.5
            field = layers.field(1, (torch.where(accept[:, None], swap.partner, state["chains"]),) * 2)
            swap = swap._replace(accept=accept, field=field)
        sweep(layers, frozen, swap, state, randoms)
        accept_prob = float(swap.accept_prob.mean())
    return p_value(model, state["chains"]), p_value(other, state["reservoir"]), accept_prob


@in_discrete_pairs
def test_exchange_and_sweep_keep_chains_and_reservoir_at_their_equilibria(pair: tuple[str, str]):
    chains, reservoir, accept_prob = exchanged(pair)
    assert 0.05 < accept_prob < 0.95
    assert accepted(chains)
    assert accepted(reservoir)


def test_an_exchange_by_coin_alone_is_rejected():
    """The chains' own sweeps wash it out of them; the reservoir shows it."""
    _, reservoir, _ = exchanged(("Bernoulli", "Bernoulli"), forget_checkpoint=True)
    assert rejected(reservoir)


@in_pairs
@torch.no_grad()
def test_the_acceptance_is_the_ratio_of_the_two_free_energies(pair: tuple[str, str]):
    model, other, _, state = equilibrium(pair, 11)
    swap: Swap = propose(model, model.anneal(), state, generator())
    x, r = state["chains"], swap.partner
    log_ratio = model.free_energy(x) - model.free_energy(r) + other.free_energy(r) - other.free_energy(x)
    torch.testing.assert_close(swap.accept_prob, log_ratio.clamp(max=0).exp())
    assert torch.equal(r, state["reservoir"][swap.slot])
    assert len(swap.slot.unique()) == len(x)
    taken = torch.where(swap.accept[:, None], r, x)
    torch.testing.assert_close(swap.field, model.anneal().field(1, (taken, taken)))


@pytest.mark.many_steps
@pytest.mark.parametrize("seed", range(3))
def test_log_z_stays_with_the_enumerated_one_while_it_learns(seed: int):
    """Bars and stripes, beyond independent units (−11.1 nats); log Z within 0.15 nats, in bounds at most 0.5 apart."""
    x = load("bars-and-stripes").train.fixed().float()
    randoms = generator(seed)
    model = RBM(Bernoulli(16), Bernoulli(11), generator=randoms)
    model.initialise_from_data(x)
    objective = ptt(model, num_chains=200)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
    state = objective.init(x, randoms)
    errors, stated, widths = [], [], []
    for step in range(600):
        optimizer.param_groups[0]["lr"] = 0.3 * (1 - step / 600)
        loss, state, metrics = objective.step(x, state, randoms)
        if step % 10 == 0:
            errors.append(float(metrics["log_z"]) - exact_log_z(model).value)
            stated.append(float(metrics["log_z_error"]))
            widths.append(float(metrics["log_z_upper"] - metrics["log_z_lower"]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float(state["num_checkpoints"]) >= 1
    assert sum(abs(error) for error in errors) / len(errors) < 0.15
    assert 0 < stated[-1] < 0.15
    assert -0.2 < sum(widths) / len(widths) < 0.5
    with torch.no_grad():
        log_likelihood = -float(model.free_energy(x).mean()) - exact_log_z(model).value
    assert log_likelihood > -8.5


@in_pairs
def test_a_step_descends_the_free_energy_gap_and_leaves_its_state(pair: tuple[str, str]):
    model = tiny(*pair, scale=0.1)
    x, parameters = some_states(model.visible, 7), list(model.parameters())
    objective = ptt(model, num_chains=11, centered=False, precision="float32")
    state = objective.init(x, generator(1))
    kept = {name: tensor.clone() for name, tensor in state.items()}
    loss, new, _ = objective.step(x, state, generator(2))
    assert new.keys() == state.keys()
    assert all(torch.equal(state[name], kept[name]) for name in kept)
    gap = model.free_energy(x).mean() - model.free_energy(new["chains"]).mean()
    for actual, expected in zip(
        torch.autograd.grad(loss, parameters), torch.autograd.grad(gap, parameters), strict=True
    ):
        torch.testing.assert_close(actual, expected, rtol=0, atol=1e-10)


def test_an_update_that_goes_too_far_is_undone_and_the_rate_halved():
    model = tiny("Bernoulli", "Bernoulli", scale=0.1)
    x = some_states(model.visible, 7)
    objective = ptt(model, num_chains=101)
    _, state, _ = objective.step(x, objective.init(x, generator(1)), generator(2))
    before = [p.detach().clone() for p in model.parameters()]
    with torch.no_grad():
        model.weight.add_(30)
    loss, state, metrics = objective.step(x, state, generator(3))
    assert all(torch.equal(p, b) for p, b in zip(model.parameters(), before, strict=True))
    assert float(state["rate"]) == 0.5
    assert float(metrics["swap_prob"]) > 0.5
    halved = torch.autograd.grad(loss, model.weight)[0]
    whole = torch.autograd.grad(objective.step(x, state | {"rate": torch.tensor(1.0)}, generator(4))[0], model.weight)
    again = torch.autograd.grad(objective.step(x, state, generator(4))[0], model.weight)
    torch.testing.assert_close(again[0], whole[0] / 2)
    assert bool(halved.isfinite().all())


def test_a_phase_that_no_chain_has_met_shows_in_the_overlap():
    """At a machine whose hidden unit, once on, turns every pixel on, chains of all zeros would pass every exchange."""
    model = RBM(Bernoulli(7), Bernoulli(1))
    with torch.no_grad():
        model.visible_bias.fill_(-3.0)
        model.hidden_bias.fill_(-4.5)
    x = torch.zeros(3, 7)
    objective = ptt(model, num_chains=20_001, freeze_below=0.5, undo_below=0.0)
    state = objective.init(x, generator(1))
    state = state | {"chains": torch.zeros_like(state["chains"])}
    state["chain_energy"] = model.free_energy(state["chains"]).double().detach()
    with torch.no_grad():
        model.weight.fill_(3.5)
    _, new, metrics = objective.step(x, state, generator(2))
    assert float(metrics["swap_prob"]) > 0.7 > 0.5 > float(metrics["overlap"])
    assert float(new["num_checkpoints"]) == 1


def test_acceptance_at_equilibrium_is_that_of_two_gaussians():
    """N(0, 1) and N(a, 1), w = exp(a x): 2 Φ(−a / √2), by draws of the first alone; and by its definition on a few."""
    for a in (0.3, 1.0, 1.5):
        x = torch.randn(100_000, generator=generator(), dtype=torch.float64)
        expected = math.erfc(a / 2)
        assert acceptance_at_equilibrium(a * x) == pytest.approx(expected, abs=0.02)
    few = torch.tensor([0.3, -2.0, 1.0, 0.0])
    pairs = torch.minimum(few.exp()[:, None], few.exp()).sum() / (4 * few.exp().sum())
    assert acceptance_at_equilibrium(few) == pytest.approx(float(pairs), rel=1e-6)


def test_chains_never_meet_the_states_that_measure_ratios_of_z():
    model = tiny("Bernoulli", "Bernoulli", scale=0.1)
    x = some_states(model.visible, 7)
    objective = ptt(model, num_chains=11)
    state = objective.init(x, generator(1))
    assert (len(state["reservoir"]), len(state["held_out"])) == (110, 55)
    new = state
    for seed in range(5):
        _, new, _ = objective.step(x, new, generator(seed))
    assert torch.equal(new["held_out"], state["held_out"])
    assert not torch.equal(new["reservoir"], state["reservoir"])


def test_a_step_is_a_function_of_data_state_and_generator():
    """Also where the checkpoint in the state is not the one that the objective met last."""
    model = tiny("Bernoulli", "Categorical", scale=0.2)
    x = some_states(model.visible, 7)
    objective, other = ptt(model, num_chains=13), ptt(model, num_chains=13)
    state = objective.init(x, generator(1))
    other.init(x + 0, generator(7))
    (_, first, _), (_, second, _) = (o.step(x, state, generator(5)) for o in (objective, other))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_autocorrelation_time_of_autoregressive_chains():
    """(1 + φ) / (1 − φ); from 400 chains of 200 steps the error is about 3 %."""
    phi, randoms = 0.8, generator()
    noise = torch.randn(200, 400, generator=randoms, dtype=torch.float64)
    series = [noise[0]]
    for fresh in noise[1:]:
        series.append(phi * series[-1] + (1 - phi**2) ** 0.5 * fresh)
    assert autocorrelation_time(torch.stack(series)) == pytest.approx(9, rel=0.15)
    assert autocorrelation_time(noise) == pytest.approx(1, abs=0.05)


def test_impossible_settings_are_refused():
    model = tiny("Bernoulli", "Bernoulli")
    with pytest.raises(BadInput, match="at least 1"):
        ptt(model, num_steps=0)
    with pytest.raises(BadInput, match="undo_below < freeze_below"):
        ptt(model, freeze_below=0.1, undo_below=0.2)
