"""Flags of the training of spike-and-slab sparse coding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from genmodels.flags.common import OptionalFloat, TrainModel


@dataclass(frozen=True, kw_only=True)
class TrainS3c(TrainModel):
    """Train spike-and-slab sparse coding: codes that are off, or normal numbers."""

    codes: int = 256
    """Number of atoms."""
    noise: float = 0.67
    """Standard deviation of the noise at the start."""
    active: float = 0.1
    """Share of the codes that are on, at the start."""
    slab: float = 1.0
    """Standard deviation of a code that is on, at the start."""
    forgetting: float = 2.0
    """How fast old batches lose their weight in the statistics of the M-step."""
    epochs: int | None = 10
    """Passes through the training data."""
    batch_size: int = 500
    """Rows per update."""
    optimizer: str = "SGD"
    """Any optimizer of torch.optim, by its name; online EM is SGD with a constant learning rate of 1."""
    learning_rate: OptionalFloat = None
    """Learning rate at the start; by default 1."""
    schedule: Literal["linear", "cosine", "constant"] = "constant"
    """How the learning rate falls to 0."""
    average: float = 0.0
    """Decay per update of the running average of the weights, which becomes the model; 0 for none."""
