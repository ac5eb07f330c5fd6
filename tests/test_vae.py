"""The VAE as a distribution, and its objectives: closed forms of linear-Gaussian models and quadrature over one latent."""

# Layers of a network and parts of a prior are reached into, which have wider types.
# pyright: reportAttributeAccessIssue=false, reportOperatorIssue=false, reportPossiblyUnboundVariable=false
# pyright: reportCallIssue=false, reportGeneralTypeIssues=false

from __future__ import annotations

import json
import math

import pytest
import torch
import zoo
from torch import Tensor
from torch.distributions import MixtureSameFamily, MultivariateNormal, Normal

from genmodels import VAE, BadInput, Bernoulli, Categorical, Gaussian
from genmodels.data.examples import Examples
from genmodels.fit import Settings, fit
from genmodels.interface import default_generator
from genmodels.layers import named_layer
from genmodels.likelihood import elbo as elbo_estimate
from genmodels.likelihood import importance_bound, log_weights
from genmodels.objectives import Objective, dreg, elbo, iwae, reweighted_wake_sleep

LOADING = torch.tensor([[1.1, -0.4, 0.3, 0.8, 0.2], [0.2, 0.9, -0.7, 0.1, 0.4]], dtype=torch.float64)
LOADING[1] -= (LOADING[1] @ LOADING[0]) / (LOADING[0] @ LOADING[0]) * LOADING[0]
OFFSET = torch.tensor([0.3, -0.2, 0.5, -0.7, 0.1], dtype=torch.float64)
VARIANCE = 0.6
X = torch.tensor([[0.3, -1.2, 0.5, 0.4, -0.9], [1.9, 0.1, -0.4, 0.8, 1.1]], dtype=torch.float64)


@torch.no_grad()
def linear(off: float = 0.0) -> VAE:
    """z ~ N(0, 1), x ~ N(OFFSET + z LOADING, VARIANCE), whose encoder is the exact posterior, its mean moved by `off`.

    The loadings are orthogonal, so that the posterior is a diagonal normal.
    """
    model = VAE(Gaussian(5, variance=VARIANCE), latent=(2,), hidden=((),)).double()
    (encoder,), (decoder,) = model.encoders[0].network, model.decoder
    precision = 1 + LOADING.square().sum(1) / VARIANCE
    decoder.weight.copy_(LOADING.T)
    decoder.bias.copy_(OFFSET)
    model.observed.log_variance.fill_(math.log(VARIANCE))
    gain = LOADING / VARIANCE / precision[:, None]
    encoder.weight.copy_(torch.cat([gain, torch.zeros_like(gain)]))
    encoder.bias.copy_(torch.cat([off - gain @ OFFSET, -0.5 * precision.log()]))
    return model


def evidence(x: Tensor) -> Tensor:
    covariance = LOADING.T @ LOADING + VARIANCE * torch.eye(5, dtype=torch.float64)
    return MultivariateNormal(OFFSET, covariance).log_prob(x)


def tiny(observed: str = "Bernoulli", latent=(2,), hidden=((3,),), pseudo_inputs: int = 0) -> VAE:
    """A float64 VAE with random parameters."""
    model = VAE(zoo.layer(observed, hidden=False), latent, hidden, pseudo_inputs=pseudo_inputs).double()
    randoms = zoo.generator(3)
    with torch.no_grad():
        for parameter in (*model.parameters(), model.centre):
            parameter.normal_(0, 0.5, generator=randoms)
    return model


def close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-10)


def test_an_exact_encoder_gives_the_evidence_at_every_draw():
    weights = log_weights(linear(), X, num_samples=7, generator=zoo.generator())
    close(weights, evidence(X).expand(7, -1))


def test_a_moved_encoder_costs_its_divergence_and_bounds_rise_to_the_evidence():
    model, x = linear(off=0.5), X.repeat(200, 1)
    divergence = 0.5 * float((0.25 * (1 + LOADING.square().sum(1) / VARIANCE)).sum())
    exact = float(evidence(X).mean())
    found = elbo_estimate(model, x, num_samples=100, generator=zoo.generator(1))
    assert abs(found.value - (exact - divergence)) < 5 * found.std_error < 0.05
    bounds = [importance_bound(model, x, num_samples=k, generator=zoo.generator(2)).value for k in (1, 5, 50, 500)]
    assert bounds == sorted(bounds)
    assert exact - 0.02 < bounds[-1] < exact + 0.02


@torch.no_grad()
def test_rate_and_distortion_are_the_bound_with_the_rate_in_closed_form():
    model = linear(off=0.5)
    x = X[:1].repeat(20_000, 1)
    distortion, (rate,) = model.rate_distortion(x, zoo.generator(1))
    q = Normal(model.encode(X[:1]).first.mean, model.encode(X[:1]).first.log_std.exp())
    close(rate[:1], torch.distributions.kl_divergence(q, Normal(0.0, 1.0)))
    assert float(rate.std(0).max()) < 1e-12
    expected = log_weights(model, x, num_samples=1, generator=zoo.generator(2)).mean()
    z = zoo.z_scores(-(distortion + rate.sum(1)), float(expected))
    assert float(z.abs()) < 8  # both sides are noisy


@pytest.mark.parametrize("observed", zoo.KINDS)
@torch.no_grad()
def test_two_layers_are_the_product_of_their_conditionals(observed: str):
    model = tiny(observed, (3, 2), ((4,), (5,)))
    x = zoo.some_states(model.observed, 7)
    z1, z2 = (torch.randn(7, size, generator=zoo.generator(4), dtype=torch.float64) for size in (3, 2))
    down, first, second = model.decoders[0](z2), model.encoders[0](x - model.centre), model.encoders[1](z1)
    log_x = model.observed.distribution(model.decoder(z1)).log_prob(x)
    log_z = Normal(0.0, 1.0).log_prob(z2).sum(-1) + Normal(down.mean, down.log_std.exp()).log_prob(z1).sum(-1)
    close(model.log_joint(x, (z1, z2)), log_x + log_z)
    log_q = Normal(first.mean, first.log_std.exp()).log_prob(z1).sum(-1)
    log_q = log_q + Normal(second.mean, second.log_std.exp()).log_prob(z2).sum(-1)
    close(model.encode(x).log_prob((z1, z2)), log_q)
    close(model.encode(x).repeat(2).log_prob((z1.repeat(2, 1), z2.repeat(2, 1))), log_q.repeat(2))


@torch.no_grad()
def test_draws_are_top_down():
    """Two linear layers: the covariance of what is drawn is that of the composed Gaussian."""
    model = VAE(Gaussian(3, variance=VARIANCE), latent=(2, 1), hidden=((), ())).double()
    (lower,), (upper,) = model.decoder, model.decoders[0].network
    for parameter in (lower.weight, lower.bias, upper.weight, upper.bias):
        parameter.normal_(0, 0.7, generator=zoo.generator(5))
    upper.weight[2:] = 0
    middle = upper.weight[:2] @ upper.weight[:2].T + torch.diag(torch.exp(2 * upper.bias[2:]))
    covariance = lower.weight @ middle @ lower.weight.T + VARIANCE * torch.eye(3, dtype=torch.float64)
    x, z1, z2 = model.sample(100_000, generator=zoo.generator(6))
    mean = lower.weight @ upper.bias[:2] + lower.bias
    products = ((x - mean)[:, :, None] * (x - mean)[:, None, :]).flatten(1)
    assert float(zoo.z_scores(products, covariance.flatten()).abs().max()) < 5.5
    assert float(zoo.z_scores(products, 1.1 * covariance.flatten()).abs().max()) > 12
    close(model.observed_mean((z1, z2)), z1 @ lower.weight.T + lower.bias)


@pytest.mark.parametrize("latent", [(2,), (3, 2)], ids=["of inputs", "of codes"])
@torch.no_grad()
def test_pseudo_inputs_are_a_normalised_mixture(latent):
    model = tiny(latent=latent, hidden=((4,),) * len(latent), pseudo_inputs=3)
    assert model.pseudo_inputs is not None
    inputs = torch.sigmoid(model.pseudo_inputs) - model.centre if len(latent) == 1 else model.pseudo_inputs
    mean, log_std = model.encoders[-1](inputs)
    mixture = MixtureSameFamily(
        torch.distributions.Categorical(torch.ones(3, dtype=torch.float64)),
        torch.distributions.Independent(Normal(mean, log_std.exp()), 1),
    )
    prior = model.prior(20_000)
    z = prior.draw(zoo.generator(7))
    close(prior.top.log_prob(z[-1]), mixture.log_prob(z[-1]))
    assert float(zoo.z_scores(z[-1], mixture.mean).abs().max()) < 5.5
    q = model.encode(zoo.some_states(model.observed, 5)).factors(tuple(layer[:5] for layer in z))[-1]
    close(prior.top.rate(q, z[-1][:5])[:, 0], q.log_prob(z[-1][:5]).sum(-1) - mixture.log_prob(z[-1][:5]))


NODES = torch.linspace(-7, 7, 41, dtype=torch.float64)
ONE = torch.tensor([[1.0, 0, 1, 1, 0]], dtype=torch.float64)


def quadrature_gradient(model: VAE, num_samples: int) -> dict[str, Tensor]:
    """∇ of −E log (1/k) Σ_k w_k for one row and one latent, by the trapezoid rule over the noise of all draws."""
    q = model.encode(ONE).first
    noise = torch.cartesian_prod(*[NODES] * num_samples).view(-1, num_samples)
    mass = torch.exp(Normal(0.0, 1.0).log_prob(noise).sum(-1)) * (NODES[1] - NODES[0]) ** num_samples
    z = (q.mean + q.log_std.exp() * NODES[:, None]).view(-1, 1)
    weight = model.log_joint(ONE.expand(len(z), -1), (z,)) - Normal(q.mean, q.log_std.exp()).log_prob(z)[:, 0]
    combined = weight[torch.cartesian_prod(*[torch.arange(len(NODES))] * num_samples).view(-1, num_samples)]
    loss = -(mass * (combined.logsumexp(-1) - math.log(num_samples))).sum()
    return dict(zip(names(model), torch.autograd.grad(loss, list(model.parameters())), strict=True))


def names(model: VAE) -> list[str]:
    return [name for name, _ in model.named_parameters()]


def gradient_draws(model: VAE, objective: Objective, num: int = 150, rows: int = 200) -> dict[str, Tensor]:
    """`num` independent gradients, each of a batch of copies of one row."""
    draws, randoms = [], zoo.generator(8)
    for _ in range(num):
        loss, _, _ = objective.step(ONE.expand(rows, -1), {}, randoms)
        draws.append(torch.autograd.grad(loss, list(model.parameters())))
    return {name: torch.stack(parts) for name, parts in zip(names(model), zip(*draws, strict=True), strict=True)}


def worst(draws: dict[str, Tensor], expected: dict[str, Tensor], part: str) -> float:
    """The largest deviation of a mean gradient, in its standard errors, over all parameters of one part."""
    chosen = [name for name in draws if name.startswith(part)]
    return max(float(zoo.z_scores(draws[name], expected[name]).nan_to_num().abs().max()) for name in chosen)


def test_gradients_of_the_importance_weighted_bound_are_those_of_quadrature():
    model = tiny(latent=(1,))
    expected, other = quadrature_gradient(model, 2), quadrature_gradient(model, 1)
    for objective in (iwae(model, num_samples=2), dreg(model, num_samples=2)):
        draws = gradient_draws(model, objective)
        for part in ("encoders", "decoder"):
            assert worst(draws, expected, part) < 5.5
            assert worst(draws, other, part) > 12
    one = gradient_draws(model, elbo(model))
    assert max(worst(one, other, part) for part in ("encoders", "decoder")) < 5.5


def test_the_doubly_reparametrised_gradient_is_quieter():
    model = tiny(latent=(1,))
    noise = [
        torch.cat([d.std(0).flatten() for n, d in gradient_draws(model, make(model, num_samples=20), 50, 20).items()
                   if n.startswith("encoders")])
        for make in (dreg, iwae)
    ]  # fmt: skip
    assert float(noise[0].norm()) < 0.6 * float(noise[1].norm())


def test_wake_follows_the_bound_and_sleep_rests_at_the_exact_posterior():
    model = tiny(latent=(1,))
    draws = gradient_draws(model, reweighted_wake_sleep(model, num_samples=2, wake=False))
    assert worst(draws, quadrature_gradient(model, 2), "decoder") < 5.5
    for off, test in ((0.0, lambda z: z < 5.5), (0.5, lambda z: z > 12)):
        exact, randoms, gradients = linear(off), zoo.generator(9), []
        objective = reweighted_wake_sleep(exact, num_samples=3)
        weights = list(exact.encoders.parameters())
        for _ in range(100):
            loss, _, _ = objective.step(exact.sample(100, generator=randoms)[0], {}, randoms)
            gradients.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, weights)]))
        assert test(float(zoo.z_scores(torch.stack(gradients), 0.0).abs().max()))


def test_warm_up_and_free_bits_change_the_loss_and_not_the_metric():
    model = tiny(latent=(3, 2), hidden=((4,), (5,)))
    x = zoo.some_states(model.observed, 11)

    def after(steps: int, **options) -> tuple[float, dict[str, Tensor]]:
        objective = elbo(model, **options)
        state = objective.init(x, zoo.generator())
        for _ in range(steps):
            loss, state, metrics = objective.step(x, state, zoo.generator(10))
        return float(loss.detach()), metrics

    plain, metrics = after(1)
    distortion, rate = (float(metrics[name].detach()) for name in ("distortion", "rate"))
    assert plain == pytest.approx(distortion + rate) == pytest.approx(-float(metrics["elbo"].detach()))
    for steps, weight in ((1, 0.0), (3, 0.5), (5, 1.0), (9, 1.0)):
        assert after(steps, warm_up=4)[0] == pytest.approx(distortion + weight * rate)
    floor, changed = after(1, free_bits=1000.0)
    assert floor == pytest.approx(distortion + 5000)
    assert changed["elbo"] == metrics["elbo"]


@pytest.mark.many_steps
def test_training_brings_the_bound_close_to_the_evidence_of_the_source():
    source = linear()
    x = source.sample(2000, generator=zoo.generator(11))[0].float()
    model = VAE(Gaussian(5), latent=(2,), hidden=((),), generator=zoo.generator(12))
    model.initialise_from_data(x)
    settings = Settings(epochs=40, optimizer="Adam", learning_rate=0.1, average=0.9, device="cpu")
    fit(model, elbo(model, warm_up=20), Examples(x), settings)
    found = elbo_estimate(model, x, num_samples=20, generator=zoo.generator(13)).value
    assert abs(found - float(evidence(x.double()).mean())) < 0.05


@pytest.mark.parametrize("unit", [Bernoulli(7), Gaussian(7, variance=0.3), Categorical(2, 3)], ids=zoo.KINDS)
def test_the_configuration_builds_it_again(unit):
    model = VAE(unit, latent=(3, 2), hidden=((5, 4), ()), activation="softplus", pseudo_inputs=3)
    again = VAE.from_config(json.loads(json.dumps(model.config())))
    again.load_state_dict(model.state_dict())
    x = unit.draw(torch.zeros(2, unit.size), unit.noise(2, torch.zeros(2, unit.size), zoo.generator()))
    one, two = (m.recognise(x, generator=default_generator(0))[0] for m in (model, again))
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


@pytest.mark.parametrize("learned", [True, False])
def test_the_variance_of_the_output_is_learned_or_kept(learned: bool):
    x = 2 * torch.randn(60, 3, generator=zoo.generator(14))
    kind = "gaussian" if learned else "gaussian:0.3"
    model = VAE(named_layer(kind, 3, variance=0.3), latent=(2,), hidden=((3,),))
    fit(model, elbo(model), Examples(x), Settings(epochs=3, optimizer="Adam", learning_rate=0.1, device="cpu"))
    assert isinstance(model.observed, Gaussian)
    moved = (model.observed.log_variance - math.log(0.3)).abs().min()
    assert (float(moved.detach()) > 1e-3) == learned
    again = VAE.from_config(json.loads(json.dumps(model.config()))).observed
    assert isinstance(again, Gaussian)
    assert again.log_variance.requires_grad == learned


def test_the_start_fits_the_data_by_its_mean():
    x = (torch.rand(200, 7, generator=zoo.generator()) < torch.linspace(0.1, 0.9, 7)).float()
    model = VAE(Bernoulli(7), latent=(2,), hidden=((3,),), pseudo_inputs=5)
    model.initialise_from_data(x)
    field = model.decode((torch.zeros(1, 2),))
    torch.testing.assert_close(model.observed.mean(field)[0], (x.sum(0) + 0.5) / 201)
    close(model.centre, x.mean(0))
    assert model.pseudo_inputs is not None
    assert torch.equal(model.pseudo_inputs[0] > 0, x[0] > 0)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: VAE(Bernoulli(3), latent=(2, 2), hidden=((3,),)), "one list of hidden sizes for every"),
        (lambda: VAE(Bernoulli(3), latent=(), hidden=()), "one list of hidden sizes for every"),
        (lambda: VAE(Bernoulli(3), activation="sine"), "no activation 'sine'"),
        (lambda: VAE(Bernoulli(3), latent=(0,), hidden=((),)), "at least one unit"),
        (lambda: iwae(tiny(), num_samples=0), "at least 1"),
        (lambda: named_layer("gaussian:wide", 3), "A variance is a number"),
        (lambda: elbo(tiny(), warm_up=-1), "at least 0"),
        (lambda: reweighted_wake_sleep(tiny(), num_samples=1, sleep=False, wake=False), "a wake phase"),
    ],
)
def test_bad_input_is_named(make, words: str):
    with pytest.raises(BadInput, match=words):
        make()
