"""Labels next to examples: p(y | x), its gradient, and drawing given a label, against sums over all states."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot
from zoo import accepted, chi_square, combinations, generator, grid, number, rejected, some_states

from genmodels import DBN, RBM, BadInput, Bernoulli, Categorical, Gaussian
from genmodels.chains import run_chains
from genmodels.data import Examples
from genmodels.features import to_mlp
from genmodels.fit import Settings, fit
from genmodels.greedy import HiddenRows
from genmodels.joined import Joined
from genmodels.labels import WithClasses, class_log_probs, error_rate, label_sites
from genmodels.likelihood import exact_log_z
from genmodels.objectives import classification, discriminative, hybrid, pcd
from genmodels.units import Unit

CLASSES = 3


def labelled(features: Unit | None = None, hidden: Unit | None = None, seed: int = 0) -> RBM:
    """A float64 RBM over features and a label, all parameters random."""
    model = RBM(Joined(features or Bernoulli(5), Categorical(1, CLASSES)), hidden or Bernoulli(2)).double()
    randoms = generator(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(0, 0.3 if name.endswith("log_variance") else 0.7, generator=randoms)
    return model


def enumerated(model: RBM, x: Tensor) -> Tensor:
    """log p(y | x), by the energies of x next to every label and every hidden state."""
    h, measure = grid(model.hidden)
    columns = []
    for label in torch.eye(CLASSES, dtype=torch.float64):
        rows = torch.cat([x, label.expand(len(x), -1)], 1)
        pairs = combinations(rows, h)
        columns.append((-model.energy(pairs[0], pairs[1:])).reshape(len(x), len(h)).logsumexp(1) + measure)
    return torch.stack(columns, 1).log_softmax(1)


def batch(model: RBM, num: int, seed: int = 0) -> Tensor:
    """Rows of features and one-hot labels."""
    x = some_states(model.visible.parts[0], num, seed)  # pyright: ignore
    labels = one_hot(torch.randint(CLASSES, (num,), generator=generator(seed + 1)), CLASSES)
    return torch.cat([x, labels.double()], 1)


@torch.no_grad()
@pytest.mark.parametrize("features", [Bernoulli(5), Gaussian(2), Joined(Bernoulli(2), Gaussian(1))])
@pytest.mark.parametrize("hidden", [Bernoulli(2), Categorical(2, 3)])
def test_classes_have_the_probabilities_of_the_enumerated_model(features: Unit, hidden: Unit):
    model = labelled(features, hidden)
    x = some_states(Bernoulli(features.size), 7) * 0.6
    found = class_log_probs(model, x)
    torch.testing.assert_close(found, enumerated(model, x), rtol=0, atol=1e-10)
    model.weight[-1] += 0.1
    assert float((found - enumerated(model, x)).abs().max()) > 1e-3


@torch.no_grad()
def test_the_joint_has_a_log_z_and_a_conditional():
    """p(y | x) is p(x, y) / p(x), with x enumerated too."""
    model = labelled()
    states, _ = grid(model.visible)
    log_p = -model.free_energy(states) - exact_log_z(model).value
    assert float(log_p.logsumexp(0)) == pytest.approx(0, abs=1e-10)
    x = grid(Bernoulli(5))[0]
    pairs = torch.stack([number([torch.cat([x, y.expand(len(x), -1)], 1)], [states]) for y in torch.eye(3).double()], 1)
    torch.testing.assert_close(log_p[pairs].log_softmax(1), class_log_probs(model, x))


def test_the_discriminative_gradient_is_that_of_the_enumerated_model():
    model, rows = labelled(), batch(labelled(), 11)
    loss, _, metrics = discriminative(model).step(rows, {}, generator())
    found = torch.autograd.grad(loss, list(model.parameters()))
    exact = -(rows[:, -CLASSES:] * enumerated(model, rows[:, :-CLASSES])).sum(1).mean()
    expected = torch.autograd.grad(exact, list(model.parameters()), allow_unused=True)
    for name, one, other in zip(dict(model.named_parameters()), found, expected, strict=True):
        torch.testing.assert_close(one, torch.zeros_like(one) if other is None else other, rtol=0, atol=1e-10)
        if name == "weight":
            joint = torch.autograd.grad(model.free_energy(rows).mean(), model.weight)[0]
            assert float((one - joint).abs().max()) > 1e-2
    assert float(metrics["conditional"]) == pytest.approx(-float(exact.detach()))


def test_the_hybrid_gradient_is_the_sum_of_both():
    model, rows = labelled(), batch(labelled(), 11)
    generative = pcd(model, num_chains=13)
    objective = hybrid(model, generative, weight=0.3)
    state = objective.init(rows, generator())
    parameters = list(model.parameters())

    def gradient(loss: Tensor) -> list[Tensor]:
        return list(torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True))

    found = gradient(objective.step(rows, dict(state), generator(1))[0])
    one = gradient(discriminative(model).step(rows, {}, generator())[0])
    loss, after, _ = generative.step(rows, dict(state), generator(1))
    other = gradient(loss)
    for total, a, b in zip(found, one, other, strict=True):
        torch.testing.assert_close(total, a + 0.3 * b)
    again = objective.step(rows, dict(state), generator(1))[1]
    assert all(torch.equal(again[name], after[name]) for name in after)


@torch.no_grad()
def test_chains_with_a_held_label_draw_examples_of_that_class():
    """χ² over all x. False alarms: 1e-5; those of another class must be told apart."""
    model = labelled(Bernoulli(3))
    model.weight[3:] *= 4  # so that classes differ
    label = torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64).expand(20_000, -1)
    start = torch.cat([torch.zeros(20_000, 3, dtype=torch.float64), label], 1), torch.zeros(20_000, 2).double()
    sites = label_sites(model)
    chains = run_chains(model, start, 40, generator=generator(), held=sites)
    assert torch.equal(chains.states[:, sites], label)
    x = grid(Bernoulli(3))[0]
    log_p = -torch.stack([model.free_energy(torch.cat([x, y.expand(8, -1)], 1)) for y in torch.eye(3).double()])
    index = number([chains.states[:, ~sites]], [x])
    assert accepted(chi_square(index, log_p[1].softmax(0)))
    assert rejected(chi_square(index, log_p[2].softmax(0)))


@pytest.mark.many_steps
def test_labels_are_learned_through_the_training_loop():
    """The number of ones among three sites: all three objectives end far below the error of guessing."""
    x = torch.rand(200, 7, generator=generator()).round()
    classes = x[:, :3].sum(1).long()
    data = Examples(x.to(torch.uint8), labels=classes)
    rows = WithClasses(data, 4)
    for kind in ("discriminative", "hybrid", "network"):
        model = RBM(Joined(Bernoulli(7), Categorical(1, 4)), Bernoulli(11), generator=generator())
        network: nn.Sequential = to_mlp(RBM(Bernoulli(7), Bernoulli(11), generator=generator()), 4)
        objective = {
            "discriminative": lambda model=model: discriminative(model),
            "hybrid": lambda model=model: hybrid(model, pcd(model), weight=0.01),
            "network": lambda network=network: classification(network, drop_hidden=0.1),
        }[kind]()
        trained = network if kind == "network" else model
        settings = Settings(epochs=40, batch_size=50, optimizer="Adam", learning_rate=0.1, average=0.9)
        before = error_rate(lambda rows, model=model: class_log_probs(model, rows), x, classes)
        records = fit(trained, objective, rows, settings)
        scores = network if kind == "network" else lambda rows, model=model: class_log_probs(model, rows)
        assert error_rate(scores, x, classes) < 0.25 < before
        assert records[-1]["errors"] < records[0]["errors"]


def test_a_networks_gradient_is_that_of_its_cross_entropy():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(5, 7), nn.Sigmoid(), nn.Linear(7, CLASSES)).double()
    rows = batch(labelled(), 11)
    loss, _, _ = classification(network).step(rows, {}, generator())
    logits = network(rows[:, :5])
    expected = -(rows[:, 5:] * logits.log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(loss, expected)


def test_dropping_keeps_the_mean_of_what_a_layer_reads():
    """Shares and means within 6 standard errors: false alarms 1e-8."""
    network = nn.Sequential(nn.Linear(5, CLASSES)).double()
    rows = batch(labelled(), 1).expand(100_000, -1)
    read: list[Tensor] = []
    network[0].register_forward_pre_hook(lambda _, inputs: read.append(inputs[0].detach()))
    objective = classification(network, drop_input=0.4)
    objective.step(rows, {}, generator())
    share = (read[0][:, rows[0, :5] == 1] == 0).double()
    assert bool((((share.mean(0) - 0.4) / (0.4 * 0.6 / len(share)) ** 0.5).abs() < 6).all())
    assert bool((((read[0].mean(0) - rows[0, :5]) / (2 / 3 / len(rows)) ** 0.5).abs() < 6).all())
    first, again = (objective.step(rows[:7], {}, generator(3))[0] for _ in range(2))
    assert torch.equal(first, again)


@torch.no_grad()
def test_a_stack_takes_labels_next_to_its_highest_hidden_layer():
    bottom = RBM(Bernoulli(5), Bernoulli(2), generator=generator()).double()
    top = RBM(Joined(Bernoulli(2), Categorical(1, CLASSES)), Bernoulli(7), generator=generator()).double()
    top.visible_bias.normal_(generator=generator())
    model = DBN.from_stack([bottom, top])
    x = grid(Bernoulli(5))[0]
    z, _ = model.recognise(x, generator=generator())
    model.units[1].check(z[0])
    fields = model.field_up(0, x)
    torch.testing.assert_close(fields[:, :2], bottom.field(1, (x, x)))
    torch.testing.assert_close(fields[:, 2:], top.visible_bias[2:].expand(len(x), -1))
    torch.testing.assert_close(model.observed_mean(z), bottom.visible.mean(bottom.field(0, (x, z[0][:, :2]))))
    with pytest.raises(BadInput, match="hidden layer of the one below"):
        DBN.from_stack([RBM(Bernoulli(5), Bernoulli(3)), top])


def test_hidden_rows_carry_labels_along():
    data = Examples(torch.ones(3, 5, dtype=torch.uint8), labels=torch.tensor([2, 0, 1]))
    rows = HiddenRows(WithClasses(data, CLASSES), RBM(Bernoulli(5), Bernoulli(2)).requires_grad_(False))
    drawn = rows.batch(torch.tensor([1, 2]), generator())
    assert drawn.shape == (2, 2 + CLASSES)
    assert drawn[:, 2:].tolist() == [[1, 0, 0], [0, 1, 0]]


def test_what_has_no_labels_is_refused():
    plain = RBM(Bernoulli(5), Bernoulli(2))
    for build in (lambda: discriminative(plain), lambda: label_sites(plain), lambda: hybrid(plain, pcd(plain))):
        with pytest.raises(BadInput, match=r"Joined\(x, Categorical\(1, classes\)\)"):
            build()
    with pytest.raises(BadInput, match="have no labels"):
        WithClasses(Examples(torch.zeros(3, 5)), 3)
    with pytest.raises(BadInput, match="a class 3, counted from 0"):
        WithClasses(Examples(torch.zeros(3, 5), labels=torch.tensor([0, 3, 1])), 3)
    model = labelled()
    with pytest.raises(BadInput, match="must be positive"):
        hybrid(model, pcd(model), weight=0.0)
    with pytest.raises(BadInput, match="last layer is linear"):
        classification(to_mlp(plain))
    with pytest.raises(BadInput, match=r"in \[0, 1\)"):
        classification(to_mlp(plain, 3), drop_input=1.0)
