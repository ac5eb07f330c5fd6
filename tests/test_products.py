"""The fast paths keep their promises: int8 products against float64, quick uniform numbers against the uniform law."""

import math

import pytest
import torch
from scipy.stats import kstest
from torch import Tensor
from zoo import accepted, chi_square, generator, rejected

from samplers.fused import product, products, uniform
from samplers.fused.products import DenseProduct, SlicedProduct

SIZES = (1, 3, 17, 784, 1000)
# The contract is half a step of 127 · 256 levels an active input; float32 sums and scales add 3 % at most.
HALF_STEP = 1.03 / 65_024


def weights(rows: int, columns: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(rows, columns, generator=generator(rows * columns), dtype=torch.float64).to(dtype)


def bits(rows: int, columns: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return (torch.rand(rows, columns, generator=generator(rows + columns)) < 0.4).to(dtype)


def within_contract(actual: Tensor, states: Tensor, weight: Tensor) -> bool:
    error = (actual.double() - states.double() @ weight.double()).abs()
    return bool((error <= states.sum(1, keepdim=True).double() * float(weight.abs().max()) * HALF_STEP).all())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("columns", SIZES)
@pytest.mark.parametrize("rows", SIZES)
def test_slices_keep_their_contract(rows: int, columns: int, dtype: torch.dtype):
    weight = weights(rows, columns, dtype)
    sliced = SlicedProduct(weight)
    for num in (0, 1, 13):
        x, h = bits(num, rows, dtype), bits(num, columns, dtype)
        for actual, states, matrix in ((sliced.up(x), x, weight), (sliced.down(h), h, weight.T)):
            assert actual.dtype == dtype
            assert actual.shape == (num, matrix.shape[1])
            assert within_contract(actual, states, matrix)


@pytest.mark.parametrize("rows", [17, 784])
def test_the_second_slice_is_needed(rows: int):
    weight, x = weights(rows, 1000), bits(13, rows)
    sliced = SlicedProduct(weight)
    sliced._both[:, 1000:] = 0
    assert not within_contract(sliced.up(x), x, weight)


def test_the_error_in_practice_is_that_of_independent_roundings():
    """Root mean square 1 / (√12 · 127 · 256) = 0.89e-5 · √m · max|W|, to 5 %: more than ten standard errors."""
    weight, x = weights(784, 1000), bits(200, 784)
    error = SlicedProduct(weight).up(x).double() - x.double() @ weight.double()
    size = error / x.sum(1, keepdim=True).sqrt() / weight.abs().max()
    assert float(size.square().mean().sqrt()) == pytest.approx(0.89e-5, rel=0.05)


def test_both_directions_hold_the_same_rounded_weights():
    """Else the chain has no stationary distribution of its own; with it, it is exact Gibbs for the rounded weights."""
    sliced, x = SlicedProduct(weights(17, 31)), bits(13, 17)
    rounded = sliced.up(torch.eye(17))
    assert torch.equal(sliced.down(torch.eye(31)), rounded.T)
    torch.testing.assert_close(sliced.up(x), x @ rounded, rtol=1e-6, atol=1e-6)


def test_views_and_other_dtypes_of_states_are_products_too():
    weight = weights(1000, 784).T
    x, h = bits(13, 2 * 784)[:, ::2], bits(1000, 13).T
    sliced = SlicedProduct(weight)
    assert not any(t.is_contiguous() for t in (weight, x, h))
    assert within_contract(sliced.up(x), x, weight)
    assert within_contract(sliced.down(h), h, weight.T)
    assert torch.equal(sliced.up(x.bool()), sliced.up(x))


@pytest.mark.parametrize("scale", [0.0, 1e-30, 1e30])
def test_weights_of_any_size(scale: float):
    weight, x = scale * weights(17, 31), bits(13, 17)
    assert within_contract(SlicedProduct(weight).up(x), x, weight)


def test_weights_that_are_not_numbers_do_not_pass_unseen():
    weight = weights(17, 31)
    weight[3, 5] = math.nan
    assert not bool(torch.isfinite(SlicedProduct(weight).up(torch.ones(1, 17))).any())


def test_preparing_leaves_the_weights_alone():
    weight = weights(17, 31)
    SlicedProduct(weight)
    assert torch.equal(weight, weights(17, 31))


LARGE, SMALL = (256, 256), (255, 257)
RULES = [
    ("float32", True, True, LARGE, DenseProduct),
    ("sliced", True, True, SMALL, SlicedProduct),
    ("sliced", True, False, SMALL, SlicedProduct),
    ("sliced", False, True, LARGE, DenseProduct),
    ("auto", True, True, LARGE, SlicedProduct),
    ("auto", True, True, SMALL, DenseProduct),
    ("auto", True, False, LARGE, DenseProduct),
    ("auto", False, True, LARGE, DenseProduct),
]


@pytest.mark.parametrize(("precision", "binary", "native", "shape", "kind"), RULES)
def test_product_takes_slices_where_they_are_right_and_pay(
    precision, binary: bool, native: bool, shape: tuple[int, int], kind: type, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(products, "has_int8", lambda device: native)
    weight = weights(*shape)
    chosen = product(weight, binary=binary, precision=precision)
    assert type(chosen) is kind
    x = bits(13, shape[0])
    if kind is DenseProduct:
        assert torch.equal(chosen.up(x), x @ weight)
        assert torch.equal(chosen.down(x[:, :1].expand(-1, shape[1])), x[:, :1].expand(-1, shape[1]) @ weight.T)


def test_only_a_cpu_has_the_integer_product():
    assert not products.has_int8(torch.device("cuda"))


# Uniform numbers


def quick(num: int, size: int, seed: int = 0) -> Tensor:
    return uniform(num, size, dtype=torch.float32, device=torch.device("cpu"), generator=generator(seed))


@pytest.mark.parametrize("size", [1, 2, 3, 5, 784])
@pytest.mark.parametrize("num", [0, 1, 7])
def test_uniform_numbers_have_their_shape_and_grid(num: int, size: int):
    numbers = quick(num, size)
    assert numbers.shape == (num, size)
    assert numbers.dtype == torch.float32
    steps = numbers.double() * 2**24
    assert torch.equal(steps, steps.round())
    assert bool(((steps >= 0) & (steps < 2**24)).all())
    assert torch.equal(numbers, quick(num, size))


def test_uniform_numbers_reach_both_ends():
    numbers = quick(1000, 1000)
    assert float(numbers.min()) < 1e-4
    assert 1 - 1e-4 < float(numbers.max()) < 1


@pytest.mark.parametrize("seed", range(3))
def test_uniform_numbers_are_uniform(seed: int):
    """Their 65,536 leading parts by χ², all by Kolmogorov and Smirnov. False alarms: 2e-5."""
    numbers = quick(1000, 1001, seed).flatten()
    index = (numbers * 2**16).long()
    assert accepted(chi_square(index, torch.ones(2**16, dtype=torch.float64)))
    assert accepted(kstest(numbers.double(), "uniform").pvalue)
    tilted = 1 + 0.2 * torch.linspace(-1, 1, 2**16, dtype=torch.float64)
    assert rejected(chi_square(index, tilted))


def test_trailing_bits_are_uniform_from_call_to_call():
    """χ² over their 256 values in 20,000 calls. False alarms: 1e-5."""
    randoms, cpu = generator(), torch.device("cpu")
    calls = [uniform(1, 2, dtype=torch.float32, device=cpu, generator=randoms)[0] for _ in range(20_000)]
    trailing = (torch.stack(calls).double() * 2**24).long() % 256
    assert torch.equal(trailing[:, 0], trailing[:, 1])
    assert accepted(chi_square(trailing[:, 0], torch.ones(256, dtype=torch.float64)))


def test_neighbours_are_independent():
    """Each number with the next four, the lanes of one word among them: χ² over 16 × 16 cells. False alarms: 4e-5."""
    numbers = quick(1000, 1001).flatten()
    cell = (numbers * 16).long()
    for lag in (1, 2, 3, 4):
        assert accepted(chi_square(16 * cell[:-lag] + cell[lag:], torch.ones(256, dtype=torch.float64)))


def test_other_dtypes_come_from_torch():
    numbers = uniform(3, 5, dtype=torch.float64, device=torch.device("cpu"), generator=generator())
    assert torch.equal(numbers, torch.rand(3, 5, dtype=torch.float64, generator=generator()))
