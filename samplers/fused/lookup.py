"""Conditionals of binary layers by table look-up: inputs, random numbers, sigmoid and comparison in one pass."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Sequence

import torch
from torch import Tensor

from samplers.fused import native
from samplers.fused.one_pass import OnePass, check_shape, vector

_INPUTS = 5  # inputs that one table takes; the same number stands in lookup.cpp
_WORTH_A_THREAD = 1 << 24  # multiplications that a further thread pays for, about a tenth of a millisecond


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


class LookupConditional(OnePass):
    """The half-sweep by table look-up, on a CPU.

    Five inputs have 32 joint states, so five multiplications and additions become one look-up in a table of 32 sums.
    Weights are rounded to multiples of a power of two, at most R / 2²⁹ for R the largest Σ_i |W_ij| of any output, and
    summed exactly in integers. A sum is therefore off by at most m R / 2³⁰ for m active inputs, and its conversion to
    float32 by 2⁻²⁴ of its size: no more than a float32 product. States other than 0 count as 1.
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

    @property
    def device(self):
        return self._whole.device

    def field(self, inputs, beta, slope, base):
        return self._run("lookup_field", inputs, beta, slope, base)

    def draw(self, inputs, beta, slope, base, key):
        return self._run("lookup_draw", inputs, beta, slope, base, _seed(key))

    def draw_sites(self, fields, beta, key):
        fields = fields.contiguous()
        out = torch.empty_like(fields)
        _library().draw_sites(fields.data_ptr(), *fields.shape, beta, _seed(key), out.data_ptr())
        return out

    def log_partition(self, fields, beta):
        fields = fields.contiguous()
        out = torch.empty(len(fields), dtype=torch.float64)
        _library().log_partition(fields.data_ptr(), *fields.shape, beta, out.data_ptr())
        return out

    def _run(self, name: str, inputs: Sequence[Tensor], beta: float | Tensor, slope: Tensor, base: Tensor, *key):
        num = len(inputs[0])
        out = torch.empty(num, self._outputs)
        if num == 0:
            return out
        rows = [_rows(x, num, size) for x, size in zip(inputs, self._sizes, strict=True)]
        vectors = [vector(beta, num, self.device), *(vector(v, self._outputs, self.device) for v in (slope, base))]
        job = _Job(
            (_Source * len(rows))(*[_Source(x.data_ptr(), x.stride(0), x.shape[1]) for x in rows]),
            len(rows),
            self._whole.data_ptr(),
            self._outputs,
            self._groups,
            self._step,
            *[v.data_ptr() for v in vectors],
            out.data_ptr(),
            num,
        )
        getattr(_library(), name)(ctypes.byref(job), *key, self._threads(num))
        return out

    def _threads(self, num: int) -> int:
        work = num * self._outputs * self._groups * _INPUTS
        return max(1, min(torch.get_num_threads(), work // _WORTH_A_THREAD))


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
    check_shape(x, num, size)
    x = x.to(torch.float32)
    return x if x.stride(1) == 1 or size == 1 else x.contiguous()


def _seed(key: Tensor) -> int:
    return key.view(torch.uint64).item()  # pyright: ignore[reportReturnType]
