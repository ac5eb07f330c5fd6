"""Correlations of two layers, the sufficient statistics of their couplings, through one int8 product."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from samplers.fused import native
from samplers.fused.cpu import threads_for, unit_stride

_LEVELS = 255


class _Correlated(ctypes.Structure):
    _fields_ = (
        ("below", ctypes.c_void_p),
        ("stride", ctypes.c_int64),
        ("above", ctypes.c_void_p),
        ("dither", ctypes.c_void_p),
        ("rows", ctypes.c_int64),
        ("half", ctypes.c_int64),
        ("width", ctypes.c_int64),
        ("size", ctypes.c_int64),
        ("scale", ctypes.c_float),
        ("left", ctypes.c_void_p),
        ("right", ctypes.c_void_p),
        ("out", ctypes.c_void_p),
    )


def contrasted_correlation(
    below: Float[Tensor, "n d"],
    above: Float[Tensor, "n h"],
    left: Float[Tensor, "2 d"],
    right: Float[Tensor, "2 h"],
    generator: torch.Generator | None,
) -> Float[Tensor, "d h"]:
    """Mean of below_r above_rᵀ over the first half of the rows minus that over the second half, plus leftᵀ right; on a CPU.

    For `below` in {0, 1} and `above` in [0, 1]: the latter are rounded up or down to one of 256 levels, with the
    probability that makes each of them unbiased, and the product accumulates exactly. So the result is unbiased, and its
    variance grows by at most 1/(255² n) for n rows (1.5e-5 / n, where drawn states in place of means add up to 1 / n).
    """
    num, size = above.shape
    # One vector of numbers serves all: row r at column c has number r + c, uniform as every other.
    dither = torch.rand(num + size - 1, dtype=above.dtype, generator=generator)
    multiply = _multiply_bytes() if above.dtype == torch.float32 else None
    if multiply is not None:
        return multiply(below, above, dither, left, right)
    levels = (
        torch.add(dither.unfold(0, size, 1), above, alpha=_LEVELS).floor_().clamp_(max=_LEVELS).sub_(128).to(torch.int8)
    )
    signed = below.to(torch.int8)
    signed[num // 2 :].neg_()
    scale = 2 / (num * _LEVELS)
    shift = signed.sum(0, dtype=above.dtype) * (128 * scale)
    return torch._int_mm(signed.T, levels).to(above.dtype).mul_(scale).add_(shift[:, None]).addmm_(left.T, right)


@functools.cache
def _multiply_bytes() -> Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor] | None:
    """The same in C++, where there is a compiler and a processor for it."""
    library = native.library()
    if library is None or not native.has_slices():
        return None
    correlate = library.correlate
    correlate.argtypes = [ctypes.POINTER(_Correlated), ctypes.c_int64]

    def multiply(below: Tensor, above: Tensor, dither: Tensor, left: Tensor, right: Tensor) -> Tensor:
        below, above, left, right = unit_stride(below), above.contiguous(), left.contiguous(), right.contiguous()
        (num, size), width = above.shape, below.shape[1]
        out = torch.empty(width, size, dtype=torch.float32)
        job = _Correlated(
            below.data_ptr(),
            below.stride(0),
            above.data_ptr(),
            dither.data_ptr(),
            num,
            num // 2,
            width,
            size,
            2 / (num * _LEVELS),
            left.data_ptr(),
            right.data_ptr(),
            out.data_ptr(),
        )
        correlate(ctypes.byref(job), threads_for(num * width * size))
        return out

    return multiply
