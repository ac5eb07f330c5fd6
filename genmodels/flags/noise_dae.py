"""Flags of the training of a denoising auto-encoder at all noise levels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from genmodels.flags.common import OptionalFloat, TrainModel


@dataclass(frozen=True, kw_only=True)
class TrainNoiseDae(TrainModel):
    """Train a denoising auto-encoder at all noise levels, which has a density by the probability flow."""

    width: int = 256
    """Units of each residual block."""
    depth: int = 2
    """Residual blocks."""
    activation: Literal["tanh", "relu", "softplus", "silu"] = "silu"
    """Activation of the hidden units."""
    smallest: OptionalFloat = None
    """Deviation of the smallest noise; by default half a grey level, or a fiftieth of the data's deviation without levels."""
    largest: OptionalFloat = None
    """Deviation of the largest noise; by default that of the data, times the square root of their number of columns."""
    levels: int = 256
    """Grey levels of data in [0, 1], which are dequantised: 2 for binary data; 0 takes the numbers as they are."""
    atoms: tuple[float, ...] = ()
    """Values that many sites have, such as 0.002 and 0.998 for black and white of 256 levels."""
    learning_rate: OptionalFloat = None
    """Learning rate at the start; by default 0.001."""
