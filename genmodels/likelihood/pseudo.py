"""Pseudo-likelihood: a cheap proxy to watch training with."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import logsigmoid

from genmodels.errors import BadInput
from genmodels.interface import check_width, require
from genmodels.likelihood.estimate import Estimate
from genmodels.rbm import RBM
from genmodels.units import Bernoulli


@torch.no_grad()
def pseudo_likelihood(model: RBM, x: Float[Tensor, "n d"], *, generator: torch.Generator) -> Estimate:
    """Mean over rows of Σ_i log p(x_i | x_{−i}), nats per example, from one random site a row times d.

    Unbiased for the log-pseudo-likelihood (Besag, 1975), which is not the log-likelihood and no bound on it.
    Bernoulli visible units.
    """
    require(model, RBM, by="pseudo_likelihood")
    if not isinstance(model.visible, Bernoulli):
        raise BadInput(f"pseudo_likelihood flips one site and needs Bernoulli visible units, not {model.visible}.")
    check_width(x, model.visible.size)
    site = torch.randint(x.shape[1], (len(x), 1), generator=generator, device=x.device)
    flipped = x.scatter(1, site, 1 - x.gather(1, site))
    values = x.shape[1] * logsigmoid(model.free_energy(flipped) - model.free_energy(x)).double()
    error = float(values.std(correction=0)) / len(x) ** 0.5
    return Estimate(float(values.mean()), error, "none", "pseudo-likelihood, one site a row", len(x))
