"""Flags of a denoising auto-encoder's training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from genmodels.flags.common import Kind, Off, OptionalFloat, TrainModel


@dataclass(frozen=True, kw_only=True)
class TrainDae(TrainModel):
    """Train a denoising auto-encoder, whose model is its walk-back chain."""

    hidden: tuple[int, ...] = (500,)
    """Units of each layer of the encoder; the decoder has them in reverse."""
    hidden_noise: float = 0.0
    """Deviation of the noise inside the encoder's layers; above 0 it is a generative stochastic network."""
    tied: Off = False
    """Give the decoder the encoder's weights, transposed."""
    activation: Literal["tanh", "relu", "softplus", "silu"] = "tanh"
    """Activation of the hidden units."""
    visible_units: Kind = "auto"
    """Reconstruction: bernoulli, gaussian, gaussian:VARIANCE (not learned) or categorical:LEVELS; auto: bernoulli for
    binary data, else gaussian."""
    corruption: Literal["salt-and-pepper", "masking", "gaussian"] = "salt-and-pepper"
    """How the input is spoilt: sites replaced by 0 or 1, set to 0, or with noise added."""
    corruption_level: float = 0.4
    """Probability of a site's corruption; the deviation of the noise, for gaussian."""
    walk_back: int = 3
    """Corruptions along the chain from which each example is to be given back; 1 for plain denoising."""
    contraction: float = 0.0
    """Weight of the squared Jacobian of the highest hidden layer (contractive auto-encoder)."""
    num_probes: int = 0
    """Random projections that estimate that Jacobian; 0 for the exact one."""
    sparsity: float = 0.0
    """Weight of the sum of the hidden units' absolute values."""
    learning_rate: OptionalFloat = None
    """Learning rate at the start; by default 0.002."""
