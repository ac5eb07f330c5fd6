"""Filling in by the mean field, and learning to: against sums over all states, differences, and a few correlated sites."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor
from zoo import combinations, generator, grid, some_states

from genmodels import DBM, BadInput, Bernoulli, Categorical, Gaussian
from genmodels.data import Examples
from genmodels.fit import Settings, fit
from genmodels.joined import Joined
from genmodels.labels import inferred_class_log_probs
from genmodels.objectives import multi_prediction
from genmodels.objectives.multi_prediction import random_mask, sites
from genmodels.units import Unit

VISIBLE = Joined(Bernoulli(3), Categorical(1, 3))
_MASKS = ("111111", "101111", "010000", "000000", "111000")
HELD = torch.tensor([[site == "1" for site in mask] for mask in _MASKS])


def deep(*hidden: Unit, visible: Unit = VISIBLE, scale: float = 0.7) -> DBM:
    model = DBM(visible, *hidden).double()
    with torch.no_grad():
        for i, parameter in enumerate(model.parameters()):
            parameter.normal_(0, scale, generator=generator(i))
    return model.requires_grad_(False)


MODELS = {
    "one": lambda: deep(Bernoulli(3)),
    "two": lambda: deep(Bernoulli(3), Bernoulli(2)),
    "three": lambda: deep(Bernoulli(3), Categorical(1, 3), Bernoulli(2)),
}


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest) -> DBM:
    return MODELS[request.param]()


def rows() -> Tensor:
    return some_states(VISIBLE, len(HELD))


def bound(model: DBM, x: Tensor, held: Tensor, num_iterations: int) -> tuple[Tensor, Tensor]:
    """Of every row, E_q[−E] + H(q) over the missing sites and hidden layers, and log Σ exp(−E) over them: its upper limit."""
    fields = model.fill_in(x, held, num_iterations=num_iterations, tolerance=0.0)
    states = combinations(*[grid(unit)[0] for unit in model.units])
    minus_energy = -model.energy(states[0], states[1:])
    bounds, limits = [], []
    for i, row in enumerate(x):
        fits = (states[0] == row)[:, held[i]].all(1)
        logs = [unit.log_prob(f[i].expand_as(s), s) for unit, f, s in zip(model.units, fields, states, strict=True)]
        log_q = torch.stack(logs).sum(0)[fits]
        torch.testing.assert_close(log_q.logsumexp(0), log_q.new_zeros(()), rtol=0, atol=1e-10)
        bounds.append((log_q.exp() * (minus_energy[fits] - log_q)).sum())
        limits.append(minus_energy[fits].logsumexp(0))
    return torch.stack(bounds), torch.stack(limits)


def test_the_bound_climbs_and_stays_below_the_held_sites_evidence(model: DBM) -> None:
    found = [bound(model, rows(), HELD, num) for num in (0, 1, 2, 3, 60)]
    for (before, _), (after, limit) in pairwise(found):
        assert bool((after >= before - 1e-12).all())
        assert bool((after <= limit + 1e-10).all())
    assert float((found[0][1] - found[0][0]).max()) > 1e-3


def test_it_is_tight_where_nothing_is_coupled(model: DBM) -> None:
    for weight in model.weights:
        weight.zero_()
    found, limit = bound(model, rows(), HELD, 3)
    torch.testing.assert_close(found, limit, rtol=0, atol=1e-10)


def test_it_settles_where_every_field_is_that_of_its_neighbours(model: DBM) -> None:
    x = rows()
    fields = model.fill_in(x, HELD, num_iterations=2000, tolerance=1e-14)
    means = [unit.mean(field) for unit, field in zip(model.units, fields, strict=True)]
    for i, field in enumerate(fields):
        expected = model.field(i, tuple(means))
        if i == 0:
            torch.testing.assert_close(means[0][HELD], x[HELD], rtol=0, atol=1e-15)
            field, expected = field[~HELD], expected[~HELD]
        torch.testing.assert_close(field, expected, rtol=0, atol=1e-8)


def test_with_all_sites_held_it_is_the_mean_field(model: DBM) -> None:
    x, all_sites = rows(), HELD[0].expand(len(HELD), -1)
    fields = model.fill_in(x, all_sites, num_iterations=300, tolerance=0.0)
    for found, expected in zip(fields[1:], model.mean_field(x, num_iterations=300, tolerance=0.0), strict=True):
        torch.testing.assert_close(found, expected)
    assert float(model.units[0].log_prob(fields[0], x).abs().max()) < 1e-15


def test_what_is_missing_is_not_looked_at(model: DBM) -> None:
    x = rows()
    other = torch.where(HELD, x, torch.nan)
    for found, expected in zip(model.fill_in(x, HELD), model.fill_in(other, HELD), strict=True):
        assert torch.equal(found, expected)
    changed = torch.where(HELD, 1 - x, x)
    assert not torch.equal(model.fill_in(changed, HELD)[0], model.fill_in(x, HELD)[0])


def test_a_label_by_itself_is_inferred_exactly() -> None:
    """Where no hidden unit sees the label, q(y) is p(y); elsewhere the other way round, the classes depend on x."""
    model, x = MODELS["two"](), rows()[:, :3]
    assert float(inferred_class_log_probs(model, x).std(0).max()) > 1e-2
    model.weight[0][3:] = 0
    expected = model.bias[0][3:].log_softmax(0).expand(len(x), -1)
    torch.testing.assert_close(inferred_class_log_probs(model, x), expected)


def test_sites_are_held_whole_and_as_often_as_asked() -> None:
    layer = Joined(Bernoulli(2), Categorical(2, 3), Bernoulli(1))
    assert sites(layer).tolist() == [0, 1, 2, 2, 2, 3, 3, 3, 4]
    x = some_states(layer, 20_000)
    known, missing = random_mask(layer, x, 0.7, generator(5))
    assert bool((known[:, 2:5] == known[:, 2:3]).all())
    assert missing == int((~known[:, [0, 1, 2, 5, 8]]).sum())
    # |z| < 5.5 for 5 sites: false alarms 2e-7.
    assert float((known.double().mean(0) - 0.7).abs().max()) < 5.5 * (0.21 / 20_000) ** 0.5


def test_the_loss_is_the_cross_entropy_of_the_missing_sites_and_its_gradient_that_of_all_iterations() -> None:
    model = deep(Bernoulli(3), Bernoulli(2), visible=Bernoulli(5)).requires_grad_(True)
    x, objective = some_states(Bernoulli(5), 7), multi_prediction(model, num_iterations=3, held=0.4)

    def loss() -> Tensor:
        return objective.step(x, {}, generator(4))[0]

    known, missing = random_mask(model.units[0], x, 0.4, generator(4))
    field = model.fill_in(x, known, num_iterations=3, tolerance=0.0)[0]
    by_hand = torch.nn.functional.binary_cross_entropy_with_logits(field, x, reduction="none")[~known]
    assert missing == len(by_hand)
    torch.testing.assert_close(loss(), by_hand.sum() / 7)
    slopes = torch.autograd.grad(loss(), list(model.parameters()))
    for parameter, slope in zip(model.parameters(), slopes, strict=True):
        flat = parameter.data.view(-1)
        at, values = float(flat[0]), []
        for side in (1e-6, -1e-6):
            flat[0] = at + side
            values.append(float(loss().detach()))
        flat[0] = at
        assert abs(float(slope.view(-1)[0]) - (values[0] - values[1]) / 2e-6) < 1e-7


@pytest.mark.many_steps
def test_it_learns_which_sites_go_together() -> None:
    """Site 3 copies site 0, site 5 is the opposite of site 1, and site 4 is free: knowing another is worth up to log 2 = 0.69.

    Not all of it: couplings strong enough to be sure of a copy would be as sure of two missing sites that copy each other.
    """
    free = torch.randint(2, (4000, 4), generator=generator(6))
    x = torch.cat([free[:, :3], free[:, :1], free[:, 3:], 1 - free[:, 1:2]], 1)
    model = DBM(Bernoulli(6), Bernoulli(8), Bernoulli(4), generator=generator(7))
    settings = Settings(epochs=6, batch_size=80, optimizer="Adam", learning_rate=0.06, device="cpu", seed=8)
    fit(model, multi_prediction(model, num_iterations=5), Examples(x.to(torch.uint8)), settings)
    held = torch.tensor([True, True, True, False, False, False])
    field = model.requires_grad_(False).fill_in(x.float(), held, num_iterations=5, tolerance=0.0)[0]
    log_q = -torch.nn.functional.binary_cross_entropy_with_logits(field, x.float(), reduction="none").mean(0)
    assert float(log_q[[3, 5]].min()) > -0.45
    assert -0.75 < float(log_q[4]) < -0.68
    blind = model.fill_in(x.float(), torch.zeros(6, dtype=torch.bool), num_iterations=5, tolerance=0.0)[0]
    assert float(-torch.nn.functional.binary_cross_entropy_with_logits(blind, x.float())) < -0.6


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: deep(Bernoulli(2), visible=Gaussian(2)).fill_in(torch.zeros(1, 2), torch.ones(2) > 0), "filled in"),
        (lambda: multi_prediction(deep(Bernoulli(2), visible=Gaussian(2))), "Bernoulli and Categorical"),
        (lambda: multi_prediction(MODELS["one"](), held=1.0), "0 < held < 1"),
        (lambda: multi_prediction(MODELS["one"](), num_iterations=0), "num_iterations"),
        (lambda: inferred_class_log_probs(deep(Bernoulli(2), visible=Bernoulli(3)), torch.zeros(1, 3)), "sees them"),
    ],
)
def test_bad_input_is_named(call, words: str) -> None:
    with pytest.raises(BadInput, match=words):
        call()
