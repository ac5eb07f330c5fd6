"""Products of states with one layer pair's weights, prepared once for many sweeps.

States of discrete units are 0 or 1 and exact in any format; only the weights need precision. A weight matrix is held as
two int8 slices relative to its largest entry, 15 to 16 bits in all, and both products accumulate exactly in integers.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

Precision = Literal["auto", "float32", "sliced", "lookup", "triton"]

_LEVELS = 127 * 256
SMALLEST = 1 << 16  # below this many weights the preparation costs more than it saves


class Product(ABC):
    """A weight matrix W, (d, h), as the two maps that sweeps need."""

    @abstractmethod
    def up(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n h"]:
        """x W."""

    @abstractmethod
    def down(self, h: Float[Tensor, "n h"]) -> Float[Tensor, "n d"]:
        """h Wᵀ."""


class DenseProduct(Product):
    """The plain products in the weights' own precision."""

    def __init__(self, weight: Tensor):
        self._weight = weight

    def up(self, x):
        return x @ self._weight

    def down(self, h):
        return h @ self._weight.T


class SlicedProduct(Product):
    """Products with states in {0, 1} through two int8 slices of the weights, accumulated exactly.

    Each weight is off by at most max|W| / 65,024 (1.54e-5 of the largest), so a logit with m active inputs is off by at
    most m times that, and by about 0.9e-5 · √m · max|W| in practice; a chain is exact for the rounded weights. States
    other than 0 and 1 give wrong results.
    """

    def __init__(self, weight: Float[Tensor, "d h"]):
        low, high = torch.aminmax(weight)
        largest = torch.maximum(-low, high).clamp_min(torch.finfo(weight.dtype).tiny)
        whole = torch.mul(weight, _LEVELS / largest).round_().to(torch.int16)
        # whole = 256 · high + low with both in int8: the conversion keeps the low byte, read as signed.
        low_byte = whole.to(torch.int8)
        high_byte = (whole + 128).bitwise_right_shift_(8).to(torch.int8)
        self._both = torch.cat([high_byte, low_byte], 1)
        self._scale = largest / _LEVELS
        self._dtype = weight.dtype

    def slices(self) -> tuple[Tensor, Tensor]:
        """The high and the low slice, shape (2, d, h), and the size of a low step: W ≈ step · (256 · high + low)."""
        return torch.stack(self._both.chunk(2, 1)), self._scale

    def up(self, x):
        high, low = torch._int_mm(x.to(torch.int8), self._both).chunk(2, 1)
        return self._combine(high, low)

    def down(self, h):
        narrow = h.to(torch.int8)
        high, low = self._both.chunk(2, 1)
        return self._combine(torch._int_mm(narrow, high.T), torch._int_mm(narrow, low.T))

    def _combine(self, high: Tensor, low: Tensor) -> Tensor:
        return torch.add(low, high, alpha=256).to(self._dtype).mul_(self._scale)


def product(weight: Float[Tensor, "d h"], *, binary: bool, precision: Precision = "auto") -> Product:
    """The fastest product for states that are all 0 or 1 (`binary`) or not.

    "auto" takes the int8 slices for float32 weights where the processor multiplies int8 natively and the matrix is large
    enough to gain.
    """
    if precision in ("float32", "lookup", "triton") or not binary:
        return DenseProduct(weight)
    large = weight.dtype == torch.float32 and weight.numel() >= SMALLEST
    if precision == "sliced" or (large and has_int8(weight.device)):
        return SlicedProduct(weight)
    return DenseProduct(weight)


def has_int8(device: torch.device) -> bool:
    """Whether products of int8 matrices run natively and accumulate in int32."""
    return device.type == "cpu" and torch.cpu._is_vnni_supported()
