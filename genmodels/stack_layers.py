"""The hidden layers of a stack of auto-encoders: what a field says about a layer, seen from below and from above."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from genmodels.directed_layers import UnitFactor
from genmodels.errors import BadInput
from genmodels.networks import DiagonalNormal
from genmodels.units import Bernoulli, Categorical, Unit

_MEANS: dict[str, Callable[[Tensor], Tensor]] = {
    "linear": lambda field: field,
    "tanh": torch.tanh,
    "rectifier": torch.relu,
    "sigmoid": torch.sigmoid,
}
_LARGEST = 1 - 1e-5
"""Of the tanh values that are inverted."""
_FIELDS: dict[str, Callable[[Tensor], Tensor]] = {
    "linear": lambda h: h,
    "tanh": lambda h: torch.atanh(h.clamp(-_LARGEST, _LARGEST)),
}
LayerFactor = DiagonalNormal | UnitFactor


class StackLayer(nn.Module):
    """A layer h of `size` units: Q(h | below) and P(h | above), each from a field.

    Real units, of kind "linear", "tanh", "rectifier" or "sigmoid", are a function of their field plus normal noise, whose
    deviation is learned, one a unit: σ upwards, where the noise is the corruption of the code, and s downwards, where it is
    the error of the reconstruction. Kinds "binary" and "one-hot:K" (groups of K units) are stochastic units whose field is
    their log-odds; no gradient passes through a draw of theirs.

    >>> StackLayer("tanh", 3).code(torch.zeros(1, 3)).mean
    tensor([[0., 0., 0.]])
    """

    def __init__(self, kind: str, size: int, *, noise: float = 0.4):
        super().__init__()
        if size < 1 or not noise > 0:
            raise BadInput(f"A hidden layer needs at least one unit and positive noise, not {size} and {noise}.")
        self.kind, self.size = kind, size
        self.unit = None if kind in _MEANS else _discrete(kind, size)
        if self.real:
            self.log_noise = nn.Parameter(torch.full((size,), math.log(noise)))
            self.log_error = nn.Parameter(torch.zeros(size))

    @property
    def real(self) -> bool:
        """Whether gradients pass through a draw."""
        return self.unit is None

    def code(self, field: Float[Tensor, "n d"]) -> LayerFactor:
        """Q(h | below)."""
        return self._factor(field, "log_noise")

    def reconstruction(self, field: Float[Tensor, "n d"]) -> LayerFactor:
        """P(h | above)."""
        return self._factor(field, "log_error")

    @property
    def invertible(self) -> bool:
        """Whether the field of a unit can be told from the unit."""
        return self.kind in _FIELDS

    def field(self, h: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        """The field of which h is the mean; of the nearest mean, where h has left the range of the units."""
        return _FIELDS[self.kind](h)

    def around(self, mean: Float[Tensor, "n d"]) -> DiagonalNormal:
        """P(h | above) of real units, where what is above gives the mean itself."""
        return DiagonalNormal(mean, self.log_error.expand_as(mean))

    def _factor(self, field: Tensor, deviation: str) -> LayerFactor:
        if self.unit is not None:
            return UnitFactor(self.unit, field)
        mean = _MEANS[self.kind](field)
        return DiagonalNormal(mean, getattr(self, deviation).expand_as(mean))

    def config(self) -> dict[str, Any]:
        """The arguments that build this layer again."""
        return {"kind": self.kind, "size": self.size}


def _discrete(kind: str, size: int) -> Unit:
    if kind == "binary":
        return Bernoulli(size)
    name, _, levels = kind.partition(":")
    if name != "one-hot" or not levels.isdecimal():
        raise BadInput(f"There are no hidden units {kind!r}: choose {', '.join(_MEANS)}, binary or one-hot:LEVELS.")
    if int(levels) < 2 or size % int(levels):
        raise BadInput(f"One-hot groups of {levels} levels do not fill {size} units: change either.")
    return Categorical(size // int(levels), int(levels))
