"""Flags of an RBM's training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from genmodels.flags.common import Kind, OptionalFloat, OptionalInt, TrainModel


@dataclass(frozen=True, kw_only=True)
class TrainRbm(TrainModel):
    """Train a restricted Boltzmann machine."""

    hidden: int = 500
    """Number of hidden units (of groups, for categorical ones)."""
    hidden_units: Kind = "bernoulli"
    """Hidden units: bernoulli, gaussian or categorical:LEVELS."""
    visible_units: Kind = "auto"
    """Visible units: bernoulli, gaussian or categorical:LEVELS; auto: bernoulli for binary data, else gaussian."""
    objective: Literal["cd", "pcd", "fpcd", "ptt"] = "pcd"
    """Contrastive divergence, with chains from the data (cd), persistent ones (pcd), these on fast weights (fpcd), or
    kept at equilibrium by trajectory tempering (ptt)."""
    num_steps: int = 1
    """Gibbs sweeps of the chains per update."""
    num_chains: OptionalInt = None
    """Persistent chains; by default as many as rows in a batch."""
    centered: bool = True
    """Centered (enhanced) gradient instead of the plain one."""
    l1: float = 0.0
    """Weight decay: the gradient of this times the sum of all |w|."""
    l2: float = 0.0
    """Weight decay: the gradient of this times half the sum of all w²."""
    sparsity_target: float = 0.1
    """Wanted mean activation of the hidden units, where there is a sparsity cost."""
    sparsity_cost: float = 0.0
    """Pull of the hidden biases towards the sparsity target; 0 for none."""
    optimizer: str = "SGD"
    """Any optimizer of torch.optim, by its name."""
    learning_rate: OptionalFloat = None
    """Learning rate at the start; by default 0.2, or 0.005 for gaussian visible units."""
    ais_every: OptionalInt = None
    """Epochs between short AIS estimates of the log-likelihood; by default a tenth of all; 0 for none."""
