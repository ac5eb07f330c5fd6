"""Table look-up: its sums against float64, its draws number by number against Philox, its chains against enumeration."""

import math
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from torch import Tensor
from zoo import accepted, chi_square, exact_draws, generator, number, rejected, sweep_matrix, tiny

from genmodels import RBM, Bernoulli, Categorical
from genmodels.boltzmann import Layers
from genmodels.likelihood import exact_log_z
from genmodels.likelihood.annealed import MarginalPath, ais_log_z, raise_log_likelihood, reverse_ais_log_z
from samplers import gibbs, run
from samplers.fused import LookupConditional, Precision, conditional, native
from samplers.gibbs import update

SIZES = (1, 3, 17, 784, 1000, 2049)
NUM_CHAINS = 100_000
BETA = 0.7

needs_native = pytest.mark.skipif(native.library() is None, reason="needs AVX2 and a C++ compiler")


def bits(rows: int, columns: int, seed: int = 0) -> Tensor:
    return (torch.rand(rows, columns, generator=generator(seed + rows + columns)) < 0.4).float()


def weights(rows: int, columns: int) -> Tensor:
    return torch.randn(rows, columns, generator=generator(rows * columns))


def sites(size: int, seed: int) -> Tensor:
    return torch.randn(size, generator=generator(seed))


def within_contract(field: Tensor, x: Tensor, weight: Tensor, slope: Tensor, base: Tensor, beta: float) -> bool:
    """m R / 2³⁰ from the weights, with AVX2 m R / 2²⁹, and a few roundings of float32."""
    total = x.double() @ weight.double()
    exact = beta * (total + slope.double()) + base.double()
    rounding = 2**-22 * (total.abs() + slope.abs() + base.abs() + 1)
    reach = (
        float(weight.abs().sum(0).max())
        * x.sum(1, keepdim=True)
        * 2 ** (-30 if native.instructions() == "AVX512" else -29)
    )
    return bool(((field.double() - exact).abs() <= reach + rounding).all())


@needs_native
@pytest.mark.parametrize("outputs", SIZES)
@pytest.mark.parametrize("inputs", SIZES)
def test_fields_keep_their_contract(inputs: int, outputs: int):
    weight, slope, base = weights(inputs, outputs), sites(outputs, 1), sites(outputs, 2)
    fused = LookupConditional([weight])
    for num in (0, 1, 16, 77):
        x = bits(num, inputs)
        field = fused.field([x], BETA, slope, base)
        assert field.shape == (num, outputs)
        assert within_contract(field, x, weight, slope, base, BETA)
    wrong = weight.clone()
    wrong[-1, -1] += 1e-2
    x = torch.ones(1, inputs)
    assert not within_contract(fused.field([x], BETA, slope, base), x, wrong, slope, base, BETA)


@needs_native
def test_views_and_other_types_of_states_and_weights():
    weight = weights(500, 17).T
    x = bits(13, 34)[:, ::2]
    slope, base = sites(1000, 1)[::2], torch.zeros(1).expand(500)
    fused = LookupConditional([weight])
    field = fused.field([x], BETA, slope, base)
    assert within_contract(field, x, weight, slope, base, BETA)
    assert torch.equal(fused.field([x.bool()], BETA, slope, base), field)
    assert torch.equal(fused.field([x.T.contiguous().T], BETA, slope, base), field)
    assert torch.equal(LookupConditional([weight.contiguous()]).field([x], BETA, slope, base), field)
    with pytest.raises(ValueError, match="do not fit"):
        fused.field([bits(13, 18)], BETA, slope, base)


@needs_native
def test_layers_on_both_sides_and_a_temperature_for_each_chain():
    below, above, x, y = weights(17, 31), 3 * weights(23, 31), bits(50, 17), bits(50, 23)
    slope, base, beta = sites(31, 1), sites(31, 2), torch.rand(50, 1, generator=generator())
    field = LookupConditional([below, above]).field([x, y], beta, slope, base)
    torch.testing.assert_close(field, beta * (x @ below + y @ above + slope) + base, rtol=1e-5, atol=1e-5)


@needs_native
@pytest.mark.parametrize("scale", [0.0, 1e-30, 1e30])
def test_weights_of_any_size(scale: float):
    weight, x = scale * weights(17, 31), bits(13, 17)
    zero = torch.zeros(31)
    assert within_contract(LookupConditional([weight]).field([x], 1.0, zero, zero), x, weight, zero, zero, 1.0)


@needs_native
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_weights_that_are_not_numbers_do_not_pass_unseen(bad: float):
    weight = weights(17, 31)
    weight[3, 5] = bad
    field = LookupConditional([weight]).field([torch.zeros(1, 17)], 1.0, torch.zeros(31), torch.zeros(31))
    assert bool(field.isnan().all())


@needs_native
@pytest.mark.parametrize("default", [torch.float32, torch.float64])
def test_other_default_types(default: torch.dtype):
    weight, x, zero = weights(17, 31), bits(13, 17), torch.zeros(31)
    torch.set_default_dtype(default)
    try:
        fused = LookupConditional([weight])
        field, drawn = fused.field([x], 2.0, zero, zero), fused.draw([x], 2.0, zero, zero, key_of(3))
    finally:
        torch.set_default_dtype(torch.float32)
    assert within_contract(field, x, weight, zero, zero, 2.0)
    assert torch.equal(drawn, LookupConditional([weight]).draw([x], 2.0, zero, zero, key_of(3)))


@needs_native
def test_a_layer_without_inputs_has_its_bias():
    field = LookupConditional([torch.zeros(0, 3)]).field([torch.zeros(5, 0)], 1.0, torch.ones(3), torch.ones(3))
    assert torch.equal(field, torch.full((5, 3), 2.0))


@needs_native
@pytest.mark.parametrize("largest", [3.4e38, 3.4028e38])
def test_weights_at_the_end_of_the_numbers(largest: float):
    """What lies next to them vanishes: R / 2²⁸ is 1e30."""
    weight = torch.tensor([[largest, 0.0], [0.0, 1e37]])
    field = LookupConditional([weight]).field([torch.eye(2)], 1.0, torch.zeros(2), torch.zeros(2))
    torch.testing.assert_close(field, weight, rtol=1e-5, atol=0)


# Draws


def sites_only() -> LookupConditional:
    return LookupConditional([torch.zeros(1, 1)])


def key(randoms: torch.Generator) -> Tensor:
    return sites_only().key(randoms)


def key_of(seed: int) -> Tensor:
    return torch.tensor([seed], dtype=torch.uint64).view(torch.uint8)


@needs_native
def test_a_key_is_no_noise_of_another_path():
    with pytest.raises(RuntimeError):
        Bernoulli(5).draw(torch.zeros(3, 5), key(generator()))


def philox(counter: tuple[int, int, int, int], seed: int) -> list[int]:
    """Philox 4x32-10 as Salmon, Moraes, Dror and Shaw (2011) define it."""
    (a, b, c, d), low, high = counter, seed % 2**32, seed // 2**32
    for _ in range(10):
        first, second = 0xD2511F53 * a, 0xCD9E8D57 * c
        a, b, c, d = second // 2**32 ^ b ^ low, second % 2**32, first // 2**32 ^ d ^ high, first % 2**32
        low, high = (low + 0x9E3779B9) % 2**32, (high + 0xBB67AE85) % 2**32
    return [a, b, c, d]


def test_philox_gives_its_published_numbers():
    """The known answers that the authors' Random123 ships."""
    assert philox((0, 0, 0, 0), 0) == [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]
    ones = 2**32 - 1
    assert philox((ones, ones, ones, ones), ones * 2**32 + ones) == [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]


@needs_native
@pytest.mark.parametrize("seed", [1, 2**63, 2**64 - 7, 2**63 - 1])
def test_every_state_is_decided_by_its_own_number(seed: int):
    """Chain c and output j compare word j mod 4 of the counter (c, j // 4, 0, 0) with the probability of 1."""
    weight, x, slope = weights(29, 23), bits(37, 29), sites(23, 1)
    fused, zero = LookupConditional([weight]), torch.zeros(23)
    drawn = fused.draw([x], BETA, slope, zero, key_of(seed))
    words = [philox((c, j // 4, 0, 0), seed)[j % 4] for c in range(37) for j in range(23)]
    number = (torch.tensor(words, dtype=torch.float64).reshape(37, 23) + 0.5) / 2**32
    probability = torch.sigmoid(BETA * (x.double() @ weight.double() + slope.double()))
    clear = (number - probability).abs() > 1e-6
    assert float(clear.double().mean()) > 0.99
    assert torch.equal(drawn.bool()[clear], (number < probability)[clear])


@needs_native
@pytest.mark.parametrize("field", [-12.0, -3.0, 0.0, 0.4, 5.0])
def test_draws_have_the_probability_of_their_field(field: float):
    """A million draws, |z| < 5: false alarms 6e-7."""
    fused, zero = LookupConditional([torch.zeros(1, 1000)]), torch.zeros(1000)
    p = 1 / (1 + math.exp(-field))
    draws = fused.draw([torch.zeros(1000, 1)], 1.0, zero + field, zero, key(generator()))
    assert set(draws.unique().tolist()) <= {0.0, 1.0}
    assert abs(float(draws.double().mean()) - p) < 5 * math.sqrt(p * (1 - p) / 1e6)


@needs_native
def test_extreme_fields_are_certain():
    fused, zero = LookupConditional([torch.zeros(1, 1000)]), torch.zeros(1000)
    for field, state in ((-1e4, 0.0), (-math.inf, 0.0), (1e4, 1.0), (math.inf, 1.0)):
        assert bool((fused.draw([torch.zeros(16, 1)], 1.0, zero + field, zero, key(generator())) == state).all())


@needs_native
def test_threads_and_the_number_of_chains_change_nothing():
    """Every chain's numbers are its own, so that it does not matter who draws them and with whom."""
    fused, x, zero = LookupConditional([weights(784, 500)]), bits(3000, 784), torch.zeros(500)
    alone = fused.draw([x], 1.0, zero, zero, key_of(3))
    assert torch.equal(fused.draw([x[:77]], 1.0, zero, zero, key_of(3)), alone[:77])
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        fused = LookupConditional([weights(784, 500)])
        for num in (100, 700, 3000):  # 700: few enough that threads share the outputs, not the chains
            assert torch.equal(fused.draw([x[:num]], 1.0, zero, zero, key_of(3)), alone[:num])
            field = LookupConditional([weights(784, 17)]).field([x[:num]], BETA, zero[:17], zero[:17])
            assert within_contract(field, x[:num], weights(784, 17), zero[:17], zero[:17], BETA)
    finally:
        torch.set_num_threads(before)


@needs_native
def test_two_threads_may_draw_at_once():
    fused, x, zero = LookupConditional([weights(784, 500)]), bits(200, 784), torch.zeros(500)
    wanted = [fused.draw([x], 1.0, zero, zero, key_of(seed)) for seed in range(4)]
    found: dict[int, Tensor] = {}

    def work(seed: int) -> None:
        found[seed] = fused.draw([x], 1.0, zero, zero, key_of(seed))

    workers = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert all(torch.equal(found[seed], wanted[seed]) for seed in range(4))


@needs_native
def test_keys_do_not_repeat():
    """In 30,000 draws a repeated 64-bit key has probability 2e-11; half the bits are set, |z| < 5."""
    randoms, fused = generator(), sites_only()
    keys = torch.cat([fused.key(randoms) for _ in range(30_000)]).view(torch.int64)
    assert len(keys.unique()) == len(keys)
    for bit in range(64):
        share = float(((keys >> bit) & 1).double().mean())
        assert abs(share - 0.5) < 5 * 0.5 / math.sqrt(len(keys))
    assert not torch.equal(key(generator(1)), key(generator(2)))


# Chains


def lookup_layers(model: RBM, beta: float | Tensor = BETA) -> Layers:
    return model.anneal(beta, base_of(model), precision="lookup")


def base_of(model: RBM) -> tuple[Tensor, ...]:
    return tuple(0.8 * torch.randn(u.size, generator=generator(5)).to(model.weight) for u in model.units)


def start_of(model: RBM) -> tuple[Tensor, ...]:
    return tuple(u.states(torch.tensor([1])).float().expand(NUM_CHAINS, -1) for u in model.units)


def p_value(model: RBM, layers: Layers, exact: Layers, same_key: bool = False) -> float:
    """χ² over all joint states after one sweep from one state."""
    states, matrix = sweep_matrix(exact, {})
    start = start_of(model)
    randoms = generator(11)
    noise = {layer: layers.noise(layer, NUM_CHAINS, randoms) for layer in (0, 1)}
    if same_key:
        noise[0] = noise[1]
    after = update(layers, start, noise, {})
    origin = int(number([s[:1].double() for s in start], states))
    return chi_square(number(after, states), matrix[origin])


@needs_native
@torch.no_grad()
@pytest.mark.parametrize("pair", [("Bernoulli", "Bernoulli"), ("Categorical", "Bernoulli")], ids="-".join)
def test_chains_follow_the_exact_matrix(pair: tuple[str, str]):
    """False alarms: 1e-5 a case. Caught: another temperature, one key for both layers, weights to few bits."""
    double = tiny(*pair, scale=1.3)
    single = tiny(*pair, scale=1.3).float()
    exact = double.anneal(BETA, base_of(double))
    assert accepted(p_value(single, lookup_layers(single), exact))
    assert rejected(p_value(single, lookup_layers(single, 1.0), exact))
    assert all(isinstance(fused, LookupConditional) for fused in lookup_layers(single)._fused)
    if isinstance(double.visible, Bernoulli):
        assert rejected(p_value(single, lookup_layers(single), exact, same_key=True))
    step = single.weight.abs().sum(0).max() / 4
    single.weight.copy_((single.weight / step).round() * step)
    assert rejected(p_value(single, lookup_layers(single), exact))


@needs_native
@torch.no_grad()
def test_long_chains_reach_the_joint_distribution():
    """χ² over all joint states after 30 sweeps, each chain at its own of two temperatures. False alarms: 2e-5."""
    single, double = tiny("Bernoulli", "Bernoulli").float(), tiny("Bernoulli", "Bernoulli")
    beta = torch.where(torch.arange(NUM_CHAINS) % 2 == 0, 0.4, 1.3)[:, None]
    after = run(gibbs(lookup_layers(single, beta)), start_of(single), 30, generator=generator(1))
    states, _ = sweep_matrix(double.anneal(BETA), {})
    linear = sum(s @ b for s, b in zip(states, base_of(double), strict=True))
    for parity, value in enumerate((0.4, 1.3)):
        index = number([s[parity::2] for s in after], states)
        target = (-value * double.energy(states[0], states[1:]) + (1 - value) * linear).softmax(0)
        other = (-0.8 * double.energy(states[0], states[1:]) + 0.2 * linear).softmax(0)
        assert accepted(chi_square(index, target))
        assert rejected(chi_square(index, other))


@needs_native
@torch.no_grad()
def test_three_layers_sweep_like_the_plain_path():
    """Fields of a deep machine, the middle layer with both neighbours, against float64."""
    sizes = (7, 5, 3)
    units = [Bernoulli(size) for size in sizes]
    couplings = [weights(7, 5), weights(5, 3)]
    biases = [sites(size, size) for size in sizes]
    state = tuple(bits(50, size) for size in sizes)
    fast = Layers(units, couplings, biases, beta=BETA, precision="lookup")
    plain = Layers(units, [w.double() for w in couplings], [b.double() for b in biases], beta=BETA)
    for layer in range(3):
        field = plain.field(layer, tuple(s.double() for s in state))
        torch.testing.assert_close(fast.field(layer, state).double(), field, rtol=0, atol=1e-5)
    other = fast.at(0.3)
    torch.testing.assert_close(
        other.field(1, state).double(), 0.3 / BETA * plain.field(1, tuple(s.double() for s in state)), rtol=0, atol=1e-5
    )


# Annealing


@needs_native
@pytest.mark.parametrize("size", [1, 17, 64, 500])
def test_log_partitions_of_sites(size: int):
    """Float32's rounding of every field and term, nothing from their number."""
    field = torch.cat(
        [7 * torch.randn(29, size, generator=generator(size)), torch.tensor([[-90.0], [90.0]]).expand(2, size)]
    )
    exact = torch.nn.functional.softplus(0.37 * field.double(), threshold=1e3).sum(1)
    torch.testing.assert_close(sites_only().log_partition(field, 0.37), exact, rtol=3e-7, atol=1e-7)


@needs_native
def test_sites_are_decided_by_their_own_numbers():
    """Site j of row r compares word j // 16 mod 4 of the counter (16 (j // 64) + j mod 16, r, 0, 0)."""
    field, beta, seed = 3 * torch.randn(7, 150, generator=generator()), 0.37, 12345678901234567
    drawn = sites_only().draw_sites(field, beta, key_of(seed))
    words = [philox((j // 64 * 16 + j % 16, r, 0, 0), seed)[j // 16 % 4] for r in range(7) for j in range(150)]
    number = (torch.tensor(words, dtype=torch.float64).reshape(7, 150) + 0.5) / 2**32
    probability = torch.sigmoid(beta * field.double())
    clear = (number - probability).abs() > 1e-6
    assert float(clear.double().mean()) > 0.99
    assert torch.equal(drawn.bool()[clear], (number < probability)[clear])


def annealed_model(dtype: torch.dtype) -> RBM:
    model = RBM(Bernoulli(11), Bernoulli(7))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.8, generator=generator(parameter.numel()))
    return model.to(dtype)


@needs_native
@torch.no_grad()
@pytest.mark.parametrize("precision", ["float32", "lookup"])
def test_annealing_brackets_the_exact_log_z(precision):
    """Forward, reverse and RAISE, |z| < 5: false alarms 2e-6. A base off by one at β = 0 must show."""
    model = annealed_model(torch.float32)
    exact = exact_log_z(annealed_model(torch.float64)).value
    base = 0.5 * sites(11, 7)
    betas = torch.linspace(0, 1, 201, dtype=torch.float64)
    randoms = generator(1)
    forward = ais_log_z(model, base, betas, num_chains=1000, generator=randoms, precision=precision)
    assert abs(forward.value - exact) < 5 * forward.std_error + 1e-4
    wrong = MarginalPath(model, base + 1, precision).log_z0 - MarginalPath(model, base, precision).log_z0
    assert abs(forward.value + wrong - exact) > 20 * forward.std_error
    x = exact_draws(annealed_model(torch.float64), 1000, generator(2)).float()
    reverse = reverse_ais_log_z(model, x, base, betas, burn_in=3, generator=randoms, precision=precision)
    assert abs(reverse.value - exact) < 5 * reverse.std_error + 1e-4
    lower = raise_log_likelihood(
        model, x, base, betas, num_examples=100, num_chains=20, generator=randoms, precision=precision
    )
    truth = float(-annealed_model(torch.float64).free_energy(x.double()).mean()) - exact
    assert truth - 0.1 < lower.value < truth + 5 * lower.std_error


@needs_native
@torch.no_grad()
@pytest.mark.parametrize("precision", ["auto", "lookup"])
def test_annealing_a_large_model_agrees_with_float32(precision: Precision):
    """|z| < 5 for the difference of two independent estimates: false alarms 6e-7. Two per cent on the weights must show."""
    model = RBM(Bernoulli(784), Bernoulli(500))
    for parameter in model.parameters():
        parameter.normal_(0, 0.05, generator=generator(parameter.numel()))
    betas, base = torch.linspace(0, 1, 101, dtype=torch.float64), torch.zeros(784)

    def estimate(precision, seed: int):
        return ais_log_z(model, base, betas, num_chains=40, generator=generator(seed), precision=precision)

    plain, fast = estimate("float32", 1), estimate(precision, 2)
    error = math.hypot(plain.std_error, fast.std_error)
    assert abs(plain.value - fast.value) < 5 * error
    model.weight.mul_(1.02)
    assert abs(plain.value - estimate(precision, 2).value) > 5 * error


# Which layers take it


@needs_native
@pytest.mark.parametrize(
    ("precision", "binary", "shape", "dtype", "taken"),
    [
        ("auto", True, (256, 256), torch.float32, True),
        ("auto", True, (255, 257), torch.float32, False),
        ("auto", True, (256, 256), torch.float64, False),
        ("auto", False, (256, 256), torch.float32, False),
        ("lookup", True, (3, 5), torch.float32, True),
        ("float32", True, (256, 256), torch.float32, False),
    ],
)
def test_layers_take_it_where_it_is_right_and_pays(precision, binary: bool, shape: tuple[int, int], dtype, taken: bool):
    chosen = conditional([torch.ones(*shape, dtype=dtype)], binary=binary, precision=precision)
    assert (chosen is not None) == taken


@torch.no_grad()
def test_without_a_compiler_everything_runs_as_before(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(native, "library", lambda: None)
    model = RBM(Bernoulli(784), Bernoulli(500))
    layers = model.anneal(precision="auto")
    state = run(gibbs(layers), (bits(3, 784), bits(3, 500)), 2, generator=generator())
    assert state[0].shape == (3, 784)
    assert layers.noise(0, 3, generator()).shape == (3, 784)


def test_a_missing_compiler_is_no_error(monkeypatch: pytest.MonkeyPatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert native.library.__wrapped__() is None


@needs_native
def test_the_library_is_built_once(monkeypatch: pytest.MonkeyPatch, tmp_path):
    sites_alone = {
        name: [path for path in paths if path.name == "sites.cpp"] for name, paths in native._SOURCES.items()
    }
    monkeypatch.setattr(native, "_SOURCES", sites_alone)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert native.library.__wrapped__() is not None
    (built,) = (tmp_path / "genmodels").iterdir()
    stamp = built.stat().st_mtime_ns
    monkeypatch.setenv("PATH", "")
    assert native.library.__wrapped__() is not None
    assert built.stat().st_mtime_ns == stamp


@pytest.mark.skipif(native.instructions() != "AVX512", reason="elsewhere the tests beside this one run them already")
def test_the_kernels_for_avx2_pass_the_same_proofs_on_wider_processors():
    suites = [str(Path(__file__).with_name(f"test_{name}.py")) for name in ("lookup", "screen", "sliced")]
    command = [sys.executable, "-m", "pytest", "--numprocesses=0", *suites]
    done = subprocess.run(command, env=os.environ | {"ATEN_CPU_CAPABILITY": "avx2"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:]
    assert "skipped" in done.stdout.splitlines()[-1]  # this test, in the other process


@needs_native
@torch.no_grad()
def test_a_categorical_layer_gets_its_field_by_look_up_and_draws_as_before():
    model = RBM(Categorical(3, 7), Bernoulli(5))
    layers = model.anneal(precision="lookup")
    state = (model.visible.states(torch.arange(13)), bits(13, 5))
    assert layers.noise(0, 13, generator()).shape == (13, 3)
    torch.testing.assert_close(layers.field(0, state), model.field(0, state), rtol=0, atol=1e-6)
