"""Flags of an RBM's training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from genmodels.flags.boltzmann import TrainBoltzmann
from genmodels.flags.common import OptionalFloat


@dataclass(frozen=True, kw_only=True)
class TrainRbm(TrainBoltzmann):
    """Train a restricted Boltzmann machine."""

    hidden: int = 500
    """Number of hidden units (of groups, for categorical ones)."""
    objective: Literal["cd", "pcd", "fpcd", "ptt"] = "pcd"
    """Contrastive divergence, with chains from the data (cd), persistent ones (pcd), these on fast weights (fpcd), or
    kept at equilibrium by trajectory tempering (ptt)."""
    learning_rate: OptionalFloat = None
    """Learning rate at the start; by default 0.2, or 0.005 for gaussian visible units."""
