"""Training principles: factories that return an `Objective` for a model that has what they need."""

from genmodels.objectives.accumulated import accumulated
from genmodels.objectives.classifying import classification, discriminative, hybrid
from genmodels.objectives.contrastive import cd, fpcd, pcd
from genmodels.objectives.denoising import denoising, greedy_denoising, nearest_neighbour, squared_jacobian
from genmodels.objectives.dictionary import dictionary_learning
from genmodels.objectives.elbo import dreg, elbo, iwae, reweighted_wake_sleep
from genmodels.objectives.labelled import back_propagation, supervised_target_propagation
from genmodels.objectives.layerwise import layerwise
from genmodels.objectives.multi_prediction import multi_prediction
from genmodels.objectives.multimodal import multimodal_target_propagation
from genmodels.objectives.noise_levels import noise_levels
from genmodels.objectives.objective import Objective
from genmodels.objectives.phases import Penalty
from genmodels.objectives.posterior_sampling import posterior_sampling
from genmodels.objectives.psd import amortised_map, psd
from genmodels.objectives.ptt import ptt
from genmodels.objectives.recurrent import back_propagation_through_time, recurrent_target_propagation
from genmodels.objectives.target_prop import algorithm1, target_propagation
from genmodels.objectives.up_down import up_down
from genmodels.objectives.variational_em import variational_em
from genmodels.objectives.variational_pcd import variational_pcd

__all__ = [
    "Objective",
    "Penalty",
    "accumulated",
    "algorithm1",
    "amortised_map",
    "back_propagation",
    "back_propagation_through_time",
    "cd",
    "classification",
    "denoising",
    "dictionary_learning",
    "discriminative",
    "dreg",
    "elbo",
    "fpcd",
    "greedy_denoising",
    "hybrid",
    "iwae",
    "layerwise",
    "multi_prediction",
    "multimodal_target_propagation",
    "nearest_neighbour",
    "noise_levels",
    "pcd",
    "posterior_sampling",
    "psd",
    "ptt",
    "recurrent_target_propagation",
    "reweighted_wake_sleep",
    "squared_jacobian",
    "supervised_target_propagation",
    "target_propagation",
    "up_down",
    "variational_em",
    "variational_pcd",
]
