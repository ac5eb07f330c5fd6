"""What a denoising auto-encoder's codes are pressed to be, tied weights, and layers learned one by one."""

# Layers of a network are reached into, which have wider types.
# pyright: reportAttributeAccessIssue=false, reportCallIssue=false, reportIndexIssue=false, reportArgumentType=false
# pyright: reportOperatorIssue=false, reportOptionalMemberAccess=false

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import zoo
from torch import Tensor
from torch.nn.functional import linear

from genmodels import DAE, BadInput, Bernoulli, Gaussian
from genmodels.corruptions import GaussianNoise, Masking
from genmodels.data import load
from genmodels.fit import Settings, fit
from genmodels.objectives import denoising, greedy_denoising, squared_jacobian


def model_of(hidden: tuple[int, ...] = (5, 3), *, tied: bool = False, sites: int = 7) -> DAE:
    model = DAE(Bernoulli(sites), Masking(0.3), hidden=hidden, tied=tied, generator=zoo.generator(1)).double()
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, 0, 0.5, generator=zoo.generator(len(name)))
    model.centre.fill_(0.4)
    return model


def rows(num: int = 11, sites: int = 7) -> Tensor:
    return zoo.some_states(Bernoulli(sites), num, seed=2)


def top(model: DAE):
    return lambda x: model.codes(x)[-1]


def test_tied_weights_are_the_encoders_transposed_and_learn_from_both_sides(tmp_path: Path) -> None:
    model, x = model_of(tied=True), rows()
    up, down = (model.encoder[0], model.encoder[2]), (model.decoder[0], model.decoder[2])
    h = torch.tanh(linear(torch.tanh(linear(x - model.centre, up[0].weight, up[0].bias)), up[1].weight, up[1].bias))
    h = torch.tanh(h @ up[1].weight + down[0].bias)
    torch.testing.assert_close(model.reconstruct(x), h @ up[0].weight + down[1].bias)
    names = [name for name, _ in model.named_parameters()]
    assert sorted(names) == sorted(model.state_dict().keys() - {"centre"})
    assert sum(name.endswith("weight") for name in names) == 2
    loose = model_of(tied=False)
    loose.load_state_dict({**loose.state_dict(), **model.state_dict()})
    for layer, source in ((0, up[1]), (2, up[0])):
        loose.decoder[layer].weight.data.copy_(source.weight.T)
    slopes = []
    for m in (model, loose):
        m.zero_grad()
        m.reconstruct(x).square().sum().backward()
        slopes.append(m.encoder[0].weight.grad)
    torch.testing.assert_close(slopes[0], slopes[1] + loose.decoder[2].weight.grad.T)
    assert float((slopes[0] - slopes[1]).abs().max()) > 0.1
    # Through the training loop, its averages and its checkpoint, and built again.
    settings = Settings(epochs=2, batch_size=10, optimizer="Adam", average=0.5, device="cpu")
    trained = DAE(Bernoulli(16), Masking(0.3), hidden=(5, 3), tied=True)
    fit(trained, denoising(trained), load("bars-and-stripes").train, settings, out=tmp_path / "run")
    again = DAE.from_config(json.loads(json.dumps(trained.config())))
    again.load_state_dict(trained.state_dict())
    x = load("bars-and-stripes").test.fixed()
    assert torch.equal(again.reconstruct(x), trained.reconstruct(x))
    again.encoder[0].weight.data += 1
    assert float((again.reconstruct(x) - trained.reconstruct(x)).abs().max()) > 0.1


def test_the_squared_jacobian_of_one_layer_is_the_closed_form_and_of_two_that_of_autograd() -> None:
    x, one, two = rows(), model_of((5,)), model_of((5, 3))
    slope = 1 - one.codes(x)[0].square()
    closed = (slope.square() * one.encoder[0].weight.square().sum(1)).sum(1)
    torch.testing.assert_close(squared_jacobian(top(one), x), closed)
    full = torch.autograd.functional.jacobian(lambda at: two.codes(at)[-1], x)
    exact = full.square().sum((1, 2, 3))
    torch.testing.assert_close(squared_jacobian(top(two), x), exact)
    assert float((squared_jacobian(top(two), x) / closed - 1).abs().min()) > 0.05


def test_random_projections_have_no_bias_and_their_gradient_neither() -> None:
    x, model, randoms = rows(3), model_of(), zoo.generator(3)
    weight, draws = model.encoder[0].weight, []
    exact = squared_jacobian(top(model), x).sum()
    (slope,) = torch.autograd.grad(exact, weight)
    for _ in range(600):
        found = squared_jacobian(top(model), x, num_probes=1, generator=randoms).sum()
        draws.append(torch.cat([found[None], torch.autograd.grad(found, weight)[0].flatten()]).detach())
    expected = torch.cat([exact[None], slope.flatten()]).detach()
    assert float(zoo.z_scores(torch.stack(draws), expected).abs().max()) < 5
    assert float(zoo.z_scores(torch.stack(draws), 1.5 * expected).abs().max()) > 10
    many = squared_jacobian(top(model), x, num_probes=1000, generator=randoms).sum()
    assert float(many) == pytest.approx(float(exact), rel=0.08)


def test_penalties_add_what_they_say_to_the_loss() -> None:
    x, model = rows(), model_of()
    plain, _, _ = denoising(model).step(x, {}, zoo.generator(4))
    pressed, _, metrics = denoising(model, contraction=0.3, sparsity=0.7).step(x, {}, zoo.generator(4))
    squares = squared_jacobian(top(model), x).mean()
    activity = sum(code.abs().sum(1).mean() for code in model.codes(x))
    torch.testing.assert_close(pressed - plain, 0.3 * squares + 0.7 * activity)
    torch.testing.assert_close(metrics["activity"], activity)
    (slope,) = torch.autograd.grad(pressed, model.encoder[0].weight, retain_graph=True)
    (without,) = torch.autograd.grad(plain, model.encoder[0].weight)
    (penalty,) = torch.autograd.grad(0.3 * squares + 0.7 * activity, model.encoder[0].weight)
    torch.testing.assert_close(slope, without + penalty)
    assert float(penalty.abs().max()) > 0.01


def test_a_layer_alone_is_an_auto_encoder_of_the_layer_below() -> None:
    x, model = rows(), model_of((5, 3, 2))
    weights = [model.encoder[i] for i in (0, 2, 4)]
    back = [model.decoder[i] for i in (4, 2, 0)]
    field = back[0](torch.tanh(weights[0](x - model.centre)))
    torch.testing.assert_close(model.by_way_of(1, x - model.centre), field)
    h = model.codes(x)
    torch.testing.assert_close(model.by_way_of(3, h[1]), torch.tanh(back[2](torch.tanh(weights[2](h[1])))))
    for layer in (1, 2, 3):
        model.zero_grad()
        loss, _, metrics = greedy_denoising(model, layer=layer).step(x, {}, zoo.generator(5))
        loss.backward()
        learning = {name for name, p in model.named_parameters() if p.grad is not None and bool(p.grad.any())}
        up, down = 2 * (layer - 1), 2 * (3 - layer)
        assert learning == {
            f"{part}.{kind}" for part in (f"encoder.{up}", f"decoder.{down}") for kind in ("weight", "bias")
        }
        if layer == 1:
            noisy = model.corruption.apply(x, model.corruption.noise(x, zoo.generator(5)))
            expected = -model.observed.log_prob(model.by_way_of(1, noisy - model.centre), x).mean()
        else:
            below = h[layer - 2]
            noisy = model.corruption.apply(below, model.corruption.noise(below, zoo.generator(5)))
            expected = 0.5 * (model.by_way_of(layer, noisy) - below).square().sum(1).mean()
        torch.testing.assert_close(loss, expected)
        torch.testing.assert_close(metrics["reconstruction"], -loss)


def test_greedy_layers_are_a_start_that_a_random_deep_network_is_not() -> None:
    data = load("digits")
    x = data.test.fixed()

    def reconstruction(model: DAE) -> float:
        return float(denoising(model).step(x, {}, zoo.generator(6))[2]["reconstruction"].detach())

    def fresh() -> DAE:
        model = DAE(Bernoulli(64), Masking(0.2), hidden=(40, 25), generator=zoo.generator(7))
        model.initialise_from_data(data.train.fixed())
        return model

    found = {"random": reconstruction(fresh())}
    settings = Settings(epochs=10, batch_size=50, optimizer="Adam", learning_rate=0.01, average=0.9, device="cpu")
    for name, layers in (("lowest", (1,)), ("both", (1, 2))):
        model = fresh()
        for layer in layers:
            fit(model, greedy_denoising(model, layer=layer), data.train, settings)
        found[name] = reconstruction(model)
    assert found["both"] > found["random"] + 2
    assert found["both"] > found["lowest"] + 2


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: DAE(Bernoulli(3), Masking(0.3), hidden=(), tied=True), "no two weights"),
        (lambda: denoising(model_of(), contraction=-1.0), "at least 0"),
        (lambda: denoising(DAE(Gaussian(3), GaussianNoise(0.3), hidden=()), sparsity=1.0), "no code"),
        (lambda: greedy_denoising(model_of(), layer=3), "choose one of 1 to 2"),
    ],
)
def test_bad_input_is_named(make, words: str) -> None:
    with pytest.raises(BadInput, match=words):
        make()
