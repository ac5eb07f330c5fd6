"""How likely is the data: estimates that carry their error and their kind of bound."""

from genmodels.likelihood.annealed import ais_log_z, raise_log_likelihood, reverse_ais_log_z
from genmodels.likelihood.csl import best_bandwidth, chain_fields, csl, parzen
from genmodels.likelihood.estimate import Bound, Estimate
from genmodels.likelihood.exact import exact_log_z
from genmodels.likelihood.latent_ais import Annealing, Sandwich, latent_ais, latent_bdmc
from genmodels.likelihood.probability_flow import flow_draws, probability_flow
from genmodels.likelihood.pseudo import pseudo_likelihood
from genmodels.likelihood.report import LikelihoodReport, bound_report, importance_weighted, log_likelihood
from genmodels.likelihood.smc import smc_log_z
from genmodels.likelihood.spike_slab_ais import spike_slab_ais, spike_slab_bdmc
from genmodels.likelihood.trajectory import TrajectoryLogZ, trajectory_log_z
from genmodels.likelihood.variational import elbo, importance_bound, log_weights

__all__ = [
    "Annealing",
    "Bound",
    "Estimate",
    "LikelihoodReport",
    "Sandwich",
    "TrajectoryLogZ",
    "ais_log_z",
    "best_bandwidth",
    "bound_report",
    "chain_fields",
    "csl",
    "elbo",
    "exact_log_z",
    "flow_draws",
    "importance_bound",
    "importance_weighted",
    "latent_ais",
    "latent_bdmc",
    "log_likelihood",
    "log_weights",
    "parzen",
    "probability_flow",
    "pseudo_likelihood",
    "raise_log_likelihood",
    "reverse_ais_log_z",
    "smc_log_z",
    "spike_slab_ais",
    "spike_slab_bdmc",
    "trajectory_log_z",
]
