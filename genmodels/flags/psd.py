"""Flags of the training of predictive sparse decomposition."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from genmodels.flags.common import OptionalFloat, TrainModel


@dataclass(frozen=True, kw_only=True)
class TrainPsd(TrainModel):
    """Train predictive sparse decomposition: sparse coding with an encoder that predicts its codes."""

    codes: int = 256
    """Number of atoms."""
    prior: Literal["laplace", "exponential"] = "laplace"
    """Prior of every code: exponential ones are non-negative."""
    noise: float = 0.67
    """Standard deviation of the noise."""
    scale: float = 0.375
    """Scale of the prior; the penalty of the lasso is noise² / scale."""
    encoder: Literal["tanh", "lista"] = "lista"
    """A gain times a tanh, or learned ISTA, which with one layer is a soft threshold."""
    layers: int = 1
    """Layers of LISTA."""
    tied: bool = True
    """Whether they share their weights."""
    closeness: float = 1.0
    """Weight of the prediction error in the energy."""
    objective: Literal["psd", "amortised"] = "psd"
    """The energy at its exact minimum over the codes (psd), or the energy of the encoder's own codes (amortised)."""
    epochs: int | None = 10
    """Passes through the training data."""
    batch_size: int = 500
    """Rows per update."""
    learning_rate: OptionalFloat = None
    """Learning rate at the start; by default 0.002."""
    average: float = 0.0
    """Decay per update of the running average of the weights, which becomes the model; 0 for none."""
