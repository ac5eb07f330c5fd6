"""Products of bytes in C++: sums against float64, draws against the look-ups' numbers, chains against enumeration."""

import math

import pytest
import torch
from test_lookup import BETA, base_of, bits, key_of, p_value, sites, weights
from torch import Tensor
from zoo import accepted, rejected, tiny

from samplers.fused import LookupConditional, SlicedConditional, conditional, native

SIZES = (1, 3, 17, 784, 1000, 2049)

pytestmark = pytest.mark.skipif(not native.has_slices(), reason="needs AVX2, or AVX-512 with VNNI, and a C++ compiler")


def step_of(weight: Tensor) -> float:
    """The contract: what weights are rounded to multiples of."""
    size = weight.abs()
    if native.instructions() == "AVX512":
        return float(size.max()) / 32_600
    fours = [float(four.sum(0).max()) for sizes in (size, size.T) for four in sizes.split(4)]
    return max(2 * float(size.max()), *fours) / 65_500


def within_contract(field: Tensor, x: Tensor, weight: Tensor, slope: Tensor, base: Tensor, beta: float) -> bool:
    """Half a step an active input, and a few roundings of float32."""
    total = x.double() @ weight.double()
    exact = beta * (total + slope.double()) + base.double()
    rounding = 2**-22 * (total.abs() + slope.abs() + base.abs() + 1)
    reach = beta * step_of(weight) * x.sum(1, keepdim=True) / 2
    return bool(((field.double() - exact).abs() <= reach + rounding).all())


def in_bytes(weight: Tensor) -> Tensor:
    """Weights to 8 bits: what would be left if the other 8 were dropped."""
    step = weight.abs().max() / 127
    return (weight / step).round() * step


@pytest.mark.parametrize("outputs", SIZES)
@pytest.mark.parametrize("inputs", SIZES)
def test_fields_keep_their_contract(inputs: int, outputs: int):
    weight, slope, base = weights(inputs, outputs), sites(outputs, 1), sites(outputs, 2)
    for given in (weight, weight.T.contiguous().T):
        fused = SlicedConditional([given])
        for num in (0, 1, 12, 77):
            x = bits(num, inputs)
            field = fused.field([x], BETA, slope, base)
            assert field.shape == (num, outputs)
            assert within_contract(field, x, weight, slope, base, BETA)
    dropped = SlicedConditional([weight - in_bytes(weight)])
    all_on = torch.ones(1, inputs)
    assert not within_contract(dropped.field([all_on], BETA, slope, base), all_on, weight, slope, base, BETA)


def test_the_error_in_practice_is_that_of_independent_roundings():
    """Root mean square √m / √12 steps, to 5 %: more than ten standard errors; no more than 1.1e-5 · √m · max|W|."""
    weight, x, zero = weights(784, 1000), bits(200, 784), torch.zeros(1000)

    def error(held: Tensor) -> float:
        difference = SlicedConditional([held]).field([x], 1.0, zero, zero).double() - x.double() @ weight.double()
        return float((difference / x.sum(1, keepdim=True).sqrt()).square().mean().sqrt())

    expected = step_of(weight) / math.sqrt(12)
    assert error(weight) == pytest.approx(expected, rel=0.05)
    assert expected < 1.1e-5 * float(weight.abs().max())
    assert error(in_bytes(weight)) > 100 * expected


def test_both_layers_hold_the_same_rounded_weights():
    """Else the chain has no stationary distribution of its own; with it, it is exact Gibbs for the rounded weights."""
    weight = weights(17, 31)
    up = SlicedConditional([weight]).field([torch.eye(17)], 1.0, torch.zeros(31), torch.zeros(31))
    down = SlicedConditional([weight.T]).field([torch.eye(31)], 1.0, torch.zeros(17), torch.zeros(17))
    assert torch.equal(down, up.T)


def test_layers_on_both_sides_a_temperature_for_each_chain_and_strided_states():
    below, above, x, y = weights(17, 31), weights(23, 31), bits(50, 34)[:, ::2], bits(50, 23)
    slope, base, beta = sites(31, 1), sites(31, 2), torch.rand(50, 1)
    field = SlicedConditional([below[:, :], above]).field([x, y], beta, slope, base)
    torch.testing.assert_close(field, beta * (x @ below + y @ above + slope) + base, rtol=0, atol=5e-3)
    strided = SlicedConditional([weights(34, 62)[::2, ::2]]).field([x], BETA, slope, base)
    assert within_contract(strided, x, weights(34, 62)[::2, ::2], slope, base, BETA)


@pytest.mark.parametrize("scale", [0.0, 1e-30, 1e30])
def test_weights_of_any_size(scale: float):
    weight, x, zero = scale * weights(17, 31), bits(13, 17), torch.zeros(31)
    assert within_contract(SlicedConditional([weight]).field([x], 1.0, zero, zero), x, weight, zero, zero, 1.0)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_weights_that_are_not_numbers_do_not_pass_unseen(bad: float):
    weight = weights(17, 31)
    weight[3, 5] = bad
    field = SlicedConditional([weight]).field([torch.zeros(1, 17)], 1.0, torch.zeros(31), torch.zeros(31))
    assert bool(field.isnan().all())


def test_the_look_ups_draw_the_same_states():
    """Same numbers: states differ only where one falls between two probabilities some 1e-4 apart."""
    weight, zero = weights(784, 501), torch.zeros(501)
    sliced, lookup = SlicedConditional([weight]), LookupConditional([weight])
    for num in (1, 5, 200):
        x = bits(num, 784)
        drawn = sliced.draw([x], 0.1, zero, zero, key_of(5))
        assert float((drawn != lookup.draw([x], 0.1, zero, zero, key_of(5))).double().mean()) < 1e-3
        assert float((drawn != lookup.draw([x], 0.1, zero, zero, key_of(6))).double().mean()) > 0.1


def test_threads_and_the_number_of_chains_change_nothing():
    fused, x, zero = SlicedConditional([weights(784, 500)]), bits(3000, 784), torch.zeros(500)
    alone = fused.draw([x], 1.0, zero, zero, key_of(3))
    torch.set_num_threads(3)
    try:
        fused = SlicedConditional([weights(784, 500)])
        for num in (77, 700, 3000):  # 700: few enough that threads share the outputs, not the chains
            assert torch.equal(fused.draw([x[:num]], 1.0, zero, zero, key_of(3)), alone[:num])
    finally:
        torch.set_num_threads(1)


@torch.no_grad()
@pytest.mark.parametrize("pair", [("Bernoulli", "Bernoulli"), ("Categorical", "Bernoulli")], ids="-".join)
def test_chains_follow_the_exact_matrix(pair: tuple[str, str]):
    """False alarms: 1e-5 a case. Caught: another temperature, a slice dropped, one key for both layers."""
    double, single = tiny(*pair, scale=1.3), tiny(*pair, scale=1.3).float()
    exact = double.anneal(BETA, base_of(double))

    def layers(beta: float = BETA):
        return single.anneal(beta, base_of(single), precision="sliced")

    assert accepted(p_value(single, layers(), exact))
    assert rejected(p_value(single, layers(1.0), exact))
    assert all(isinstance(fused, SlicedConditional) for fused in layers()._fused)
    if pair[0] == "Bernoulli":
        assert rejected(p_value(single, layers(), exact, same_key=True))
    single.weight.sub_(in_bytes(single.weight))
    assert rejected(p_value(single, layers(), exact))


def test_without_a_compiler_the_plain_products_take_over(monkeypatch: pytest.MonkeyPatch):
    assert isinstance(conditional([weights(3, 5)], binary=True, precision="sliced"), SlicedConditional)
    monkeypatch.setattr(native, "library", lambda: None)
    assert conditional([weights(3, 5)], binary=True, precision="sliced") is None
