"""Grey levels as numbers with a density: what a continuous model of them learns from, and what its density says of them."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from genmodels.errors import BadInput
from genmodels.likelihood.estimate import Estimate


def dequantised(x: Float[Tensor, "n d"], levels: int, generator: torch.Generator) -> Float[Tensor, "n d"]:
    """(k + u) / L for each of L = `levels` grey levels, given as k / (L − 1), with u uniform.

    Theis, van den Oord and Bethge (2016).

    >>> float(dequantised(torch.ones(1, 1), 2, torch.Generator())) >= 0.5
    True
    """
    if levels < 2:
        raise BadInput(f"Grey levels are at least 2, not {levels}.")
    if float(x.min()) < 0 or float(x.max()) > 1:
        raise BadInput("Grey levels are numbers from 0 to 1: give other data without levels.")
    noise = torch.rand(x.shape, dtype=x.dtype, device=x.device, generator=generator)
    return ((x * (levels - 1)).round() + noise) / levels


def bits_per_dimension(log_density: Estimate, num_sites: int, levels: int) -> Estimate:
    """log₂ L − mean log₂-density per site of dequantised rows: what a grey level costs in bits, at most.

    In expectation over the dequantisation an upper bound on −log₂ P of the levels under the model that integrates the density
    over each level's bin (Theis, van den Oord and Bethge, 2016).
    """
    found, nats = log_probability(log_density, num_sites, levels), math.log(2) * num_sites
    return replace(found, value=-found.value / nats, std_error=found.std_error / nats, bound="upper")


def log_probability(log_density: Estimate, num_sites: int, levels: int) -> Estimate:
    """Mean log-density of dequantised rows less d log L, nats per example: a lower bound on the levels' log-probability."""
    value = log_density.value - num_sites * math.log(levels)
    return replace(log_density, value=value, bound="lower", method=f"dequantised, by {log_density.method}")
