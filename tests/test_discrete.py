"""Gibbs with gradients and the discrete Langevin proposal: exact transition matrices of the real updates."""

import math
from collections.abc import Callable
from itertools import product
from typing import NamedTuple

import pytest
import torch
from torch import Tensor
from zoo import accepted, chi_square, generator, number, rejected

from samplers import run
from samplers.discrete import Binary, EverySite, OneChange, OneHot, dmala, gibbs_with_gradients, metropolis_hastings
from samplers.hmc import Energy
from samplers.kernel import Kernel
from samplers.langevin import PointState

SEEDS = (0,)
NUM_CHAINS = 100_000
BETA = 1.3
STEP_SIZE = 0.7
SPACES = {"binary": (7, None), "one-hot": (3, 5), "one-hot of two levels": (5, 2)}
SMALL_SPACES = {"binary": (5, None), "one-hot": (3, 3)}
METHODS = ("gibbs_with_gradients", "dmala")
ENERGIES = ("quadratic", "network")
CASES = tuple(product(METHODS, SPACES, ENERGIES))
SMALL_CASES = tuple(product(METHODS, SMALL_SPACES, ENERGIES))


@pytest.fixture(params=SEEDS)
def seed(request: pytest.FixtureRequest) -> int:
    return request.param


def all_states(sites: int, levels: int | None) -> Tensor:
    """Every position of a space, its first site running slowest."""
    level = torch.cartesian_prod(*[torch.arange(levels or 2)] * sites)
    return level.double() if levels is None else torch.nn.functional.one_hot(level, levels).flatten(1).double()


def random_energy(kind: str, width: int, seed: int = 0) -> Energy:
    """A random field and couplings; or a random field and a network, which no second-order expansion gets right."""
    randoms = generator(seed)
    field = torch.randn(width, generator=randoms, dtype=torch.float64)
    weight = torch.randn(width, 11, generator=randoms, dtype=torch.float64)
    if kind == "quadratic":
        return lambda x: BETA * (x @ field + 0.2 * (x @ weight).square().sum(-1) / width)
    return lambda x: BETA * (x @ field + 1.5 * torch.tanh(x @ weight - 0.5).sum(-1))


def make(method: str, energy: Energy, levels: int | None, step_size: float | Tensor = STEP_SIZE) -> Kernel:
    return (
        gibbs_with_gradients(energy, levels=levels) if method == METHODS[0] else dmala(energy, step_size, levels=levels)
    )


def without_correction(method: str, energy: Energy, levels: int | None) -> Kernel:
    """Accepts on energies alone, as if proposals were symmetric."""

    class Uncorrected(OneChange):
        def log_prob(self, gains, moves):
            return gains.new_zeros(len(gains))

    class UncorrectedSites(EverySite):
        def log_prob(self, gains, moves):
            return gains.new_zeros(len(gains))

    sites = Binary() if levels is None else OneHot(levels)
    proposal = Uncorrected() if method == METHODS[0] else UncorrectedSites(STEP_SIZE, sites.squared_distance)
    return metropolis_hastings(energy, sites, proposal)


class Chain(NamedTuple):
    """The exact probabilities of all states of a space, and the transition matrix of the real update."""

    target: Tensor
    transition: Tensor


def proposal_matrix(method: str, energy: Energy, x: Tensor, levels: int | None) -> Tensor:
    """q(y | x) as the papers define it, normalised by summing over all of the space or all neighbours in it."""
    gradient = -energy_gradient(energy, x)
    difference = x[None] - x[:, None]
    squared = difference.square().sum(-1)
    logits = (gradient[:, None] * difference).sum(-1) / 2
    if method == METHODS[0]:
        return logits.masked_fill(squared != (1 if levels is None else 2), -math.inf).softmax(-1)
    return (logits - squared / (2 * STEP_SIZE)).softmax(-1)


def energy_gradient(energy: Energy, x: Tensor) -> Tensor:
    leaf = x.clone().requires_grad_()
    return torch.autograd.grad(energy(leaf).sum(), leaf)[0]


def noise_towards(method: str, state: PointState, y: Tensor, levels: int | None) -> Tensor:
    """Noise with which the proposal is y: what it draws from it is checked by the caller."""
    sites = Binary() if levels is None else OneHot(levels)
    moves = sites.moves(state.position, y)
    if method == METHODS[0]:
        return 0.5 * moves.double()
    log_stay_and_go = torch.nn.functional.pad(
        sites.gains(state) / 2 - sites.squared_distance / (2 * STEP_SIZE), (0, 0, 1, 0)
    )
    probability = log_stay_and_go.softmax(1)
    upper = probability[:, 1:].cumsum(1)
    inside = (moves * (upper - probability[:, 1:] / 2)).sum(1)
    return torch.where(moves.any(1), inside, 1 - probability[:, 0] / 2)


def transition_matrix(method: str, kernel: Kernel, energy: Energy, x: Tensor, levels: int | None) -> Chain:
    """q times the acceptance probability that the real update reports when its noise leads to each y; the rest stays."""
    proposal = proposal_matrix(method, energy, x, levels)
    start, end = proposal.nonzero().T
    state = kernel.init(x[start])
    noise = (noise_towards(method, state, x[end], levels), torch.zeros(len(start), dtype=torch.float64))
    after, info = kernel.update(state, noise)
    torch.testing.assert_close(after.position, x[end], rtol=0, atol=0)
    transition = torch.zeros_like(proposal)
    transition[start, end] = proposal[start, end] * info["accept_prob"]
    transition += torch.diag(1 - transition.sum(1))
    return Chain(torch.softmax(-energy(x), 0), transition)


def exact(method: str, space: str, kind: str, seed: int = 0, spaces=SPACES, make: Callable = make) -> Chain:
    sites, levels = spaces[space]
    x = all_states(sites, levels)
    energy = random_energy(kind, x.shape[1], seed)
    return transition_matrix(method, make(method, energy, levels), energy, x, levels)


def flow(chain: Chain) -> Tensor:
    return chain.target[:, None] * chain.transition


@pytest.mark.parametrize(("method", "space", "kind"), CASES)
def test_the_target_is_invariant_and_detailed_balance_holds(method: str, space: str, kind: str, seed: int):
    chain = exact(method, space, kind, seed)
    assert len(chain.target) in (125, 128, 32)
    torch.testing.assert_close(chain.target @ chain.transition, chain.target, rtol=0, atol=1e-10)
    torch.testing.assert_close(flow(chain), flow(chain).T, rtol=0, atol=1e-10)
    assert chain.transition.min() > -1e-12


@pytest.mark.parametrize(("method", "space", "kind"), CASES)
def test_a_missing_proposal_correction_is_seen(method: str, space: str, kind: str):
    chain = exact(method, space, kind, make=without_correction)
    assert (chain.target @ chain.transition - chain.target).abs().max() > 1e-3


@pytest.mark.parametrize(("method", "space", "kind"), CASES)
def test_a_wrong_inverse_temperature_is_seen(method: str, space: str, kind: str):
    chain = exact(method, space, kind)
    wrong = torch.softmax(chain.target.log() / BETA, 0)
    assert (wrong @ chain.transition - wrong).abs().max() > 1e-3


@pytest.mark.parametrize(("method", "space", "kind"), CASES)
def test_the_proposals_probability_is_the_one_of_the_paper(method: str, space: str, kind: str):
    sites, levels = SPACES[space]
    x = all_states(sites, levels)
    energy = random_energy(kind, x.shape[1])
    layout = Binary() if levels is None else OneHot(levels)
    proposal = OneChange() if method == METHODS[0] else EverySite(STEP_SIZE, layout.squared_distance)
    expected = proposal_matrix(method, energy, x, levels)
    start, end = expected.nonzero().T
    state = PointState(x[start], energy(x[start]), energy_gradient(energy, x)[start])
    log_q = proposal.log_prob(layout.gains(state), layout.moves(x[start], x[end]))
    torch.testing.assert_close(log_q.exp(), expected[start, end], rtol=1e-10, atol=0)


def two_steps(kernel: Kernel, x: Tensor, seed: int) -> Tensor:
    """Numbers of (state, state two steps later) for chains that start evenly spread over all states."""
    start = torch.arange(NUM_CHAINS) % len(x)
    after = run(kernel, x[start], 2, generator=generator(seed))
    return start * len(x) + number([after.position], [x])


def evenly_from(transition: Tensor) -> Tensor:
    """Probabilities of the pairs of `two_steps`."""
    return (transition @ transition).flatten() / len(transition)


@pytest.mark.many_steps
@pytest.mark.parametrize(("method", "space", "kind"), SMALL_CASES)
def test_chains_move_as_the_exact_matrix_says(method: str, space: str, kind: str, seed: int):
    """χ² over all pairs of states two steps apart: the second step runs on what the first one kept. False alarms: 1e-5."""
    sites, levels = SMALL_SPACES[space]
    x = all_states(sites, levels)
    energy = random_energy(kind, x.shape[1], seed)
    kernel, wrong = make(method, energy, levels), without_correction(method, energy, levels)
    probabilities = evenly_from(transition_matrix(method, kernel, energy, x, levels).transition)
    assert accepted(chi_square(two_steps(kernel, x, seed), probabilities))
    assert rejected(chi_square(two_steps(wrong, x, seed), probabilities))


@pytest.mark.parametrize(("method", "space"), list(product(METHODS, SMALL_SPACES)))
def test_one_gradient_a_step_and_a_cache_that_is_true(method: str, space: str):
    sites, levels = SMALL_SPACES[space]
    x = all_states(sites, levels)
    energy = random_energy("network", x.shape[1])
    calls = []

    def counted(x: Tensor) -> Tensor:
        calls.append(len(x))
        return energy(x)

    last = run(make(method, counted, levels), x, 11, generator=generator())
    assert len(calls) == 12
    torch.testing.assert_close(last.energy, energy(last.position), rtol=0, atol=1e-12)
    torch.testing.assert_close(last.gradient, energy_gradient(energy, last.position), rtol=0, atol=1e-12)


@pytest.mark.parametrize(("method", "space"), list(product(METHODS, SMALL_SPACES)))
def test_runs_continue_bit_identically(method: str, space: str):
    sites, levels = SMALL_SPACES[space]
    x = all_states(sites, levels).float()
    energy = random_energy("network", x.shape[1])
    kernel = make(method, lambda x: energy(x.double()).float(), levels)
    randoms = generator(3)
    halves = run(kernel, run(kernel, x, 5, generator=randoms), 7, generator=randoms)
    whole = run(kernel, x, 12, generator=generator(3))
    assert all(torch.equal(a, b) for a, b in zip(halves, whole, strict=True))
    assert whole.position.dtype == torch.float32
    assert not torch.equal(whole.position, x)


def test_a_step_size_for_each_chain():
    x = all_states(3, 3)
    energy = random_energy("network", x.shape[1])
    sizes = torch.tensor([0.4, 1.9], dtype=torch.float64)[torch.arange(len(x)) % 2][:, None]
    mixed, small, large = (dmala(energy, size, levels=3) for size in (sizes, 0.4, 1.9))
    state = mixed.init(x)
    noise = mixed.noise(state, generator())
    of_mixed, of_small, of_large = (kernel.update(state, noise)[1]["accept_prob"] for kernel in (mixed, small, large))
    torch.testing.assert_close(of_mixed, torch.where(sizes[:, 0] == 0.4, of_small, of_large))


def test_states_of_infinite_energy_are_never_entered():
    x = all_states(5, None)
    field = torch.tensor([0.3, -0.7, 0.9, -0.2, 0.5], dtype=torch.float64)

    def energy(x: Tensor) -> Tensor:
        return torch.where(x.sum(-1) > 3, math.inf, x @ field)

    start = x[x.sum(-1) <= 3].repeat(100, 1)
    for method in METHODS:
        last = run(make(method, energy, None), start, 20, generator=generator())
        assert bool((last.position.sum(-1) <= 3).all())
