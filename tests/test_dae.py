"""Denoising auto-encoders: exact chains on 2^8 states, linear ones in closed form, scores, and estimators of chains."""

# Layers of a network are reached into, which have wider types.
# pyright: reportIndexIssue=false, reportCallIssue=false

from __future__ import annotations

import json
import math

import pytest
import torch
import zoo
from torch import Tensor
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal, Normal

from genmodels import DAE, BadInput, Bernoulli, Gaussian
from genmodels.corruptions import GaussianNoise, Masking, NoCorruption, SaltAndPepper, corruption_from_config
from genmodels.data.examples import Examples
from genmodels.fit import Settings, fit
from genmodels.likelihood import best_bandwidth, chain_fields, csl, parzen
from genmodels.objectives import denoising, nearest_neighbour
from samplers import run, score_mala, walk_back

SITES, REPLACED = 8, 0.2
STATES = Bernoulli(SITES).states(torch.arange(2**SITES)).double()


def source() -> Tensor:
    """A distribution over 2^8 states: noise around a few patterns."""
    weights, distance = torch.tensor([0.4, 0.3, 0.2, 0.1]), torch.cdist(STATES[[7, 85, 170, 248]], STATES, p=1)
    return (weights.double() @ torch.softmax(-2.5 * distance, 1)).clamp_min(1e-12)


def corruption_matrix(replaced: float = REPLACED) -> Tensor:
    """C(x̃ | x) of salt and pepper: each bit flips with half the probability of its replacement."""
    flips, flip = torch.cdist(STATES, STATES, p=1), replaced / 2
    return flip**flips * (1 - flip) ** (SITES - flips)


@torch.no_grad()
def reconstruction_matrix(model: DAE) -> Tensor:
    """P(x | x̃) over all pairs."""
    field = model.reconstruct(STATES.float()).double()
    return torch.stack([model.observed.log_prob(row.expand(len(STATES), -1), STATES) for row in field]).exp()


def stationary(matrix: Tensor) -> Tensor:
    return torch.linalg.matrix_power(matrix, 4096)[0]


@pytest.fixture(scope="module")
def stages() -> list[DAE]:
    """One model before, early in, and after its training."""
    rows = torch.multinomial(source(), 20_000, replacement=True, generator=torch.Generator().manual_seed(1))
    data = Examples(STATES[rows].to(torch.uint8))
    found = []
    for epochs, batch_size in ((0, 1), (1, 1000), (12, 100)):
        model = DAE(Bernoulli(SITES), SaltAndPepper(REPLACED), hidden=(24,), generator=zoo.generator(3))
        if epochs:
            settings = Settings(
                epochs=epochs,
                batch_size=batch_size,
                optimizer="Adam",
                learning_rate=0.02,
                average=0.9,
                device="cpu",
            )
            fit(model, denoising(model), data, settings)
        found.append(model.requires_grad_(False))
    return found


def test_training_brings_the_exact_stationary_distribution_to_that_of_the_data(stages: list[DAE]) -> None:
    pi, corrupt = source(), corruption_matrix()
    distances = [float((stationary(corrupt @ reconstruction_matrix(m)) - pi).abs().sum()) / 2 for m in stages]
    assert distances[0] > 0.6
    assert distances[0] > distances[1] > distances[2]
    assert distances[2] < 0.25


def test_the_chain_of_the_model_has_the_enumerated_transitions(stages: list[DAE]) -> None:
    start, num = 85, 40_000
    x = STATES[start].float().expand(num, -1)
    state = run(walk_back(stages[2]), x, 1, generator=zoo.generator(5))
    index = zoo.number((state.double(),), (STATES,))
    right, wrong = (corruption_matrix(p) @ reconstruction_matrix(stages[2]) for p in (REPLACED, 0.6))
    assert zoo.accepted(zoo.chi_square(index, right[start]))
    assert zoo.rejected(zoo.chi_square(index, wrong[start]))


def stationary_fields(model: DAE, steps: int, chains: int, seed: int) -> tuple[Tensor, Tensor]:
    """Exact log π of all states, and the fields of chains that start at draws of π."""
    pi = stationary(corruption_matrix() @ reconstruction_matrix(model))
    randoms = zoo.generator(seed)
    start = STATES[torch.multinomial(pi, chains, replacement=True, generator=randoms)].float()
    return pi.log(), chain_fields(model, start, steps, generator=randoms)


def test_csl_lies_below_the_exact_value_and_rises_to_it(stages: list[DAE]) -> None:
    log_pi, fields = stationary_fields(stages[2], 20, 2000, seed=6)
    some = torch.multinomial(source(), 300, replacement=True, generator=zoo.generator(7))
    x, exact = STATES[some].float(), float(log_pi[some].mean())
    few = [csl(stages[2].observed, x, fields[:1, 10 * i : 10 * i + 10]).value for i in range(30)]
    assert sum(few) / 30 < exact - 0.1
    middle = csl(stages[2].observed, x, fields[:1])
    many = csl(stages[2].observed, x, fields)
    assert many.bound == "lower"
    assert sum(few) / 30 < middle.value + 5 * middle.std_error
    assert abs(many.value - exact) < 5 * many.std_error < 0.1
    # Corrupted states that the chain never visits so often explain the rows less well, or better.
    elsewhere = stages[2].reconstruct((torch.rand(40_000, SITES, generator=zoo.generator(8)) < 0.5).float())
    control = csl(stages[2].observed, x, elsewhere.view(20, 2000, SITES))
    assert abs(control.value - exact) > 10 * control.std_error


def test_the_error_of_csl_is_that_of_repeated_estimates(stages: list[DAE]) -> None:
    x = STATES[torch.multinomial(source(), 50, replacement=True, generator=zoo.generator(7))].float()
    _, fields = stationary_fields(stages[2], 5, 100 * 300, seed=9)
    runs = [csl(stages[2].observed, x, part) for part in fields.split(300, 1)]
    spread = float(torch.tensor([r.value for r in runs]).std())
    assert 0.7 < spread / (sum(r.std_error for r in runs) / len(runs)) < 1.4


def test_parzen_windows_are_a_mixture_of_normals() -> None:
    x, samples = (torch.randn(n, 3, dtype=torch.float64, generator=zoo.generator(n)) for n in (5, 7))
    windows = torch.distributions.Independent(Normal(samples, torch.full_like(samples, 0.4)), 1)
    exact = MixtureSameFamily(Categorical(torch.ones(7, dtype=torch.float64)), windows).log_prob(x).mean()
    found = parzen(x, samples, 0.4)
    assert found.value == pytest.approx(float(exact), abs=1e-10)
    assert found.bound == "none"
    assert abs(parzen(x, samples, 0.5).value - float(exact)) > 0.01
    values = {b: parzen(x, samples, b).value for b in (0.1, 0.4, 1.0, 3.0)}
    assert best_bandwidth(x, samples, list(values)) == max(values, key=values.__getitem__)


MEAN = torch.tensor([0.4, -0.7, 1.1], dtype=torch.float64)
COVARIANCE = torch.tensor([[1.0, 0.5, -0.2], [0.5, 0.8, 0.1], [-0.2, 0.1, 1.4]], dtype=torch.float64)
NOISE = 0.6


@torch.no_grad()
def best_linear(off: float = 0.0) -> DAE:
    """The optimum on N(MEAN, COVARIANCE): r(x̃) = μ + Σ (Σ + σ²)⁻¹ (x̃ − μ), its matrix moved by `off`."""
    model = DAE(Gaussian(3, variance=0.7), GaussianNoise(NOISE), hidden=()).double()
    gain = COVARIANCE @ torch.linalg.inv(COVARIANCE + NOISE**2 * torch.eye(3, dtype=torch.float64))
    (layer,) = model.decoder
    layer.weight.copy_(gain + off)  # pyright: ignore[reportAttributeAccessIssue, reportCallIssue]
    layer.bias.copy_(MEAN - gain @ MEAN)  # pyright: ignore[reportAttributeAccessIssue, reportCallIssue]
    return model


@pytest.mark.parametrize(("off", "test"), [(0.0, lambda z: z < 5), (0.05, lambda z: z > 8)])
def test_a_linear_one_has_its_optimum_at_the_closed_form(off: float, test) -> None:
    model, randoms, slopes = best_linear(off), zoo.generator(10), []
    root = torch.linalg.cholesky(COVARIANCE)
    weights = list(model.decoder.parameters())
    for _ in range(60):
        x = MEAN + torch.randn(2000, 3, dtype=torch.float64, generator=randoms) @ root.T
        loss = denoising(model).step(x, {}, randoms)[0]
        slopes.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, weights)]))
    assert test(float(zoo.z_scores(torch.stack(slopes), 0.0).abs().max()))


def test_its_score_is_that_of_the_smoothed_density() -> None:
    x = torch.randn(7, 3, dtype=torch.float64, generator=zoo.generator(11)).requires_grad_()
    smoothed = MultivariateNormal(MEAN, COVARIANCE + NOISE**2 * torch.eye(3, dtype=torch.float64))
    (exact,) = torch.autograd.grad(smoothed.log_prob(x).sum(), x)
    torch.testing.assert_close(best_linear().score(x).detach(), exact)
    assert float((best_linear(0.05).score(x) - exact).abs().max()) > 0.01


@pytest.mark.many_steps
@pytest.mark.parametrize(("off", "test"), [(0.0, lambda z: z < 5), (0.05, lambda z: z > 8)])
def test_chains_by_its_score_alone_draw_from_the_smoothed_density(off: float, test) -> None:
    root = torch.linalg.cholesky(COVARIANCE + NOISE**2 * torch.eye(3, dtype=torch.float64))
    standard = torch.randn(10_000, 3, dtype=torch.float64, generator=zoo.generator(19))
    kernel = score_mala(best_linear(off).requires_grad_(False).score, 0.5, num_nodes=1)
    x = run(kernel, MEAN + standard @ root.T, 30, generator=zoo.generator(20)).position
    white = torch.linalg.solve_triangular(root, (x - MEAN).T, upper=False).T
    products = (white[:, :, None] * white[:, None, :]).flatten(1)
    assert test(float(zoo.z_scores(products, torch.eye(3, dtype=torch.float64).flatten()).abs().max()))


def mixture(noise: float) -> MixtureSameFamily:
    centres, std = torch.tensor([[1.5, 0.5], [-1.5, -1.0]]), math.sqrt(0.3**2 + noise**2)
    parts = torch.distributions.Independent(Normal(centres, torch.full((2, 2), std)), 1)
    return MixtureSameFamily(Categorical(torch.tensor([0.7, 0.3])), parts)


def score_of(density: MixtureSameFamily, x: Tensor) -> Tensor:
    leaf = x.clone().requires_grad_()
    return torch.autograd.grad(density.log_prob(leaf).sum(), leaf)[0]


def test_the_score_of_a_mixture_is_learned() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(12 + zoo.seed_shift)
        data, probes = mixture(0.0).sample((20_000,)), mixture(0.5).sample((3000,))
    model = DAE(Gaussian(2, variance=0.3), GaussianNoise(0.5), hidden=(40, 40), activation="silu")
    settings = Settings(epochs=16, batch_size=500, optimizer="Adam", learning_rate=0.01, average=0.98, device="cpu")
    fit(model, denoising(model), Examples(data), settings)
    found = model.score(probes).detach()
    errors = [
        float((found - score_of(mixture(noise), probes)).square().sum() / found.square().sum()) for noise in (0.5, 0.8)
    ]
    assert errors[0] < 0.03
    assert errors[1] > 0.1


def test_walk_back_descends_reconstructions_along_a_chain() -> None:
    model = DAE(Bernoulli(5), Masking(0.4), hidden=(4, 3), hidden_noise=0.7, generator=zoo.generator(13))
    x = zoo.some_states(model.observed, 11).float()
    loss, _, metrics = denoising(model, walk_back=2).step(x, {}, zoo.generator(14))
    randoms, first, at = zoo.generator(14), [], x
    for _ in range(2):
        field = model.reconstruct(model.corrupt(at, model.corruption_noise(at, randoms)))
        first.append(model.observed.log_prob(field, x).mean())
        at = model.draw(field.detach(), model.reconstruction_noise(x, randoms))
    assert float(loss.detach()) == pytest.approx(-float(sum(first)) / 2, rel=1e-5)
    assert float(metrics["reconstruction"].detach()) == pytest.approx(float(first[0].detach()), rel=1e-5)


def test_noise_in_hidden_layers_is_part_of_the_corrupted_state() -> None:
    model = DAE(Bernoulli(5), Masking(0.4), hidden=(4, 3), hidden_noise=0.7, generator=zoo.generator(15))
    x = zoo.some_states(model.observed, 6).float()
    noisy = model.corrupt(x, model.corruption_noise(x, zoo.generator(16)))
    assert noisy.shape == (6, 12)
    assert torch.equal(model.reconstruct(noisy), model.reconstruct(noisy.clone()))
    for column in (5, 9):
        moved = noisy.clone()
        moved[:, column] += 1
        assert float((model.reconstruct(moved) - model.reconstruct(noisy)).abs().min(0).values.max()) > 1e-4


@pytest.mark.parametrize("corruption", [GaussianNoise(0.3), Masking(0.2), SaltAndPepper(0.7)])
def test_corruptions_do_what_they_say_and_can_be_built_again(corruption) -> None:
    x = torch.tensor([0.0, 1.0]).repeat(50_000, 1)
    again = corruption_from_config(json.loads(json.dumps(corruption.config())))
    noisy = again.apply(x, again.noise(x, zoo.generator(17)))
    expected = {
        "gaussian": (torch.tensor([0.0, 1.0]), 0.09),
        "masking": (torch.tensor([0.0, 0.8]), None),
        "salt-and-pepper": (torch.tensor([0.35, 0.65]), None),
    }[corruption.config()["type"]]
    deviation = (noisy - expected[0]).mean(0) / (noisy.std(0) / 50_000**0.5).clamp_min(1e-9)
    assert float(deviation.abs().max()) < 5
    if expected[1] is not None:
        assert float(noisy.var(0).mean()) == pytest.approx(expected[1], rel=0.05)
    model = DAE(Bernoulli(7), corruption, hidden=(5, 3), hidden_noise=0.2, activation="relu")
    twin = DAE.from_config(json.loads(json.dumps(model.config())))
    twin.load_state_dict(model.state_dict())
    z = torch.rand(3, 15, generator=zoo.generator(18))
    assert torch.equal(model.reconstruct(z), twin.reconstruct(z))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: GaussianNoise(0.0), "must be positive"),
        (lambda: Masking(1.5), "must lie in"),
        (lambda: corruption_from_config({"type": "rain"}), "no corruption 'rain'"),
        (lambda: DAE(Bernoulli(3), Masking(0.3), hidden_noise=-1.0), "at least 0"),
        (lambda: DAE(Bernoulli(3), Masking(0.3), hidden=(), hidden_noise=1.0), "nothing for hidden_noise"),
        (lambda: DAE(Bernoulli(3), Masking(0.3)).score(torch.zeros(1, 3)), "needs Gaussian corruption"),
        (lambda: denoising(DAE(Bernoulli(3), Masking(0.3)), walk_back=0), "at least 1"),
        (lambda: best_bandwidth(torch.zeros(1, 2), torch.zeros(1, 2), []), "no bandwidths"),
    ],
)
def test_bad_input_is_named(make, words: str) -> None:
    with pytest.raises(BadInput, match=words):
        make()


# Nearest-neighbour reconstruction.


def with_one_code(noise: float, *, scale: float = 0.6) -> DAE:
    model = DAE(Gaussian(3, variance=0.4), NoCorruption(), (5,), hidden_noise=noise).double()
    randoms = zoo.generator(11)
    with torch.no_grad():
        for tensor in (*model.parameters(), model.centre):
            tensor.normal_(0, scale, generator=randoms)
    return model


def real_rows(num: int = 13) -> Tensor:
    return torch.randn(num, 3, generator=zoo.generator(12), dtype=torch.float64)


def test_with_little_noise_every_row_is_its_own_neighbour() -> None:
    model, x = with_one_code(1e-3), real_rows()
    loss, _, metrics = nearest_neighbour(model).step(x, {}, zoo.generator(13))
    expected, _, _ = denoising(model).step(x, {}, zoo.generator(13))
    assert metrics["moved"] == 0
    torch.testing.assert_close(loss, expected, rtol=0, atol=1e-12)


def test_the_neighbour_is_the_best_start_where_the_decoder_keeps_distances() -> None:
    """Written out, of codes and reconstructions on a line: x' with the largest P(x | f(x') + σ ξ); with + ξ it is another."""
    model, x, noise = with_one_code(2.0), real_rows(), 2.0
    with torch.no_grad():
        model.centre.zero_()
        encoder, decoder = model.encoder[0], model.decoder[0]
        encoder.weight.zero_()[0, 0], encoder.bias[:] = 1e-3, 0.0
        decoder.weight.zero_()[0, 0], decoder.bias[:] = 1e3, 0.0
        small, model._config["hidden_noise"] = 1e-3, noise * 1e-3  # there tanh is a straight line
        ξ = model.corruption_noise(x, zoo.generator(13))[1] * noise * small
        code = model.code(x)
        scores = torch.stack(
            [-(1e3 * torch.tanh(code[:, 0] + row[0]) - one[0]).square() for row, one in zip(ξ, x, strict=True)]
        )
        nearest, wrong = torch.cdist(code - ξ, code), torch.cdist(code + ξ, code)
        # Only the first unit carries x: the others' noise adds the same to all distances.
        assert torch.equal(nearest.argmin(1), scores.argmax(1))
        assert not torch.equal(wrong.argmin(1), scores.argmax(1))
        _, _, metrics = nearest_neighbour(model).step(x, {}, zoo.generator(13))
        chosen = x[nearest.argmin(1)]
        field = model.reconstruct(torch.cat([chosen, ξ / (noise * small)], 1))
        torch.testing.assert_close(metrics["reconstruction"], model.observed.log_prob(field, x).mean())
        assert metrics["moved"] > 0.2


@torch.no_grad()
def test_the_criterion_bounds_a_step_from_the_data() -> None:
    """Eq. 14: −log of the mean over draws ξ and rows x' of P(x | f(x') + σ ξ) is at most the criterion + log N, for any draws."""
    model, x, randoms = with_one_code(0.8), real_rows(), zoo.generator(13)
    steps, criterion, paired = [], [], []
    for _ in range(50):
        state = randoms.get_state()
        _, ξ = model.corruption_noise(x, randoms)
        again = torch.Generator().set_state(state)
        criterion.append(-nearest_neighbour(model, pull=0.0).step(x, {}, again)[2]["reconstruction"])
        from_all = torch.stack([model.reconstruct(torch.cat([x, one.expand(len(x), -1)], 1)) for one in ξ])
        log_prob = torch.stack(
            [model.observed.log_prob(field, one.expand_as(field)) for field, one in zip(from_all, x, strict=True)]
        )
        steps.append(torch.logsumexp(log_prob, 1) - math.log(len(x)))
        paired.append(-log_prob.diagonal().mean())
    step = -(torch.logsumexp(torch.stack(steps), 0) - math.log(len(steps))).mean()
    bound = torch.stack(criterion).mean() + math.log(len(x))
    assert step < bound
    assert torch.stack(criterion).mean() < torch.stack(paired).mean()  # it asks for less than x back from its own code


def test_nearest_neighbours_need_a_noisy_code() -> None:
    for model in (DAE(Gaussian(3), NoCorruption(), (5,)), DAE(Gaussian(3), NoCorruption(), (5, 4), hidden_noise=0.5)):
        with pytest.raises(BadInput, match="one hidden layer with noise"):
            nearest_neighbour(model)
    with pytest.raises(BadInput, match="no code"):
        DAE(Gaussian(3), NoCorruption(), ()).code(torch.zeros(2, 3))
