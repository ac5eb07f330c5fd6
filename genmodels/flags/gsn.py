"""Flags of a generative stochastic network's training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from genmodels.flags.common import Kind, OptionalFloat, OptionalInt, TrainModel


@dataclass(frozen=True, kw_only=True)
class TrainGsn(TrainModel):
    """Train a deep generative stochastic network: a walk-back chain that carries its noisy hidden layers along."""

    hidden: tuple[int, ...] = (500, 500)
    """Units of each hidden layer, the lowest first."""
    noise: float = 0.5
    """Deviation of the noise inside the hidden layers: with little a chain keeps what it starts from, with much it blurs."""
    noise_after: float = 0.0
    """The same after their activations, where large weights cannot drown it."""
    clean_first: bool = False
    """Leave the lowest hidden layer without noise."""
    activation: Literal["tanh", "relu", "softplus", "silu"] = "tanh"
    """Activation of the hidden units."""
    visible_units: Kind = "auto"
    """Reconstruction: bernoulli, gaussian, gaussian:VARIANCE (not learned) or categorical:LEVELS; auto: bernoulli for
    binary data, else gaussian."""
    corruption: Literal["salt-and-pepper", "masking", "gaussian"] = "salt-and-pepper"
    """How the observed layer is spoilt: sites replaced by 0 or 1, set to 0, or with noise added."""
    corruption_level: float = 0.4
    """Probability of a site's corruption; the deviation of the noise, for gaussian."""
    walk_back: OptionalInt = None
    """Steps along the chain, each of which is to give the example back; by default two for each hidden layer."""
    learning_rate: OptionalFloat = None
    """Learning rate at the start; by default 0.002."""
