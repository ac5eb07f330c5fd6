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
from genmodels.dequantisation import bits_per_dimension, dequantised, log_probability
from genmodels.fit import Settings, fit
from genmodels.likelihood.estimate import Estimate
from genmodels.likelihood.probability_flow import flow_draws, probability_flow
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
    model = NoiseConditionalDAE(3, 48, 1, smallest=SMALL, largest=LARGE, generator=zoo.generator(3))
    model.initialise_from_data(data)
    spread = float(model.spread)

    def normal(sigma: float):
        return Independent(Normal(model.centre, math.hypot(spread, sigma)), 1).log_prob

    torch.testing.assert_close(model.base(data[:5]).float(), normal(LARGE)(data[:5]))
    options = {"smallest": SMALL, "largest": LARGE, "num_steps": 30}
    x = data[:200]
    before = probability_flow(model.score, x, model.base, **options).value
    assert before == pytest.approx(float(normal(SMALL)(x).mean()), abs=1e-3)
    settings = Settings(epochs=20, batch_size=500, optimizer="Adam", learning_rate=0.01, average=0.98, device="cpu")
    fit(model, noise_levels(model), Examples(data), settings)
    # The data are the mixture at SMALL, so the model's density at SMALL is that of twice the variance of the noise.
    x = (data + SMALL * torch.randn(data.shape, generator=zoo.generator(4)))[:200]
    truth = float(smoothed(SMALL * math.sqrt(2)).log_prob(x.double()).mean())
    trained = probability_flow(model.requires_grad_(False).score, x, model.base, **options).value
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


def test_the_flow_leads_draws_of_its_base_to_draws_of_the_density() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(8 + zoo.seed_shift)
        start = smoothed(LARGE).sample((4000,))
    x = flow_draws(score, start, smallest=SMALL, largest=LARGE, num_steps=40)
    near = (torch.cdist(x, CENTRES).argmin(1) == 0).double()
    expected = float((torch.cdist(rows(200_000), CENTRES).argmin(1) == 0).double().mean())
    assert abs(float(zoo.z_scores(near, expected))) < 5
    standard = (x[near > 0] - CENTRES[0]) / math.sqrt(0.4**2 + SMALL**2)
    assert abs(float(standard.square().mean()) - 1) < 0.08
    # A score that is a twentieth too small leaves draws that are too wide.
    wide = flow_draws(lambda at, sigma: 0.95 * score(at, sigma), start, smallest=SMALL, largest=LARGE, num_steps=40)
    near = torch.cdist(wide, CENTRES).argmin(1) == 0
    assert float(((wide[near] - CENTRES[0]) / math.sqrt(0.4**2 + SMALL**2)).square().mean()) > 1.2


def test_a_site_is_led_back_to_its_atom() -> None:
    model = NoiseConditionalDAE(3, 4, smallest=0.01, largest=2.0, atoms=(0.25,), generator=zoo.generator(9))
    model.network.last[0].bias.data[3:] = 1.0  # pyright: ignore
    near, far = torch.tensor([[0.26, 0.24, 0.251]]), torch.tensor([[0.6, -0.2, 0.9]])
    assert float((model.reconstruct(near, 0.02) - 0.25).abs().max()) < 0.002
    assert float((model.reconstruct(far, 0.02) - far).abs().max()) < 0.002


def test_dequantised_levels_cost_what_their_bins_hold() -> None:
    """Levels of one site from a density that is constant in each bin: the bound is their entropy."""
    share = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    levels = torch.multinomial(share, 50_000, replacement=True, generator=zoo.generator(10))
    x = dequantised(levels[:, None].double() / 2, 3, zoo.generator(11))
    assert torch.equal((x * 3).floor().long().squeeze(1), levels)
    assert 0.325 < float(((x * 3) % 1).var()) * 4 < 0.342
    log_density = torch.log(3 * share[(x[:, 0] * 3).long()])
    found = Estimate(float(log_density.mean()), 0.3, "none", "known", 1)
    bits = bits_per_dimension(found, 1, 3)
    exact = -share @ share.log2()
    assert bits.value == pytest.approx(float(exact), abs=0.01)
    assert (bits.bound, bits.std_error) == ("upper", pytest.approx(0.3 / math.log(2)))
    assert log_probability(found, 1, 3).value == pytest.approx(-bits.value * math.log(2))
    assert log_probability(found, 1, 3).bound == "lower"
    with pytest.raises(BadInput, match="at least 2"):
        dequantised(x, 1, zoo.generator())
    with pytest.raises(BadInput, match="from 0 to 1"):
        dequantised(x + 1, 3, zoo.generator())


def test_clamped_chains_keep_what_is_held_and_hear_of_it() -> None:
    held = torch.tensor([True, False, False])
    for values, other in ((CENTRES[0], CENTRES[1]), (CENTRES[1], CENTRES[0])):
        x = annealed_langevin(
            score,
            LARGE * torch.randn(500, 3, dtype=torch.float64, generator=zoo.generator(12)),
            geometric_noise_levels(LARGE, SMALL, 20),
            step_size=0.2,
            num_steps=5,
            generator=zoo.generator(13),
            clamp=(held, values),
        )
        assert bool((x[:, 0] == values[0]).all())
        closer = torch.cdist(x[:, 1:], values[None, 1:]) < torch.cdist(x[:, 1:], other[None, 1:])
        assert float(closer.double().mean()) > 0.9


def test_a_network_is_built_again_and_bad_input_named() -> None:
    model = NoiseConditionalDAE(3, 5, smallest=0.1, largest=2.0, atoms=(0.0, 1.0), levels=3, generator=zoo.generator(7))
    again = NoiseConditionalDAE.from_config(model.config())
    again.load_state_dict(model.state_dict())
    x = torch.ones(2, 3)
    assert torch.equal(model.score(x, 0.3), again.score(x, 0.3))
    with pytest.raises(BadInput, match="at least 2"):
        NoiseConditionalDAE(3, smallest=0.1, largest=1.0, levels=1)
    with pytest.raises(BadInput, match="0 < smallest"):
        NoiseConditionalDAE(3, smallest=2.0, largest=1.0)
    for wrong, words in (({"smallest": 20.0}, "0 < smallest"), ({"num_steps": 7}, "must be even")):
        with pytest.raises(BadInput, match=words):
            found(rows(2), **wrong)
