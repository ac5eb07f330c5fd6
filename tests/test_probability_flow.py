"""The likelihood by the probability flow against mixtures of normals, whose scores and densities are known."""

from __future__ import annotations

import math

import pytest
import torch
import zoo
from torch import Tensor
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from genmodels import BadInput
from genmodels.data.examples import Examples
from genmodels.fit import Settings, fit
from genmodels.likelihood.probability_flow import probability_flow
from genmodels.noise_conditional import NoiseConditionalDAE
from genmodels.objectives.noise_levels import noise_levels
from samplers import annealed_langevin, geometric_noise_levels

CENTRES = torch.tensor([[1.5, 0.5, -0.3], [-1.5, -1.0, 0.8]], dtype=torch.float64)
SHARE = torch.tensor([0.7, 0.3], dtype=torch.float64)
SMALL, LARGE = 0.1, 12.0


def smoothed(sigma: float) -> MixtureSameFamily:
    deviation = torch.full((2, 3), math.sqrt(0.4**2 + sigma**2), dtype=torch.float64)
    return MixtureSameFamily(Categorical(SHARE), Independent(Normal(CENTRES, deviation), 1))


def score(x: Tensor, sigma: float) -> Tensor:
    with torch.enable_grad():
        leaf = x if x.requires_grad else x.detach().requires_grad_()
        return torch.autograd.grad(smoothed(sigma).log_prob(leaf).sum(), leaf, create_graph=True)[0]


def rows(num: int) -> Tensor:
    with torch.random.fork_rng():
        torch.manual_seed(1 + zoo.seed_shift)
        return smoothed(SMALL).sample((num,))


def found(x: Tensor, score=score, **options):
    ends = {"smallest": SMALL, "largest": LARGE}
    return probability_flow(score, x, smoothed(LARGE).log_prob, **{**ends, "num_steps": 60, **options})


def test_with_the_exact_score_it_is_the_exact_density() -> None:
    x, exact = rows(11), smoothed(SMALL)
    estimate = found(x)
    assert abs(estimate.value - float(exact.log_prob(x).mean())) < 1e-4
    assert abs(found(x, lambda at, sigma: 0.97 * score(at, sigma)).value - float(exact.log_prob(x).mean())) > 0.01


def test_it_states_what_its_steps_leave() -> None:
    x = rows(11)
    truth = float(smoothed(SMALL).log_prob(x).mean())
    coarse, fine = found(x, num_steps=16), found(x, num_steps=32)
    assert abs(coarse.value - truth) > 4 * abs(fine.value - truth)
    assert 0.2 < abs(fine.diagnostics["discretisation"]) / abs(fine.value - truth) < 5


def test_random_probes_have_no_bias() -> None:
    x = rows(3)
    exact, random = found(x, num_steps=6), found(x, num_steps=6, num_probes=40, generator=zoo.generator(2))
    assert abs(random.value - exact.value) < 5 * random.std_error < 2
    assert random.std_error > 0


def test_an_untrained_network_is_a_normal_and_training_makes_it_the_data() -> None:
    data = rows(20_000).float()
    model = NoiseConditionalDAE(3, (48, 48), smallest=SMALL, largest=LARGE, generator=zoo.generator(3))
    model.initialise_from_data(data)
    spread = float(model.spread)

    def normal(sigma: float):
        return Independent(Normal(model.centre, math.hypot(spread, sigma)), 1).log_prob

    options = {"smallest": SMALL, "largest": LARGE, "num_steps": 30}
    x = data[:200]
    before = probability_flow(model.score, x, normal(LARGE), **options).value
    assert before == pytest.approx(float(normal(SMALL)(x).mean()), abs=1e-3)
    settings = Settings(epochs=20, batch_size=500, optimizer="Adam", learning_rate=0.01, average=0.98, device="cpu")
    fit(model, noise_levels(model), Examples(data), settings)
    # The data are the mixture at SMALL, so the model's density at SMALL is that of twice the variance of the noise.
    x = (data + SMALL * torch.randn(data.shape, generator=zoo.generator(4)))[:200]
    truth = float(smoothed(SMALL * math.sqrt(2)).log_prob(x.double()).mean())
    trained = probability_flow(model.requires_grad_(False).score, x, normal(LARGE), **options).value
    assert abs(trained - truth) < 0.1 < truth - before
    chains = annealed_langevin(
        model.score,
        LARGE * torch.randn(2000, 3, generator=zoo.generator(5)),
        geometric_noise_levels(LARGE, SMALL, 25),
        step_size=0.2,
        num_steps=5,
        generator=zoo.generator(6),
    )
    near = torch.cdist(chains.double(), CENTRES).argmin(1)
    assert abs(float((near == 0).double().mean()) - 0.7) < 0.08


def test_a_network_is_built_again_and_bad_input_named() -> None:
    model = NoiseConditionalDAE(3, (5,), smallest=0.1, largest=2.0, generator=zoo.generator(7))
    again = NoiseConditionalDAE.from_config(model.config())
    again.load_state_dict(model.state_dict())
    x = torch.ones(2, 3)
    assert torch.equal(model.score(x, 0.3), again.score(x, 0.3))
    with pytest.raises(BadInput, match="0 < smallest"):
        NoiseConditionalDAE(3, smallest=2.0, largest=1.0)
    for wrong, words in (({"smallest": 20.0}, "0 < smallest"), ({"num_steps": 7}, "must be even")):
        with pytest.raises(BadInput, match=words):
            found(rows(2), **wrong)
