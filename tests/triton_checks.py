"""The Triton kernels against float64, against Philox and the look-ups number by number, and against enumeration."""

import pytest
import torch
from test_lookup import base_of, philox
from torch import Tensor
from zoo import accepted, chi_square, generator, number, rejected, sweep_matrix, tiny

from genmodels import Bernoulli
from genmodels.boltzmann import Layers
from samplers.fused import LookupConditional, conditional, native
from samplers.fused.triton_sweep import TritonConditional
from samplers.gibbs import update

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
SIZES = (1, 3, 17, 300)
NUM_CHAINS = 100_000
BETA = 0.7


def bits(rows: int, columns: int) -> Tensor:
    return (torch.rand(rows, columns, generator=generator(rows + columns)) < 0.4).float().to(DEVICE)


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator(sum(shape))).to(DEVICE)


def key_of(seed: int) -> Tensor:
    return torch.tensor([seed], dtype=torch.uint64).view(torch.uint8).to(DEVICE)


def within_contract(field: Tensor, x: Tensor, weight: Tensor, slope: Tensor, base: Tensor) -> bool:
    exact = BETA * (x.double() @ weight.double() + slope) + base
    reach = x.double().sum(1, keepdim=True) * weight.abs().max() / 65_024
    return bool(((field - exact).abs() <= 1.03 * reach + 2**-21 * (1 + exact.abs() + base.abs())).all())


@pytest.mark.parametrize("outputs", SIZES)
@pytest.mark.parametrize("inputs", SIZES)
def test_fields_keep_their_contract(inputs: int, outputs: int):
    weight, slope, base = normal(inputs, outputs), normal(outputs), normal(outputs)
    fused = TritonConditional([weight])
    for num in (0, 1, 77):
        x = bits(num, inputs)
        field = fused.field([x], BETA, slope, base)
        assert field.shape == (num, outputs)
        assert within_contract(field, x, weight, slope, base)


def test_the_second_slice_is_needed():
    weight, x = normal(784, 50), bits(13, 784)
    fused, zero = TritonConditional([weight]), torch.zeros(50, device=DEVICE)
    fused._slices[0][0][1] = 0
    assert not within_contract(fused.field([x], BETA, zero, zero), x, weight, zero, zero)


def test_views_and_types_of_states():
    weight, x, slope, base = normal(17, 31), bits(13, 34)[:, ::2], normal(62)[::2], normal(31)
    fused = TritonConditional([weight])
    field = fused.field([x], BETA, slope, base)
    assert within_contract(field, x, weight, slope, base)
    for dtype in (torch.int8, torch.bool, torch.float16):
        assert torch.equal(fused.field([x.to(dtype)], BETA, slope, base), field)
        drawn = fused.draw([x.to(dtype)], BETA, slope, base, key_of(7))
        assert drawn.dtype == dtype
        assert torch.equal(drawn.float(), fused.draw([x], BETA, slope, base, key_of(7)))
    with pytest.raises(ValueError, match="do not fit"):
        fused.field([bits(13, 18)], BETA, slope, base)


def test_layers_on_both_sides_and_a_temperature_for_each_chain():
    below, above, x, y = normal(17, 31), 3 * normal(23, 31), bits(50, 17), bits(50, 23)
    slope, base, beta = normal(31), normal(31), torch.rand(50, 1, generator=generator()).to(DEVICE)
    field = TritonConditional([below, above]).field([x, y], beta, slope, base)
    torch.testing.assert_close(field, beta * (x @ below + y @ above + slope) + base, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("seed", [1, 2**63, 2**64 - 7])
def test_every_state_is_decided_by_its_own_number(seed: int):
    weight, x, slope, zero = normal(29, 43), bits(37, 29), normal(43), torch.zeros(43, device=DEVICE)
    fused = TritonConditional([weight])
    field = fused.field([x], BETA, slope, zero)
    words = [philox((c, j // 4, 0, 0), seed)[j % 4] for c in range(37) for j in range(43)]
    uniform = ((torch.tensor(words, dtype=torch.float64).reshape(37, 43) + 0.5) / 2**32).to(DEVICE)
    probability = torch.sigmoid(field.double())
    clear = (uniform - probability).abs() > 1e-6
    assert float(clear.double().mean()) > 0.99
    for drawn in (fused.draw([x], BETA, slope, zero, key_of(seed)), fused.draw_sites(field, 1.0, key_of(seed))):
        assert torch.equal(drawn.bool()[clear], (uniform < probability)[clear])


@pytest.mark.skipif(native.library() is None, reason="needs AVX2 and a C++ compiler")
def test_the_look_ups_draw_the_same_states():
    """Apart from those few whose number falls between two probabilities 1e-4 apart."""
    weight, x, slope, zero = normal(300, 70), bits(200, 300), normal(70), torch.zeros(70, device=DEVICE)
    drawn = TritonConditional([weight]).draw([x], 0.1, slope, zero, key_of(5)).cpu()
    other = LookupConditional([weight.cpu()]).draw([x.cpu()], 0.1, slope.cpu(), zero.cpu(), key_of(5).cpu())
    assert float((drawn != other).float().mean()) < 1e-3
    another = LookupConditional([weight.cpu()]).draw([x.cpu()], 0.1, slope.cpu(), zero.cpu(), key_of(6).cpu())
    assert float((drawn != another).float().mean()) > 0.1


def test_log_partitions_of_sites():
    field = 7 * normal(29, 131)
    exact = torch.nn.functional.softplus(BETA * field.double()).sum(1)
    torch.testing.assert_close(
        TritonConditional([normal(1, 1)]).log_partition(field, BETA), exact, rtol=1e-6, atol=1e-5
    )


@torch.no_grad()
def test_chains_follow_the_exact_matrix():
    """χ² over all joint states after one sweep. False alarms: 1e-5. Caught: another temperature, one key for both layers."""
    single, double = tiny("Bernoulli", "Bernoulli", scale=1.3).float(), tiny("Bernoulli", "Bernoulli", scale=1.3)
    states, matrix = sweep_matrix(double.anneal(BETA, base_of(double)), {})
    on_device = single.to(DEVICE)
    base = tuple(b.to(DEVICE) for b in base_of(single))
    start = tuple(u.states(torch.tensor([1])).to(DEVICE, torch.int8).expand(NUM_CHAINS, -1) for u in single.units)
    row = matrix[int(number([s[:1].cpu() for s in start], states))]
    randoms = torch.Generator(DEVICE).manual_seed(3)

    def p_value(beta: float, same_key: bool = False) -> float:
        layers = on_device.anneal(beta, base, precision="triton")
        assert all(isinstance(fused, TritonConditional) for fused in layers._fused)
        noise = {layer: layers.noise(layer, NUM_CHAINS, randoms) for layer in (0, 1)}
        after = update(layers, start, noise | {0: noise[1]} if same_key else noise, {})
        assert after[0].dtype == torch.int8
        return chi_square(number([s.cpu() for s in after], states), row)

    assert accepted(p_value(BETA))
    assert rejected(p_value(1.0))
    assert rejected(p_value(BETA, same_key=True))


@torch.no_grad()
def test_a_deep_machine_draws_each_layer_from_both_neighbours():
    """Frequencies of 20,000 chains in the middle layer, |z| < 5: false alarms 3e-6."""
    units = [Bernoulli(size) for size in (7, 5, 3)]
    couplings, biases = [normal(7, 5), normal(5, 3)], [normal(7), normal(5), normal(3)]
    state = tuple(bits(1, unit.size).expand(20_000, -1).contiguous() for unit in units)
    layers = Layers(units, couplings, biases, beta=BETA, precision="triton")
    plain = Layers(units, couplings, biases, beta=BETA)
    assert layers.blocks == ((1,), (0, 2))
    drawn = layers.draw(1, state, layers.noise(1, 20_000, torch.Generator(DEVICE).manual_seed(0)))
    p = plain.mean(1, state)[0].double()
    z = (drawn.double().mean(0) - p) / (p * (1 - p) / 20_000).sqrt()
    assert float(z.abs().max()) < 5


@pytest.mark.parametrize(
    ("binary", "dtype", "taken"),
    [(True, torch.float32, True), (False, torch.float32, False), (True, torch.float64, False)],
)
def test_only_binary_inputs_and_float32_weights(binary: bool, dtype: torch.dtype, taken: bool):
    chosen = conditional([torch.ones(3, 5, dtype=dtype, device=DEVICE)], binary=binary, precision="triton")
    assert (chosen is not None) == taken


@pytest.mark.skipif(DEVICE.type != "cuda", reason="needs a CUDA device")
@torch.no_grad()
def test_a_graph_makes_the_same_steps():
    from samplers import gibbs, run
    from samplers.fused import graphed
    from samplers.fused.triton_sweep import works

    assert works(DEVICE)
    model = tiny("Bernoulli", "Bernoulli").float().to(DEVICE)
    kernel = gibbs(model.anneal(precision="triton"))
    start = tuple(bits(100, unit.size).to(torch.int8) for unit in model.units)
    plain = run(kernel, start, 7, generator=torch.Generator(DEVICE).manual_seed(1))
    go_on = graphed(kernel, start, torch.Generator(DEVICE).manual_seed(1))
    go_on(3)
    assert all(torch.equal(a, b) for a, b in zip(go_on(4), plain, strict=True))
