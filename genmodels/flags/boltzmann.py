"""Flags that the training of every layered Boltzmann machine has."""

from __future__ import annotations

from dataclasses import dataclass

from genmodels.flags.common import Kind, OptionalInt, TrainModel


@dataclass(frozen=True, kw_only=True)
class TrainBoltzmann(TrainModel):
    """Train a layered Boltzmann machine."""

    hidden_units: Kind = "bernoulli"
    """Hidden units: bernoulli, gaussian or categorical:LEVELS."""
    visible_units: Kind = "auto"
    """Visible units: bernoulli, gaussian or categorical:LEVELS; auto: bernoulli for binary data, else gaussian."""
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
    ais_every: OptionalInt = None
    """Epochs between short AIS estimates of the log-likelihood; by default a tenth of all; 0 for none."""
