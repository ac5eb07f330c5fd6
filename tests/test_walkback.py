"""The walk-back chain: exact transition matrices of the real update on binary states, then its chains against them.

Corruption and reconstruction are tables over all x and all x̃, so the posterior under the corruption is Bayes' rule in
float64; the wrong reconstructions are tables too.
"""

from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from torch import Tensor
from zoo import accepted, chi_square, generator, number, rejected

from genmodels import Bernoulli
from genmodels.interface import Denoiser as DenoiserCapability
from samplers.kernel import Kernel, run
from samplers.walkback import Denoiser, walk_back

SITES = 5
FLIP = 0.2
NUM_CHAINS = 100_000
SINGLES = ((0,), (1,), (2,), (3,), (4,))
BLOCKS = ((0, 1), (2, 3, 4))
ERASED = 0.5


def all_states(sites: int = SITES) -> Tensor:
    return torch.cartesian_prod(*[torch.arange(2)] * sites).double()


def random_distribution(seed: int = 0) -> Tensor:
    """π, of which no two sites are independent."""
    return torch.softmax(1.3 * torch.randn(2**SITES, generator=generator(seed), dtype=torch.float64), 0)


class Tables(NamedTuple):
    """C(x̃ | x) and P(x | x̃) as matrices over numbered states: each draw is an inverse CDF of one uniform number."""

    noisy: Tensor
    """All x̃, one a row."""
    corruption: Tensor
    reconstruction: Tensor

    def corruption_noise(self, x: Tensor, generator: torch.Generator) -> Tensor:
        return torch.rand(len(x), dtype=x.dtype, device=x.device, generator=generator)

    def corrupt(self, x: Tensor, noise: Tensor) -> Tensor:
        return self.noisy[inverse_cdf(self.corruption[index(x, all_states())], noise)]

    def reconstruct(self, x_noisy: Tensor) -> Tensor:
        return self.reconstruction[index(x_noisy, self.noisy)]

    reconstruction_noise = corruption_noise

    def draw(self, parameters: Tensor, noise: Tensor) -> Tensor:
        return all_states()[inverse_cdf(parameters, noise)]


def index(rows: Tensor, among: Tensor) -> Tensor:
    """The number of every row, of sites 0, 1 or erased, in a list of states."""
    return number([rows == 0, rows == ERASED], [among == 0, among == ERASED])


def inverse_cdf(probabilities: Tensor, uniform: Tensor) -> Tensor:
    index = torch.searchsorted(probabilities.cumsum(1), uniform[:, None], right=True)[:, 0]
    return index.clamp(max=probabilities.shape[1] - 1)


def flips(rate: float = FLIP) -> tuple[Tensor, Tensor]:
    """Every site flipped with its own probability, near `rate`: all x̃, and C(x̃ | x)."""
    x = all_states()
    rates = rate * torch.linspace(0.7, 1.3, SITES, dtype=torch.float64)
    return x, torch.where(x[:, None] != x, rates, 1 - rates).prod(-1)


def erasures(blocks: tuple[tuple[int, ...], ...]) -> tuple[Tensor, Tensor]:
    """One block of sites erased, each with its own probability: all x̃, and C(x̃ | x)."""
    x, weight = all_states(), torch.arange(1, len(blocks) + 1, dtype=torch.float64)
    erased = torch.stack([x.index_fill(1, torch.tensor(block), ERASED) for block in blocks])
    noisy = erased.flatten(0, 1).unique(dim=0)
    hits = (erased[:, :, None] == noisy).all(-1)
    return noisy, (hits * (weight / weight.sum())[:, None, None]).sum(0)


def posterior(target: Tensor, corruption: Tensor) -> Tensor:
    """P(x | x̃) ∝ π(x) C(x̃ | x)."""
    joint = (target[:, None] * corruption).T
    return joint / joint.sum(1, keepdim=True)


def marginals(reconstruction: Tensor) -> Tensor:
    """The product over sites of the marginals of P(x | x̃)."""
    x, mean = all_states(), reconstruction @ all_states()
    return torch.where(x == 1, mean[:, None], 1 - mean[:, None]).prod(-1)


def rounded_means(reconstruction: Tensor) -> Tensor:
    """The states nearest to the means of P(x | x̃), instead of draws."""
    nearest = (reconstruction @ all_states() > 0.5).double()
    return torch.nn.functional.one_hot(index(nearest, all_states()), 2**SITES).double()


class Scripted:
    """A denoiser whose noise is the outcome itself, and which adds up the probability of what it is told to draw."""

    def __init__(self, tables: Tables):
        self.probability: Tensor = torch.ones(())
        self._tables = tables

    def corruption_noise(self, x: Tensor, generator: torch.Generator) -> Tensor:
        raise NotImplementedError

    reconstruction_noise = corruption_noise

    def corrupt(self, x: Tensor, noise: Tensor) -> Tensor:
        self.probability = self.probability * self._tables.corruption[index(x, all_states()), noise]
        return self._tables.noisy[noise]

    def reconstruct(self, x_noisy: Tensor) -> Tensor:
        return self._tables.reconstruct(x_noisy)

    def draw(self, parameters: Tensor, noise: Tensor) -> Tensor:
        self.probability = self.probability * parameters.gather(1, noise[:, None])[:, 0]
        return all_states()[noise]


Make = Callable[[Denoiser], Kernel]


def transition_matrix(tables: Tables, make: Make = walk_back) -> Tensor:
    """The exact matrix of one real update between all x, by every x̃ and every draw."""
    scripted, x = Scripted(tables), all_states()
    sizes = (len(x), len(tables.noisy), len(x))
    start, noisy, end = torch.cartesian_prod(*(torch.arange(size) for size in sizes)).T
    after, _ = make(scripted).update(x[start], (noisy, end))
    matrix = torch.zeros(len(x), len(x), dtype=torch.float64)
    return matrix.index_put_((start, index(after, x)), scripted.probability, accumulate=True)


def drift(target: Tensor, matrix: Tensor) -> float:
    """Total variation between π and πT."""
    return float((target @ matrix - target).abs().sum()) / 2


def check_reversible(target: Tensor, matrix: Tensor) -> None:
    torch.testing.assert_close(matrix.sum(1), torch.ones_like(target), rtol=0, atol=1e-10)
    torch.testing.assert_close(target @ matrix, target, rtol=0, atol=1e-10)
    flow = target[:, None] * matrix
    torch.testing.assert_close(flow, flow.T, rtol=0, atol=1e-10)


CORRUPTIONS = {"flips": flips(), "one site erased": erasures(SINGLES), "a block erased": erasures(BLOCKS)}


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_the_exact_posterior_leaves_the_data_distribution_invariant(name: str):
    target, (noisy, corruption) = random_distribution(), CORRUPTIONS[name]
    matrix = transition_matrix(Tables(noisy, corruption, posterior(target, corruption)))
    check_reversible(target, matrix)
    assert drift(random_distribution(1), matrix) > 1e-2


WRONG: dict[str, Callable[[Tensor], Tensor]] = {
    "means": lambda target: rounded_means(posterior(target, flips()[1])),
    "factors": lambda target: marginals(posterior(target, flips()[1])),
    "another noise level": lambda target: posterior(target, flips(1.2 * FLIP)[1]),
}


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
def test_a_wrong_reconstruction_does_not(wrong: Callable[[Tensor], Tensor]):
    target = random_distribution()
    assert drift(target, transition_matrix(Tables(*flips(), wrong(target)))) > 1e-3


def test_a_factorised_reconstruction_is_exact_where_the_posterior_is_factorial():
    exact = posterior(random_distribution(), CORRUPTIONS["one site erased"][1])
    torch.testing.assert_close(marginals(exact), exact, rtol=0, atol=1e-12)


# Clamping.


def mask(*sites: int) -> Tensor:
    return torch.isin(torch.arange(SITES), torch.tensor(sites))


def holding(held: Tensor) -> Make:
    return lambda denoiser: walk_back(denoiser, clamp=held)


PARTING = [("one site erased", (0,)), ("one site erased", (1, 3)), ("a block erased", (0, 1))]
BINDING = [("flips", (1, 3)), ("a block erased", (0,)), ("a block erased", (1, 2))]


@pytest.mark.parametrize(("name", "sites"), PARTING)
def test_clamping_leaves_the_conditional_invariant_where_the_posterior_parts(name: str, sites: tuple[int, ...]):
    """Held values never change, so π is invariant only if each of its conditionals is."""
    target, (noisy, corruption) = random_distribution(), CORRUPTIONS[name]
    tables, held = Tables(noisy, corruption, posterior(target, corruption)), mask(*sites)
    matrix = transition_matrix(tables, holding(held))
    check_reversible(target, matrix)
    x = all_states()
    same = (x[:, None] == x)[..., held].all(-1)
    assert bool((matrix[~same] == 0).all())
    assert matrix.diagonal().max() < 0.99


@pytest.mark.parametrize(("name", "sites"), BINDING)
def test_clamping_is_biased_where_held_and_free_sites_are_drawn_together(name: str, sites: tuple[int, ...]):
    target, (noisy, corruption) = random_distribution(), CORRUPTIONS[name]
    tables = Tables(noisy, corruption, posterior(target, corruption))
    assert drift(target, transition_matrix(tables, holding(mask(*sites)))) > 1e-3


@pytest.mark.parametrize("each", [False, True])
def test_clamped_sites_keep_their_values_and_others_move(each: bool):
    tables, n = Tables(*flips(), posterior(random_distribution(), flips()[1])), 101
    held = torch.rand(n, SITES, generator=generator(1)) < 0.5 if each else mask(0, 3)
    start = all_states()[torch.randint(2**SITES, (n,), generator=generator(2))]
    after = run(walk_back(tables, clamp=held), start, 7, generator=generator())
    held = held.expand(n, -1)
    assert torch.equal(after[held], start[held])
    assert bool(((after != start) & ~held).any(0)[~held.all(0)].all())


# Chains.


def two_steps(kernel: Kernel) -> Tensor:
    """Numbers of (state, state two steps later), for chains that start evenly spread over all states."""
    x = all_states()
    start = torch.arange(NUM_CHAINS) % len(x)
    after = run(kernel, x[start], 2, generator=generator())
    return start * len(x) + index(after, x)


def same_noise(kernel: Kernel) -> Kernel:
    """The draw takes its noise from the corruption."""

    def noise(x: Tensor, randoms: torch.Generator) -> tuple[Tensor, Tensor]:
        corruption, _ = kernel.noise(x, randoms)
        return corruption, corruption

    return kernel._replace(noise=noise)


@pytest.mark.parametrize("sites", [(), (1, 3)])
def test_chains_move_as_the_exact_matrix_says(sites: tuple[int, ...]):
    """χ² over all pairs of states two steps apart. False alarms: 1e-5 a case."""
    noisy, corruption = flips()
    tables = Tables(noisy, corruption, posterior(random_distribution(), corruption))
    make = holding(mask(*sites)) if sites else walk_back
    matrix = transition_matrix(tables, make)
    probabilities = (matrix @ matrix).flatten() / len(matrix)
    pairs = two_steps(make(tables))
    assert accepted(chi_square(pairs, probabilities))
    other = transition_matrix(tables._replace(reconstruction=marginals(tables.reconstruction)), make)
    assert rejected(chi_square(pairs, (other @ other).flatten() / len(other)))
    assert rejected(chi_square(two_steps(same_noise(make(tables))), probabilities))


# A model's capability.


class ToyAutoEncoder(DenoiserCapability):
    """Flips, a linear decoder and binary units: what a denoising auto-encoder declares."""

    def __init__(self, width: int):
        self.units = Bernoulli(width)
        self.weight = torch.randn(width, width, generator=generator(4), dtype=torch.float64)

    def corruption_noise(self, x: Tensor, generator: torch.Generator | None) -> Tensor:
        return self.units.noise(len(x), x, generator)

    def corrupt(self, x: Tensor, noise: Tensor) -> Tensor:
        return torch.where(noise < FLIP, 1 - x, x)

    def reconstruct(self, x_noisy: Tensor) -> Tensor:
        return (2 * x_noisy - 1) @ self.weight + 0.3

    def reconstruction_noise(self, x: Tensor, generator: torch.Generator | None) -> Tensor:
        return self.units.noise(len(x), x, generator)

    def draw(self, parameters: Tensor, noise: Tensor) -> Tensor:
        return self.units.draw(parameters, noise)


def test_a_model_with_the_capability_is_a_denoiser():
    """Its chain from one state against C P summed by hand. False alarms: 1e-5."""
    model = ToyAutoEncoder(SITES)
    assert isinstance(model, Denoiser)
    x = all_states()
    corruption = torch.where(x[:, None] != x, FLIP, 1 - FLIP).double().prod(-1)
    mean = torch.sigmoid(model.reconstruct(x))
    reconstruction = torch.where(x == 1, mean[:, None], 1 - mean[:, None]).prod(-1)
    after = walk_back(model).step(x[7].expand(NUM_CHAINS, -1), generator())[0]
    assert accepted(chi_square(index(after, x), (corruption @ reconstruction)[7]))
    assert rejected(chi_square(index(after, x), reconstruction[7]))


def test_a_gaussian_reconstruction_holds_the_score_of_the_smoothed_data():
    """(E[x | x̃] − x̃) / σ² against the gradient of log p_σ, for data on five points: Tweedie's formula."""
    points = torch.randn(5, 3, generator=generator(5), dtype=torch.float64)
    log_weight = torch.log_softmax(torch.randn(5, generator=generator(6), dtype=torch.float64), 0)
    noisy = torch.randn(7, 3, generator=generator(7), dtype=torch.float64).requires_grad_()
    sigma = 0.6
    log_joint = log_weight - (noisy[:, None] - points).square().sum(-1) / (2 * sigma**2)
    (score,) = torch.autograd.grad(log_joint.logsumexp(1).sum(), noisy)
    mean = log_joint.softmax(1) @ points
    torch.testing.assert_close((mean - noisy) / sigma**2, score, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("m", "n"), [(0, 3), (5, 0), (5, 7)])
def test_runs_continue(m: int, n: int):
    kernel = walk_back(ToyAutoEncoder(7))
    start, randoms = torch.zeros(11, 7, dtype=torch.float64), generator(3)
    parts = run(kernel, run(kernel, start, m, generator=randoms), n, generator=randoms)
    assert torch.equal(parts, run(kernel, start, m + n, generator=generator(3)))
    assert not torch.equal(parts, start)
