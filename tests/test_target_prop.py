"""The stack as a distribution, and its learning: locality, the bound it follows, targets, priors, the chain."""

# Layers of a network are reached into, which have wider types.
# pyright: reportAttributeAccessIssue=false, reportOptionalMemberAccess=false, reportIndexIssue=false
# pyright: reportArgumentType=false, reportCallIssue=false

from __future__ import annotations

import math
from dataclasses import asdict

import pytest
import torch
import zoo
from stacks import SignNoise, discrete, linear_gaussian, states, tiny
from torch import Tensor
from torch.distributions import Categorical as CategoricalDistribution
from torch.distributions import Independent, MixtureSameFamily, MultivariateNormal, Normal

from genmodels import BadInput, Bernoulli, Gaussian
from genmodels.data.examples import Examples
from genmodels.fit import Settings, fit
from genmodels.likelihood import importance_bound, log_weights
from genmodels.networks import DiagonalNormal
from genmodels.objectives import algorithm1, elbo, target_propagation
from genmodels.objectives.target_prop import Loops, local_losses, reconstructions
from genmodels.stack_chain import StackChain
from genmodels.stack_layers import StackLayer
from genmodels.target_prop import AutoEncoderStack
from genmodels.top_priors import FactorialBernoulli, FullGaussian, Parzen, StandardGaussian

WAYS = {
    "pair": Loops(),
    "recirculation": Loops(recirculation=True),
    "noise-free": Loops(noise_free=True),
    "long": Loops(reach="top"),
    "difference": Loops(reach="top", noise_free=True, difference=True, match=0.3),
    "contract": Loops(contract=0.7),
    "traces": Loops(passes=3, trace=0.6),
}
KINDS = {
    "real": (("tanh", 5), ("sigmoid", 3), ("rectifier", 4)),
    "discrete": (("binary", 5), ("one-hot:3", 6)),
    "mixed": (("linear", 5), ("binary", 3)),
}


def data(num: int = 11, size: int = 7, seed: int = 1) -> Tensor:
    return torch.bernoulli(torch.full((num, size), 0.4, dtype=torch.float64), generator=zoo.generator(seed))


def weights(p: Tensor, x: Tensor) -> Tensor:
    """Q(X) on the rows of the enumeration: p has one number for each state of x."""
    return p[(x * 2 ** torch.arange(x.shape[1])).sum(1).long()]


# The distribution.


@torch.no_grad()
def joint(model: AutoEncoderStack) -> tuple[list[Tensor], Tensor, Tensor]:
    """All states, log P(x, h) and log Q(h | x) there."""
    layers = states(model)
    z = tuple(layers[1:])
    return layers, model.log_joint(layers[0], z), model.encode(layers[0]).log_prob(z)


def test_a_discrete_stack_is_normalised_both_ways() -> None:
    _, log_p, log_q = joint(discrete())
    assert torch.logsumexp(log_p, 0).item() == pytest.approx(0, abs=1e-12)
    assert torch.logsumexp(log_q, 0).item() == pytest.approx(math.log(2**3), abs=1e-12)


@torch.no_grad()
def test_equations_3_to_6_on_all_states() -> None:
    """KL(Q ‖ P) + H(Q(X)) = −E_Q of the bound = −E log P(x) + E KL(Q(h | x) ‖ P(h | x)), to 1e-10."""
    model = discrete()
    layers, log_p, log_q = joint(model)
    q_x = torch.softmax(torch.randn(8, generator=zoo.generator(2), dtype=torch.float64), 0)
    prior_q = weights(q_x, layers[0]).log()
    q = torch.exp(prior_q + log_q)
    divergence = (q * (prior_q + log_q - log_p)).sum()
    entropy = -(q_x * q_x.log()).sum()
    bound = (q * (log_p - log_q)).sum()
    assert float(divergence + entropy + bound) == pytest.approx(0, abs=1e-10)
    # Eq. 5: the terms one by one.
    conditional_entropy = -(q * log_q).sum()
    z = tuple(layers[1:])
    reconstruction = (q * model.observed.log_prob(model.decode(z), layers[0])).sum()
    match = (q * model.prior(len(q)).log_prob(z)).sum()
    assert float(divergence) == pytest.approx(float(-entropy - conditional_entropy - reconstruction - match), abs=1e-10)
    # Eq. 6: the gap is the divergence from the posterior.
    evidence = torch.zeros(8, dtype=torch.float64)
    number = (layers[0] * 2 ** torch.arange(3)).sum(1).long()
    evidence.scatter_add_(0, number, log_p.exp())
    log_posterior = log_p - evidence.log()[number]
    gap = (q * (log_q - log_posterior)).sum()
    assert float((q_x * evidence.log()).sum() - bound) == pytest.approx(float(gap), abs=1e-10)
    # With the posterior in the place of Q the gap is 0.
    tight = torch.exp(prior_q + log_posterior) * (log_p - log_posterior)
    assert float(tight.sum()) == pytest.approx(float((q_x * evidence.log()).sum()), abs=1e-10)
    assert float(gap) > 1e-3


@torch.no_grad()
def upper_weights(model: AutoEncoderStack, h: Tensor, seed: int) -> Tensor:
    """log P(h_1, h_2) − log Q(h_2 | h_1) at one draw."""
    q = model.up(2, h)
    z = q.draw(zoo.generator(seed))
    return model.down(2, z).log_prob(h).sum(-1) + model.top.log_prob(z) - q.log_prob(z).sum(-1)


def test_a_stack_whose_encoder_is_the_posterior_has_no_gap() -> None:
    """A linear-Gaussian layer: every draw of Q gives the same weight, log P(h_1)."""
    model = linear_gaussian()
    h = torch.randn(5, 2, generator=zoo.generator(3), dtype=torch.float64)
    loading, error = model.decoders[1][0].weight[:, 0].detach(), torch.exp(2 * model.layer(1).log_error.detach())
    covariance = torch.outer(loading, loading) + torch.diag(error)
    expected = MultivariateNormal(model.decoders[1][0].bias.detach(), covariance).log_prob(h)
    for seed in range(3):
        torch.testing.assert_close(upper_weights(model, h, seed), expected)
    assert (upper_weights(linear_gaussian(off=0.3), h, 0) - expected).abs().max() > 0.05


def test_rates_and_distortion_are_the_bound() -> None:
    """With closed-form rates, their mean over many draws is that of the plain log-weights."""
    model = tiny(KINDS["mixed"])
    x = data(5).repeat(4000, 1)
    with torch.no_grad():
        distortion, rates = model.rate_distortion(x, zoo.generator(1))
        bound = -distortion - torch.stack([rate.sum(-1) for rate in rates]).sum(0)
        plain = log_weights(model, data(5), num_samples=4000, generator=zoo.generator(2))
    for row in range(5):
        first, second = bound[row::5], plain[:, row]
        error = math.hypot(first.std() / 4000**0.5, second.std() / 4000**0.5)
        assert abs(float(first.mean() - second.mean())) < 5 * error  # false alarm 3e-6 for all rows


def test_the_importance_bound_reaches_the_evidence() -> None:
    model = discrete()
    layers, log_p, _ = joint(model)
    number = (layers[0] * 2 ** torch.arange(3)).sum(1).long()
    evidence = torch.zeros(8, dtype=torch.float64).scatter_add_(0, number, log_p.exp()).log()
    x = model.observed.states(torch.arange(8)).double()
    found = importance_bound(model, x, num_samples=20_000, generator=zoo.generator(4))
    assert abs(found.value - float(evidence.mean())) < 5 * found.std_error + 1e-3
    few = importance_bound(model, x, num_samples=1, generator=zoo.generator(4))
    assert float(evidence.mean()) - few.value > 0.02


# Locality.


def own(model: AutoEncoderStack, name: str) -> set[str]:
    """Names of the parameters that a loss may move."""
    kind, number = name.rsplit("_", 1)
    layer = int(number)
    noise = "top.layer.log_noise" if layer == model.num_layers else f"hidden.{layer - 1}.log_noise"
    up = {key for key, _ in model.named_parameters() if key.startswith(f"encoders.{layer - 1}.")} | {noise}
    down = {key for key, _ in model.named_parameters() if key.startswith(f"decoders.{layer - 1}.")}
    down |= {f"hidden.{layer - 2}.log_error"} if layer > 1 else {"observed.log_variance"}
    prior = (
        {key for key, _ in model.named_parameters() if key.startswith("top.")} if layer == model.num_layers else set()
    )
    return {
        "pair": up | down | prior,
        "decoder": down,
        "encoder": up | prior,
        "match": up,
        "long": down,
        "contract": up,
    }[kind]


def gradients(model: AutoEncoderStack, loss: Tensor) -> dict[str, Tensor]:
    names, parameters = zip(*((name, p) for name, p in model.named_parameters() if p.requires_grad), strict=True)
    found = torch.autograd.grad(loss, parameters, allow_unused=True, retain_graph=True)
    return {name: g for name, g in zip(names, found, strict=True) if g is not None}


def leaks(model: AutoEncoderStack, losses: dict[str, Tensor]) -> list[str]:
    """Losses with a gradient in another layer's parameters."""
    return [name for name, loss in losses.items() if not set(gradients(model, loss)) <= own(model, name)]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", KINDS)
def test_no_gradient_crosses_a_layer(way: str, kind: str) -> None:
    if WAYS[way].difference and kind != "real":
        pytest.skip("differences of discrete states are no states")
    prior = FactorialBernoulli(2) if kind == "discrete" else FullGaussian(2)
    model = tiny(KINDS[kind], prior, inner=[4] * (len(KINDS[kind]) + 1))
    losses, _ = local_losses(model, data(), WAYS[way], zoo.generator(7))
    assert leaks(model, losses) == []
    trained = set().union(*(gradients(model, loss) for loss in losses.values()))
    assert trained == {name for name, _ in model.named_parameters()}


def test_the_plain_bound_crosses_layers() -> None:
    model = tiny()
    distortion, _ = model.rate_distortion(data(), zoo.generator(7))
    assert leaks(model, {"pair_1": distortion.mean()}) == []
    _, rates = model.rate_distortion(data(), zoo.generator(7))
    assert leaks(model, {"pair_2": rates[1].sum(-1).mean()}) == ["pair_2"]


@pytest.mark.parametrize("way", WAYS)
def test_the_update_is_that_of_each_layer_alone(way: str) -> None:
    """With all other layers frozen, a layer's own losses have the gradient that the whole has there."""
    model = tiny(KINDS["real"], inner=(4, 0, 3, 0))
    objective = target_propagation(model, **asdict(WAYS[way]))
    whole = gradients(model, objective.step(data(), {}, zoo.generator(7))[0])
    losses, _ = local_losses(model, data(), WAYS[way], zoo.generator(7))
    for name in whole:
        mine = [each for each in losses if name in own(model, each)]
        for other, parameter in model.named_parameters():
            parameter.requires_grad_(other == name)
        again, _ = local_losses(model, data(), WAYS[way], zoo.generator(7))
        alone = torch.stack([again[each] for each in mine]).sum()
        torch.testing.assert_close(gradients(model, alone)[name], whole[name])
        model.requires_grad_(True)


def test_contractive_targets_are_a_divergence_between_codes_of_two_draws() -> None:
    """KL(Q(h_2 | a) ‖ Q(h_2 | b)) = ½ |W (a − b) / σ|² beside the entropy, for draws a and b of h_1, written out."""
    model = tiny((("linear", 5),))
    losses, _ = local_losses(model, data(), Loops(contract=0.7), zoo.generator(7))
    randoms, q = zoo.generator(7), model.up(1, data())
    a = q.draw(randoms)
    above = model.up(2, a)
    above.draw(randoms)
    b = q.draw(randoms)
    noise = model.layer(2).log_noise
    apart = (a - b) @ model.encoders[1][0].weight.T * torch.exp(-noise)
    entropy = (0.5 * math.log(2 * math.pi * math.e) + noise).sum()
    expected = 0.7 * (entropy + 0.5 * apart.square().sum(1).mean())
    torch.testing.assert_close(losses["contract_2"], expected)
    assert set(losses) == {"pair_1", "pair_2", "match_1", "contract_2"}


# What the local losses follow.


def expected_gradients(model: AutoEncoderStack, monkeypatch: pytest.MonkeyPatch, *, local: bool) -> dict[str, Tensor]:
    """Gradients of the loss in expectation over the draws, exact: all is quadratic in the noise."""
    x = torch.randn(3, 3, generator=zoo.generator(6), dtype=torch.float64)
    noise = SignNoise(len(x), (2, 1))
    monkeypatch.setattr(DiagonalNormal, "draw", noise.draw_for())
    objective = target_propagation(model) if local else elbo(model)
    return gradients(model, objective.step(x.repeat(noise.copies, 1), {}, zoo.generator(0))[0])


def test_with_exact_inference_above_the_local_gradient_is_that_of_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """The path that locality leaves out has no gradient where Q(h_2 | h_1) is the posterior of what is above."""
    local = expected_gradients(linear_gaussian(), monkeypatch, local=True)
    bound = expected_gradients(linear_gaussian(), monkeypatch, local=False)
    assert set(local) == set(bound)
    for name in bound:
        torch.testing.assert_close(local[name], bound[name], rtol=0, atol=1e-10)


def test_with_inexact_inference_above_only_the_encoder_below_differs(monkeypatch: pytest.MonkeyPatch) -> None:
    local = expected_gradients(linear_gaussian(off=0.4), monkeypatch, local=True)
    bound = expected_gradients(linear_gaussian(off=0.4), monkeypatch, local=False)
    differ = {name for name in bound if not torch.allclose(local[name], bound[name], rtol=0, atol=1e-10)}
    assert differ
    assert all(name.startswith(("encoders.0.", "hidden.0.log_noise")) for name in differ)


def test_targets_of_the_wrong_layer_are_not_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """The target of h_1 given to it in another row's place."""

    def wrong(model, drawn, loops):
        found = reconstructions(model, drawn, loops)
        return [found[0], DiagonalNormal(found[1].mean.roll(1, 0), found[1].log_std), *found[2:]]

    monkeypatch.setattr("genmodels.objectives.target_prop.reconstructions", wrong)
    local = expected_gradients(linear_gaussian(), monkeypatch, local=True)
    bound = expected_gradients(linear_gaussian(), monkeypatch, local=False)
    assert (local["encoders.0.0.weight"] - bound["encoders.0.0.weight"]).abs().max() > 0.01


def test_the_bound_metric_is_the_elbo() -> None:
    model = tiny(KINDS["real"])
    x = data(3).repeat(5000, 1)
    with torch.no_grad():
        _, bound = local_losses(model, x, Loops(), zoo.generator(1))
        plain = log_weights(model, data(3), num_samples=5000, generator=zoo.generator(2))
    error = 2**0.5 * float(plain.std(0).mean()) / (3 * 5000) ** 0.5
    assert abs(float(bound) - float(plain.mean())) < 5 * error


# Figure 3.


@torch.no_grad()
def inverse_pair(exactly: bool = True) -> AutoEncoderStack:
    """x — h_1 — h_2 — top, where g_2 inverts f_2 (both affine, square), and all are noise-free in what follows."""
    model = tiny((("linear", 3), ("linear", 3)), StandardGaussian(2), seed=8)
    f, g = model.encoders[1][0], model.decoders[1][0]
    g.weight.copy_(torch.linalg.inv(f.weight) * (1.0 if exactly else 1.1))
    g.bias.copy_(-g.weight @ f.bias)
    return model


def cost_of(model: AutoEncoderStack, h: Tensor, layer: int) -> Tensor:
    """A cost of h_2, seen from h_layer."""
    h_2 = model.up(2, h).mean if layer == 1 else h
    return torch.cosh(h_2 - torch.tensor([0.3, -0.8, 0.1], dtype=torch.float64)).sum(-1)


@pytest.mark.parametrize("exactly", [True, False])
@torch.no_grad()
def test_a_target_is_as_good_one_layer_below_where_layers_are_inverse(exactly: bool) -> None:
    model = inverse_pair(exactly)
    h_1 = torch.randn(5, 3, generator=zoo.generator(9), dtype=torch.float64)
    h_2 = model.up(2, h_1).mean
    target = h_2 - 0.1 * torch.sinh(h_2 - torch.tensor([0.3, -0.8, 0.1], dtype=torch.float64))
    below = model.down(2, target).mean
    gain_above = cost_of(model, h_2, 2) - cost_of(model, target, 2)
    gain_below = cost_of(model, h_1, 1) - cost_of(model, below, 1)
    assert (gain_above > 0).all()
    assert torch.allclose(gain_above, gain_below, rtol=1e-10) == exactly


@torch.no_grad()
def test_the_difference_correction_keeps_a_state_that_is_its_own_target() -> None:
    """Where ĥ_l = h_l the corrected target of h_{l−1} is h_{l−1}, also for decoders that invert nothing."""
    model = tiny((("tanh", 4), ("tanh", 3), ("tanh", 5)), seed=3)
    drawn = [data(), *model.encode(data()).draw(zoo.generator(0))]
    plain = reconstructions(model, drawn, Loops(reach="top", noise_free=True))
    corrected = reconstructions(model, drawn, Loops(reach="top", noise_free=True, difference=True))
    h = [data()]
    for layer in range(1, model.num_layers + 1):
        h.append(model.up(layer, h[-1]).mean)
    torch.testing.assert_close(corrected[3].mean, plain[3].mean)
    expected = h[2] + model.down(3, corrected[3].mean).mean - model.down(3, h[3]).mean
    torch.testing.assert_close(corrected[2].mean, expected)
    assert not torch.allclose(corrected[2].mean, plain[2].mean)


@torch.no_grad()
def test_the_long_loop_is_free_of_noise_where_asked() -> None:
    model = tiny(KINDS["real"])
    drawn = [[data(), *model.encode(data()).draw(zoo.generator(seed))] for seed in (0, 1)]
    clean = [reconstructions(model, each, Loops(reach="top", noise_free=True))[1].mean for each in drawn]
    noisy = [reconstructions(model, each, Loops(reach="top"))[1].mean for each in drawn]
    torch.testing.assert_close(*clean)
    assert not torch.allclose(*noisy)


# The priors of the top.


def score(prior, h: Tensor) -> Tensor:
    leaf = h.clone().requires_grad_()
    return torch.autograd.grad(prior.log_prob(leaf).sum(), leaf)[0]


def random_prior(prior, seed: int = 0):
    prior = prior.double()
    randoms = zoo.generator(seed)
    with torch.no_grad():
        for parameter in prior.parameters():
            parameter.normal_(0, 0.5, generator=randoms)
    return prior


def filled_parzen() -> Parzen:
    prior = random_prior(Parzen(3, 5))
    prior.remember(torch.randn(5, 3, generator=zoo.generator(1), dtype=torch.float64))
    return prior


def test_parzen_is_a_mixture_and_equation_21_its_gradient() -> None:
    prior = filled_parzen()
    h = torch.randn(7, 3, generator=zoo.generator(2), dtype=torch.float64)
    width = prior.log_bandwidth.exp().detach()
    windows = Independent(Normal(prior.templates, width.expand(5, 3)), 1)
    mixture = MixtureSameFamily(CategoricalDistribution(torch.ones(5, dtype=torch.float64)), windows)
    torch.testing.assert_close(prior.log_prob(h).detach(), mixture.log_prob(h))
    torch.testing.assert_close(((prior.target(h) - h) / width**2).detach(), score(prior, h))
    torch.testing.assert_close(prior.weights(h).sum(-1).detach(), torch.ones(7, dtype=torch.float64))


def test_equation_22_is_the_divergence_and_its_gradient() -> None:
    """Against the divergence of torch.distributions, and both gradients by autograd."""
    prior = random_prior(StandardGaussian(3))
    field = torch.randn(5, 3, generator=zoo.generator(3), dtype=torch.float64).requires_grad_()
    q = prior.layer.code(field)
    rate = prior.rate(q, field).sum()
    reference = torch.distributions.kl_divergence(
        Normal(q.mean, q.log_std.exp()), Normal(torch.zeros_like(q.mean), torch.ones_like(q.mean))
    ).sum()
    torch.testing.assert_close(rate, reference)
    for mine, other in zip(
        torch.autograd.grad(rate, (field, prior.layer.log_noise), retain_graph=True),
        torch.autograd.grad(reference, (field, prior.layer.log_noise)),
        strict=True,
    ):
        torch.testing.assert_close(mine, other)
    variance = prior.noise_variance.detach()
    torch.testing.assert_close(
        torch.autograd.grad(prior.rate(prior.layer.code(field), field).sum(), prior.layer.log_noise)[0],
        5 * (variance - 1),
    )


@torch.no_grad()
def test_the_factorial_rate_is_the_divergence_on_all_states() -> None:
    prior = random_prior(FactorialBernoulli(3))
    q = prior.layer.code(torch.tensor([[0.4, -1.1, 2.0]], dtype=torch.float64))
    h = prior.layer.unit.states(torch.arange(8)).double()
    log_q = prior.layer.code(q.field.expand(8, -1)).log_prob(h).sum(-1)
    exactly = (log_q.exp() * (log_q - prior.log_prob(h))).sum()
    assert float(prior.rate(q, h[:1]).sum()) == pytest.approx(float(exactly), abs=1e-12)
    assert float(prior.log_prob(h).exp().sum()) == pytest.approx(1, abs=1e-12)
    torch.testing.assert_close(prior.target(h)[0], prior.log_prob(h).exp() @ h)


def test_a_linear_denoiser_on_a_gaussian_moves_by_noise_variance_times_the_score() -> None:
    """Reconstruction − input = s² ∂ log N(h; μ, Σ + s²) at finite noise, Σ alone in the limit; not with noise on the loop."""
    prior = random_prior(FullGaussian(3))
    h = torch.randn(5, 3, generator=zoo.generator(4), dtype=torch.float64)
    covariance = (prior.scale @ prior.scale.T).detach()

    def move(variance: float, at: Tensor = h) -> Tensor:
        weight, bias, _ = prior.auto_encoder(variance)
        return (at @ weight.T + bias - at).detach() / variance

    def slope(variance: float) -> Tensor:
        noisy = covariance + variance * torch.eye(3, dtype=torch.float64)
        return -torch.linalg.solve(noisy, (h - prior.mean.detach()).T).T

    torch.testing.assert_close(move(0.7), slope(0.7))
    torch.testing.assert_close(move(1e-7), score(prior, h), rtol=1e-4, atol=1e-4)
    noise = torch.randn(h.shape, generator=zoo.generator(5), dtype=torch.float64)
    assert not torch.allclose(move(0.7, h + 0.7**0.5 * noise), slope(0.7), rtol=0.05)


def test_the_closed_form_is_the_best_denoiser() -> None:
    """E |W (h + s ξ) + b − h|² has no gradient at the auto-encoder of the prior, in closed form; it has beside it."""
    prior = random_prior(FullGaussian(3))
    covariance, mean = (prior.scale @ prior.scale.T).detach(), prior.mean.detach()
    weight, bias, _ = (value if isinstance(value, float) else value.detach() for value in prior.auto_encoder(0.7))

    def slopes(weight: Tensor, bias: Tensor) -> Tensor:
        weight, bias = weight.clone().requires_grad_(), bias.clone().requires_grad_()
        shrink = weight - torch.eye(3, dtype=torch.float64)
        error = torch.trace(shrink @ covariance @ shrink.T) + 0.7 * weight.square().sum()
        loss = error + (shrink @ mean + bias).square().sum()
        return torch.cat([g.flatten() for g in torch.autograd.grad(loss, (weight, bias))])

    assert slopes(weight, bias).abs().max() < 1e-12
    assert slopes(1.01 * weight, bias).abs().max() > 1e-3


def test_weights_and_covariance_both_ways() -> None:
    prior, other = random_prior(FullGaussian(3)), FullGaussian(3).double()
    other.set_from(prior.auto_encoder(0.7))
    torch.testing.assert_close(other.scale @ other.scale.T, prior.scale @ prior.scale.T)
    torch.testing.assert_close(other.mean, prior.mean)
    weight, bias, _ = prior.auto_encoder(0.7)
    with pytest.raises(BadInput, match="no Gaussian"):
        other.set_from(type(prior.auto_encoder(0.7))(2 * weight, bias, 0.7))


@pytest.mark.parametrize("prior", [StandardGaussian(3), FullGaussian(3), "parzen", FactorialBernoulli(3)])
def test_draws_follow_the_density(prior) -> None:
    """E over draws of the score is 0 (real), means match (binary)."""
    prior = filled_parzen() if prior == "parzen" else random_prior(prior)
    with torch.no_grad():
        h = prior.draw(20_000, zoo.generator(6))
    values = h - torch.sigmoid(prior.log_odds) if isinstance(prior, FactorialBernoulli) else score(prior, h)
    errors = values.std(0) / 20_000**0.5
    assert (values.mean(0).abs() < 5 * errors).all()


# The chain.


@torch.no_grad()
def transitions(model: AutoEncoderStack, layer: int) -> Tensor:
    """The matrix of the chain on h_layer of a discrete stack, from the tables of every P and Q."""
    units = [model.observed, *(model.layer(number).unit for number in range(1, model.num_layers + 1))]
    every = [unit.states(torch.arange(unit.num_states)).double() for unit in units]

    def table(factor, given: Tensor, then: Tensor) -> Tensor:
        rows = [factor(row[None].expand(len(then), -1)).log_prob(then).sum(-1) for row in given]
        return torch.stack(rows).exp()

    matrix = torch.eye(len(every[layer]), dtype=torch.float64)
    for at in range(layer + 1, model.num_layers + 1):
        matrix = matrix @ table(lambda h, at=at: model.up(at, h), every[at - 1], every[at])
    for at in range(model.num_layers, layer, -1):
        matrix = matrix @ table(lambda h, at=at: model.down(at, h), every[at], every[at - 1])
    return matrix


MARGINAL = torch.tensor([0.5, 0.2, 0.3], dtype=torch.float64)


def test_the_chain_keeps_the_data_where_decoders_are_posteriors() -> None:
    """On h_2 of a discrete stack: P(h_2 | top) ∝ Q(h_2) Q(top | h_2) leaves Q(h_2) as it is; a random decoder does not."""
    model = discrete()
    assert (MARGINAL @ transitions(model, 2) - MARGINAL).abs().max() > 1e-2
    h, top = model.layer(2).unit.states(torch.arange(3)).double(), model.layer(3).unit.states(torch.arange(4)).double()
    with torch.no_grad():
        up = torch.stack([model.up(3, row[None].expand(4, -1)).log_prob(top).sum(-1).exp() for row in h])
    posterior = MARGINAL[:, None] * up / (MARGINAL @ up)

    class Exact(torch.nn.Module):
        def forward(self, z: Tensor) -> Tensor:
            return posterior.T[(z * torch.tensor([1, 2])).sum(-1).long()].log()

    model.decoders[2] = Exact()
    assert (MARGINAL @ transitions(model, 2) - MARGINAL).abs().max() < 1e-12


def test_steps_of_the_chain_have_its_transition_matrix() -> None:
    model, num = discrete(), 30_000
    h = model.layer(2).unit.states(torch.arange(3)).double()
    ends = StackChain(model).step(h[:1].expand(num, -1), 2, zoo.generator(1)).argmax(-1)
    matrix = transitions(model, 2)
    assert zoo.accepted(zoo.chi_square(ends, matrix[0]))
    assert zoo.rejected(zoo.chi_square(ends, MARGINAL))


@torch.no_grad()
def test_corruption_and_reconstruction_are_a_step_of_the_chain_on_x() -> None:
    model, num = discrete(), 30_000
    chain, x = StackChain(model), model.observed.states(torch.tensor([5])).double().expand(num, -1)
    noisy = chain.corrupt(x, chain.corruption_noise(x, zoo.generator(1)))
    drawn = chain.draw(chain.reconstruct(noisy), chain.reconstruction_noise(x, zoo.generator(2)))
    matrix = transitions(model, 0)
    for ends in (drawn, chain.step(x, 0, zoo.generator(3))):
        number = (ends * torch.tensor([1, 2, 4])).sum(-1).long()
        assert zoo.accepted(zoo.chi_square(number, matrix[5]))
        assert zoo.rejected(zoo.chi_square(number, matrix[5].roll(1)))
    torch.testing.assert_close(noisy, chain.corrupt(x, chain.corruption_noise(x, zoo.generator(1))))


# Learning.


@pytest.mark.many_steps
@pytest.mark.parametrize("way", ["target", "algorithm1", "bound"])
def test_learning_raises_the_likelihood(way: str) -> None:
    pattern = torch.tensor([[1, 1, 1, 0, 0, 0, 1], [0, 0, 1, 1, 1, 0, 0], [1, 0, 0, 0, 1, 1, 1]], dtype=torch.float64)
    x = pattern[torch.randint(3, (300,), generator=zoo.generator(0))]
    x = (x + torch.bernoulli(torch.full_like(x, 0.05), generator=zoo.generator(1))) % 2
    model = AutoEncoderStack(Bernoulli(7), [StackLayer("tanh", 6), StackLayer("tanh", 4)], StandardGaussian(2))
    model.initialise_from_data(x.float())
    objective = {"target": target_propagation, "algorithm1": algorithm1, "bound": elbo}[way](model)
    before = importance_bound(model, x.float(), num_samples=50, generator=zoo.generator(2)).value
    settings = Settings(epochs=25, batch_size=50, optimizer="Adam", learning_rate=0.02, average=0.0, device="cpu")
    fit(model, objective, Examples(x.float()), settings)
    after = importance_bound(model, x.float(), num_samples=50, generator=zoo.generator(2)).value
    assert after > before + (0.5 if way == "algorithm1" else 1.0)


# Doors.


def test_bad_input_is_named() -> None:
    with pytest.raises(BadInput, match="one-hot:LEVELS"):
        StackLayer("spiking", 3)
    with pytest.raises(BadInput, match="do not fill"):
        StackLayer("one-hot:3", 4)
    with pytest.raises(BadInput, match="inner widths"):
        tiny(inner=(3,))
    with pytest.raises(BadInput, match="real units"):
        algorithm1(discrete())
    with pytest.raises(BadInput, match="give as many"):
        Parzen(3, 5).remember(torch.zeros(4, 3))
    with pytest.raises(BadInput, match="long loop"):
        Loops(difference=True)
    with pytest.raises(BadInput, match="real units"):
        target_propagation(discrete(), reach="top", difference=True)


def test_a_configuration_builds_the_stack_again() -> None:
    for model in (tiny(KINDS["mixed"], inner=(4, 0, 2)), tiny(prior=Parzen(2, 5)), tiny(observed=Gaussian(7))):
        again = AutoEncoderStack.from_config(model.config()).double()
        again.load_state_dict(model.state_dict())
        x = data()
        first, second = (each.recognise(x, generator=zoo.generator(1)) for each in (model, again))
        torch.testing.assert_close(first, second)
        assert again.config() == model.config()
