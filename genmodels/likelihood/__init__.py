"""How likely is the data: estimates that carry their error and their kind of bound."""

from genmodels.likelihood.annealed import ais_log_z, raise_log_likelihood, reverse_ais_log_z
from genmodels.likelihood.estimate import Bound, Estimate
from genmodels.likelihood.exact import exact_log_z
from genmodels.likelihood.pseudo import pseudo_likelihood
from genmodels.likelihood.report import LikelihoodReport, log_likelihood
from genmodels.likelihood.trajectory import TrajectoryLogZ, trajectory_log_z
from genmodels.likelihood.variational import elbo, importance_bound, log_weights

__all__ = [
    "Bound",
    "Estimate",
    "LikelihoodReport",
    "TrajectoryLogZ",
    "ais_log_z",
    "elbo",
    "exact_log_z",
    "importance_bound",
    "log_likelihood",
    "log_weights",
    "pseudo_likelihood",
    "raise_log_likelihood",
    "reverse_ais_log_z",
    "trajectory_log_z",
]
