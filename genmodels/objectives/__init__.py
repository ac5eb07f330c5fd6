"""Training principles: factories that return an `Objective` for a model that has what they need."""

from genmodels.objectives.contrastive import Penalty, cd, fpcd, pcd
from genmodels.objectives.objective import Objective

__all__ = ["Objective", "Penalty", "cd", "fpcd", "pcd"]
