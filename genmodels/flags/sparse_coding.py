"""Flags of sparse coding's training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from genmodels.flags.common import OptionalFloat, TrainModel


@dataclass(frozen=True, kw_only=True)
class TrainSparseCoding(TrainModel):
    """Train sparse coding: a dictionary whose atoms are few in every example."""

    codes: int = 256
    """Number of atoms."""
    prior: Literal["laplace", "student", "cauchy", "exponential", "gaussian"] = "laplace"
    """Prior of every code: exponential ones are non-negative, gaussian ones are those of probabilistic PCA."""
    dof: float = 3.0
    """Degrees of freedom of a student prior."""
    noise: float = 0.67
    """Standard deviation of the noise."""
    scale: float = 0.375
    """Scale of the prior; for laplace and exponential the penalty of the lasso is noise² / scale."""
    objective: Literal["dictionary", "iwae", "posterior"] = "dictionary"
    """The energy at the most probable codes, over unit atoms, by online dictionary learning (dictionary), or the
    likelihood, which learns noise and scales too, by its importance-weighted bound (iwae) or by sampling the posterior
    with HMC (posterior)."""
    num_samples: int = 1
    """Draws of the codes per example, for iwae; 1 is the variational bound."""
    epochs: int | None = 10
    """Passes through the training data."""
    batch_size: int = 500
    """Rows per update."""
    optimizer: str = "SGD"
    """Any optimizer of torch.optim, by its name; online dictionary learning is SGD with a constant learning rate of 1."""
    learning_rate: OptionalFloat = None
    """Learning rate at the start; by default 1 for dictionary, else 0.01."""
    schedule: Literal["linear", "cosine", "constant"] = "constant"
    """How the learning rate falls to 0."""
    average: float = 0.0
    """Decay per update of the running average of the weights, which becomes the model; 0 for none."""
