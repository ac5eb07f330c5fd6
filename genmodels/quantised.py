"""Features of very many examples: an encoder of one layer in 8-bit integers."""

from __future__ import annotations

import ctypes
import functools
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from genmodels.code_encoders import Lista
from genmodels.errors import BadInput
from genmodels.interface import check_width
from genmodels.psd import PSD
from samplers.fused import native

_LEVELS = 127
_LIFT = 128
_GROUP, _BLOCK = 4, 64  # the same numbers stand in quantised.cpp


class QuantisedEncoder:
    """The codes of a PSD whose encoder is a soft threshold of a linear map (`Lista` of one layer), in 8-bit integers.

    Every row of x − b and every column of the filters is rounded to multiples of its largest entry / 127; their products are
    summed exactly, and thresholds and codes are float32. So every entry is off by at most half a step. On a CPU, where the
    processor multiplies bytes (AVX-512 VNNI) in compiled code, else in floating point with the same result.
    """

    def __init__(self, model: PSD):
        encoder = model.encoder
        if not isinstance(encoder, Lista) or encoder.layers != 1:
            raise BadInput("Only an encoder of one layer, a soft threshold, is quantised: train `Lista` with layers=1.")
        self.non_negative = encoder.non_negative or model.generative.factors.non_negative
        with torch.no_grad():
            filters = encoder.filters[0].float().cpu()
            self._bias = model.generative.visible_bias.float().cpu().clone()
            self._threshold = encoder.log_threshold[0].exp().float().cpu()
        self._scale = filters.abs().amax(0).clamp_min(1e-30) / _LEVELS
        self._weight = (filters / self._scale).round()
        self._native = _Weights(self._weight, self._scale, self._threshold)

    def transform(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n k"]:
        """Codes as features, as `PSD.transform` gives them, to the rounding."""
        check_width(x, len(self._bias))
        library = _library()
        return self._in_floats(x) if library is None else self._native(library, x, self._bias, self.non_negative)

    def _in_floats(self, x: Tensor) -> Tensor:
        centred = x - self._bias
        largest = centred.abs().amax(1, keepdim=True).clamp_min(1e-30)
        drive = ((centred * (_LEVELS / largest)).round() @ self._weight) * (self._scale * (largest / _LEVELS))
        return drive - drive.clamp(None if self.non_negative else -self._threshold, self._threshold)


class _Weights:
    """Filters, their steps and thresholds as the compiled code reads them."""

    def __init__(self, weight: Tensor, scale: Tensor, threshold: Tensor):
        size, self._codes = weight.shape
        missing = -self._codes % _BLOCK
        padded = torch.nn.functional.pad(weight, (0, missing, 0, -size % _GROUP))
        grouped = padded.T.reshape(-1, _BLOCK, len(padded) // _GROUP, _GROUP).transpose(1, 2)
        start = -_LIFT * padded.sum(0)
        ends = (torch.nn.functional.pad(vector, (0, missing)) for vector in (scale, threshold))
        self._tensors = (grouped.to(torch.int8).contiguous(), start.int(), *ends)

    def __call__(self, library: ctypes.CDLL, x: Tensor, bias: Tensor, non_negative: bool) -> Tensor:
        rows = x.detach().to("cpu", torch.float32).contiguous()
        code = torch.empty(len(rows), self._codes)
        tensors = (rows, bias, *self._tensors, code)
        job = _Problem(*(t.data_ptr() for t in tensors), *rows.shape, self._codes, int(non_negative))
        library.quantised_shrink(ctypes.byref(job), ctypes.c_int64(torch.get_num_threads()))
        return code


class _Problem(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("x", "bias", "weight", "start", "scale", "threshold", "code")),
        *((name, ctypes.c_int64) for name in ("num", "size", "codes", "non_negative")),
    )


@functools.cache
def _library() -> ctypes.CDLL | None:
    if not (torch.cpu._is_avx512_supported() and torch.cpu._is_vnni_supported()):
        return None
    return native.compiled([Path(__file__).with_suffix(".cpp")], options=("-mavx512vnni",))
