"""Deep belief networks against sums over all their states."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from torch import Tensor
from zoo import (
    accepted,
    chi_square,
    combinations,
    generator,
    grid,
    number,
    rejected,
    some_states,
    tiny,
    z_scores,
)

from genmodels import DBN, RBM, BadInput, Bernoulli, Categorical, Gaussian
from genmodels.families.dbn import UpAndDown
from genmodels.greedy import next_rbm
from genmodels.likelihood import bound_report, elbo, exact_log_z, importance_bound
from genmodels.likelihood.report import LikelihoodReport
from genmodels.objectives import layerwise, pcd, up_down
from genmodels.training_state import part
from samplers import metropolis_within_gibbs, run


def random_dbn(seed: int = 0, scale: float = 0.7) -> DBN:
    """Two directed layers below an RBM, every bias and weight random, the weights up others than those down."""
    top = RBM(Bernoulli(5), Bernoulli(7))
    model = DBN([Bernoulli(3), Categorical(1, 2)], top).double()
    randoms = generator(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, scale, generator=randoms)
    return model


def tied_stack() -> tuple[RBM, DBN]:
    """An RBM, and the network that has an RBM above it with just its distribution of the hidden layer."""
    rbm = tiny("Bernoulli", "Bernoulli")
    return rbm, DBN.from_stack([rbm, next_rbm(rbm, rbm.visible.size, generator=generator())])


@torch.no_grad()
def joint(model: DBN) -> tuple[Tensor, tuple[Tensor, ...], Tensor]:
    """All x, all z, and log p(x, z) of each pair."""
    x = grid(model.units[0])[0]
    z = combinations(*[grid(unit)[0] for unit in model.latent_units])
    num = len(z[0])
    log_p = -model.energy(x.repeat_interleave(num, 0), tuple(layer.repeat(len(x), 1) for layer in z))
    return x, z, log_p.reshape(len(x), num) - exact_log_z(model.top).value


@torch.no_grad()
def test_probabilities_sum_to_one():
    _, _, log_p = joint(random_dbn())
    assert float(log_p.flatten().logsumexp(0)) == pytest.approx(0, abs=1e-10)


@torch.no_grad()
def test_the_density_is_that_of_the_top_and_the_layers_below():
    model = random_dbn()
    x, z, log_p = joint(model)
    total = torch.zeros_like(log_p)
    for i, row in enumerate(x):
        one = model.units[0].log_prob(model.field_down(0, z[0]), row.expand(len(z[0]), -1))
        two = model.units[1].log_prob(z[1] @ model.generative[1].T + model.bias_down[1], z[0])
        total[i] = one + two - model.top.free_energy(z[1]) - exact_log_z(model.top).value
    torch.testing.assert_close(log_p, total, rtol=0, atol=1e-10)


@torch.no_grad()
def test_recognition_has_a_density():
    model = random_dbn()
    x, z, _ = joint(model)
    code = model.encode(x[3:4])
    log_q = code.repeat(len(z[0])).log_prob(z)
    assert float(log_q.logsumexp(0)) == pytest.approx(0, abs=1e-10)
    drawn = code.repeat(20_000).draw(generator())
    # |z| < 6 for 7 means: false alarms 1e-8.
    for layer, states in zip(drawn, z, strict=True):
        assert float(z_scores(layer, log_q.exp() @ states).abs().max()) < 6
    assert float(z_scores(drawn[1], z[1].mean(0)).abs().max()) > 12


@torch.no_grad()
def test_the_bound_lies_below_the_evidence_of_every_state():
    model = random_dbn()
    x, z, log_p = joint(model)
    num = len(z[0])
    for i, row in enumerate(x):
        log_q = model.encode(row.expand(num, -1)).log_prob(z)
        bound = float((log_q.exp() * (log_p[i] - log_q)).sum())
        assert bound < float(log_p[i].logsumexp(0)) - 1e-3


@torch.no_grad()
def test_the_bound_is_tight_where_recognition_is_exact():
    rbm, model = tied_stack()
    x = grid(rbm.visible)[0]
    log_z = exact_log_z(model.top)
    log_p = float(-rbm.free_energy(x).mean()) - exact_log_z(rbm).value
    found = elbo(model, x, generator=generator(), log_z=log_z, num_samples=2)
    assert found.value == pytest.approx(log_p, abs=1e-10)
    assert found.std_error == pytest.approx(0, abs=1e-10)
    assert found.bound == "lower"
    model.recognition[0].mul_(0.5)
    loose = elbo(model, x, generator=generator(), log_z=log_z, num_samples=5000)
    assert loose.value < log_p - 10 * loose.std_error


@torch.no_grad()
def test_importance_weights_lift_the_bound_to_the_evidence():
    model = random_dbn()
    x, _, log_p = joint(model)
    evidence = float(log_p.logsumexp(1).mean())
    # Rows are repeated until errors are far below what separates the expectations.
    one, few, many = (
        importance_bound(
            model, x.repeat(repeats, 1), num_samples=k, log_z=exact_log_z(model.top), generator=generator()
        )
        for k, repeats in ((2, 500), (20, 500), (5000, 1))
    )
    assert one.value < few.value < evidence + 5 * few.std_error
    assert one.value < evidence - 5 * one.std_error
    assert many.value == pytest.approx(evidence, abs=max(6 * many.std_error, 1e-3))


@torch.no_grad()
def test_a_pass_down_draws_the_layers_below():
    model = random_dbn()
    above = some_states(model.top.visible, 3)[1:2]
    x, hidden, top = model.pass_down(above.expand(20_000, -1), generator())
    assert torch.equal(top[0], above[0])
    expected = model.units[1].mean(model.field_down(1, above))[0]
    assert float(z_scores(hidden, expected).abs().max()) < 6
    given = grid(model.units[1])[0]
    means = model.units[0].mean(model.field_down(0, given))
    assert float(z_scores(x, expected @ means).abs().max()) < 6
    assert float(z_scores(x, means[0]).abs().max()) > 8
    torch.testing.assert_close(model.observed_mean((given,)), means)


@torch.no_grad()
def test_the_report_brackets_the_bound():
    rbm, model = tied_stack()
    x = some_states(rbm.visible, 31)
    log_p = float(-rbm.free_energy(x).mean()) - exact_log_z(rbm).value
    exact = bound_report(model, x, num_samples=3, method="exact")
    assert exact.log_likelihood.value == pytest.approx(log_p, abs=1e-10)
    assert (exact.log_likelihood.bound, exact.upper, exact.lower) == ("lower", None, None)
    report: LikelihoodReport = bound_report(
        model, x, num_samples=3, num_chains=200, num_temperatures=50, burn_in=20, base=x
    )
    assert report.lower is not None
    assert (report.log_likelihood.bound, report.lower.bound, report.upper) == ("none", "lower", None)
    assert report.log_likelihood.value == pytest.approx(log_p, abs=6 * report.log_likelihood.std_error)
    assert report.lower.value == pytest.approx(log_p, abs=6 * report.lower.std_error)


@torch.no_grad()
def test_configuration_and_state_build_the_model_again():
    model = random_dbn()
    again = DBN.from_config(json.loads(json.dumps(model.config()))).double()
    again.load_state_dict(model.state_dict())
    x, z, _ = joint(model)
    rows = torch.arange(len(x))
    at = tuple(layer[rows] for layer in z)
    assert torch.equal(again.energy(x, at), model.energy(x, at))


def test_layers_that_do_not_fit_are_refused():
    with pytest.raises(BadInput, match="hidden layer of the one below"):
        DBN.from_stack([RBM(Bernoulli(5), Bernoulli(3)), RBM(Bernoulli(2), Bernoulli(3))])
    with pytest.raises(BadInput, match="at least one directed layer"):
        DBN([], RBM(Bernoulli(5), Bernoulli(3)))


def test_up_down_follows_the_gradients_of_the_bound_and_of_the_dreams():
    """From chains that are exact draws; every entry within 6 of its standard errors, which 40 batches give: false alarms 1e-6."""
    model = random_dbn(scale=0.5)
    every, z, _ = joint(model)
    x = every[[1, 1, 6]]
    num = len(z[0])
    repeated, again = x.repeat_interleave(num, 0), tuple(layer.repeat(3, 1) for layer in z)
    log_q = model.encode(repeated).log_prob(again)
    log_z = (-model.top.free_energy(grid(model.top.visible)[0])).logsumexp(0)
    energy = model.energy(repeated, again)
    down = ((log_q.detach().exp() * energy).sum() / 3) + log_z
    pairs = every.repeat_interleave(num, 0), tuple(layer.repeat(len(every), 1) for layer in z)
    p = (-model.energy(*pairs)).softmax(0).detach()
    dreams = -(p @ model.encode(pairs[0]).log_prob(pairs[1]))
    names = [name for name, _ in model.named_parameters()]
    expected = torch.autograd.grad(down + dreams, list(model.parameters()))

    objective = up_down(model, num_steps=1)
    p_top = (-model.top.free_energy(grid(model.top.visible)[0])).softmax(0).detach()
    randoms = generator(3)
    found = []
    for _ in range(40):
        index = torch.multinomial(p_top, 3000, replacement=True, generator=randoms)
        state = {"chains": grid(model.top.visible)[0][index]}
        loss, after, _ = objective.step(x.repeat(1000, 1), state, randoms)
        found.append(torch.autograd.grad(loss, list(model.parameters())))
        assert not torch.equal(after["chains"], state["chains"])
    for name, exact, *batches in zip(names, expected, *found, strict=True):
        stack = torch.stack(batches)
        error = stack.std(0) / len(batches) ** 0.5
        assert bool(((stack.mean(0) - exact).abs() < 6.5 * error + 1e-12).all()), name
    wrong = torch.stack([batch[0] for batch in found])
    assert bool(((wrong.mean(0) - 0.8 * expected[0]).abs() > 8 * wrong.std(0) / 40**0.5).any())


def test_up_down_starts_its_chains_where_it_is_told():
    model = random_dbn()
    x = some_states(model.units[0], 11)
    objective = up_down(model, start=x)
    assert objective.init(x[:2], generator())["chains"].shape == (11, 5)
    assert up_down(model, num_chains=4).init(x, generator())["chains"].shape == (4, 5)
    with pytest.raises(BadInput, match="at least 1"):
        up_down(model, num_steps=0)


def test_layerwise_learning_is_that_of_each_rbm_on_draws_of_the_one_below():
    """The same random numbers, RBM by RBM: the gradients, to the last digit, and both ways alike."""
    model = random_dbn()
    with torch.no_grad():
        for up, down in zip(model.recognition, model.generative, strict=True):
            up.copy_(down)
    x = some_states(model.units[0], 11)
    objective = layerwise(model, num_steps=2)
    state = objective.init(x, generator())
    loss, after, _ = objective.step(x, state, generator(1))
    loss.backward()
    randoms = generator(1)
    for i in range(3):
        if i < 2:
            rbm = RBM(model.units[i], model.units[i + 1]).double()
            with torch.no_grad():
                rbm.weight.copy_(model.generative[i])
                rbm.visible_bias.copy_(model.bias_down[i])
                rbm.hidden_bias.copy_(model.bias_up[i])
            found = [model.generative[i].grad, model.bias_down[i].grad, model.bias_up[i].grad]
        else:
            rbm = copy.deepcopy(model.top)
            found = [model.top.weight.grad, model.top.visible_bias.grad, model.top.hidden_bias.grad]
        alone, left, _ = pcd(rbm, num_steps=2).step(x, part(f"layer.{i}", state), randoms)
        expected = torch.autograd.grad(alone, [rbm.weight, rbm.visible_bias, rbm.hidden_bias])
        for one, other in zip(found, expected, strict=True):
            assert one is not None
            assert torch.equal(one, other)
        assert all(torch.equal(tensor, left[name]) for name, tensor in part(f"layer.{i}", after).items())
        if i < 2:
            assert torch.equal(model.recognition[i].grad, model.generative[i].grad)  # pyright: ignore
            x = rbm.hidden.draw(rbm.field(1, (x, x)).detach(), rbm.hidden.noise(len(x), x, randoms))


def test_layerwise_learning_refuses_hidden_variances():
    with pytest.raises(BadInput, match="discrete hidden layers"):
        layerwise(DBN([Bernoulli(3), Gaussian(2)], RBM(Bernoulli(5), Bernoulli(7))))


@pytest.mark.many_steps
@torch.no_grad()
def test_missing_sites_are_drawn_given_the_others():
    """χ² over the sites that are not held, given those that are. False alarms: 1e-5; other values of theirs are told apart."""
    model = random_dbn()
    x, _, log_p = joint(model)
    held = torch.tensor([True, False, False])
    start = torch.tensor([[1.0, 0.0, 0.0]], dtype=torch.float64).expand(60_000, -1)
    kernel, randoms = metropolis_within_gibbs(UpAndDown(model), held), generator()
    drawn, _ = run(kernel, (start, model.encode(start).draw(randoms)), 40, generator=randoms)
    assert bool((drawn[:, 0] == 1).all())
    for value, verdict in ((1, accepted), (0, rejected)):
        rows = x[:, 0] == value
        index = number([drawn[:, 1:]], [x[rows][:, 1:]])
        assert verdict(chi_square(index, log_p[rows].logsumexp(1).softmax(0)))
