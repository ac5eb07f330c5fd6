"""Probabilistic generative models with likelihoods one can trust."""

from genmodels.errors import BadInput
from genmodels.rbm import RBM
from genmodels.units import Bernoulli, Categorical, Gaussian

__all__ = ["RBM", "BadInput", "Bernoulli", "Categorical", "Gaussian"]
