"""Which fast path a layer takes."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec

import torch
from torch import Tensor

from samplers.fused import native
from samplers.fused.lookup import LookupConditional
from samplers.fused.one_pass import OnePass
from samplers.fused.products import SMALLEST, Precision


def conditional(weights: Sequence[Tensor], *, binary: bool, precision: Precision = "auto") -> OnePass | None:
    """The one-pass conditional of a layer whose inputs are all 0 or 1 (`binary`); None means that `product` is the way.

    "auto" takes it for large float32 weights: table look-up on a CPU with AVX-512 and a C++ compiler, a Triton kernel on a
    CUDA device where it passes its check. "lookup" and "triton" take it for any size.
    """
    device = weights[0].device
    large = sum(weight.numel() for weight in weights) >= SMALLEST
    if not binary or any(weight.dtype != torch.float32 for weight in weights):
        return None
    if device.type == "cpu" and (precision == "lookup" or (precision == "auto" and large)):
        return None if native.library() is None else LookupConditional(weights)
    if precision == "triton" or (precision == "auto" and large and device.type == "cuda"):
        return _triton(weights, check=precision == "auto")
    return None


def _triton(weights: Sequence[Tensor], *, check: bool) -> OnePass | None:
    if find_spec("triton") is None:
        return None
    from samplers.fused.triton_sweep import TritonConditional, works

    return TritonConditional(weights) if not check or works(weights[0].device) else None
