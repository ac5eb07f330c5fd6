"""Annealing over latents against the closed-form evidence of a linear-Gaussian model and quadrature."""

# Layers of a network are reached into, which have wider types.
# pyright: reportAttributeAccessIssue=false, reportCallIssue=false, reportGeneralTypeIssues=false

from __future__ import annotations

import math
import sys

import pytest
import torch
import zoo
from torch import Tensor
from torch.distributions import MultivariateNormal

from genmodels import VAE, BadInput, Bernoulli, Gaussian
from genmodels.likelihood import Annealing, latent_ais, latent_bdmc
from genmodels.likelihood.latent_ais import LatentPath, Start, latent_log_weights

LOADING = torch.tensor([[1.1, -0.4, 0.9], [0.2, 0.8, -0.6]], dtype=torch.float64)
OFFSET = torch.tensor([0.3, -0.2, 0.5], dtype=torch.float64)
VARIANCE = 1.3
SHARP = 0.2
X = torch.tensor([[0.3, -1.2, 0.5], [1.9, 0.1, -0.4]], dtype=torch.float64)
COARSE = torch.tensor([0.0, 0.2, 0.6, 1.0], dtype=torch.float64)


@torch.no_grad()
def linear(variance: float = VARIANCE) -> VAE:
    """z ~ N(0, 1), x ~ N(OFFSET + z LOADING, variance), with an encoder that knows nothing: N(0.3, 0.8²) for every x."""
    model = VAE(Gaussian(3), latent=(2,), hidden=((),)).double()
    (encoder,), (decoder,) = model.encoders[0].network, model.decoder
    decoder.weight.copy_(LOADING.T)
    decoder.bias.copy_(OFFSET)
    encoder.weight.zero_()
    encoder.bias.copy_(torch.tensor([0.3, 0.3, math.log(0.8), math.log(0.8)]))
    model.observed.log_variance.fill_(math.log(variance))
    return model.requires_grad_(False)


def posterior(x: Tensor) -> MultivariateNormal:
    precision = torch.eye(2, dtype=torch.float64) + LOADING @ LOADING.T / VARIANCE
    mean = torch.linalg.solve(precision, LOADING @ (x - OFFSET).T / VARIANCE).T
    return MultivariateNormal(mean, precision_matrix=precision)


def evidence(x: Tensor, variance: float = VARIANCE) -> Tensor:
    return MultivariateNormal(OFFSET, LOADING.T @ LOADING + variance * torch.eye(3, dtype=torch.float64)).log_prob(x)


class Exact:
    """The posterior itself."""

    def __init__(self, x: Tensor):
        self.x, self.q = x, posterior(x)

    def draw(self, generator):
        noise = torch.randn(self.q.mean.shape, dtype=self.x.dtype, generator=generator)
        return ((self.q.mean + (self.q.scale_tril @ noise[..., None])[..., 0]),)

    def log_prob(self, z):
        return self.q.log_prob(z[0])

    def repeat(self, num):
        return Exact(self.x.repeat(num, 1))


class Mislabelled(Exact):
    """The posterior, its density given 5 % too small."""

    def log_prob(self, z):
        return super().log_prob(z) - 0.05

    def repeat(self, num):
        return Mislabelled(self.x.repeat(num, 1))


def starts(model: VAE) -> dict[str, Start]:
    return {"encoder": model.encode, "prior": lambda x: model.prior(len(x))}


def coarse() -> Annealing:
    """Three temperatures only, and steps that are often rejected: unbiasedness needs neither many nor good ones."""
    return Annealing(COARSE, torch.tensor([0.9, 0.5, 0.7], dtype=torch.float64), num_leapfrog=3)


def tune(model: VAE, x: Tensor, start: Start, num: int, seed: int) -> Annealing:
    """Few leapfrog steps are enough for two latents."""
    return Annealing.tune(model, x, start, num_temperatures=num, num_leapfrog=3, generator=zoo.generator(seed))


def test_from_the_posterior_itself_every_chain_gives_the_evidence():
    model = linear()
    for exact in (None, (posterior(X).mean,)):
        weights = latent_log_weights(model, X, Exact, coarse(), 5, generator=zoo.generator(), exact=exact)
        torch.testing.assert_close(weights, evidence(X).expand(5, -1), rtol=0, atol=1e-10)


@pytest.mark.parametrize("start", ["encoder", "prior"])
def test_weights_are_unbiased_forwards_and_inverse_weights_backwards(start: str):
    model, randoms, num = linear(), zoo.generator(1), 8000
    forward = latent_log_weights(model, X, starts(model)[start], coarse(), num, generator=randoms)
    ratio = torch.exp(forward - evidence(X))
    assert float(zoo.z_scores(ratio, 1.0).abs().max()) < 5.5
    assert float(zoo.z_scores(ratio, 1.2).abs().max()) > 7
    rows = X.repeat(num, 1)
    exact = Exact(rows).draw(randoms)[0]
    for moved, test in ((0.0, lambda z: z < 5.5), (2.0, lambda z: z > 7)):
        reverse = latent_log_weights(
            model, rows, starts(model)[start], coarse(), 1, generator=randoms, exact=(exact + moved,)
        )
        inverse = torch.exp(evidence(rows) - reverse[0]).view(num, -1)
        assert test(float(zoo.z_scores(inverse, 1.0).abs().max()))


def test_a_wrong_density_of_the_start_shows():
    weights = latent_log_weights(linear(), X, Mislabelled, coarse(), 3, generator=zoo.generator())
    assert float((weights - evidence(X)).abs().min()) > 0.04


def test_temperatures_bring_the_bound_to_the_evidence_and_simulation_brackets_it():
    model, exact = linear(SHARP), float(evidence(X, SHARP).mean())
    start = starts(model)["prior"]
    gaps = []
    for num, rows in ((2, 200), (50, 30)):
        annealing = tune(model, X, start, num, seed=2)
        found = latent_ais(model, X, start, annealing, num_chains=100, generator=zoo.generator(3))
        assert found.bound == "lower"
        assert found.value < exact + 5 * found.std_error
        both = latent_bdmc(model, start, annealing, num_rows=rows, num_chains=4, generator=zoo.generator(5))
        truth = float(evidence(model.sample(rows, generator=zoo.generator(5))[0], SHARP).mean())
        assert (both.lower.bound, both.upper.bound, both.gap.bound) == ("lower", "upper", "upper")
        assert both.gap.value == pytest.approx(both.upper.value - both.lower.value)
        assert both.lower.value - 5 * both.lower.std_error < truth < both.upper.value + 5 * both.upper.std_error
        gaps.append(both.gap)
    assert abs(found.value - exact) < 5 * found.std_error < 0.7
    assert gaps[0].value > 5 * gaps[0].std_error
    assert gaps[1].value > -5 * gaps[1].std_error
    assert gaps[1].value < 0.3 * gaps[0].value


def test_tuning_finds_steps_of_the_wanted_acceptance():
    model = linear()
    annealing = tune(model, X, model.encode, 150, seed=6)
    path = LatentPath(model, X.repeat(500, 1), model.encode, annealing, zoo.generator())
    state, accepted, randoms = path.state_of(Exact(X.repeat(500, 1)).draw(zoo.generator(7))), [], zoo.generator(8)
    for _ in range(20):
        step, info = path.kernel(1.0, float(annealing.step_sizes[-1])).step(path.at(state, 1.0), randoms)
        accepted.append(float(info["accept_prob"].mean()))
        state = path.state(step.position)
    assert 0.4 < sum(accepted) / 20 < 0.85


def test_a_deep_model_against_quadrature():
    """Bernoulli pixels and two stochastic layers of one latent each."""
    model = VAE(Bernoulli(5), latent=(1, 1), hidden=((3,), (2,))).double().requires_grad_(False)
    for parameter in model.parameters():
        parameter.normal_(0, 0.5, generator=zoo.generator(8))
    x = zoo.some_states(model.observed, 3)
    grid = torch.linspace(-12, 12, 241, dtype=torch.float64)
    z = torch.cartesian_prod(grid, grid)
    joint = [model.log_joint(row.expand(len(z), -1), (z[:, :1], z[:, 1:])) for row in x]
    exact = torch.stack(joint).logsumexp(1) + 2 * torch.log(grid[1] - grid[0])
    # An encoder that has learned nothing may be too narrow for the weights to have a variance; the prior never is.
    start = starts(model)["prior"]
    annealing = tune(model, x, start, 6, seed=9)
    weights = latent_log_weights(model, x, start, annealing, 2000, generator=zoo.generator(10))
    assert float(zoo.z_scores(torch.exp(weights - exact), 1.0).abs().max()) < 5.5
    assert float(zoo.z_scores(torch.exp(weights - exact), 1.2).abs().max()) > 7


def test_memory_is_bounded_and_the_parts_fit_together(monkeypatch: pytest.MonkeyPatch):
    model, x, sizes = linear(), X.repeat(5, 1), []
    monkeypatch.setattr(sys.modules[LatentPath.__module__], "MAX_CHAINS", 8)
    weights = latent_log_weights(model, x, Exact, coarse(), 3, generator=zoo.generator())
    torch.testing.assert_close(weights, evidence(x).expand(3, -1))
    weights = latent_log_weights(
        model, x, lambda rows: sizes.append(len(rows)) or Exact(rows), coarse(), 20, generator=zoo.generator()
    )
    torch.testing.assert_close(weights, evidence(x).expand(20, -1))
    assert max(sizes) == 8


def test_bad_input_is_named():
    model = linear()
    with pytest.raises(BadInput, match="at least one chain"):
        latent_ais(model, X, model.encode, coarse(), num_chains=0, generator=zoo.generator())
    with pytest.raises(BadInput, match="at least one temperature"):
        Annealing.tune(model, X, model.encode, num_temperatures=0, generator=zoo.generator())
    with pytest.raises(BadInput, match="at least 2 simulated rows"):
        latent_bdmc(model, model.encode, coarse(), num_rows=1, generator=zoo.generator())
