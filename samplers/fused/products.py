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

Precision = Literal["auto", "float32", "sliced"]

_SLICE = 127
_SECOND = 254
_SMALLEST = 1 << 16  # below this many weights the preparation costs more than it saves


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

    Each weight is off by at most max|W| / 64,516 (1.6e-5 of the largest), so a logit with m active inputs is off by at
    most m times that, and by about 0.9e-5 · √m · max|W| in practice; a chain is exact for the rounded weights. States
    other than 0 and 1 give wrong results.
    """

    def __init__(self, weight: Float[Tensor, "d h"]):
        low, high = torch.aminmax(weight)
        largest = torch.maximum(-low, high).clamp_min(torch.finfo(weight.dtype).tiny)
        scaled = weight * (_SLICE / largest)
        first = scaled.round()
        self._both = torch.cat([first.to(torch.int8), scaled.sub_(first).mul_(_SECOND).round_().to(torch.int8)], 1)
        self._scale = largest / (_SLICE * _SECOND)
        self._dtype = weight.dtype

    def up(self, x):
        first, second = torch._int_mm(x.to(torch.int8), self._both).chunk(2, 1)
        return self._combine(first, second)

    def down(self, h):
        narrow = h.to(torch.int8)
        first, second = self._both.chunk(2, 1)
        return self._combine(torch._int_mm(narrow, first.T), torch._int_mm(narrow, second.T))

    def _combine(self, first: Tensor, second: Tensor) -> Tensor:
        return torch.add(second, first, alpha=_SECOND).to(self._dtype).mul_(self._scale)


def product(weight: Float[Tensor, "d h"], *, binary: bool, precision: Precision = "auto") -> Product:
    """The fastest product for states that are all 0 or 1 (`binary`) or not.

    "auto" takes the int8 slices where the processor multiplies int8 natively and the matrix is large enough to gain.
    """
    if precision == "float32" or not binary:
        return DenseProduct(weight)
    if precision == "sliced" or (_has_int8(weight.device) and weight.numel() >= _SMALLEST):
        return SlicedProduct(weight)
    return DenseProduct(weight)


def _has_int8(device: torch.device) -> bool:
    return device.type == "cpu" and torch.cpu._is_vnni_supported()
