"""Flags of a stack of auto-encoders' training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from genmodels.flags.common import Kind, Off, OptionalFloat, TrainModel


@dataclass(frozen=True, kw_only=True)
class TrainTargetProp(TrainModel):
    """Train a generative stack of auto-encoders by target propagation."""

    sizes: tuple[int, ...] = (100, 60, 30)
    """Units of h_1 ... h_L, upwards; the last layer is the top."""
    kinds: tuple[str, ...] = ("linear",)
    """Units below the top: linear, tanh, rectifier or sigmoid (real, with learned noise), binary or one-hot:LEVELS; one for
    all layers or one a layer."""
    inner: tuple[int, ...] = ()
    """Tanh units within each encoder and decoder, upwards, 0 for affine ones; by default all are affine."""
    pairs: Literal["networks", "optimised", "triangular", "orthogonal"] = "networks"
    """A network up and one down in every layer; encoders that search the best code of their decoder (optimised); or, above the
    lowest layer, square maps of a kind that is inverted exactly, between linear or tanh layers of one size."""
    prior: Literal["standard-gaussian", "full-gaussian", "factorial-bernoulli"] = "standard-gaussian"
    """Explicit prior of the top layer, and with it the kind of its units."""
    visible_units: Kind = "auto"
    """Output distribution: bernoulli, gaussian or categorical:LEVELS; auto: bernoulli for binary data, else gaussian."""
    objective: Literal["target-propagation", "algorithm1", "backprop"] = "target-propagation"
    """Local losses alone (target-propagation, Algorithm 2 of Bengio, 2014), each layer's criterion with gradients inside
    its cost (algorithm1), or the variational bound by back-propagation (backprop)."""
    match: float = 1.0
    """Weight of "the reconstruction is a target for the code", for target-propagation."""
    reach: Literal["layer", "top"] = "layer"
    """Where targets come down from, for target-propagation: the layer above, or the top (the long loop)."""
    noise_free: Off = False
    """Take targets from a loop without noise, for target-propagation."""
    difference: Off = False
    """Correct the targets of the long loop by what it loses anyway, for target-propagation."""
    recirculation: Off = False
    """Train encoders by the up-down-up loop instead of each layer's pair as one unit, for target-propagation."""
    contract: float = 0.0
    """Weight of "the code is a target for that of another draw from below", for target-propagation."""
    passes: int = 1
    """How often a row's signals go up and down for one update, for target-propagation."""
    trace: float = 0.0
    """What moving averages over the passes keep from one to the next, for target-propagation: the averaged delta rule."""
    alpha: float = 1.0
    """Weight of the pressure to make codes simple, for algorithm1."""
    learning_rate: OptionalFloat = None
    """Learning rate at the start; by default 0.003."""
