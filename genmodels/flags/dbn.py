"""Flags of a DBN's training."""

from __future__ import annotations

from dataclasses import dataclass

from genmodels.flags.boltzmann import TrainBoltzmann
from genmodels.flags.common import OptionalFloat


@dataclass(frozen=True, kw_only=True)
class TrainDbn(TrainBoltzmann):
    """Train a deep belief network greedily: every RBM of the stack on draws of the hidden layer below it, all side by side."""

    hidden: tuple[int, ...] = (500, 2000)
    """Numbers of hidden units, from the lowest layer up (of groups, for categorical ones); the last is the top RBM's."""
    learning_rate: OptionalFloat = None
    """Learning rate at the start; by default 0.1, or 0.005 for gaussian visible units."""
