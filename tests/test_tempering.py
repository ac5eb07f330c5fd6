"""Replica exchange: the exact matrix of its swaps, exact marginals on every rung, and what it counts on the way."""

import io
import math
from collections.abc import Callable
from itertools import product
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor
from zoo import accepted, chi_square, combinations, generator, grid, number, rejected, tiny, z_scores

from samplers import Kernel, gibbs, run
from samplers.discrete import gibbs_with_gradients
from samplers.langevin import PointState, mala
from samplers.tempering import (
    TemperingState,
    adapt_ladder,
    communication_barrier,
    equal_rates,
    geometric,
    log_z_ratios,
    parallel_tempering,
    partners,
    position_of,
    rung,
    swap_rates,
)

SEEDS = (0,)
LogDensity = Callable[[Any, Tensor], Tensor]


@pytest.fixture(params=SEEDS)
def seed(request: pytest.FixtureRequest) -> int:
    return request.param


def tensor(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def still(_: Tensor) -> Kernel:
    """An inner kernel that leaves every replica where it is, so that a step is a swap move."""
    return Kernel(init=lambda position: position, noise=lambda *_: (), update=lambda state, _: (state, {}))


def flat(_: Tensor, betas: Tensor) -> Tensor:
    """Swaps without the energy difference: all are accepted."""
    return torch.zeros_like(betas)


# The swap move alone, on every state of a product space.


def bent_path(num_states: int, seed: int) -> LogDensity:
    """A random path over numbered states that is not geometric."""
    table = torch.randn(3, num_states, generator=generator(seed), dtype=torch.float64)

    def log_density(state: Tensor, betas: Tensor) -> Tensor:
        return (
            betas * table[0, state][:, None] + (3 * betas).sin() * table[1, state][:, None] + table[2, state][:, None]
        )

    return log_density


def swap_matrix(log_density: LogDensity, betas: Tensor, num_states: int, parity: int) -> Tensor:
    """All ways in which the pairs of one real swap move can be accepted, weighted with the probabilities that it reports."""
    rungs = len(betas)
    spaces = torch.cartesian_prod(*[torch.arange(num_states)] * rungs)
    kernel = parallel_tempering(still, log_density, betas, len(spaces))
    state = kernel.init(spaces.T.flatten())._replace(num_swaps=torch.tensor(parity))
    pairs = range(parity, rungs - 1, 2)
    matrix = torch.zeros(len(spaces), len(spaces), dtype=torch.float64)
    place = num_states ** torch.arange(rungs).flip(0)
    for outcome in product((True, False), repeat=len(pairs)):
        uniform, weight = torch.zeros(rungs, len(spaces), dtype=torch.float64), torch.ones(len(spaces)).double()
        for lower, accept in zip(pairs, outcome, strict=True):
            uniform[lower] = 0.0 if accept else 1.0
        after, info = kernel.update(state, ((), uniform))
        for lower, accept in zip(pairs, outcome, strict=True):
            assert torch.equal(info["swap_prob"][lower], info["swap_prob"][lower + 1])
            weight = weight * (info["swap_prob"][lower] if accept else 1 - info["swap_prob"][lower])
        end = (after.inner.view(rungs, -1).T * place).sum(1)
        matrix.index_put_((torch.arange(len(spaces)), end), weight, accumulate=True)
    return matrix


def product_distribution(log_density: LogDensity, betas: Tensor, num_states: int) -> Tensor:
    log_f = log_density(torch.arange(num_states), betas.expand(num_states, -1))
    rungs = torch.cartesian_prod(*[torch.arange(num_states)] * len(betas))
    log_p = sum(log_f[rungs[:, i], i] for i in range(len(betas)))
    return torch.softmax(torch.as_tensor(log_p), 0)


LADDERS = {(3, 7): tensor(0.1, 0.7, 1.3), (5, 3): tensor(0.0, 0.2, 0.5, 0.9, 1.3), (2, 31): tensor(0.3, 1.3)}


@pytest.mark.parametrize("parity", [0, 1])
@pytest.mark.parametrize("shape", LADDERS)
def test_swaps_leave_the_product_distribution_invariant(shape: tuple[int, int], parity: int, seed: int):
    rungs, num_states = shape
    betas, log_density = LADDERS[shape], bent_path(num_states, seed)
    assert len(betas) == rungs
    target = product_distribution(log_density, betas, num_states)
    matrix = swap_matrix(log_density, betas, num_states, parity)
    torch.testing.assert_close(matrix.sum(1), torch.ones_like(target), rtol=0, atol=1e-10)
    torch.testing.assert_close(target @ matrix, target, rtol=0, atol=1e-10)
    flow = target[:, None] * matrix
    torch.testing.assert_close(flow, flow.T, rtol=0, atol=1e-10)
    if parity == 0 or rungs > 2:
        without_difference = swap_matrix(flat, betas, num_states, parity)
        assert (target @ without_difference - target).abs().max() > 1e-4
        wrong_beta = swap_matrix(lambda x, betas: log_density(x, 0.9 * betas), betas, num_states, parity)
        assert (target @ wrong_beta - target).abs().max() > 1e-5


def test_no_swap_leaves_the_support():
    """The hottest rung is uniform over states of which the energy of the others forbids one."""
    energy = torch.cat([tensor(math.inf), torch.randn(6, generator=generator(), dtype=torch.float64)])
    log_density, betas = geometric(lambda state: energy[state]), tensor(0.0, 0.7, 1.3)
    target = product_distribution(lambda *args: log_density(*args).nan_to_num(nan=0.0, neginf=-math.inf), betas, 7)
    for parity in (0, 1):
        matrix = swap_matrix(log_density, betas, 7, parity)
        torch.testing.assert_close(target @ matrix, target, rtol=0, atol=1e-10)
    kernel = parallel_tempering(still, log_density, betas, 50)
    start = torch.cat([torch.arange(50) % 7, 1 + torch.arange(100) % 6])
    last = run(kernel, start, 20, generator=generator())
    assert bool((rung(last, 1) > 0).all() & (rung(last, 2) > 0).all())
    assert bool(log_z_ratios(last).isfinite().all())


def test_even_and_odd_moves_pair_all_neighbours():
    rungs = torch.arange(5)
    assert partners(rungs, torch.tensor(0)).tolist() == [1, 0, 3, 2, 4]
    assert partners(rungs, torch.tensor(1)).tolist() == [0, 2, 1, 4, 3]


# Marginals of every rung, from exact draws.

BETAS = tensor(0.0, 0.3, 0.7, 1.3)
NUM_CHAINS = 25_000


class Case(NamedTuple):
    """A ladder that starts from exact draws on every rung, and their exact probabilities."""

    states: tuple[Tensor, ...]
    log_p: Tensor
    start: tuple[Tensor, ...]
    make_kernel: Callable[[Tensor], Kernel]
    log_density: LogDensity


def rungs_of(states: tuple[Tensor, ...], log_density: Callable, seed: int) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Exact log-probabilities of the states on every rung, and exact draws from them."""
    log_p = torch.log_softmax(log_density(states, BETAS.expand(len(states[0]), -1)), 0).T
    draws = torch.multinomial(log_p.exp(), NUM_CHAINS, replacement=True, generator=generator(seed)).flatten()
    return log_p, tuple(layer[draws] for layer in states)


@torch.no_grad()
def machine(seed: int, *, summed_out: bool = False) -> Case:
    """Block Gibbs on a 5 × 3 machine, from a base with fields of its own; swaps by the joint density or by that of x."""
    model = tiny("Bernoulli", "Bernoulli", seed, scale=1.1).requires_grad_(False)
    base = (torch.linspace(-0.7, 1.1, 5).double(), torch.linspace(0.9, -0.3, 3).double())
    joint = geometric(lambda s: model.energy(s[0], s[1:]), lambda s: -(s[0] @ base[0] + s[1] @ base[1]))

    def marginal(state: tuple[Tensor, ...], betas: Tensor) -> Tensor:
        scale = betas[..., None]
        fields = scale * (model.hidden_bias + state[0] @ model.weight)[:, None] + (1 - scale) * base[1]
        visible = scale * model.visible_bias + (1 - scale) * base[0]
        return (state[0][:, None] * visible).sum(-1) + model.hidden.log_partition(fields)

    states = combinations(*(grid(unit)[0] for unit in model.units))
    log_p, draws = rungs_of(states, joint, seed)
    return Case(states, log_p, draws, lambda beta: gibbs(model.anneal(beta, base)), marginal if summed_out else joint)


def network_energy(seed: int) -> Callable[[Tensor], Tensor]:
    weight = torch.randn(5, 7, generator=generator(seed), dtype=torch.float64)
    return lambda x: x @ weight[:, 0] + 1.5 * torch.tanh(x @ weight - 0.4).sum(-1)


def p_values(case: Case, layers: int, num_steps: int = 3, seed: int = 0) -> list[float]:
    """χ² of the first `layers` layers on every rung after a few steps, against their exact distribution."""
    kernel = parallel_tempering(case.make_kernel, case.log_density, BETAS, NUM_CHAINS)
    last = run(kernel, case.start, num_steps, generator=generator(seed + 1000))
    x, values = case.states[:layers], []
    for i, log_p in enumerate(case.log_p):
        cells = torch.zeros_like(log_p).index_add_(0, number(x, x), log_p.exp())
        values.append(chi_square(number(rung(last, i)[:layers], x), cells))
    return values


def test_every_rung_of_a_machine_keeps_its_exact_distribution(seed: int):
    """False alarms: 4e-5."""
    assert all(accepted(p) for p in p_values(machine(seed), 2, seed=seed))


def test_every_rung_keeps_its_exact_marginal_with_the_hidden_layer_summed_out(seed: int):
    """False alarms: 4e-5."""
    case = machine(seed, summed_out=True)
    assert all(accepted(p) for p in p_values(case, 1, seed=seed))
    assert min(p_values(case, 2, seed=seed)) < 1e-5


def test_summing_out_raises_swap_rates():
    kernels = [
        parallel_tempering(case.make_kernel, case.log_density, BETAS, NUM_CHAINS)
        for case in (machine(0), machine(0, summed_out=True))
    ]
    joint, marginal = (swap_rates(run(kernel, machine(0).start, 4, generator=generator())) for kernel in kernels)
    assert bool((marginal > joint).all())


def test_swaps_without_the_energy_difference_are_seen(seed: int):
    values = p_values(machine(seed)._replace(log_density=flat), 2, seed=seed)
    assert all(rejected(p) for p in values)


def test_swaps_at_a_wrong_inverse_temperature_are_seen(seed: int):
    case = machine(seed)
    wrong = case._replace(log_density=lambda x, betas: case.log_density(x, 0.7 * betas))
    assert rejected(min(p_values(wrong, 2, seed=seed)))


class Hidden(NamedTuple):
    """A state that hides its position, and so keeps through a swap what it computed at another temperature."""

    where: Tensor
    energy: Tensor
    gradient: Tensor


def test_kernels_that_cache_their_energy(seed: int):
    """Gibbs with gradients inside; a cache that is not renewed after a swap is the negative control. False alarms: 4e-5."""
    energy = network_energy(seed)
    x = (grid(tiny("Bernoulli", "Bernoulli").visible)[0],)
    log_density = geometric(energy)
    log_p, start = rungs_of(x, lambda s, betas: log_density(s[0], betas), seed)

    def make_kernel(beta: Tensor) -> Kernel:
        return gibbs_with_gradients(lambda x: beta[:, 0] * energy(x))

    def stale(beta: Tensor) -> Kernel:
        inner = make_kernel(beta)

        def update(state, noise):
            after, info = inner.update(PointState(*state), noise)
            return Hidden(*after), info

        return Kernel(
            init=lambda position: position if isinstance(position, Hidden) else Hidden(*inner.init(position)),
            noise=lambda state, randoms: inner.noise(PointState(*state), randoms),
            update=update,
        )

    for make, position, log_f in (
        (make_kernel, lambda state: state.position, log_density),
        (stale, lambda state: state.where, lambda state, betas: log_density(state.where, betas)),
    ):
        last = run(parallel_tempering(make, log_f, BETAS, NUM_CHAINS), start[0], 5, generator=generator(seed + 1000))
        values = [chi_square(number([position(rung(last, i))], x), p.exp()) for i, p in enumerate(log_p)]
        assert all(map(accepted, values)) if make is make_kernel else rejected(min(values))


# Gaussians N(0, I / β), drawn anew at every step: everything is known, and the index process as ideal as theory assumes.

WIDTH = 3
GEOMETRIC = torch.logspace(math.log10(0.07), math.log10(1.7), 7, dtype=torch.float64)


def fresh_draws(beta: Tensor) -> Kernel:
    return Kernel(
        init=lambda position: position,
        noise=lambda state, randoms: torch.randn(state.shape, generator=randoms, dtype=state.dtype),
        update=lambda state, noise: (noise / beta.sqrt(), {}),
    )


gaussian = geometric(lambda x: x.square().sum(-1) / 2)


def gaussian_run(
    betas: Tensor, num_chains: int, num_steps: int, randoms: torch.Generator, **settings
) -> TemperingState:
    kernel = parallel_tempering(fresh_draws, gaussian, betas, num_chains)
    start = torch.ones(len(betas) * num_chains, WIDTH, dtype=betas.dtype)
    return run(kernel, start, num_steps, generator=randoms, **settings)


def test_swap_rates_are_mean_acceptance_probabilities(seed: int):
    """Against swaps of independent draws made here; z of two estimates from 40,000 pairs each. False alarms: 2e-5."""
    betas, num = tensor(0.3, 0.5, 1.3), 40_000
    measured = swap_rates(gaussian_run(betas, num // 2, 4, generator(seed)))
    x = torch.randn(3, num, WIDTH, generator=generator(seed + 1), dtype=torch.float64) / betas.sqrt()[:, None, None]
    energy = x.square().sum(-1) / 2
    accept = ((betas.diff()[:, None]) * energy.diff(dim=0)).clamp(max=0).exp()
    z = (accept.mean(1) - measured) / (accept.std(1) * math.sqrt(2 / num))
    assert z.abs().max() < 4.42


def test_swap_rates_before_the_first_swap():
    state = gaussian_run(GEOMETRIC, 3, 1, generator())
    assert swap_rates(state).isnan().tolist() == [False, True] * 3


@pytest.mark.many_steps
@pytest.mark.parametrize("wrong", [1.0, 0.95])
def test_log_z_ratios_are_known(wrong: float, seed: int):
    """log Z_{i+1} / Z_i = −(d/2) log(β_{i+1} / β_i); z over 30 runs, Student's t, six pairs. False alarms: 1e-5."""
    randoms = generator(seed)
    estimates = torch.stack([log_z_ratios(gaussian_run(GEOMETRIC, 101, 40, randoms)) for _ in range(30)])
    exact = -WIDTH / 2 * GEOMETRIC.log().diff() * wrong
    z = z_scores(estimates, exact).abs()
    assert z.max() < 5.93 if wrong == 1 else z.min() > 10


@pytest.mark.many_steps
@torch.no_grad()
def test_log_z_of_a_machine(seed: int):
    """The sum over the ladder, from independent sites to the machine at β = 1.3; z over 20 runs. False alarms: 1e-5."""
    case = machine(seed)
    exact = (case.log_density(case.states, BETAS.expand(256, -1))).logsumexp(0)
    kernel = parallel_tempering(case.make_kernel, machine(seed, summed_out=True).log_density, BETAS, 101)
    rows = (torch.arange(4)[:, None] * NUM_CHAINS + torch.arange(101)).flatten()
    start, randoms = tuple(layer[rows] for layer in case.start), generator(seed)
    estimates = torch.stack([log_z_ratios(run(kernel, start, 40, generator=randoms)).sum() for _ in range(20)])
    assert abs(float(z_scores(estimates, exact[-1] - exact[0]))) < 5.95


def naive_round_trips(replicas: Tensor) -> list[int]:
    """From the index process alone, shape (times, rungs, chains): ways hot → cold → hot, of each replica in turn."""
    trips = [0] * replicas.shape[2]
    for chain, replica in product(range(replicas.shape[2]), range(replicas.shape[1])):
        ends = [int(i) for i in (replicas[:, :, chain] == replica).long().argmax(1)]
        visits = [end for end in ends if end in (0, replicas.shape[1] - 1)]
        turns = [end for i, end in enumerate(visits) if i == 0 or end != visits[i - 1]]
        trips[chain] += max(0, len(turns[turns.index(0) :]) - 1) // 2 if 0 in turns else 0
    return trips


def test_round_trips_are_those_of_the_index_process(seed: int):
    seen: list[Tensor] = []
    betas = tensor(0.3, 0.5, 0.8, 1.3)
    last = gaussian_run(betas, 7, 300, generator(seed), observe=lambda _, state: seen.append(state.replica))
    expected = naive_round_trips(torch.stack(seen))
    assert last.round_trips.tolist() == expected
    assert min(expected) > 5
    assert all(torch.equal(state.sort(0).values, seen[0]) for state in seen)


@pytest.mark.parametrize("num_rungs", [2, 3, 5, 8])
def test_round_trips_where_every_swap_is_accepted(num_rungs: int):
    kernel = parallel_tempering(still, flat, torch.linspace(0.1, 1.3, num_rungs), 2)
    last = run(kernel, torch.zeros(num_rungs * 2), 47, generator=generator())
    assert last.round_trips.tolist() == [scripted_round_trips(num_rungs, 47)] * 2
    assert scripted_round_trips(num_rungs, 2 * num_rungs * 10) in range(10 * num_rungs - num_rungs, 10 * num_rungs + 1)


def scripted_round_trips(num_rungs: int, num_steps: int) -> int:
    """Round trips of tokens moved by hand."""
    ladder, origin, trips = list(range(num_rungs)), {0: "hot"}, 0
    for step in range(num_steps):
        for lower in range(step % 2, num_rungs - 1, 2):
            ladder[lower], ladder[lower + 1] = ladder[lower + 1], ladder[lower]
        trips += origin.get(ladder[0]) == "cold"
        origin[ladder[0]] = "hot"
        if origin.get(ladder[-1]) == "hot":
            origin[ladder[-1]] = "cold"
    return trips


def test_round_trips_come_as_often_as_theory_says(seed: int):
    """All replicas together: one every 2 + 2 Σ r / (1 − r) steps (Syed et al., 2022), for replicas that forget their energy."""
    num_chains, num_steps = 500, 400
    randoms = generator(seed)
    warm = gaussian_run(GEOMETRIC, num_chains, 100, randoms)
    last = run(parallel_tempering(fresh_draws, gaussian, GEOMETRIC, num_chains), warm, num_steps, generator=randoms)
    rate = (last.round_trips - warm.round_trips).double().mean() / num_steps
    rejection = 1 - swap_rates(last)
    expected = 1 / (2 + 2 * (rejection / (1 - rejection)).sum())
    assert float(rate / expected) == pytest.approx(1, abs=0.03)


# The ladder.


def ladder(betas: Tensor, seed: int, **settings) -> tuple[Tensor, Tensor]:
    """The adapted ladder, and the swap rates on it."""
    num_chains, randoms = 503, generator(seed)
    adapted, position = adapt_ladder(
        lambda betas: parallel_tempering(fresh_draws, gaussian, betas, num_chains),
        betas,
        torch.ones(len(betas) * num_chains, WIDTH, dtype=betas.dtype),
        generator=randoms,
        num_steps=8,
        **settings,
    )
    assert position.shape == (len(adapted) * num_chains, WIDTH)
    return adapted, swap_rates(gaussian_run(adapted, num_chains, 100, randoms))


def test_adaptation_equalises_swap_rates(seed: int):
    """The best ladder of a Gaussian is geometric, whatever its scale."""
    even = torch.linspace(0.07, 1.7, 7, dtype=torch.float64)
    before = swap_rates(gaussian_run(even, 503, 100, generator(seed)))
    adapted, after = ladder(even, seed)
    assert before.max() - before.min() > 0.4
    assert after.max() - after.min() < 0.03
    torch.testing.assert_close(adapted, GEOMETRIC, rtol=0.05, atol=0)
    assert adapted[0] == even[0]
    assert adapted[-1] == even[-1]


@pytest.mark.many_steps
@pytest.mark.parametrize("num_rungs", [3, 23])
def test_adaptation_reaches_a_swap_rate(num_rungs: int, seed: int):
    adapted, rates = ladder(torch.linspace(0.07, 1.7, num_rungs), seed, swap_rate=0.6)
    assert adapted.dtype == torch.float32
    assert 0.57 < rates.min() < rates.max() < 0.68


def test_equal_shares_of_a_known_barrier():
    betas, rates = tensor(0.0, 0.5, 1.0), tensor(0.9, 0.7)
    torch.testing.assert_close(communication_barrier(rates), tensor(0.0, 0.1, 0.4))
    torch.testing.assert_close(equal_rates(betas, rates, 5), tensor(0.0, 0.5, 0.5 + 1 / 6, 0.5 + 1 / 3, 1.0))
    assert bool((equal_rates(betas, tensor(1.0, 1.0), 3).diff() > 0).all())


# A use of it, and the state.


@pytest.mark.many_steps
def test_tempering_crosses_where_a_single_chain_does_not(seed: int):
    """Two modes of equal weight, 12 standard deviations apart, all chains in one; the target rung against ½, z < 4.42."""

    def energy(x: Tensor) -> Tensor:
        return -torch.logaddexp(-((x + 3) / 0.5).square().sum(-1) / 2, -((x - 3) / 0.5).square().sum(-1) / 2)

    def make_kernel(beta: Tensor) -> Kernel:
        return mala(lambda x: beta[:, 0] * energy(x), 0.2 / beta)

    betas, num_chains = torch.logspace(-2, 0, 7, dtype=torch.float64), 401
    kernel = parallel_tempering(make_kernel, geometric(energy), betas, num_chains)
    last = run(kernel, torch.full((7 * num_chains, 1), -3.0).double(), 400, generator=generator(seed))
    right = (rung(last).position > 0).double()
    assert abs(float(right.mean()) - 0.5) < 4.42 * 0.5 / math.sqrt(num_chains)
    alone = run(mala(energy, 0.2), torch.full((num_chains, 1), -3.0).double(), 400, generator=generator(seed))
    assert not bool((alone.position > 0).any())


def flat_tensors(state) -> list[Tensor]:
    return [state] if isinstance(state, Tensor) else [leaf for part in state for leaf in flat_tensors(part)]


def test_runs_continue_bit_identically_through_a_file():
    case = machine(0)
    kernel = parallel_tempering(case.make_kernel, case.log_density, BETAS, NUM_CHAINS)
    randoms = generator(3)
    file = io.BytesIO()
    torch.save((run(kernel, case.start, 3, generator=randoms), randoms.get_state()), file)
    file.seek(0)
    state, resumed = torch.load(file, weights_only=False)
    halves = run(kernel, state, 4, generator=generator().set_state(resumed))
    whole = run(kernel, case.start, 7, generator=generator(3))
    assert all(torch.equal(a, b) for a, b in zip(flat_tensors(halves), flat_tensors(whole), strict=True))


def test_position_of_a_state_restarts_its_counters():
    case = machine(0)
    kernel = parallel_tempering(case.make_kernel, case.log_density, BETAS, NUM_CHAINS)
    last = run(kernel, case.start, 3, generator=generator())
    fresh = kernel.init(position_of(last.inner))
    assert int(fresh.num_swaps) == int(fresh.round_trips.sum()) == 0
    assert all(torch.equal(a, b) for a, b in zip(fresh.inner, last.inner, strict=True))


def test_a_ladder_must_rise():
    for betas in (tensor(1.0), tensor(0.5, 0.5), tensor(1.0, 0.0)):
        with pytest.raises(ValueError, match="rising"):
            parallel_tempering(still, flat, betas, 3)
