"""Which fast path a layer takes."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec

import torch
from torch import Tensor

from samplers.fused import native
from samplers.fused.cpu import LookupConditional, SlicedConditional
from samplers.fused.one_pass import OnePass
from samplers.fused.products import SMALLEST, Precision, has_int8


def conditional(weights: Sequence[Tensor], *, binary: bool, precision: Precision = "auto") -> OnePass | None:
    """The one-pass conditional of a layer whose inputs are all 0 or 1 (`binary`); None means that `product` is the way.

    "auto" takes it for large float32 weights: table look-up on a CPU with AVX-512 or AVX2 and a C++ compiler, a Triton kernel
    on a CUDA device where it passes its check. A kernel asked for by name is taken for any size.
    """
    if not binary or any(weight.dtype != torch.float32 for weight in weights):
        return None
    device = weights[0].device
    large = sum(weight.numel() for weight in weights) >= SMALLEST
    if device.type == "cpu" and precision != "triton":
        return _cpu(weights, precision, large)
    if precision == "triton" or (precision == "auto" and large and device.type == "cuda"):
        return _triton(weights, check=precision == "auto")
    return None


def takes_slices(device: torch.device) -> bool:
    """Whether 16 bits of every weight have a fast path there."""
    return device.type == "cpu" and (native.has_slices() or has_int8(device))


def _cpu(weights: Sequence[Tensor], precision: Precision, large: bool) -> OnePass | None:
    if precision == "float32" or native.library() is None:
        return None
    if precision == "sliced":
        return SlicedConditional(weights) if native.has_slices() else None
    return LookupConditional(weights) if large or precision == "lookup" else None


def _triton(weights: Sequence[Tensor], *, check: bool) -> OnePass | None:
    if find_spec("triton") is None:
        return None
    from samplers.fused.triton_sweep import TritonConditional, works

    return TritonConditional(weights) if not check or works(weights[0].device) else None
