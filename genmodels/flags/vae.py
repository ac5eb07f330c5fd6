"""Flags of a variational auto-encoder's training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from tyro.conf import arg

from genmodels.flags.common import Kind, OptionalFloat, TrainModel

Sizes = Annotated[tuple[str, ...], arg(metavar="N[,N...]")]


@dataclass(frozen=True, kw_only=True)
class TrainVae(TrainModel):
    """Train a variational auto-encoder."""

    latent: tuple[int, ...] = (50,)
    """Latents of each stochastic layer, the lowest first."""
    hidden: Sizes = ("200,200",)
    """Deterministic units around each stochastic layer, upwards: layers joined by commas, as in --hidden 200,200 100,100."""
    activation: Literal["tanh", "relu", "softplus", "silu"] = "tanh"
    """Activation of the deterministic units."""
    visible_units: Kind = "auto"
    """Output distribution: bernoulli, gaussian, gaussian:VARIANCE (not learned) or categorical:LEVELS; auto: bernoulli for
    binary data, else gaussian."""
    pseudo_inputs: int = 0
    """Learned inputs whose codes' mixture is the prior (VampPrior); 0 for a standard normal prior."""
    objective: Literal["elbo", "iwae", "dreg", "rws"] = "elbo"
    """The variational bound (elbo), its importance-weighted tightening (iwae), the same with the doubly reparametrised
    gradient (dreg), or reweighted wake-sleep (rws)."""
    num_samples: int = 10
    """Draws of the latents per example and update, for all objectives but elbo."""
    warm_up: int = 0
    """Updates over which the weight of the rates rises from 0 to 1, for elbo."""
    free_bits: float = 0.0
    """Nats of each rate that cost nothing, for elbo."""
    learning_rate: OptionalFloat = None
    """Learning rate at the start; by default 0.002."""
