"""Conditionals of binary layers on a CPU: inputs, random numbers, sigmoid and comparison in one pass of C++."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Sequence

import torch
from torch import Tensor

from samplers.fused import native
from samplers.fused.one_pass import OnePass, check_shape, vector

_WORTH_A_THREAD = 1 << 22  # multiplications that a further thread pays for, about 30 microseconds
_ROUNDING = 32  # multiplications that take the time of rounding one weight
_DECIDING = 256  # ... of drawing one site whose field is known
_WORTH_SCREENING = 0.15  # share of states that one byte of the weights may leave open


class _Source(ctypes.Structure):
    _fields_ = (("states", ctypes.c_void_p), ("stride", ctypes.c_int64), ("size", ctypes.c_int64))


class _Job(ctypes.Structure):
    _fields_ = (
        ("sources", ctypes.POINTER(_Source)),
        ("num_sources", ctypes.c_int64),
        ("weight", ctypes.c_void_p),
        ("outputs", ctypes.c_int64),
        ("groups", ctypes.c_int64),
        ("scale", ctypes.c_void_p),
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


class _Screen(ctypes.Structure):
    _fields_ = (("high", ctypes.c_void_p), ("low", ctypes.c_void_p), ("numbers", ctypes.c_void_p * 6))


class _CpuPass(OnePass):
    """What the kernels have in common."""

    name: str

    def __init__(self, weights: Sequence[Tensor]):
        """`weights`: the couplings from every neighbouring layer, each (inputs, h) in float32."""
        weights = [w if 1 in w.stride() else w.contiguous() for w in weights]
        self._sizes = [len(weight) for weight in weights]
        self._inputs = getattr(_library(), f"{self.name}_inputs")()
        self._groups = sum(-(-size // self._inputs) for size in self._sizes)
        self._outputs = weights[0].shape[1]
        size = (self._outputs, self._groups)
        self._packed = torch.empty(getattr(_library(), f"{self.name}_room")(*size), dtype=torch.int8)
        self._scale = torch.empty(self._outputs, dtype=torch.float32)
        given = (_Weight * len(weights))(*[_Weight(w.data_ptr(), len(w), *w.stride()) for w in weights])
        prepare = getattr(_library(), f"{self.name}_prepare")
        prepare(given, len(weights), *size, self._packed.data_ptr(), self._scale.data_ptr(), self._rounding_threads)

    @property
    def _rounding_threads(self) -> int:
        return threads_for(_ROUNDING * self._outputs * self._groups * self._inputs)

    @property
    def device(self):
        return torch.device("cpu")

    def draw_sites(self, fields, beta, key):
        fields = fields.contiguous()
        out = torch.empty_like(fields)
        threads = threads_for(_DECIDING * fields.numel())
        _library().draw_sites(fields.data_ptr(), *fields.shape, beta, _seed(key), out.data_ptr(), threads)
        return out

    def log_partition(self, fields, beta):
        fields = fields.contiguous()
        out = torch.empty(len(fields), dtype=torch.float64)
        threads = threads_for(_DECIDING * fields.numel())
        _library().log_partition(fields.data_ptr(), *fields.shape, beta, out.data_ptr(), threads)
        return out

    def field(self, inputs, beta, slope, base):
        return self._run("field", inputs, beta, slope, base)

    def draw(self, inputs, beta, slope, base, key):
        return self._run("draw", inputs, beta, slope, base, _seed(key))

    def _run(self, name: str, inputs: Sequence[Tensor], beta: float | Tensor, slope: Tensor, base: Tensor, *key):
        num = len(inputs[0])
        out = torch.empty(num, self._outputs, dtype=torch.float32)
        if num == 0:
            return out
        self._call(f"{self.name}_{name}", inputs, (beta, slope, base), out, *key)
        return out

    def _call(self, kernel: str, inputs: Sequence[Tensor], affine: tuple, out: Tensor, *more) -> int:
        """Run a kernel on the states of the neighbours; `affine`: β, slope and base."""
        beta, slope, base = affine
        num = len(out)
        for x, size in zip(inputs, self._sizes, strict=True):
            check_shape(x, num, size)
        rows = [unit_stride(x) for x in inputs]
        vectors = [vector(beta, num, self.device), *(vector(v, self._outputs, self.device) for v in (slope, base))]
        job = _Job(
            (_Source * len(rows))(*[_Source(x.data_ptr(), x.stride(0), x.shape[1]) for x in rows]),
            len(rows),
            self._packed.data_ptr(),
            self._outputs,
            self._groups,
            self._scale.data_ptr(),
            *[v.data_ptr() for v in vectors],
            out.data_ptr(),
            num,
        )
        threads = threads_for(num * self._outputs * self._groups * self._inputs)
        return getattr(_library(), kernel)(ctypes.byref(job), *more, threads)


class LookupConditional(_CpuPass):
    """The half-sweep by table look-up, in full precision.

    Five inputs have 32 joint states (with AVX2 four have 16), so as many multiplications and additions become one look-up in
    a table of sums. Weights are rounded to multiples of a power of two, at most R / 2²⁹ for R the largest Σ_i |W_ij| of any
    output (with AVX2 R / 2²⁸), and summed exactly in integers. A sum is therefore off by at most m R / 2³⁰ (2²⁹) for m active
    inputs, and its conversion to float32 by 2⁻²⁴ of its size: no more than a float32 product. States other than 0 count as 1.

    Draws need no such sums as a rule. A part of every weight, its leading 14 or 16 bits with AVX2, a byte where an AVX-512
    processor multiplies bytes, gives a field and a bound of its error, whatever the states; the few states whose random numbers
    lie within it are decided by the whole weights.
    The states are the same, bit for bit.
    """

    name = "lookup"

    def __init__(self, weights: Sequence[Tensor]):
        super().__init__(weights)
        self._screening = native.has_slices()

    def draw(self, inputs, beta, slope, base, key):
        if not self._screening or len(inputs[0]) == 0:
            return super().draw(inputs, beta, slope, base, key)
        out = torch.empty(len(inputs[0]), self._outputs, dtype=torch.float32)
        screen = ctypes.byref(self._screen[0])
        unsure = self._call("screen_draw", inputs, (beta, slope, base), out, screen, _seed(key))
        # Weights of very unequal sizes: bytes decide too little, and go on deciding too little.
        self._screening = unsure <= _WORTH_SCREENING * out.numel()
        return out

    @functools.cached_property
    def _screen(self) -> tuple[_Screen, list[Tensor]]:
        """What decides most draws, and its memory: two sets of bytes, where the kernel wants any, and six numbers an output."""
        inputs = self._groups * self._inputs
        rooms = [_library().screen_room(self._outputs, inputs, digit) for digit in (0, 1)]
        memory = [
            *(torch.zeros(room, dtype=torch.int8) for room in rooms),
            torch.empty(6, self._outputs, dtype=torch.float32),
        ]
        whole = (self._packed.data_ptr(), self._outputs, inputs, self._scale.data_ptr())
        _library().screen_prepare(*whole, *(tensor.data_ptr() for tensor in memory), self._rounding_threads)
        high, low, numbers = memory
        places = (ctypes.c_void_p * 6)(*[row.data_ptr() for row in numbers])
        return _Screen(high.data_ptr(), low.data_ptr(), places), memory


class SlicedConditional(_CpuPass):
    """The half-sweep by 16 bits of every weight, for weights that change with every step.

    Weights are rounded to whole steps, and products and sums are exact. A sum is off by at most half a step an active input.
    With AVX-512, in products of two bytes, a step is max|W| / 32,600: half of it is 1.54e-5 of the largest weight, and the
    error about 0.9e-5 √m max|W| in practice for m active inputs. With AVX2, in tables of sums of four, it is 1 / 65,500 of
    2 max|W| or of the largest Σ|W| of four neighbours in a row or column, whichever is more: at most twice as much.
    With one matrix, both of its layers round it alike: exact block Gibbs for the rounded weights. States other than 0 count as 1.
    """

    name = "sliced"


@functools.cache
def _library() -> ctypes.CDLL:
    library = native.library()
    if library is None:
        raise RuntimeError("Table look-up needs AVX-512 or AVX2 and a C++ compiler; ask for another precision.")
    number = ctypes.c_int64
    for kernel in ("lookup", "sliced"):
        steps = ("inputs", "room", "prepare", "field", "draw")
        inputs, room, prepare, field, draw = (getattr(library, f"{kernel}_{step}") for step in steps)
        inputs.restype, room.restype = number, number
        room.argtypes = [number] * 2
        prepare.argtypes = [ctypes.POINTER(_Weight), *[number] * 3, *[ctypes.c_void_p] * 2, number]
        field.argtypes = [ctypes.POINTER(_Job), number]
        draw.argtypes = [ctypes.POINTER(_Job), ctypes.c_uint64, number]
    pointer, real = ctypes.c_void_p, ctypes.c_float
    library.screen_room.argtypes, library.screen_room.restype = [number] * 3, number
    library.screen_prepare.argtypes = [pointer, number, number, *[pointer] * 4, number]
    library.screen_draw.argtypes = [ctypes.POINTER(_Job), ctypes.POINTER(_Screen), ctypes.c_uint64, number]
    library.screen_draw.restype = number
    library.draw_sites.argtypes = [pointer, number, number, real, ctypes.c_uint64, pointer, number]
    library.log_partition.argtypes = [pointer, number, number, real, pointer, number]
    return library


def threads_for(work: int) -> int:
    """Threads that so many multiplications are worth."""
    return max(1, min(torch.get_num_threads(), work // _WORTH_A_THREAD))


def unit_stride(x: Tensor) -> Tensor:
    """`x` as float32 rows whose entries are neighbours in memory."""
    x = x.to(torch.float32)
    return x if x.stride(1) == 1 or x.shape[1] == 1 else x.contiguous()


def _seed(key: Tensor) -> int:
    return key.view(torch.uint64).item()  # pyright: ignore[reportReturnType]
