"""Flags of a DBM's training."""

from __future__ import annotations

from dataclasses import dataclass

from genmodels.flags.boltzmann import TrainBoltzmann
from genmodels.flags.common import OptionalFloat


@dataclass(frozen=True, kw_only=True)
class TrainDbm(TrainBoltzmann):
    """Train a deep Boltzmann machine, all layers jointly."""

    hidden: tuple[int, ...] = (500, 1000)
    """Numbers of hidden units, from the lowest layer up (of groups, for categorical ones)."""
    num_steps: int = 4
    """Gibbs sweeps of the chains per update."""
    num_iterations: int = 3
    """Mean-field iterations per update."""
    learning_rate: OptionalFloat = None
    """Learning rate at the start; by default 0.1, or 0.005 for gaussian visible units."""
