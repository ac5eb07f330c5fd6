"""Supervised target propagation: locality, Eqs. 16–19 in closed form, the mask, few labels, learning."""

# Layers of a network are reached into, which have wider types.
# pyright: reportAttributeAccessIssue=false, reportOptionalMemberAccess=false, reportIndexIssue=false
# pyright: reportArgumentType=false, reportCallIssue=false

from __future__ import annotations

from functools import partial
from typing import Literal

import pytest
import torch
import zoo
from torch import Tensor
from torch.distributions import MultivariateNormal

from genmodels import BadInput, Categorical, Gaussian
from genmodels.data import load
from genmodels.data.examples import Examples
from genmodels.data.labelled import LabelledRows, all_labelled, few_labelled
from genmodels.fit import Settings, fit
from genmodels.invertible import InvertibleAffine
from genmodels.labelled_stack import LabelledStack
from genmodels.objectives.labelled import (
    Steps,
    back_propagation,
    fill_in,
    pass_up,
    supervised_losses,
    supervised_target_propagation,
    top_down,
    top_target,
)

WAYS = {
    "discriminant": Steps(),
    "hybrid": Steps(alpha=0.3, unsupervised=0.2, input_noise=0.1),
    "masked": Steps(missing="masked"),
    "gradient": Steps(top="gradient"),
    "plain": Steps(alpha=1.0, difference=False),
}
INPUTS, HIDDEN, WITHIN, CLASSES = 7, (5, 3, 4), 6, 3


def tiny(kind: Literal["tanh", "sign"] = "tanh", *, tied: bool = True, scale: float = 0.7) -> LabelledStack:
    model = LabelledStack(INPUTS, HIDDEN, WITHIN, Categorical(1, CLASSES), kind=kind, tied=tied).double()
    randoms = zoo.generator(0)
    with torch.no_grad():
        for tensor in (*model.parameters(), model.centre):
            tensor.normal_(0, scale, generator=randoms)
    return model


def rows(num: int = 11, seed: int = 1) -> Tensor:
    """Every third row has no label."""
    randoms = zoo.generator(seed)
    x = torch.randn(num, INPUTS, generator=randoms, dtype=torch.float64)
    y = torch.eye(CLASSES, dtype=torch.float64)[torch.randint(CLASSES, (num,), generator=randoms)]
    m = (torch.arange(num) % 3 > 0).double()[:, None]
    return torch.cat([x, m * y, m], 1)


# Locality.


def gradients(model: LabelledStack, loss: Tensor) -> dict[str, Tensor]:
    names, parameters = zip(*model.named_parameters(), strict=True)
    found = torch.autograd.grad(loss, parameters, allow_unused=True, retain_graph=True)
    return {name: g for name, g in zip(names, found, strict=True) if g is not None}


def leaks(model: LabelledStack, losses: dict[str, Tensor]) -> list[str]:
    """Losses with a gradient in parameters that are not their layer's."""
    found = []
    for name, loss in losses.items():
        part, _, number = name.partition("_")
        coders = {"encoder": ["encoders"], "decoder": ["decoders"], "pair": ["encoders", "decoders"]}
        own = ["top."] if part == "top" else [f"{coder}.{int(number) - 1}." for coder in coders[part]]
        if not all(parameter.startswith(tuple(own)) for parameter in gradients(model, loss)):
            found.append(name)
    return found


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", ["tanh", "sign"])
@pytest.mark.parametrize("tied", [True, False])
def test_no_gradient_crosses_a_layer(way: str, kind: Literal["tanh", "sign"], tied: bool) -> None:
    model = tiny(kind, tied=tied)
    losses, _ = supervised_losses(model, rows(), WAYS[way], zoo.generator(7))
    assert leaks(model, losses) == []
    trained = set().union(*(gradients(model, loss) for loss in losses.values()))
    idle = set() if WAYS[way].unsupervised else {"decoders.0.weight", "decoders.0.bias"}
    assert set(dict(model.named_parameters())) - trained <= idle | {"top.offset", "top.down.weight", "top.down.bias"}


@pytest.mark.parametrize("kind", ["tanh", "sign"])
def test_back_propagation_crosses_layers(kind: Literal["tanh", "sign"]) -> None:
    model = tiny(kind)
    loss, _, _ = back_propagation(model).step(rows(), {}, zoo.generator(7))
    assert leaks(model, {"encoder_3": loss, "top": loss}) == ["encoder_3", "top"]


def test_an_encoder_learns_from_its_target_alone() -> None:
    """The gradient in f_2 is that of ½ |f_2(h_1) − ĥ_2|², written out."""
    model, steps = tiny(), Steps()
    x, y, m = model.split(rows())
    _, states = pass_up(model, x)
    targets = top_down(model, states, top_target(model, states[-1], y, m, steps), steps)
    found = gradients(model, supervised_losses(model, rows(), steps, zoo.generator(7))[0]["encoder_2"])
    delta = (states[2] - targets[2]) * (1 - states[2].square()) / len(x)
    torch.testing.assert_close(found["encoders.1.weight"], delta.T @ states[1], rtol=0, atol=1e-12)
    torch.testing.assert_close(found["encoders.1.bias"], delta.sum(0), rtol=0, atol=1e-12)
    wrong = (states[2] - targets[2].roll(1, 0)) * (1 - states[2].square()) / len(x)
    assert not torch.allclose(found["encoders.1.bias"], wrong.sum(0), rtol=0, atol=1e-6)


# Figure 3, in layers with exact inverses.


def invertible(maps: str, *, scale: float = 0.1) -> LabelledStack:
    model = LabelledStack(INPUTS, (4, 4, 4), WITHIN, Categorical(1, CLASSES), maps=maps).double()
    randoms = zoo.generator(0)
    with torch.no_grad():
        for tensor in (*model.parameters(), model.centre):
            tensor.normal_(0, scale, generator=randoms)
    return model


def label_costs(model: LabelledStack, targets: list[Tensor], y: Tensor) -> Tensor:
    """−log P(y | h_{L−1}) of every row, when each hidden layer in turn is set to its target."""
    found = []
    for layer in range(1, model.num_hidden + 1):
        h = targets[layer]
        for number in range(layer + 1, model.num_hidden + 1):
            h = model.state(model.up(number, h))
        found.append(-model.label.log_prob(model.infer_label(h), y))
    return torch.stack(found)


@pytest.mark.parametrize("maps", ["triangular", "orthogonal"])
@torch.no_grad()
def test_with_inverse_layers_every_target_lowers_the_cost_as_the_highest_one_does(maps: str) -> None:
    model, steps = invertible(maps), Steps(top="gradient", step=0.2, difference=False)
    x, y, m = model.split(rows()[rows()[:, -1] > 0])
    _, states = pass_up(model, x)
    targets = top_down(model, states, top_target(model, states[-1], y, m, steps), steps)
    found, without = label_costs(model, targets, y), label_costs(model, states, y)
    torch.testing.assert_close(found, found[-1].expand_as(found), rtol=0, atol=1e-10)
    assert bool((found < without).all())
    wrong = label_costs(model, [targets[0], targets[2], targets[1], targets[3]], y)
    assert not torch.allclose(wrong, found, rtol=0, atol=1e-4)


@pytest.mark.parametrize("maps", ["triangular", "orthogonal"])
def test_inverse_layers_learn_from_their_targets_alone(maps: str) -> None:
    model = invertible(maps)
    losses, _ = supervised_losses(model, rows(), Steps(unsupervised=0.2), zoo.generator(7))
    assert leaks(model, losses) == []
    assert not any(name.startswith("decoder_") for name in losses)
    again = LabelledStack.from_config(model.config()).double()
    again.load_state_dict(model.state_dict())
    x, _, _ = model.split(rows())
    assert torch.equal(again.predict(x), model.predict(x))


@pytest.mark.parametrize("kind", ["triangular", "orthogonal"])
@torch.no_grad()
def test_the_inverse_is_exact_and_the_kind_what_it_says(kind: str) -> None:
    layer = InvertibleAffine(5, kind, generator=zoo.generator(2)).double()
    layer.bias.normal_(generator=zoo.generator(3))
    x = torch.randn(7, 5, generator=zoo.generator(4), dtype=torch.float64)
    torch.testing.assert_close(layer.inverse(layer(x)), x)
    weight, one = layer.weight, torch.eye(5, dtype=torch.float64)
    assert torch.allclose(weight @ weight.T, one) == (kind == "orthogonal")
    assert torch.allclose(weight, weight.T) == (kind == "triangular")
    assert bool((torch.linalg.svdvals(weight) > 0).all())


# The target at the top, Eqs. 16 to 19.


def linear_gaussian(noise: float) -> tuple[LabelledStack, MultivariateNormal, Tensor]:
    """A stack whose top auto-encoder is the best linear one for Gaussian (h, y), h with noise; that noisy density; and h."""
    d, k = 3, 2
    model = LabelledStack(4, [d], d + k, Gaussian(k), tied=False, linear_top=True).double()
    randoms = zoo.generator(3)
    root = torch.randn(d + k, d + k, generator=randoms, dtype=torch.float64)
    mean = torch.randn(d + k, generator=randoms, dtype=torch.float64)
    clean = root @ root.T
    noisy = clean.clone()
    noisy[:d, :d] += noise**2 * torch.eye(d, dtype=torch.float64)
    given = torch.linalg.solve(noisy, clean[:, :d]).T  # E[h | noisy h, y] = mean + given (· − mean)
    infer = torch.linalg.solve(noisy[:d, :d], clean[:d, d:]).T  # E[y | noisy h]
    with torch.no_grad():
        for parameter in model.top.parameters():
            parameter.zero_()
        model.top.up.weight[:d] = torch.eye(d)
        model.top.up_label.weight[d:] = torch.eye(k)
        model.top.down.weight.copy_(given)
        model.top.down.bias.copy_(mean[:d] - given @ mean)
        model.top.down_label.weight[:, :d] = infer
        model.top.down_label.bias.copy_(mean[d:] - infer @ mean[:d])
    h = torch.randn(13, d, generator=randoms, dtype=torch.float64)
    return model, MultivariateNormal(mean, noisy), h


def scores(density: MultivariateNormal, h: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """∂ log P(h, y) / ∂h and ∂ log P(h) / ∂h."""
    leaf, d = h.clone().requires_grad_(True), h.shape[1]
    marginal = MultivariateNormal(density.mean[:d], density.covariance_matrix[:d, :d])
    (joint,) = torch.autograd.grad(density.log_prob(torch.cat([leaf, y], 1)).sum(), leaf)
    (alone,) = torch.autograd.grad(marginal.log_prob(leaf).sum(), leaf)
    return joint, alone


@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.5, 1.0])
@pytest.mark.parametrize("noise", [0.5, 1e-3])
def test_targets_are_scores_in_the_linear_gaussian_case(alpha: float, noise: float) -> None:
    """Eqs. 16 to 19 at finite noise, P with the corruption in it, with labels and without: to the digits that are left."""
    model, density, h = linear_gaussian(noise)
    y = torch.randn(len(h), 2, generator=zoo.generator(4), dtype=torch.float64)
    joint, alone = scores(density, h, y)
    steps = Steps(alpha=alpha, step=0.7, noise=noise)
    ones = torch.ones(len(h), 1, dtype=torch.float64)
    expected = h + 0.7 * (alpha * joint + (1 - alpha) * (joint - alone))
    close = partial(torch.testing.assert_close, rtol=0, atol=1e-12 / noise**2)
    close(top_target(model, h, y, ones, steps), expected)
    unlabelled = top_target(model, h, 0 * y, 0 * ones, steps)
    close(unlabelled, h + 0.7 * alpha * alone)


def test_with_the_mask_ignored_the_target_is_no_score() -> None:
    """A missing label that counts as a label of zeros."""
    model, density, h = linear_gaussian(0.5)
    y = torch.randn(len(h), 2, generator=zoo.generator(4), dtype=torch.float64)
    joint, alone = scores(density, h, y)
    ones = torch.ones(len(h), 1, dtype=torch.float64)
    wrong = top_target(model, h, y, ones, Steps(step=1.0, noise=0.5, missing="masked")) - h
    assert (wrong - (joint - alone)).abs().max() > 0.1


def test_at_small_noise_the_target_is_the_score_of_the_data() -> None:
    model, _, h = linear_gaussian(1e-3)
    _, clean, _ = linear_gaussian(0.0)
    y = torch.randn(len(h), 2, generator=zoo.generator(4), dtype=torch.float64)
    joint, alone = scores(clean, h, y)
    ones = torch.ones(len(h), 1, dtype=torch.float64)
    found = top_target(model, h, y, ones, Steps(step=1.0, noise=1e-3)) - h
    torch.testing.assert_close(found, joint - alone, rtol=1e-2, atol=1e-2)


def discrepancy(model: LabelledStack, scale: float) -> float:
    """How far the discriminant direction is from ∂ log P(y | h), relative, label weights times `scale`."""
    with torch.no_grad():
        model.top.up_label.weight.mul_(scale)
        model.top.up_label.bias.zero_()
    h = torch.tanh(torch.randn(11, HIDDEN[-1], generator=zoo.generator(5), dtype=torch.float64))
    y = torch.eye(CLASSES, dtype=torch.float64)[torch.arange(11) % CLASSES]
    ones = torch.ones(11, 1, dtype=torch.float64)
    found = top_target(model, h, y, ones, Steps(step=1.0, noise=1.0)) - h
    exact = top_target(model, h, y, ones, Steps(step=1.0, top="gradient")) - h
    return float((found - exact).norm() / exact.norm())


def test_a_tied_top_gives_the_gradient_to_first_order_in_the_label() -> None:
    large, small = discrepancy(tiny(), 1e-2), discrepancy(tiny(), 1e-4)
    assert small < 1e-3
    assert small == pytest.approx(large / 100, rel=0.1)
    assert discrepancy(tiny(tied=False), 1e-4) > 0.3


@pytest.mark.parametrize("tied", [True, False])
def test_a_tied_top_is_the_gradient_of_a_function(tied: bool) -> None:
    model = tiny(tied=tied)
    h = torch.randn(HIDDEN[-1], generator=zoo.generator(5), dtype=torch.float64)
    y, one = torch.eye(CLASSES, dtype=torch.float64)[:1], torch.ones(1, 1, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(lambda v: model.top(v[None], y, one).h[0], h)
    assert torch.allclose(jacobian, jacobian.T, rtol=0, atol=1e-12) == tied


@pytest.mark.parametrize("kind", ["tanh", "sign"])
def test_states_that_are_their_own_targets_stay(kind: Literal["tanh", "sign"]) -> None:
    model = tiny(kind)
    _, states = pass_up(model, model.split(rows())[0])
    kept = top_down(model, states, states[-1], Steps())
    assert all(torch.allclose(a, b, rtol=0, atol=1e-14) for a, b in zip(kept, states, strict=True))
    moved = top_down(model, states, states[-1], Steps(difference=False))
    assert (moved[1] - states[1]).abs().max() > 0.1


# The mask.


def losses_with_label(changed: slice) -> dict[str, Tensor]:
    """Of the hybrid way, where rows of `changed` have another label."""
    batch = rows()
    batch[changed, INPUTS : INPUTS + CLASSES] = torch.tensor([3.0, -2.0, 0.5], dtype=torch.float64)
    return supervised_losses(tiny(), batch, WAYS["hybrid"], zoo.generator(7))[0]


def test_a_masked_label_has_no_effect() -> None:
    plain = supervised_losses(tiny(), rows(), WAYS["hybrid"], zoo.generator(7))[0]
    assert all(torch.equal(plain[name], loss) for name, loss in losses_with_label(slice(0, None, 3)).items())
    assert not torch.equal(plain["encoder_1"], losses_with_label(slice(1, None, 3))["encoder_1"])


def test_a_sure_guess_becomes_the_label() -> None:
    model = tiny()
    x, y, m = model.split(rows())
    probability, best = torch.softmax(model.predict(x), 1).max(1)
    level = float(probability[m[:, 0] == 0].median())
    filled, mask = fill_in(model, x, y, m, level)
    assert torch.equal(mask[:, 0] > 0, (m[:, 0] > 0) | (probability >= level))
    assert 0 < (mask - m).sum() < (1 - m).sum()
    assert torch.equal(filled[m[:, 0] > 0], y[m[:, 0] > 0])
    assert torch.equal(filled[m[:, 0] == 0].argmax(1), best[m[:, 0] == 0])
    never, unchanged = fill_in(model, x, y, m, 1.1)
    assert torch.equal(unchanged, m)
    assert torch.equal(never * unchanged, y)


def examples() -> Examples:
    return Examples(torch.rand(30, 4, generator=zoo.generator(6)), labels=torch.arange(30) % 3)


def test_few_labels_are_shown_as_often_as_asked() -> None:
    data = few_labelled(examples(), 3, 6, 0, unlabelled=True, steps_rows=24)
    batch = data.batch(torch.arange(len(data)), zoo.generator(0))
    assert (len(data), batch[:, -1].sum()) == (54, 24)
    assert batch[:24, 4:7].sum(0).tolist() == [8, 8, 8]
    assert batch[24:, 4:].abs().sum() == 0
    torch.testing.assert_close(batch[24:, :4], examples().values)
    same = few_labelled(examples(), 3, 6, 0, unlabelled=False, steps_rows=24)
    assert len(same) == 24
    assert torch.equal(same.batch(torch.arange(24), zoo.generator(0)), batch[:24])


def test_every_label_is_its_example_s() -> None:
    batch = all_labelled(examples(), 3).batch(torch.tensor([5, 7, 29]), zoo.generator(0))
    assert batch[:, 4:7].argmax(1).tolist() == [2, 1, 2]
    torch.testing.assert_close(batch[:, :4], examples().values[[5, 7, 29]])


# Learning.


@pytest.mark.many_steps
@pytest.mark.parametrize("kind", ["tanh", "sign"])
def test_targets_teach_what_untrained_encoders_do_not_know(kind: Literal["tanh", "sign"]) -> None:
    """Digits through three layers of ten units, beside the same top on encoders that stay as they began."""
    data = load("digits")
    errors = {}
    for trained in (True, False):
        model = LabelledStack(64, [10, 10, 10], 20, Categorical(1, 10), kind=kind, generator=zoo.generator(8))
        model.initialise_from_data(data.train.fixed())
        model.encoders.requires_grad_(trained)
        settings = Settings(epochs=6, batch_size=50, optimizer="Adam", learning_rate=1e-2, average=0.95, device="cpu")
        fit(model, supervised_target_propagation(model), all_labelled(data.train, 10), settings)
        wrong = model.predict(data.test.fixed()).argmax(1) != data.test.labels
        errors[trained] = wrong.float().mean().item()
    assert errors[True] < 0.7 * errors[False]


def test_bad_input_is_named() -> None:
    with pytest.raises(BadInput, match="hidden layers"):
        LabelledStack(3, [], 4, Categorical(1, 2))
    with pytest.raises(BadInput, match="hidden units 'relu'"):
        LabelledStack(3, [2], 4, Categorical(1, 2), kind="relu")
    with pytest.raises(BadInput, match="invertible map 'diagonal'"):
        LabelledStack(3, [2, 2], 4, Categorical(1, 2), maps="diagonal")
    for hidden, kind in (((2, 3), "tanh"), ((2, 2), "sign")):
        with pytest.raises(BadInput, match="layers of one size"):
            LabelledStack(3, hidden, 4, Categorical(1, 2), kind=kind, maps="orthogonal")
    with pytest.raises(BadInput, match="alpha"):
        Steps(alpha=1.5)
    with pytest.raises(BadInput, match="positive"):
        Steps(noise=0.0)
    with pytest.raises(BadInput, match="negative"):
        Steps(inverse_noise=-1.0)
    with pytest.raises(BadInput, match="equally"):
        few_labelled(examples(), 3, 7, 0, unlabelled=True, steps_rows=24)
    unnamed = LabelledRows(Examples(torch.zeros(3, 2)), 2, torch.arange(3), torch.arange(0))
    with pytest.raises(BadInput, match="no labels"):
        unnamed.batch(torch.arange(2), zoo.generator(0))


def test_a_configuration_builds_the_stack_again() -> None:
    model = tiny("sign", tied=False)
    again = LabelledStack.from_config(model.config()).double()
    again.load_state_dict(model.state_dict())
    x = rows()[:, :INPUTS]
    assert torch.equal(again.predict(x), model.predict(x))
