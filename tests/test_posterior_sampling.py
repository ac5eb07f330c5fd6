"""Maximum likelihood by posterior sampling against the closed form of Gaussian codes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from genmodels.data.examples import Examples
from genmodels.errors import BadInput
from genmodels.fit import Settings, fit
from genmodels.objectives import posterior_sampling
from genmodels.priors import ExponentialPrior, GaussianPrior, LaplacePrior
from genmodels.sparse_coding import SparseCoding
from genmodels.units import Gaussian
from tests import zoo


def tiny(prior: type = GaussianPrior, seed: int = 0) -> SparseCoding:
    randoms = zoo.generator(seed)
    model = SparseCoding(Gaussian(5, variance=0.4), prior(3, scale=0.8), generator=randoms)
    with torch.no_grad():
        model.visible_bias.normal_(0, 0.5, generator=randoms)
        model.factors.log_scale.add_(0.2 * torch.randn(3, generator=randoms))
    return model


def test_the_linear_code_is_the_posterior_mean_of_a_gaussian_prior():
    model = tiny().double()
    x = model.sample(7, generator=zoo.generator(1))[0]
    torch.testing.assert_close(model.linear_code(x), model.infer(x).z[0], rtol=0, atol=1e-10)


def gradients(model: SparseCoding, value: Tensor) -> Tensor:
    names = ("dictionary", "visible_bias", "observed.log_variance", "factors.log_scale")
    found = torch.autograd.grad(value, [model.get_parameter(name) for name in names])
    return torch.cat([g.flatten() for g in found])


@pytest.mark.many_steps
def test_its_mean_gradient_is_that_of_the_evidence():
    model = tiny().double()
    x = model.sample(3, generator=zoo.generator(1))[0].repeat(200, 1)
    expected = gradients(model, -model.log_evidence(x).mean())
    objective, randoms = posterior_sampling(model, num_steps=10, num_leapfrog=5), zoo.generator(2)
    state, found, accepted = objective.init(x, randoms), [], 0.0
    for step in range(40):
        loss, state, metrics = objective.step(x, state, randoms)
        if step >= 10:
            found.append(gradients(model, loss))
            accepted = float(metrics["accept_prob"])
    assert 0.5 < accepted < 0.99
    draws = torch.stack(found)
    z_score = (draws.mean(0) - expected) / (draws.std(0) / len(draws) ** 0.5)
    assert float(z_score.abs().max()) < 6
    # The most probable code alone leaves out what the posterior's width adds.
    at_mode = gradients(model, model.energy(x, (model.infer(x).z[0],)).mean())
    assert float(((draws.mean(0) - at_mode) / (draws.std(0) / len(draws) ** 0.5)).abs().max()) > 20


@pytest.mark.many_steps
def test_learning_reaches_the_likelihood_of_the_truth():
    truth, model = tiny(seed=5), tiny(seed=9)
    x = truth.sample(1000, generator=zoo.generator(6))[0]
    before = float(model.log_evidence(x).detach().mean())
    settings = Settings(epochs=12, batch_size=100, optimizer="Adam", learning_rate=0.03, average=0.0, device="cpu")
    fit(model, posterior_sampling(model, num_steps=6, num_leapfrog=4), Examples(x), settings)
    after, best = (float(m.log_evidence(x).detach().mean()) for m in (model, truth))
    assert before < best - 0.3
    assert after > best - 0.05


def test_bad_input_is_named():
    with pytest.raises(BadInput, match="symmetric prior"):
        posterior_sampling(tiny(ExponentialPrior))
    with pytest.raises(BadInput, match="at least one step"):
        posterior_sampling(tiny(LaplacePrior), num_steps=0)
