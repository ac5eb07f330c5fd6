"""Uniform random numbers at two thirds of the cost."""

from __future__ import annotations

import torch
from torch import Tensor

_LOWEST = torch.iinfo(torch.int64).min


def uniform(
    num: int, size: int, *, dtype: torch.dtype, device: torch.device, generator: torch.Generator | None
) -> Tensor:
    """Uniform numbers in [0, 1), shape (num, size), multiples of 2⁻²⁴ in float32.

    On a CPU in float32 one 64-bit draw gives the leading 16 bits of four numbers, and one 8-bit draw the trailing bits of
    the whole call. Each number is exactly uniform on its grid, as from `torch.rand`; two of them are dependent through
    the trailing bits alone, so two comparisons with fixed thresholds have a covariance of at most 2⁻³⁴ (6e-11).
    """
    if device.type != "cpu" or dtype != torch.float32:
        return torch.rand(num, size, dtype=dtype, device=device, generator=generator)
    words = torch.empty(num * size // 4 + 1, dtype=torch.int64).random_(_LOWEST, None, generator=generator)
    lanes = words.view(torch.int16)
    trailing = int(lanes[-1]) & 255
    leading = lanes[: num * size].view(num, size)
    return torch.mul(leading, 2.0**-16).add_(0.5 + trailing * 2.0**-24)
