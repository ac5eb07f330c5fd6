"""Annealed Langevin dynamics: linear chains against their exact moments, and modes that plain Langevin cannot weigh."""

import math
import sys
from collections.abc import Callable
from statistics import NormalDist

import pytest
import torch
from torch import Tensor
from zoo import generator

from samplers.annealed_langevin import (
    annealed_langevin,
    best_step_size,
    geometric_noise_levels,
    run_levels,
    score_langevin,
    width_after_level,
)
from samplers.kernel import Kernel, run
from samplers.langevin import mala, ula
from samplers.observers import Trace

# A package that exports the function hides the module of that name.
MODULE = sys.modules["samplers.annealed_langevin"]
MEAN = torch.tensor([0.7, -1.3, 2.1], dtype=torch.float64)
WIDTH = torch.tensor([0.4, 0.9, 1.7], dtype=torch.float64)
START_MEAN, START_WIDTH = -0.5, 3.1
SIGMAS = geometric_noise_levels(2.9, 0.6, 3)
NUM_STEPS = 3
STEP_SIZE = 0.3
FALSE_ALARM = 1e-5


def gaussian_score(x: Tensor, sigma: float) -> Tensor:
    """∇ log p_σ of N(MEAN, WIDTH²)."""
    return (MEAN - x) / (WIDTH**2 + sigma**2)


Rule = Callable[[float], float]
RULES: dict[str, Rule] = {
    "right": lambda sigma: STEP_SIZE * sigma**2,
    "half of it": lambda sigma: STEP_SIZE * sigma**2 / 2,
    "the same at all levels": lambda sigma: STEP_SIZE * 0.6**2,
    "proportional to σ": lambda sigma: STEP_SIZE * sigma,
}
WRONG = list(RULES)[1:]


def exact_moments(rule: Rule, num_steps: int = NUM_STEPS) -> Tensor:
    """Mean and variance after every level, shape (levels, 2, 3): x' = x + h (MEAN − x) / v + √(2 h) ξ is linear in x."""
    mean, variance = torch.full_like(MEAN, START_MEAN), torch.full_like(MEAN, START_WIDTH**2)
    after = []
    for sigma in SIGMAS.tolist():
        kept = 1 - rule(sigma) / (WIDTH**2 + sigma**2)
        for _ in range(num_steps):
            mean, variance = MEAN + kept * (mean - MEAN), kept**2 * variance + 2 * rule(sigma)
        after.append(torch.stack([mean, variance]))
    return torch.stack(after)


def moments(x: Tensor) -> Tensor:
    return torch.stack([x.mean(0), x.var(0, correction=0)])


# Without chance: all patterns of signs as noise have mean 0, variance 1 and no correlation, exactly.


@pytest.fixture
def signs(monkeypatch: pytest.MonkeyPatch) -> Tensor:
    """The signs of the start, one for each of the chains that take every pattern of the others as their noise."""
    patterns = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0], dtype=torch.float64)] * (1 + len(SIGMAS) * NUM_STEPS))
    columns = iter(patterns.T)
    first = next(columns)[:, None]

    def scripted(*args) -> Kernel:
        return score_langevin(*args)._replace(noise=lambda x, _: next(columns)[:, None])

    monkeypatch.setattr(MODULE, "score_langevin", scripted)
    return first


def anneal(start: Tensor, score=gaussian_score, randoms: torch.Generator | None = None, **settings) -> Tensor:
    settings = {"step_size": STEP_SIZE, "num_steps": NUM_STEPS} | settings
    return annealed_langevin(score, start, SIGMAS, generator=randoms or generator(), **settings)


def test_moments_follow_their_recursion_exactly(signs: Tensor):
    seen: list[Tensor] = []
    start = START_MEAN + START_WIDTH * signs * torch.ones_like(MEAN)
    last = anneal(start, observe=lambda level, x: seen.append(moments(x)))
    measured = torch.stack(seen[1:])
    torch.testing.assert_close(seen[0], moments(start))
    torch.testing.assert_close(measured, exact_moments(RULES["right"]), rtol=1e-12, atol=1e-12)
    for name in WRONG:
        assert (measured - exact_moments(RULES[name])).abs().max() > 0.05
    kept = WIDTH**2 / (WIDTH**2 + 0.6**2)
    mean, variance = measured[-1]
    denoised = torch.stack([MEAN + kept * (mean - MEAN), kept**2 * variance])
    torch.testing.assert_close(moments(last), denoised, rtol=1e-12, atol=1e-12)


def test_the_width_after_a_level_is_that_of_the_chain(signs: Tensor):
    """A target of one point, and a start a whole ratio wider than the first level: after it, Var / σ² as the paper has it."""
    ratio = float(SIGMAS[0] / SIGMAS[1])
    seen: list[Tensor] = []
    anneal(
        ratio * SIGMAS[0] * signs, lambda x, sigma: -x / sigma**2, observe=lambda _, x: seen.append(x.var(correction=0))
    )
    width = width_after_level(STEP_SIZE, ratio, NUM_STEPS)
    assert float(seen[1] / SIGMAS[0] ** 2) == pytest.approx(width, rel=1e-12)
    assert width_after_level(STEP_SIZE, ratio, 0) == pytest.approx(ratio**2)


# Sampled.


def worst_z(measured: Tensor, exact: Tensor, num: int) -> float:
    """Means and variances of `num` independent Gaussians, in standard errors."""
    variance = exact[..., 1, :]
    errors = torch.stack([(variance / num).sqrt(), variance * math.sqrt(2 / num)], -2)
    return float(((measured - exact) / errors).abs().max())


def bound(num_tests: int) -> float:
    return NormalDist().inv_cdf(1 - FALSE_ALARM / (2 * num_tests))


def test_sampled_moments_are_the_exact_ones():
    """Means and variances of three sites after every level, and wrong step sizes against the same. False alarms: 1e-5."""
    num, seen = 100_000, []
    randoms = generator()
    start = START_MEAN + START_WIDTH * torch.randn(num, 3, generator=randoms, dtype=torch.float64)
    anneal(start, randoms=randoms, observe=lambda level, x: seen.append(moments(x)))
    measured = torch.stack(seen[1:])
    assert worst_z(measured, exact_moments(RULES["right"]), num) < bound(measured.numel())
    for name in WRONG:
        assert worst_z(measured, exact_moments(RULES[name]), num) > 2 * bound(measured.numel())


def test_adjusted_chains_have_no_bias():
    """p_σ of the last level, exactly for MALA and not without its adjustment. False alarms: 1e-5."""
    num, randoms, exact = 20_000, generator(), torch.stack([MEAN, WIDTH**2 + SIGMAS[-1] ** 2])
    start = START_MEAN + START_WIDTH * torch.randn(num, 3, generator=randoms, dtype=torch.float64)

    def energy(x: Tensor, sigma: float) -> Tensor:
        return ((x - MEAN).square() / (WIDTH**2 + sigma**2)).sum(-1) / 2

    def z(sampler: Callable[..., Kernel]) -> float:
        last = run_levels(
            lambda sigma: sampler(lambda x: energy(x, sigma), 1.1 * sigma**2), start, SIGMAS, 50, generator=randoms
        )
        return worst_z(moments(last), exact, num)

    assert z(mala) < bound(6)
    assert z(ula) > 2 * bound(6)


# Two modes.

WEIGHTS = (0.2, 0.8)
MODES = (-7.0, 9.0)
"""Along the first axis: 32 standard deviations apart."""
MODE_WIDTH = 0.5
LEVELS = geometric_noise_levels(20.0, 0.5, 16)
LEVEL_STEPS = 40
MODE_STEP = 0.15
BIAS = 0.015
"""Of the left mode's share, computed below: 0.214 instead of 0.2. It falls as levels get longer and steps smaller."""


def two_modes_score(x: Tensor, sigma: float) -> Tensor:
    """∇ log p_σ of the two Gaussians, the same in all other directions."""
    variance = MODE_WIDTH**2 + sigma**2
    pulls = [(mode - x[:, :1]) / variance for mode in MODES]
    log_odds = math.log(WEIGHTS[1] / WEIGHTS[0]) + (pulls[0] ** 2 - pulls[1] ** 2) * variance / 2
    right = torch.sigmoid(log_odds)
    along = right * pulls[1] + (1 - right) * pulls[0]
    return torch.cat([along, -x[:, 1:] / variance], 1)


def exact_left_share(num_steps: int = LEVEL_STEPS) -> float:
    """The probability of the left mode under the algorithm: its density propagated by sums over a grid, exact to 1e-7."""
    x = torch.linspace(-90, 90, 601, dtype=torch.float64)
    density = torch.softmax(-(x**2) / (2 * LEVELS[0] ** 2), 0)
    for sigma in LEVELS.tolist():
        step = MODE_STEP * sigma**2
        after = x + step * two_modes_score(x[:, None], sigma)[:, 0]
        transition = torch.softmax(-((x - after[:, None]) ** 2) / (4 * step), 1)
        for _ in range(num_steps):
            density = density @ transition
    return float(density[x < sum(MODES) / 2].sum())


def left_share(sigmas: Tensor, num_steps: int, num: int) -> float:
    randoms = generator()
    start = LEVELS[0] * torch.randn(num, 3, generator=randoms, dtype=torch.float64)
    x = annealed_langevin(two_modes_score, start, sigmas, step_size=MODE_STEP, num_steps=num_steps, generator=randoms)
    return float((x[:, 0] < sum(MODES) / 2).double().mean())


def test_modes_get_their_weights_where_plain_langevin_fails():
    """A share of 0.2 to within BIAS, and what is sampled within the error of 10,000 chains. False alarms: 1e-5."""
    num = 10_000
    exact, error = exact_left_share(), math.sqrt(WEIGHTS[0] * WEIGHTS[1] / num)
    assert abs(exact - WEIGHTS[0]) < BIAS < exact_left_share(LEVEL_STEPS // 4) - WEIGHTS[0]
    assert abs(left_share(LEVELS, LEVEL_STEPS, num) - exact) < bound(1) * error
    plain = left_share(LEVELS[-1:], LEVEL_STEPS * len(LEVELS), num)
    assert abs(plain - WEIGHTS[0]) > BIAS + 10 * bound(1) * error


# The choice of levels and steps.


@pytest.mark.parametrize(
    ("largest", "num_levels", "num_steps", "published"),
    [(50, 232, 5, 0.062), (90, 500, 5, 0.033), (190, 1086, 3, 0.018), (348, 2311, 3, 0.009)],
    ids=["CIFAR-10", "CelebA", "LSUN bedroom", "FFHQ"],
)
def test_the_best_step_sizes_are_the_published_ones(largest: float, num_levels: int, num_steps: int, published: float):
    """ε / σ² of Song and Ermon (2020), whose smallest level is 0.01, to the digits that they give."""
    sigmas = geometric_noise_levels(float(largest), 0.01, num_levels)
    ratio = float(sigmas[0] / sigmas[1])
    best = best_step_size(ratio, num_steps)
    assert round(best, 3) == published
    widths = [width_after_level(best + 0.001 * k, ratio, num_steps) for k in (-1, 0, 1)]
    assert 1 < widths[1] < min(widths[0], widths[2])


def test_noise_levels_are_geometric():
    sigmas = geometric_noise_levels(7.0, 0.3, 11)
    assert sigmas[0].item() == pytest.approx(7.0)
    assert sigmas[-1].item() == pytest.approx(0.3)
    torch.testing.assert_close(sigmas[1:] / sigmas[:-1], torch.full_like(sigmas[1:], (0.3 / 7.0) ** 0.1))
    for largest, smallest, num in ((1.0, 2.0, 3), (1.0, 0.0, 3), (2.0, 1.0, 1)):
        with pytest.raises(ValueError, match="fall"):
            geometric_noise_levels(largest, smallest, num)


# What the run promises.


def test_a_step_from_a_score_is_that_of_its_energy():
    """And every chain may have its own step size."""
    x = torch.randn(7, 3, generator=generator(1), dtype=torch.float64)
    steps = torch.linspace(0.1, 0.7, 7, dtype=torch.float64)[:, None]
    fresh = torch.randn(7, 3, generator=generator(2), dtype=torch.float64)
    kernel = ula(lambda x: ((x - MEAN) / WIDTH).square().sum(-1) / 2, steps)
    from_score, _ = score_langevin(lambda x: (MEAN - x) / WIDTH**2, steps).update(x, fresh)
    torch.testing.assert_close(from_score, kernel.update(kernel.init(x), fresh)[0].position, rtol=1e-12, atol=1e-12)


def test_each_level_starts_where_the_last_one_ended():
    """With kernels that keep their energy, which is another one at every level."""
    start = torch.randn(7, 3, generator=generator(1), dtype=torch.float64)

    def make_kernel(sigma: float) -> Kernel:
        return mala(lambda x: ((x - MEAN).square() / (WIDTH**2 + sigma**2)).sum(-1) / 2, 0.9 * sigma**2)

    last = run_levels(make_kernel, start, SIGMAS, 5, generator=generator())
    position, randoms = start, generator()
    for sigma in SIGMAS.tolist():
        position = run(make_kernel(sigma), position, 5, generator=randoms).position
    assert torch.equal(last, position)
    assert not torch.equal(last, start)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_observers_see_every_level_in_any_precision(dtype: torch.dtype):
    levels: list[int] = []
    trace, tracked = Trace(lambda x: x), []

    def track(numbers):
        for number in numbers:
            tracked.append(number)
            yield number

    def score(x: Tensor, sigma: float) -> Tensor:
        assert not torch.is_grad_enabled()
        return -x / (1 + sigma**2)

    start = torch.ones(7, 3, dtype=dtype)
    observe = (trace, lambda level, _: levels.append(level))
    last = anneal(start, score, observe=observe, track=track, denoise=False)
    assert last.dtype == dtype
    assert levels == trace.steps == [0, 1, 2, 3]
    assert tracked == [1, 2, 3]
    assert torch.equal(trace.stacked()[0], start.cpu())
    assert torch.equal(trace.stacked()[-1], last.cpu())
    sigma = float(SIGMAS[-1])
    assert torch.equal(anneal(start, score), last + sigma**2 * (-last / (1 + sigma**2)))


def test_noise_levels_must_fall():
    for sigmas in ([1.0, 1.0], [0.5, 1.0], [1.0, 0.0], [1.0, -1.0]):
        with pytest.raises(ValueError, match="positive and fall"):
            annealed_langevin(
                gaussian_score, MEAN[None], torch.tensor(sigmas), step_size=0.1, num_steps=1, generator=generator()
            )
