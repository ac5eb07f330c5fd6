"""Features of very many examples: an encoder of one layer in small integers."""

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

_LEVELS = 127  # of the filters
_GROUP, _BLOCK = 4, 64  # the same numbers stand in quantised.cpp, the first in quantised_avx2.cpp, too
_LIFT = 128
_PADDED = 32
_LARGEST = 2**15 - 1  # of a sum of 16 bits


class QuantisedEncoder:
    """The codes of a PSD whose encoder is a soft threshold of a linear map (`Lista` of one layer), in small integers.

    Every row of x − b is rounded to multiples of its largest entry / `levels`, and every column of the filters to multiples
    of its largest entry / 127; their products are summed exactly, and thresholds and codes are float32. So every entry is
    off by at most half a step. The filters, cut into groups of four inputs, `keep` only that share of the groups that is
    largest: filters that are localised lose little. On a CPU in compiled code, which leaves out what is not kept (AVX2) or
    multiplies everything (AVX-512 VNNI), else in floating point with the same result.
    """

    def __init__(self, model: PSD, *, levels: int = 63, keep: float = 1.0):
        encoder = model.encoder
        if not isinstance(encoder, Lista) or encoder.layers != 1:
            raise BadInput("Only an encoder of one layer, a soft threshold, is quantised: train `Lista` with layers=1.")
        if not 1 <= levels <= 63:
            raise BadInput(f"levels must be from 1 to 63, not {levels}: two products must fit 16 bits.")
        if not 0 < keep <= 1:
            raise BadInput(f"keep must be a share above 0 and at most 1, not {keep}.")
        self.levels = levels
        self.non_negative = encoder.non_negative or model.generative.factors.non_negative
        with torch.no_grad():
            filters = _largest_groups(encoder.filters[0].float().cpu(), keep)
            self._bias = model.generative.visible_bias.float().cpu().clone()
            self._threshold = encoder.log_threshold[0].exp().float().cpu()
        self._scale = filters.abs().amax(0).clamp_min(1e-30) / _LEVELS
        self._weight = (filters / self._scale).round()
        self._tensors = (_dense if _multiplies_bytes() else _sparse)(self._weight, self._scale, self._threshold, levels)

    def transform(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n k"]:
        """Codes as features, as `PSD.transform` gives them, to the rounding and what is not kept."""
        check_width(x, len(self._bias))
        library = _library()
        if library is None:
            return self._in_floats(x)
        rows = x.detach().to("cpu", torch.float32).contiguous()
        bias = torch.nn.functional.pad(self._bias, (0, -len(self._bias) % _PADDED))
        code = torch.empty(len(rows), len(self._scale))
        pointers = (t.data_ptr() for t in (rows, bias, *self._tensors, code))
        # A struct of pointers and numbers of 64 bits.
        problem = (*pointers, *rows.shape, len(self._scale), int(self.non_negative), self.levels)
        library.quantised_shrink((ctypes.c_int64 * len(problem))(*problem), ctypes.c_int64(torch.get_num_threads()))
        return code

    def _in_floats(self, x: Tensor) -> Tensor:
        centred = x - self._bias
        largest = centred.abs().amax(1, keepdim=True).clamp_min(1e-30)
        step = largest / self.levels
        drive = ((centred * (self.levels / largest)).round() @ self._weight) * (self._scale * step)
        return drive - drive.clamp(None if self.non_negative else -self._threshold, self._threshold)


def _groups(filters: Float[Tensor, "d k"]) -> Float[Tensor, "k groups four"]:
    """What every code multiplies four inputs with."""
    padded = torch.nn.functional.pad(filters, (0, 0, 0, -len(filters) % _GROUP))
    return padded.T.reshape(filters.shape[1], -1, _GROUP)


def _largest_groups(filters: Float[Tensor, "d k"], keep: float) -> Float[Tensor, "d k"]:
    """The filters with zeros in all groups but a share of them, those of the largest norms over all codes."""
    norm = _groups(filters).norm(dim=-1)
    least = norm.flatten().topk(max(1, round(keep * norm.numel()))).values[-1]
    return filters * (norm >= least).T.repeat_interleave(_GROUP, dim=0)[: len(filters)]


def _dense(weight: Tensor, scale: Tensor, threshold: Tensor, levels: int) -> tuple[Tensor, ...]:
    """Filters, starts, steps and thresholds as quantised.cpp reads them: blocks of codes, lifted bytes times all groups."""
    missing = -len(scale) % _BLOCK
    padded = torch.nn.functional.pad(weight, (0, missing))
    grouped = _groups(padded).reshape(-1, _BLOCK, -(-len(weight) // _GROUP), _GROUP).transpose(1, 2)
    start = -_LIFT * padded.sum(0)
    ends = (torch.nn.functional.pad(vector, (0, missing)) for vector in (scale, threshold))
    return grouped.to(torch.int8).contiguous(), start.int(), *ends


def _sparse(weight: Tensor, scale: Tensor, threshold: Tensor, levels: int) -> tuple[Tensor, ...]:
    """The same as quantised_avx2.cpp reads them: a list of groups for every code, in parts whose sums fit 16 bits."""
    groups = _groups(weight)
    used = groups.abs().sum(-1) > 0
    # Two bytes at a time are multiplied and summed in 16 bits.
    most = (2 * levels * groups.abs().reshape(*used.shape, 2, 2).sum(-1).amax(-1)).int().tolist()
    parts, first, seen = [], [], 0
    for code, row in enumerate(used.tolist()):
        first.append(len(parts))
        room = 0
        for group in (g for g, use in enumerate(row) if use):
            room -= most[code][group]
            if room < 0:
                parts.append(seen)
                room = _LARGEST - most[code][group]
            seen += 1
    ends = (torch.tensor(rows, dtype=torch.int32) for rows in ([*parts, seen], [*first, len(parts)]))
    entries = groups[used].to(torch.int8).contiguous()
    return entries, used.nonzero()[:, 1].int(), *ends, (-levels * weight.sum(0)).int(), scale, threshold


def _multiplies_bytes() -> bool:
    return native.instructions() == "AVX512" and torch.cpu._is_vnni_supported()


@functools.cache
def _library() -> ctypes.CDLL | None:
    here, options = Path(__file__), ("-ffp-contract=off",)
    if _multiplies_bytes():
        return native.compiled([here.with_suffix(".cpp")], options=(*options, "-mavx512vnni"))
    if native.instructions() in ("AVX2", "AVX512"):
        return native.compiled([here.with_name("quantised_avx2.cpp")], options=options)
    return None
