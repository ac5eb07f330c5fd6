"""Conditionals of binary layers by table look-up: inputs, random numbers, sigmoid and comparison in one pass."""

from __future__ import annotations

import ctypes
import functools
import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from samplers.fused import native

_INPUTS = 5  # inputs that one table takes; the same number stands in lookup.cpp
_LANES = 16
_WORTH_A_THREAD = 1 << 26  # multiplications that a further thread pays for, about half a millisecond


class _Source(ctypes.Structure):
    _fields_ = (("states", ctypes.c_void_p), ("stride", ctypes.c_int64), ("size", ctypes.c_int64))


class _Job(ctypes.Structure):
    _fields_ = (
        ("sources", ctypes.POINTER(_Source)),
        ("num_sources", ctypes.c_int64),
        ("weight", ctypes.c_void_p),
        ("outputs", ctypes.c_int64),
        ("groups", ctypes.c_int64),
        ("scale", ctypes.c_float),
        ("beta", ctypes.c_void_p),
        ("slope", ctypes.c_void_p),
        ("base", ctypes.c_void_p),
        ("out", ctypes.c_void_p),
        ("chains", ctypes.c_int64),
    )


class _Weight(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("inputs", ctypes.c_int64),
        ("input_stride", ctypes.c_int64),
        ("output_stride", ctypes.c_int64),
    )


class LookupConditional:
    """p(s_j = 1 | inputs) = sigmoid(β (Σ_i x_i W_ij + slope_j) + base_j), for inputs x_i in {0, 1} of any layers.

    Five inputs have 32 joint states, so five multiplications and additions become one look-up in a table of 32 sums.
    Weights are rounded to multiples of a power of two, at most R / 2²⁹ for R the largest Σ_i |W_ij| of any output, and
    summed exactly in integers. A sum is therefore off by at most m R / 2³⁰ for m active inputs, and its conversion to
    float32 by 2⁻²⁴ of its size: no more than a float32 product. A state is 1 with its probability to 2⁻³² and float32's
    rounding of the sigmoid, by Philox numbers (Salmon et al., 2011) with one 64-bit key a call, counted by chain and
    output: no number is used twice. States other than 0 count as 1.
    """

    def __init__(self, weights: Sequence[Tensor]):
        """`weights`: the couplings from every neighbouring layer, each (inputs, h) in float32."""
        self._sizes = [len(weight) for weight in weights]
        self._groups = sum(_num_groups(size) for size in self._sizes)
        self._outputs = weights[0].shape[1]
        self._whole = torch.empty(self._outputs, self._groups * _INPUTS, dtype=torch.int32)
        given = (_Weight * len(weights))(*[_Weight(w.data_ptr(), len(w), *w.stride()) for w in weights])
        self._step: float = _library().lookup_prepare(
            given, len(weights), self._outputs, self._groups, ctypes.c_void_p(self._whole.data_ptr())
        )

    def field(self, inputs: Sequence[Tensor], beta: float | Tensor, slope: Tensor, base: Tensor) -> Tensor:
        """β (Σ_i x_i W_ij + slope_j) + base_j, shape (n, h); β is one number or one a chain."""
        return self._run("lookup_field", inputs, beta, slope, base)

    def draw(self, inputs: Sequence[Tensor], beta: float | Tensor, slope: Tensor, base: Tensor, key: Tensor) -> Tensor:
        """States of the layer, shape (n, h), drawn with the random numbers of a 64-bit `key`."""
        return self._run("lookup_draw", inputs, beta, slope, base, key.view(torch.uint64).item())

    def _run(self, name: str, inputs: Sequence[Tensor], beta: float | Tensor, slope: Tensor, base: Tensor, *key):
        num = len(inputs[0])
        out = torch.empty(num, self._outputs)
        if num == 0:
            return out
        rows = [_rows(x, num, size) for x, size in zip(inputs, self._sizes, strict=True)]
        vectors = [_vector(beta, num), _vector(slope, self._outputs), _vector(base, self._outputs)]
        job = _Job(
            (_Source * len(rows))(*[_Source(x.data_ptr(), x.stride(0), x.shape[1]) for x in rows]),
            len(rows),
            self._whole.data_ptr(),
            self._outputs,
            self._groups,
            self._step,
            *[vector.data_ptr() for vector in vectors],
            out.data_ptr(),
            num,
        )
        getattr(_library(), name)(ctypes.byref(job), *key, self._threads(num))
        return out

    def _threads(self, num: int) -> int:
        work = num * self._outputs * self._groups * _INPUTS
        return max(1, min(torch.get_num_threads(), work // _WORTH_A_THREAD, math.ceil(num / _LANES)))


def draw_sites(fields: Float[Tensor, "n d"], beta: float, key: Tensor) -> Float[Tensor, "n d"]:
    """States in {0, 1} of independent sites, each 1 with probability sigmoid(β field); exact as `LookupConditional.draw`."""
    fields = fields.contiguous()
    out = torch.empty_like(fields)
    _library().draw_sites(fields.data_ptr(), *fields.shape, beta, key.view(torch.uint64).item(), out.data_ptr())
    return out


def log_partition(fields: Float[Tensor, "n d"], beta: float) -> Float[Tensor, " n"]:
    """Σ_j log(1 + exp(β field_j)) of each row, float64: terms to float32's precision, their sum in float64."""
    fields = fields.contiguous()
    out = torch.empty(len(fields), dtype=torch.float64)
    _library().log_partition(fields.data_ptr(), *fields.shape, beta, out.data_ptr())
    return out


def key(generator: torch.Generator | None) -> Tensor:
    """A fresh 64-bit key, shape (8,): bytes, whose shape no layer's noise has, so that one is not taken for the other."""
    return torch.empty(8, dtype=torch.uint8).random_(generator=generator)


@functools.cache
def _library() -> ctypes.CDLL:
    library = native.library()
    if library is None:
        raise RuntimeError("Table look-up needs AVX-512 and a C++ compiler; ask for another precision.")
    number = ctypes.c_int64
    library.lookup_prepare.argtypes = [ctypes.POINTER(_Weight), number, number, number, ctypes.c_void_p]
    library.lookup_prepare.restype = ctypes.c_float
    library.lookup_field.argtypes = [ctypes.POINTER(_Job), number]
    library.lookup_draw.argtypes = [ctypes.POINTER(_Job), ctypes.c_uint64, number]
    pointer, real = ctypes.c_void_p, ctypes.c_float
    library.draw_sites.argtypes = [pointer, number, number, real, ctypes.c_uint64, pointer]
    library.log_partition.argtypes = [pointer, number, number, real, pointer]
    return library


def _num_groups(size: int) -> int:
    return -(-size // _INPUTS)


def _rows(x: Tensor, num: int, size: int) -> Tensor:
    """`x` as float32 rows whose entries are neighbours in memory."""
    if x.shape != (num, size):
        raise ValueError(
            f"States of shape {tuple(x.shape)} do not fit {num} chains of {size} inputs; check the layers."
        )
    x = x.to(torch.float32)
    return x if x.stride(1) == 1 or size == 1 else x.contiguous()


def _vector(value: float | Tensor, size: int) -> Tensor:
    """A float32 vector of the given size in memory, from a number or a tensor of one or `size` numbers."""
    if not isinstance(value, Tensor):
        return torch.full((size,), value)
    return value.detach().to(torch.float32).flatten().expand(size).contiguous()
