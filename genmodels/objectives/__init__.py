"""Training principles: factories that return an `Objective` for a model that has what they need."""

from genmodels.objectives.contrastive import cd, fpcd, pcd
from genmodels.objectives.elbo import dreg, elbo, iwae, reweighted_wake_sleep
from genmodels.objectives.objective import Objective
from genmodels.objectives.phases import Penalty
from genmodels.objectives.ptt import ptt

__all__ = ["Objective", "Penalty", "cd", "dreg", "elbo", "fpcd", "iwae", "pcd", "ptt", "reweighted_wake_sleep"]
