"""Langevin, Hamiltonian Monte Carlo and their warm-up: integrators and invariance without chance, then statistics.

A step is deterministic given its noise, so most of this needs no chance: the integrator run backwards, the acceptance
against textbook densities, and the invariance of a one-dimensional target by sums over states and noise. The statistical
tests start thousands of chains from exact draws, where every error of the invariant distribution is a drift.
"""

import math
import sys
from collections.abc import Callable
from itertools import pairwise
from statistics import NormalDist
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal
from zoo import generator

from samplers.adaptation import Moments, find_reasonable_step_size, learned_metric, warm_up
from samplers.hmc import PhaseState, at_rest, energy_and_gradient, hmc, leapfrog, metropolis
from samplers.kernel import Kernel, run
from samplers.langevin import PointState, adjusted_underdamped, at_point, mala, propose, ula, underdamped

# A package that exports the function hmc hides the module of that name.
HMC, LANGEVIN = (sys.modules[f"samplers.{name}"] for name in ("hmc", "langevin"))
METRIC = torch.tensor([0.6, 1.3, 2.1], dtype=torch.float64)
FRICTION = 0.7
FALSE_ALARM = 1e-4
SEED = 0
"""The chance in the statistical tests: they hold at any other, but for the false alarms."""

ALWAYS = torch.tensor(-1.0, dtype=torch.float64)
"""A number below every probability of acceptance, 0 among them."""

Make = Callable[..., Kernel]
"""make(energy, step_size, metric): step_size is a time, so overdamped steps are its square halved."""
ADJUSTED: dict[str, Make] = {
    "mala": lambda energy, time, metric: mala(energy, time**2 / 2, metric=metric),
    "hmc": lambda energy, time, metric: hmc(energy, time, 3, metric=metric),
    "persistent": lambda energy, time, metric: hmc(energy, time, 2, persistence=0.8, metric=metric),
    "underdamped": lambda energy, time, metric: adjusted_underdamped(energy, time, FRICTION, metric=metric),
}
UNADJUSTED: dict[str, Make] = {
    "ula": lambda energy, time, metric: ula(energy, time**2 / 2, metric=metric),
    "baoab": lambda energy, time, metric: underdamped(energy, time, FRICTION, metric=metric),
}


def uncorrected(energy: Any, time: float, metric: Any) -> Kernel:
    """MALA without the ratio of its proposals."""
    kernel = mala(energy, time**2 / 2, metric=metric)

    def update(state: PointState, noise: Any) -> Any:
        new = at_point(energy, propose(state, noise[0], time**2 / 2, metric))
        return metropolis(state, new, state.energy - new.energy, noise[1])

    return kernel._replace(update=update)


def unturned(energy: Any, time: float, metric: Any) -> Kernel:
    """The adjusted underdamped step whose rejected chains keep their direction."""
    kernel = adjusted_underdamped(energy, time, FRICTION, metric=metric)

    def update(state: PhaseState, noise: Any) -> Any:
        new, info = kernel.update(state, noise)
        turned = torch.where(noise[1] < info["accept_prob"], 1.0, -1.0)[:, None]
        return new._replace(momentum=turned * new.momentum), info

    return kernel._replace(update=update)


def limping(energy: Any, time: float, metric: Any) -> Kernel:
    """HMC that leaves out the last half kick, where leapfrog is replaced by this one."""
    return hmc(energy, time, 3, metric=metric)


def limp(
    energy: Any, state: PhaseState, step_size: Any, metric: Any, num_steps: int, gradient: Any = None
) -> PhaseState:
    end = leapfrog(energy, state, step_size, metric, num_steps, gradient)
    return end._replace(momentum=end.momentum + step_size * metric**0.5 / 2 * end.gradient)


WRONG: dict[str, Make] = {"uncorrected": uncorrected, "unturned": unturned, "limping": limping}


@pytest.fixture(params=WRONG)
def wrong(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Make:
    if request.param == "limping":
        monkeypatch.setattr(HMC, "leapfrog", limp)
    return WRONG[request.param]


def normals(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=generator(seed))


def close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-10)


def rough(x: Tensor) -> Tensor:
    """A random energy in three dimensions: coupled, skewed, quartic in the tails, its minimum not at 0."""
    coupled = x @ normals(3, 3, seed=1)
    return 0.3 * coupled.square().sum(-1) + 0.1 * (x - 0.4).pow(4).sum(-1) + torch.sin(x @ normals(3, seed=2))


def phase(num: int = 7) -> PhaseState:
    state = at_rest(rough, 0.5 + normals(num, 3))
    return state._replace(momentum=normals(num, 3, seed=3), moving=torch.ones_like(state.moving))


def flip(state: PhaseState) -> PhaseState:
    return state._replace(momentum=-state.momentum)


# The integrators.


def test_leapfrog_comes_back_when_the_momenta_are_negated():
    state, step = phase(), torch.linspace(0.05, 0.2, 7, dtype=torch.float64)[:, None]
    there = leapfrog(rough, state, step, METRIC, 11)
    assert (there.position - state.position).norm(dim=-1).min() > 0.1
    for actual, expected in zip(flip(leapfrog(rough, flip(there), step, METRIC, 11)), state, strict=True):
        close(actual, expected)


def test_baoab_comes_back_on_the_noise_that_undoes_its_refreshment():
    state, noise, half = phase(), normals(7, 3, seed=4), 0.1 * METRIC**0.5
    kernel, kept = underdamped(rough, 0.2, FRICTION, metric=METRIC), math.exp(-0.2 * FRICTION)
    there, _ = kernel.update(state, noise)
    before, after = state.momentum - half * state.gradient, there.momentum + half * there.gradient
    close(after, kept * before + math.sqrt(1 - kept**2) * noise)
    back, _ = kernel.update(flip(there), (kept * after - before) / math.sqrt(1 - kept**2))
    close(flip(back).position, state.position)
    close(flip(back).momentum, state.momentum)


def test_baoab_without_friction_is_leapfrog():
    there, _ = underdamped(rough, 0.2, 0.0, metric=METRIC).update(phase(), normals(7, 3, seed=4))
    for actual, expected in zip(there, leapfrog(rough, phase(), 0.2, METRIC, 1), strict=True):
        close(actual, expected)


def differentiable(energy: Any, position: Tensor) -> tuple[Tensor, Tensor]:
    with torch.enable_grad():
        value = energy(position)
        return value, torch.autograd.grad(value.sum(), position, create_graph=True)[0]


@pytest.mark.parametrize(
    ("kernel", "contraction"),
    [
        (hmc(rough, 0.2, 5, persistence=1.0, metric=METRIC), 1.0),
        (hmc(rough, 0.2, 5, persistence=0.8, metric=METRIC), 0.8),
        (adjusted_underdamped(rough, 0.2, FRICTION, metric=METRIC), math.exp(-0.2 * FRICTION)),
        (underdamped(rough, 0.2, FRICTION, metric=METRIC), math.exp(-0.2 * FRICTION)),
    ],
)
def test_a_step_changes_volume_by_its_friction_alone(
    kernel: Kernel, contraction: float, monkeypatch: pytest.MonkeyPatch
):
    fresh, start = normals(1, 3, seed=4), torch.cat([phase().position[0], phase().momentum[0]])
    for module in (HMC, LANGEVIN):
        monkeypatch.setattr(module, "energy_and_gradient", differentiable)
    zero = torch.zeros(1).double()
    noise = fresh if kernel.noise is LANGEVIN.normal else (fresh, zero, zero + 0.3)

    def move(both: Tensor) -> Tensor:
        state = at_rest(rough, both[None, :3])._replace(momentum=both[None, 3:], moving=zero + 1)
        there, _ = kernel.update(state, noise)
        return torch.cat([there.position, there.momentum], -1)[0]

    jacobian = torch.autograd.functional.jacobian(move, start)
    close(torch.linalg.det(jacobian), torch.tensor(contraction**3, dtype=torch.float64))


@pytest.mark.parametrize(("time", "order"), [(1.0, 2), (None, 3)])
def test_order_of_the_error_in_the_hamiltonian(time: float | None, order: int):
    """Second over a fixed time, third in one step."""
    state = phase(101)
    errors = []
    for step in (0.004, 0.002, 0.001):
        end = leapfrog(rough, state, step, METRIC, 1 if time is None else round(time / step))
        errors.append(float((HMC.hamiltonian(end) - HMC.hamiltonian(state)).abs().mean()))
    slopes = [math.log2(coarse / fine) for coarse, fine in pairwise(errors)]
    assert slopes == pytest.approx([order, order], abs=0.1)


# The acceptance, against textbook formulas in their own variables.


def test_mala_accepts_by_the_densities_of_its_proposals():
    num = 101
    step = torch.linspace(0.02, 0.2, num, dtype=torch.float64)[:, None]
    state, fresh = at_point(rough, 0.5 + normals(num, 3)), normals(num, 3, seed=3)
    kernel = mala(rough, step, metric=METRIC)
    new, info = kernel.update(state, (fresh, ALWAYS.expand(num)))

    def log_proposal(to: PointState, source: PointState) -> Tensor:
        mean = source.position - step * METRIC * energy_and_gradient(rough, source.position)[1]
        return Normal(mean, (2 * step * METRIC).sqrt()).log_prob(to.position).sum(-1)

    log_ratio = rough(state.position) - rough(new.position) + log_proposal(state, new) - log_proposal(new, state)
    close(info["accept_prob"], log_ratio.clamp(max=0).exp())
    assert info["accept_prob"].min() < 0.9 < info["accept_prob"].max()
    old, _ = kernel.update(state, (fresh, torch.ones(num).double()))
    close(old.position, state.position)


@pytest.mark.parametrize("persistence", [0.0, 0.8])
def test_hmc_is_the_textbook_in_momenta_with_a_mass(persistence: float):
    """Momenta q = p / √metric of mass 1 / metric: dx = metric q dt, dq = −∇U dt, H = U + qᵀ metric q / 2."""
    num = 101
    state, fresh, stretch = phase(num), normals(num, 3, seed=4), torch.linspace(0, 0.99, num).double()
    kernel = hmc(rough, 0.3, 3, jitter=0.3, persistence=persistence, metric=METRIC)
    step = 0.3 * (0.7 + 0.6 * stretch[:, None])
    start = (persistence * state.momentum + math.sqrt(1 - persistence**2) * fresh) / METRIC.sqrt()
    x, q = state.position, start
    for _ in range(3):
        q = q - step / 2 * energy_and_gradient(rough, x)[1]
        x = x + step * METRIC * q
        q = q - step / 2 * energy_and_gradient(rough, x)[1]
    before = rough(state.position) + (METRIC * start**2).sum(-1) / 2
    after = rough(x) + (METRIC * q**2).sum(-1) / 2

    new, info = kernel.update(state, (fresh, ALWAYS.expand(num), stretch))
    close(info["accept_prob"], (before - after).clamp(max=0).exp())
    close(new.position, x)
    close(new.momentum, q * METRIC.sqrt())
    assert info["accept_prob"].min() < 0.9 < info["accept_prob"].max()
    old, _ = kernel.update(state, (fresh, torch.ones(num).double(), stretch))
    close(old.position, state.position)
    close(old.momentum, -start * METRIC.sqrt())


def test_mala_is_hmc_of_one_leapfrog_step():
    state, fresh, accept = phase(), normals(7, 3, seed=4), torch.full((7,), 0.5).double()
    one, one_info = mala(rough, 0.4**2 / 2, metric=METRIC).update(at_point(rough, state.position), (fresh, accept))
    two, two_info = hmc(rough, 0.4, 1, jitter=0.0, metric=METRIC).update(state, (fresh, accept, accept))
    close(one.position, two.position)
    close(one_info["accept_prob"], two_info["accept_prob"])


# Invariance in one dimension, by sums over states and noise.


def bumpy(x: Tensor) -> Tensor:
    """A skewed energy in one dimension, of moderate curvature everywhere, so that a step is a smooth map."""
    return (0.4 * x.square() - 0.7 * x + 0.8 * torch.sin(1.5 * x)).sum(-1)


def drift(kernel: Kernel, *, moving: bool) -> Tensor:
    """E f(after one step) − E f(before), from states in equilibrium and over all noise, for several functions f.

    The trapezoid rule: exact to rounding for smooth updates, to about 1e-5 where the acceptance has its kink at 1. Chains
    that are not `moving` have positions in equilibrium, and no momentum yet.
    """
    momenta, noise = (torch.linspace(-6, 6, 61),) * 2 if moving else (torch.zeros(1), torch.linspace(-6, 6, 481))
    grids = torch.meshgrid(torch.linspace(-7, 9, 161), momenta, noise, indexing="ij")
    x, p, fresh = (grid.double().reshape(-1, 1) for grid in grids)
    flat = torch.zeros(len(x)).double()
    state = kernel.init(x)
    if moving:
        state = state._replace(momentum=p, moving=flat + 1)
    weight = torch.softmax(-bumpy(x) - (p.square() + fresh.square()).sum(-1) / 2, 0)

    def after(accept: float) -> tuple[Tensor, Tensor]:
        noise = (fresh, flat + accept, flat + 0.3) if isinstance(state, PhaseState) else (fresh, flat + accept)
        new, info = kernel.update(state, fresh if kernel.noise is LANGEVIN.normal else noise)
        return functions(new, moving), info.get("accept_prob", flat + 1)

    (moved, accept_prob), (stayed, _) = after(0.0), after(1.0)
    rate = accept_prob[:, None]
    return weight @ (rate * moved + (1 - rate) * stayed - functions(state, moving))


def functions(state: Any, moving: bool) -> Tensor:
    x = state.position
    parts = [x, x**2, torch.sin(2 * x)]
    if moving:
        p = state.momentum
        parts += [p, p**2, x * p, x**2 * p]
    return torch.cat(parts, -1)


@pytest.mark.parametrize(
    ("name", "moving"), [*((name, False) for name in ADJUSTED), ("persistent", True), ("underdamped", True)]
)
@pytest.mark.parametrize("time", [0.6, 1.1])
def test_adjusted_kernels_leave_the_target_invariant(name: str, moving: bool, time: float):
    assert drift(ADJUSTED[name](bumpy, time, 0.8), moving=moving).abs().max() < 5e-5


def test_wrong_kernels_do_not(wrong: Make):
    assert drift(wrong(bumpy, 1.1, 0.8), moving=wrong is unturned).abs().max() > 5e-3


@pytest.mark.parametrize(("name", "moving", "order"), [("ula", False, 4), ("baoab", False, 4), ("baoab", True, 3)])
def test_unadjusted_kernels_drift_by_the_order_of_their_step(name: str, moving: bool, order: int):
    """Per unit of time ULA is biased by O(time²) = O(step_size) and BAOAB by O(time²); a step of ULA lasts time² / 2.

    The first step of BAOAB is one of ULA.
    """
    kernels = [UNADJUSTED[name](bumpy, time, 0.8) for time in (0.1, 0.05, 0.025)]
    errors = [drift(kernel, moving=moving).abs().max() for kernel in kernels]
    assert [math.log2(coarse / fine) for coarse, fine in pairwise(errors)] == pytest.approx([order, order], abs=0.15)


# Statistics, from exact draws.


class Target(NamedTuple):
    """An energy, exact draws of it from standard normal numbers, and coordinates that lay its features open."""

    energy: Callable[[Tensor], Tensor]
    draw: Callable[[Tensor], Tensor]
    coordinates: Callable[[Tensor], Tensor]
    metric: Tensor
    time: float


def correlated_gaussian() -> Target:
    """Five dimensions, condition number 1000, in directions that no diagonal metric undoes."""
    axes = torch.linalg.qr(normals(5, 5, seed=5)).Q
    root = axes * (1.7 * torch.logspace(-1.5, 0, 5, dtype=torch.float64))
    mean, inverse = 0.5 + normals(5, seed=6), torch.linalg.inv(root).T

    def coordinates(x: Tensor) -> Tensor:
        return (x - mean) @ inverse

    def energy(x: Tensor) -> Tensor:
        return coordinates(x).square().sum(-1) / 2

    return Target(energy, lambda w: mean + w @ root.T, coordinates, root.square().sum(-1), 0.15)


def banana() -> Target:
    """A Gaussian of three dimensions bent along a parabola, at constant volume."""
    scale = torch.tensor([1.3, 0.6, 2.1], dtype=torch.float64)

    def bend(x: Tensor) -> Tensor:
        return torch.stack([torch.full_like(x[:, 0], 0.7), 0.5 * x[:, 0].square() - 0.9, 0.3 * x[:, 0]], -1)

    def draw(w: Tensor) -> Tensor:
        straight = w * scale + torch.tensor([0.7, 0.0, 0.0])
        return straight + bend(straight) * torch.tensor([0.0, 1.0, 1.0])

    def coordinates(x: Tensor) -> Tensor:
        return (x - bend(x)) / scale

    return Target(lambda x: coordinates(x).square().sum(-1) / 2, draw, coordinates, scale**2, 0.7)


def mixture() -> Target:
    """Two Gaussians of weights 0.3 and 0.7 in three dimensions, of different widths, that touch."""
    log_weight = torch.tensor([0.3, 0.7], dtype=torch.float64).log()
    means = torch.tensor([[-1.6, 0.4, 0.9], [1.1, -0.3, 0.2]], dtype=torch.float64)
    scales = torch.tensor([[0.7, 1.3, 0.4], [0.9, 0.6, 1.4]], dtype=torch.float64)

    def energy(x: Tensor) -> Tensor:
        log_parts = Normal(means, scales, validate_args=False).log_prob(x[:, None]).sum(-1)
        return -torch.logsumexp(log_weight + log_parts, -1)

    def draw(w: Tensor) -> Tensor:
        part = (torch.arange(len(w)) >= 0.3 * len(w)).long()
        return means[part] + scales[part] * w

    return Target(energy, draw, lambda x: x, scales[1] ** 2, 0.6)


TARGETS = {"gaussian": correlated_gaussian(), "banana": banana(), "mixture": mixture()}
NUM_CHAINS = 20_000


def features(target: Target, x: Tensor) -> Tensor:
    """Means, variances, correlations and the energy."""
    w = target.coordinates(x)
    row, column = torch.tril_indices(w.shape[1], w.shape[1])
    return torch.cat([w, w[:, row] * w[:, column], target.energy(x)[:, None]], -1)


def worst_z(target: Target, x: Tensor) -> tuple[float, float]:
    """The largest z-score of the chains' features against exact draws, and the bound it exceeds at rate FALSE_ALARM."""
    ours, exact = features(target, x), features(target, target.draw(normals(len(x), x.shape[1], seed=SEED + 2000)))
    z = (ours.mean(0) - exact.mean(0)) / ((ours.var(0) + exact.var(0)) / len(x)).sqrt()
    return float(z.abs().max()), NormalDist().inv_cdf(1 - FALSE_ALARM / (2 * z.numel()))


def from_equilibrium(make: Make, target: Target) -> tuple[float, float]:
    """Twenty steps of chains that start from exact draws."""
    start = target.draw(normals(NUM_CHAINS, len(target.metric), seed=SEED + 1000))
    kernel = make(target.energy, target.time, target.metric)
    return worst_z(target, run(kernel, start, 20, generator=generator(SEED)).position)


@pytest.mark.many_steps
@pytest.mark.parametrize("make", ADJUSTED.values(), ids=ADJUSTED)
@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
def test_chains_in_equilibrium_stay_there(target: Target, make: Make):
    z, bound = from_equilibrium(make, target)
    assert z < bound


def test_chains_of_wrong_kernels_leave_it(wrong: Make):
    z, bound = from_equilibrium(wrong, TARGETS["banana"])
    assert z > bound


@pytest.mark.parametrize("make", UNADJUSTED.values(), ids=UNADJUSTED)
def test_chains_of_unadjusted_kernels_leave_it(make: Make):
    z, bound = from_equilibrium(make, TARGETS["mixture"])
    assert z > bound


def stationary_covariance(kernel: Kernel, dim: int) -> Tensor:
    """The covariance Σ = A Σ Aᵀ + B Bᵀ that an affine step s' = A s + B ξ + c keeps; A, B and c are read off the step."""
    moves = isinstance(kernel.init(torch.zeros(1, dim).double()), PhaseState)
    size = 2 * dim if moves else dim
    inputs = torch.cat([torch.zeros(1, size + dim), torch.eye(size + dim)]).double()
    state = kernel.init(inputs[:, :dim])
    if moves:
        state = state._replace(momentum=inputs[:, dim:size], moving=torch.ones(len(inputs)).double())
    new, _ = kernel.update(state, inputs[:, size:])
    outputs = torch.cat([new.position, new.momentum], -1) if moves else new.position
    both = (outputs[1:] - outputs[0]).T
    step, noise = both[:, :size], both[:, size:]
    system = torch.eye(size**2).double() - torch.kron(step, step)
    return torch.linalg.solve(system, (noise @ noise.T).reshape(-1)).reshape(size, size)


def test_bias_of_unadjusted_kernels_on_a_gaussian():
    """ULA: Σ = (P − h P G P / 2)⁻¹ for precision P, metric G and step size h. BAOAB: the right Σ of the positions."""
    root = normals(3, 3, seed=7)
    precision = root @ root.T + torch.eye(3)

    def energy(x: Tensor) -> Tensor:
        return ((x - 0.4) * ((x - 0.4) @ precision)).sum(-1) / 2

    for step in (0.02, 0.06):
        biased = torch.linalg.inv(precision - step / 2 * precision @ METRIC.diag() @ precision)
        close(stationary_covariance(ula(energy, step, metric=METRIC), 3), biased)
        exact = stationary_covariance(underdamped(energy, step * 5, FRICTION, metric=METRIC), 3)[:3, :3]
        close(exact, torch.linalg.inv(precision))


# Warm-up.

VARIANCES = torch.tensor([0.02, 0.3, 5.0, 30.0, 200.0], dtype=torch.float64)


def badly_scaled(x: Tensor) -> Tensor:
    return ((x - 3 * VARIANCES.sqrt()).square() / VARIANCES).sum(-1) / 2


TUNED: dict[str, tuple[Callable[[float, Tensor], Kernel], float]] = {
    "mala": (lambda step_size, metric: mala(badly_scaled, step_size, metric=metric), 0.574),
    "hmc": (lambda step_size, metric: hmc(badly_scaled, step_size, 5, metric=metric), 0.8),
}


@pytest.mark.many_steps
@pytest.mark.parametrize("name", TUNED)
@pytest.mark.parametrize(("num_chains", "num_steps", "within", "factor"), [(1, 2000, 0.1, 2.5), (500, 400, 0.03, 1.4)])
def test_warm_up_finds_the_acceptance_and_the_variances(
    name: str, num_chains: int, num_steps: int, within: float, factor: float
):
    (make_kernel, target), randoms = TUNED[name], generator(SEED)
    start = torch.zeros(num_chains, 5).double()
    tuned = warm_up(make_kernel, start, num_steps, target_accept=target, generator=randoms)
    state, rates = tuned.state, []
    for _ in range(1000 // num_chains + 10):
        state, info = tuned.kernel.step(state, randoms)
        rates.append(float(info["accept_prob"].mean()))
    assert sum(rates) / len(rates) == pytest.approx(target, abs=within)
    assert (tuned.metric / VARIANCES).log().abs().max() < math.log(factor)


@pytest.mark.many_steps
def test_chains_from_a_wrong_start_find_the_target():
    target, randoms = TARGETS["gaussian"], generator(SEED)

    def make_kernel(step_size: float, metric: Tensor) -> Kernel:
        return hmc(target.energy, step_size, 7, metric=metric)

    start = torch.full((2000, 5), 30.0).double()
    tuned = warm_up(make_kernel, start, 100, target_accept=0.8, generator=randoms)
    z, bound = worst_z(target, run(tuned.kernel, start, 10, generator=randoms).position)
    assert z > bound
    z, bound = worst_z(target, run(tuned.kernel, tuned.state, 300, generator=randoms).position)
    assert z < bound


def test_the_reasonable_step_size_is_where_acceptance_crosses_one_half():
    start, metric = target_draws(501), torch.ones(5).double()
    for first in (1e-5, 1e3):
        step = find_reasonable_step_size(TUNED["hmc"][0], start, metric, generator=generator(), step_size=first)
        rates = []
        for size in (step / 2, step, step * 2):
            kernel = TUNED["hmc"][0](size, metric)
            state = kernel.init(start)
            rates.append(float(kernel.update(state, kernel.noise(state, generator()))[1]["accept_prob"].mean()))
        assert rates[0] > 0.5 > rates[2]


def target_draws(num: int) -> Tensor:
    return VARIANCES.sqrt() * (3 + normals(num, 5))


def test_moments_are_those_of_all_that_was_seen():
    x = 1e4 + normals(31, 3)
    moments = Moments.empty(x[0]).add(x[:1]).add(x[1:8]).add(x[8:])
    assert moments.num == 31
    close(moments.mean, x.mean(0))
    close(moments.squares / 30, x.var(0))


def test_the_metric_changes_with_the_units_and_stays_where_nothing_moved():
    x, units = normals(11, 3) * torch.tensor([1.0, 7.0, 0.0]), torch.tensor([0.1, 5.0, 3.0]).double()
    plain = learned_metric(Moments.empty(METRIC).add(x), METRIC)
    scaled = learned_metric(Moments.empty(METRIC).add(x * units), METRIC * units**2)
    close(scaled, plain * units**2)
    close(plain[2], METRIC[2])
    assert ((plain > torch.minimum(x.var(0), METRIC)) & (plain < torch.maximum(x.var(0), METRIC)))[:2].all()


def test_warm_up_refuses_what_it_cannot_tune():
    start = target_draws(7)
    with pytest.raises(ValueError, match="an adjusted one"):
        warm_up(lambda h, g: ula(badly_scaled, h, metric=g), start, 10, target_accept=0.5, generator=generator())
    with pytest.raises(ValueError, match="finite"):
        warm_up(TUNED["hmc"][0], start * math.inf, 10, target_accept=0.5, generator=generator())


# What every kernel promises.

ALL = {**ADJUSTED, **UNADJUSTED}


@pytest.fixture(params=ALL)
def make(request: pytest.FixtureRequest) -> Make:
    return ALL[request.param]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_runs_continue_bit_for_bit_in_any_precision(make: Make, dtype: torch.dtype):
    def energy(x: Tensor) -> Tensor:
        # Its curvature is bounded: unadjusted chains diverge on steeper ones, and NaN equals nothing.
        return (x - 0.7).square().sum(-1) + torch.sin(x).sum(-1)

    kernel, start, randoms = make(energy, 0.3, METRIC.to(dtype)), normals(7, 3).to(dtype), generator()
    whole = run(kernel, start, 11, generator=generator())
    parts = run(kernel, run(kernel, start, 4, generator=randoms), 7, generator=randoms)
    for one, two in zip(whole, parts, strict=True):
        assert one.dtype == dtype
        assert torch.equal(one, two)


def test_every_chain_may_have_its_own_step_size(make: Make):
    steps, x = torch.tensor([[0.1], [0.3], [0.7]]).double(), 0.5 + normals(3, 3)
    kernel = make(rough, steps, METRIC)
    noise = kernel.noise(kernel.init(x), generator())
    together = kernel.update(kernel.init(x), noise)[0]
    for chain, step in enumerate(steps[:, 0].tolist()):
        alone = make(rough, step, METRIC)
        own = noise[chain, None] if isinstance(noise, Tensor) else tuple(part[chain, None] for part in noise)
        for one, all_of_them in zip(alone.update(alone.init(x[chain, None]), own)[0], together, strict=True):
            close(one, all_of_them[chain, None])


WALLS: dict[str, Callable[[Tensor], Tensor]] = {
    "infinite": lambda x: torch.where(x > 0, 0.0, math.inf),
    "bottomless": lambda x: torch.where(x > 0, 0.0, -math.inf),
    "undefined": lambda x: x.sqrt(),
}


@pytest.mark.parametrize("wall", WALLS.values(), ids=WALLS)
@pytest.mark.parametrize("name", ADJUSTED)
def test_no_chain_goes_where_the_energy_is_not_finite(name: str, wall: Callable[[Tensor], Tensor]):
    start = normals(501, 3).abs()
    kernel = ADJUSTED[name](lambda x: x.square().sum(-1) + wall(x[:, 0]), 0.3, METRIC)
    state = run(kernel, start, 20, generator=generator())
    _, info = kernel.step(state, generator())
    assert all(part.isfinite().all() for part in (*state, info["accept_prob"]))
    assert state.position[:, 0].min() > 0
    assert (state.position != start).any(-1).double().mean() > 0.5


def test_an_energy_of_the_wrong_shape_is_refused():
    with pytest.raises(ValueError, match=r"shape \(7,\), not \(7, 1\)"):
        mala(lambda x: x.square().sum(-1, keepdim=True), 0.1).init(normals(7, 3))
