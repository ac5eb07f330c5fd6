"""Correlations of two layers, the sufficient statistics of their couplings, through one int8 product."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from samplers.fused import native
from samplers.fused.cpu import threads_for, unit_stride
from samplers.fused.products import has_int8

_LEVELS = 255


class Correlation(NamedTuple):
    """The matrix scale · product + shift · s 1ᵀ, where s is the same weighted sum of the lower layer alone.

    Left in parts because a matrix of this size is best read once, together with whatever else is added to it.
    """

    product: Float[Tensor, "d h"]
    scale: float
    shift: float


def contrasted_correlation(
    below: Float[Tensor, "n d"], above: Float[Tensor, "n h"], generator: torch.Generator | None
) -> Correlation:
    """Mean of below_r above_rᵀ over the first half of the rows minus that over the second half, on a CPU.

    For `below` in {0, 1} and `above` in [0, 1]: the latter are rounded up or down to one of 256 levels, with the
    probability that makes each of them unbiased, and the product accumulates exactly. So the result is unbiased, and its
    variance grows by at most 1/(255² n) for n rows (1.5e-5 / n, where drawn states in place of means add up to 1 / n).
    """
    num, size = above.shape
    # One vector of numbers serves all: row r at column c has number r + c, uniform as every other.
    dither = torch.rand(num + size - 1, dtype=above.dtype, generator=generator)
    multiply = _multiply_bytes() if above.dtype == torch.float32 else None
    if multiply is not None:
        return Correlation(multiply(below, above, dither), 2 / (num * _LEVELS), 0.0)
    levels = torch.add(dither.unfold(0, size, 1), above, alpha=_LEVELS).floor_().sub_(128).to(torch.int8)
    signed = below.to(torch.int8)
    signed[num // 2 :].neg_()
    product = torch._int_mm(signed.T, levels).to(above.dtype)
    return Correlation(product, 2 / (num * _LEVELS), 128 / _LEVELS)


@functools.cache
def _multiply_bytes() -> Callable[[Tensor, Tensor, Tensor], Tensor] | None:
    """Σ_r ± below_r levels_rᵀ in C++, where there is a compiler and a processor for it."""
    library = native.library()
    if library is None or not has_int8(torch.device("cpu")):
        return None
    number, pointer = ctypes.c_int64, ctypes.c_void_p
    correlate = library.correlate
    correlate.argtypes = [pointer, number, pointer, pointer, *[number] * 4, pointer, number]

    def multiply(below: Tensor, above: Tensor, dither: Tensor) -> Tensor:
        below, above = unit_stride(below), above.contiguous()
        (num, size), width = above.shape, below.shape[1]
        out = torch.empty(width, size)
        pointers = (below.data_ptr(), below.stride(0), above.data_ptr(), dither.data_ptr())
        correlate(*pointers, num, num // 2, width, size, out.data_ptr(), threads_for(num * width * size))
        return out

    return multiply
