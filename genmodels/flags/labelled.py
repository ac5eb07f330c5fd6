"""Flags of a labelled stack's training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from genmodels.flags.common import Off, OptionalFloat, OptionalInt, TrainModel


@dataclass(frozen=True, kw_only=True)
class TrainLabelled(TrainModel):
    """Train a classifier, a stack of auto-encoders under its labels, by target propagation."""

    hidden: tuple[int, ...] = (240, 240, 240)
    """Units of the hidden layers, upwards."""
    within: int = 240
    """Units of the top auto-encoder, which sees the highest of them and the label."""
    kind: Literal["tanh", "sign"] = "tanh"
    """Hidden units: tanh, or signs, which have no useful derivative."""
    maps: Literal["affine", "triangular", "orthogonal"] = "affine"
    """Maps between hidden layers; the other two, between tanh layers of one size, are inverted exactly."""
    tied: Off = False
    """Give the top's decoder the transposed weights of its encoder; signs learn better so."""
    objective: Literal["target-propagation", "backprop"] = "target-propagation"
    """Local losses alone (target-propagation, Algorithm 5 of Bengio, 2014), or the label's log-likelihood by
    back-propagation, straight through signs (backprop)."""
    alpha: float = 0.0
    """Weight of the joint target beside the discriminant one, for target-propagation."""
    step: float = 0.1
    """How far the target of the top lies, for target-propagation."""
    noise: float = 0.6
    """Corruption of the highest hidden layer that the top learns to undo, for target-propagation."""
    reconstruction: float = 0.01
    """Weight of that layer's reconstruction beside the label's, for target-propagation."""
    inverse_noise: float = 0.3
    """Corruption at which decoders learn to be inverses, for target-propagation."""
    unsupervised: float = 0.0
    """Weight of each layer's own auto-encoder, for target-propagation."""
    sure: OptionalFloat = None
    """Unlabelled examples take a class of this probability as theirs, for target-propagation; by default never."""
    input_noise: float = 0.0
    """Deviation of the noise added to examples."""
    labels: OptionalInt = None
    """Examples that show their class, equally many of each class; by default all."""
    unlabelled: Off = False
    """Learn from the examples too that do not show it."""
