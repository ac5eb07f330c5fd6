"""Contrastive learning: its gradients against autograd of the exact likelihood, its chains, and an end in itself."""

import math
from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor
from torch.autograd.functional import jvp, vjp
from zoo import (
    DISCRETE_PAIRS,
    PAIRS,
    generator,
    grid,
    log_probs,
    some_states,
    sweep_matrix,
    tiny,
    z_scores,
)

from genmodels import RBM, BadInput, Bernoulli, Gaussian
from genmodels.boltzmann import is_narrow
from genmodels.data import load
from genmodels.interface import default_generator
from genmodels.likelihood import exact_log_z
from genmodels.objectives import Objective, Penalty, cd, fpcd, pcd
from genmodels.objectives.objective import ObjectiveState, with_gradient
from genmodels.objectives.phases import OFFSET_RATE, Direction, contrast
from samplers import gibbs, run
from samplers.fused import contrasted_correlation, correlation, native

NUM_DATA, NUM_CHAINS = 7, 11
SHARED = ("weight", "visible_bias", "hidden_bias")
MAKE: dict[str, Callable[..., Objective]] = {"cd": cd, "pcd": pcd, "fpcd": fpcd}

in_pairs = pytest.mark.parametrize("pair", PAIRS, ids="-".join)
in_discrete_pairs = pytest.mark.parametrize("pair", DISCRETE_PAIRS, ids="-".join)


def close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-10)


def shared(model: RBM) -> list[Tensor]:
    """The couplings and biases, without the units' own variances."""
    return [model.get_parameter(name) for name in SHARED]


def statistics(model: RBM, x: Tensor) -> list[Tensor]:
    t = model.visible.statistic(x)
    return [t, model.hidden.statistic(model.hidden.mean(model.hidden_bias + t @ model.weight))]


def flat(direction: Direction) -> list[Tensor]:
    return [*direction.weights, *direction.biases]


def data_of(model: RBM, num: int = NUM_DATA) -> Tensor:
    return some_states(model.visible, num, seed=8)


def state_of(objective: Objective, model: RBM, x: Tensor) -> ObjectiveState:
    """The state after a few steps, when offsets and fast weights are no longer where they began."""
    randoms = generator(4)
    state = objective.init(x, randoms)
    for _ in range(3):
        _, state, _ = objective.step(x, state, randoms)
    return state


def gradients(loss: Tensor, parameters: Sequence[Tensor]) -> list[Tensor]:
    return list(torch.autograd.grad(loss, list(parameters)))


def free_energy_gap(model: RBM, x: Tensor, chains: Tensor) -> Tensor:
    return model.free_energy(x).mean() - model.free_energy(chains).mean()


# The gradient


@in_pairs
def test_exact_statistics_give_the_gradient_of_the_exact_likelihood(pair: tuple[str, str]):
    """Over all states, weight +p(x) for the model and −q(x) for data q: the gradient of −E_q log p, by autograd here."""
    model = tiny(*pair)
    x, log_measure = grid(model.visible)
    q = (log_measure - tiny(*pair, seed=9).free_energy(x)).softmax(0).detach()
    unnormalised = log_measure - model.free_energy(x)
    cross_entropy = unnormalised.logsumexp(0) - q @ unnormalised
    expected = gradients(cross_entropy, shared(model))
    with torch.no_grad():
        both = [torch.cat([t, t]) for t in statistics(model, x)]
        p = log_probs(model)[1].exp()
        direction = contrast(both, torch.cat([p, -q]))
    for actual, wanted in zip(flat(direction), expected, strict=True):
        close(actual, wanted)


@in_pairs
@pytest.mark.parametrize("name", MAKE)
def test_a_step_descends_the_free_energy_gap(pair: tuple[str, str], name: str):
    """The surrogate's gradient is that of mean F(data) − mean F(chains), chains held fixed."""
    model = tiny(*pair)
    x = data_of(model)
    own = {"centered": False, "precision": "float32"} | ({} if name == "cd" else {"num_chains": NUM_CHAINS})
    objective = MAKE[name](model, num_steps=3, **own)
    loss, new, metrics = objective.step(x, state_of(objective, model, x), generator())
    chains = new["chains"] if name != "cd" else cd_chains(model, x, 3)
    assert len(chains) == (NUM_DATA if name == "cd" else NUM_CHAINS)
    expected = gradients(free_energy_gap(model, x, chains), shared(model))
    for actual, wanted in zip(gradients(loss, shared(model)), expected, strict=True):
        close(actual, wanted)
    assert loss.item() == metrics["energy_difference"].item()


def cd_chains(model: RBM, x: Tensor, num_steps: int) -> Tensor:
    """The chains of a CD step on `generator()`: block Gibbs from the data."""
    start = (x, torch.zeros(len(x), model.hidden.size, dtype=x.dtype))
    return run(gibbs(model.anneal()), start, num_steps, generator=generator())[0]


def pcd_chains(model: RBM, state: ObjectiveState, num_steps: int) -> tuple[Tensor, Tensor]:
    """The chains of a PCD step on `generator()`: block Gibbs whose sweeps begin with the visible layer."""
    layers, randoms, (v, h) = model.anneal(), generator(), (state["chains"], state["hidden"])
    for _ in range(num_steps):
        v = layers.draw(0, (v, h), layers.noise(0, len(h), randoms))
        h = layers.draw(1, (v, h), layers.noise(1, len(v), randoms))
    return v, h


@in_pairs
def test_persistent_chains_go_on_where_they_were(pair: tuple[str, str]):
    model = tiny(*pair)
    x = data_of(model)
    objective = pcd(model, num_steps=3, num_chains=NUM_CHAINS, precision="float32")
    state = state_of(objective, model, x)
    _, new, _ = objective.step(x, state, generator())
    for actual, wanted in zip((new["chains"], new["hidden"]), pcd_chains(model, state, 3), strict=True):
        assert torch.equal(actual, wanted)


@pytest.mark.parametrize("pair", [pair for pair in PAIRS if "Gaussian" in pair], ids="-".join)
def test_the_gradient_of_variances_is_that_of_the_free_energy_gap(pair: tuple[str, str]):
    model = tiny(*pair)
    x = data_of(model)
    variances = [parameter for name, parameter in model.named_parameters() if name not in SHARED]
    objective = pcd(model, num_chains=NUM_CHAINS, precision="float32")
    loss, new, _ = objective.step(x, state_of(objective, model, x), generator())
    expected = gradients(free_energy_gap(model, x, new["chains"]), variances)
    for actual, wanted in zip(gradients(loss, variances), expected, strict=True):
        close(actual, wanted)


def test_with_gradient_has_the_value_and_the_gradient_it_is_given():
    a, b = (torch.ones(3, requires_grad=True), torch.ones(2, 5, requires_grad=True))
    wanted = [torch.arange(3.0), torch.arange(10.0).reshape(2, 5)]
    value = torch.tensor(0.7)
    loss = with_gradient(value, (a, b), [gradient.clone() for gradient in wanted])
    (3 * loss).backward(retain_graph=True)
    assert loss.item() == value.item()
    assert a.grad is not None
    assert b.grad is not None
    assert torch.equal(a.grad, 3 * wanted[0])
    assert torch.equal(b.grad, 3 * wanted[1])
    with pytest.raises(RuntimeError, match="once"):
        loss.backward()


# The centered gradient


def recentered(offsets: list[Tensor]) -> Callable[..., tuple[Tensor, ...]]:
    """(W, b', c') of E = −(t − o)ᵀ W (u − p) − b'·t − c'·u  ↦  (W, b, c) of the same distribution."""
    return lambda w, b, c: (w, b - w @ offsets[1], c - w.T @ offsets[0])


@in_pairs
@pytest.mark.parametrize("name", MAKE)
def test_the_centered_step_is_the_gradient_of_the_centered_model(pair: tuple[str, str], name: str):
    """One step down the gradient in (W, b', c'), mapped back to (W, b, c): J Jᵀ times the plain gradient."""
    model = tiny(*pair)
    x = data_of(model)
    own = {} if name == "cd" else {"num_chains": NUM_CHAINS}
    objective = MAKE[name](model, centered=True, precision="float32", **own)
    state = state_of(objective, model, x)
    loss, new, _ = objective.step(x, state, generator())
    chains = new["chains"] if name != "cd" else cd_chains(model, x, 1)
    plain = gradients(free_energy_gap(model, x, chains), shared(model))
    offsets = [state["offset.0"], state["offset.1"]]
    back = recentered(offsets)
    there = recentered([-o for o in offsets])(*(p.detach() for p in shared(model)))
    _, pulled = vjp(back, there, tuple(plain))
    _, expected = jvp(back, there, pulled)
    for actual, wanted in zip(gradients(loss, shared(model)), expected, strict=True):
        close(actual, wanted)
    # Offsets follow the mean over both phases, each counted once whatever its number of rows.
    with torch.no_grad():
        phases = zip(statistics(model, x), statistics(model, chains), strict=True)
        for i, (data, drawn) in enumerate(phases):
            close(new[f"offset.{i}"], offsets[i].lerp(0.5 * (data.mean(0) + drawn.mean(0)), OFFSET_RATE))


# The chains


def single_row_gradients(model: RBM, x: Tensor) -> Tensor:
    """∂F/∂θ of every row, flat, shape (n, parameters)."""
    t, u = statistics(model, x)
    return -torch.cat([(t[:, :, None] * u[:, None, :]).flatten(1), t, u], 1).detach()


@in_discrete_pairs
def test_cd_estimates_its_expectation_and_converges_to_maximum_likelihood(pair: tuple[str, str]):
    """20,000 chains from one far-off state against the exact law after k sweeps. |z| < 6: false alarms 1e-7 a test.

    With k = 30 the gradient is that of the likelihood; with k = 1 it is not, and the test must say so.
    """
    model, num = tiny(*pair), 20_000
    x, log_p = log_probs(model)
    far = int(log_p.argmin())
    (_, h), joint = sweep_matrix(model.anneal(), {})
    shape = [len(x), len(h) // len(x)]
    matrix = joint.reshape(*shape, *shape).sum(3)[:, 0]
    rows = single_row_gradients(model, x)

    def z_of(num_steps: int, law: Tensor) -> float:
        objective = cd(model, num_steps=num_steps, precision="float32")
        loss, _, _ = objective.step(x[far].expand(num, -1), {}, generator())
        gradient = torch.cat([g.flatten() for g in gradients(loss, shared(model))])
        mean = law @ rows
        error = (law @ (rows - mean).square() / num).sqrt()
        return float(((gradient - (rows[far] - mean)) / error).abs().max())

    for num_steps in (1, 2, 30):
        assert z_of(num_steps, torch.linalg.matrix_power(matrix, num_steps)[far]) < 6
    exact = log_p.exp().detach()
    assert z_of(30, exact) < 6
    assert z_of(1, exact) > 12


@pytest.mark.many_steps
@pytest.mark.parametrize("seed", range(3))
def test_pcd_learns_bars_and_stripes(seed: int):
    """30 equally likely patterns: no model does better than −log 30 = −3.40 nats, and this one ends within 0.6 nats of it.

    It starts at −16 log 2 = −11.1; independent units cannot leave that, as every pixel is on in half of the patterns.
    """
    x = load("bars-and-stripes").train.fixed().float()
    randoms, num_updates = generator(seed), 2000
    model = RBM(Bernoulli(16), Bernoulli(11), generator=randoms)
    model.initialise_from_data(x)
    objective = pcd(model, num_steps=3, num_chains=100)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, num_updates)
    state = objective.init(x, randoms)
    for _ in range(num_updates):
        loss, state, _ = objective.step(x, state, randoms)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        log_likelihood = -float(model.free_energy(x).mean()) - exact_log_z(model).value
    assert -math.log(30) - 0.6 < log_likelihood < -math.log(30)


# Precision


def large(seed: int) -> tuple[RBM, Tensor]:
    """A layer pair large enough for the fast paths, with states that are neither rare nor certain."""
    randoms = generator(seed)
    model = RBM(Bernoulli(784), Bernoulli(500), generator=randoms)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.05, generator=randoms)
    return model, (torch.rand(100, 784, generator=randoms) < 0.3).float()


def rank_two(below: Tensor, above: Tensor) -> tuple[Tensor, Tensor]:
    """Factors of what is added to a correlation."""
    randoms = generator(5)
    sizes = (below.shape[1], above.shape[1])
    left, right = (torch.randn(2, size, generator=randoms) for size in sizes)
    return left, right


def test_the_correlation_in_small_integers_is_unbiased_within_its_variance():
    """Every entry's mean over 200 draws: the largest |z| of 392,000 is below 6.5 but for a chance of 3e-5.

    The control rounds to the nearest level, as if the dither were always one half.
    """
    model, x = large(0)
    with torch.no_grad():
        below, above = statistics(model, torch.cat([x, x.flip(1)]))
    exact = (below[:100].T.double() @ above[:100].double() - below[100:].T.double() @ above[100:].double()) / 100
    randoms, num = generator(), 200
    nothing = below.new_zeros(2, 784), above.new_zeros(2, 500)
    draws = [contrasted_correlation(below, above, *nothing, randoms).double() - exact for _ in range(num)]
    bound = (1 / (255**2 * 200)) ** 0.5
    deviation = torch.stack([d.square().mean() for d in draws]).mean().sqrt()
    assert float(deviation) < bound
    mean = torch.stack(draws).mean(0)
    assert float(mean.abs().max()) < 6.5 * bound / num**0.5
    nearest = (above.double() * 255).round() / 255
    biased = (below[:100].T.double() @ nearest[:100] - below[100:].T.double() @ nearest[100:]) / 100 - exact
    assert float(biased.abs().max()) > 12 * bound / num**0.5


def test_the_correlation_is_the_same_with_and_without_a_compiler(monkeypatch: pytest.MonkeyPatch):
    """The same levels and whole numbers; a seed apart, they are not."""
    model, x = large(0)
    with torch.no_grad():
        below, above = statistics(model, torch.cat([x, x.flip(1)])[:199])
    matrices = []
    for library in (native.library, lambda: None):
        monkeypatch.setattr(native, "library", library)
        correlation._multiply_bytes.cache_clear()
        for seed in (1, 2):
            matrices.append(contrasted_correlation(below, above, *rank_two(below, above), generator(seed)))
    correlation._multiply_bytes.cache_clear()
    torch.testing.assert_close(matrices[0], matrices[2], rtol=1e-5, atol=1e-6)
    assert float((matrices[0] - matrices[1]).abs().max()) > 1e-4


def test_a_mean_of_one_stays_the_highest_level_whatever_the_dither(monkeypatch: pytest.MonkeyPatch):
    """Without a compiler: of two million dithers some 15 round 255 and themselves up to 256, which is no level."""
    monkeypatch.setattr(native, "library", lambda: None)
    correlation._multiply_bytes.cache_clear()
    size, nothing = 2_000_000, torch.zeros(2, 1)
    above = torch.stack([torch.ones(size), torch.zeros(size)])
    matrix = contrasted_correlation(torch.ones(2, 1), above, nothing, torch.zeros(2, size), generator())
    correlation._multiply_bytes.cache_clear()
    torch.testing.assert_close(matrix, torch.ones(1, size))


def test_threads_change_nothing_of_the_correlation():
    """As many rows as are worth a second thread; another dither must show."""
    randoms = generator()
    below = (torch.rand(802, 784, generator=randoms) < 0.3).float()
    above = torch.rand(802, 501, generator=randoms)
    added = rank_two(below, above)
    alone = contrasted_correlation(below, above, *added, generator(1))
    torch.set_num_threads(2)
    try:
        assert torch.equal(contrasted_correlation(below, above, *added, generator(1)), alone)
        assert not torch.equal(contrasted_correlation(below, above, *added, generator(2)), alone)
    finally:
        torch.set_num_threads(1)


@pytest.mark.parametrize("size", [1, 2, 3, 17])
def test_the_correlation_in_small_integers_of_few_states_is_exact(size: int):
    """Means of 0 and 1 are levels themselves, so nothing is rounded."""
    randoms = generator(size)
    below, above = ((torch.rand(2 * size, d, generator=randoms) < 0.5).float() for d in (7, 5))
    left, right = rank_two(below, above)
    signed = torch.cat([below[:size], -below[size:]]) / size
    actual = contrasted_correlation(below, above, left, right, randoms)
    torch.testing.assert_close(actual, signed.T @ above + left.T @ right)


@pytest.mark.skipif(native.library() is None, reason="needs AVX2 and a C++ compiler")
@pytest.mark.parametrize("seed", range(3))
def test_slices_take_the_same_step(seed: int):
    """With the same noise: chains part only where a number fell between two probabilities 1e-4 apart."""
    model, x = large(seed)
    steps = []
    for path in ("lookup", "sliced"):
        objective = pcd(model, centered=False, precision=path)
        loss, new, _ = objective.step(x, objective.init(x, generator(1)), generator(2))
        steps.append((new["chains"], gradients(loss, shared(model))))
    (chains, plain), (other_chains, other) = steps
    parted = float((chains != other_chains).any(1).double().mean())
    assert parted < 0.1
    for a, b in zip(plain, other, strict=True):
        # Six standard deviations of the levels' rounding; 1e-3 is for the means' own error.
        assert float((a - b).abs().max()) < 6 * (1 / (255**2 * 200)) ** 0.5 + parted + 1e-3


# What is added to the gradient


@pytest.mark.parametrize(
    "penalty",
    [
        Penalty(l1=0.3),
        Penalty(l2=0.7),
        Penalty(sparsity_cost=1.3, sparsity_target=0.2),
        Penalty(l1=0.3, l2=0.7, sparsity_cost=1.3),
        Penalty(),
    ],
    ids=repr,
)
@pytest.mark.parametrize("centered", [False, True])
def test_penalties_add_their_own_gradient(penalty: Penalty, centered: bool):
    model = tiny("Categorical", "Bernoulli")
    x, steps = data_of(model), []
    for added in (None, penalty):
        objective = pcd(model, num_chains=NUM_CHAINS, centered=centered, penalty=added, precision="float32")
        loss, _, _ = objective.step(x, objective.init(x, generator()), generator())
        steps.append(gradients(loss, shared(model)))
    w, b, c = (with_it - without for without, with_it in zip(*steps, strict=True))
    decay = penalty.l1 * model.weight.abs().sum() + 0.5 * penalty.l2 * model.weight.square().sum()
    close(w, gradients(decay, [model.weight])[0])
    close(b, torch.zeros_like(b))
    with torch.no_grad():
        activation = statistics(model, x)[1].mean(0)
    close(c, penalty.sparsity_cost * (activation - penalty.sparsity_target))


# Fast weights


@in_discrete_pairs
def test_fast_weights_drive_the_chains_follow_the_gradient_and_decay(pair: tuple[str, str]):
    model = tiny(*pair)
    x = data_of(model)
    objective = fpcd(model, num_chains=NUM_CHAINS, fast_rate=0.7, fast_decay=0.9, precision="float32")
    start = objective.init(x, generator(4))
    assert all(not start[f"fast.{i}"].any() for i in range(3))
    state = state_of(objective, model, x)
    loss, new, _ = objective.step(x, state, generator())
    for i, gradient in enumerate(gradients(loss, shared(model))):
        close(new[f"fast.{i}"], 0.9 * state[f"fast.{i}"] - 0.7 * gradient)
    fast = tiny(*pair)
    with torch.no_grad():
        for i, parameter in enumerate(shared(fast)):
            parameter += state[f"fast.{i}"]
    for i, name in enumerate(("chains", "hidden")):
        assert torch.equal(new[name], pcd_chains(fast, state, 1)[i])
        assert not torch.equal(new[name], pcd_chains(model, state, 1)[i])


# The state


@in_pairs
@pytest.mark.parametrize(
    ("name", "centered", "keys"),
    [
        ("cd", False, set()),
        ("cd", True, {"offset.0", "offset.1"}),
        ("pcd", False, {"chains", "hidden"}),
        ("pcd", True, {"chains", "hidden", "offset.0", "offset.1"}),
        ("fpcd", True, {"chains", "hidden", "offset.0", "offset.1", "fast.0", "fast.1", "fast.2"}),
    ],
)
def test_the_state_is_a_flat_dict_of_tensors_that_steps_do_not_touch(
    pair: tuple[str, str], name: str, centered: bool, keys: set[str]
):
    model = tiny(*pair)
    x = data_of(model)
    objective = MAKE[name](model, centered=centered)
    state = objective.init(x, generator())
    kept = {key: value.clone() for key, value in state.items()}
    _, new, _ = objective.step(x, state, generator())
    assert set(state) == set(new) == keys
    for key in keys:
        assert isinstance(new[key], Tensor)
        assert torch.equal(state[key], kept[key])
        assert new[key].shape == state[key].shape
        assert new[key].dtype == state[key].dtype
        assert not new[key].requires_grad


@in_pairs
def test_a_step_is_a_function_of_data_state_and_generator(pair: tuple[str, str]):
    model = tiny(*pair)
    x = data_of(model)
    objective = fpcd(model, centered=True)
    state = objective.init(x, generator())
    (first, a, _), (second, b, _) = (objective.step(x, state, generator(5)) for _ in range(2))
    assert torch.equal(first, second)
    assert all(torch.equal(a[key], b[key]) for key in a)
    for one, other in zip(
        gradients(first, list(model.parameters())), gradients(second, list(model.parameters())), strict=True
    ):
        assert torch.equal(one, other)


@in_pairs
def test_chains_start_in_the_support_at_the_base_rates(pair: tuple[str, str]):
    """|z| < 6 for at most 10 sites: false alarms 2e-8."""
    model = tiny(*pair)
    chains = pcd(model, num_chains=20_000).init(data_of(model), generator())["chains"]
    model.visible.check(chains)
    with torch.no_grad():
        assert float(z_scores(chains, model.visible.mean(model.visible_bias)).abs().max()) < 6


@pytest.mark.parametrize("name", MAKE)
def test_impossible_settings_are_refused(name: str):
    model = tiny("Bernoulli", "Bernoulli")
    with pytest.raises(BadInput, match="num_steps must be at least 1, not 0"):
        MAKE[name](model, num_steps=0)
    if name != "cd":
        with pytest.raises(BadInput, match="num_chains must be at least 1, not 0"):
            MAKE[name](model, num_chains=0)


def test_auto_narrows_binary_float32_only():
    binary = RBM(Bernoulli(5), Bernoulli(3))
    assert not is_narrow(binary, "float32")
    assert not is_narrow(RBM(Gaussian(5), Bernoulli(3)), "auto")
    assert not is_narrow(RBM(Bernoulli(5), Gaussian(3)), "auto")
    assert not is_narrow(binary.double(), "auto")


def test_phases_of_unequal_size_are_not_narrowed():
    """Rounded row weights 1/7 and 1/11 would leave a gradient where both phases agree."""
    model = RBM(Bernoulli(5), Bernoulli(3), generator=default_generator(0))
    x = torch.ones(7, 5)
    directions = []
    for precision in ("auto", "float32"):
        objective = pcd(model, num_chains=11, precision=precision)
        state = objective.init(x, default_generator(1))
        loss, _, _ = objective.step(x, state, default_generator(2))
        directions.append(torch.autograd.grad(loss, model.weight)[0])
    assert torch.equal(*directions)
