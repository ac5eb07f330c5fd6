"""Moving averages over the times that a row's signals go up and down, in the place of stored activations."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from genmodels.networks import DiagonalNormal
from genmodels.stack_layers import LayerFactor


def recalled(p: LayerFactor, h: Float[Tensor, "m d"], *, passes: int = 1, trace: float = 0.0) -> Float[Tensor, " m"]:
    """Σ_s w_ts log p_t(h_s) over the passes s ≤ t, w_ts ∝ trace^(t − s), nats; the rows of a pass follow those of the one before.

    A log-density is linear in h and h², so it needs no more of earlier passes than moving averages. Where maps are affine, so
    does its gradient: the delta rules of all delays sum to those with moving averages of Bengio (2014, section 8),
    p^r x̄ − mean(p^f x) for the weights that gave h, and (mean(p^f) − p^r) x for those that gave p.
    """
    if trace == 0:
        return p.log_prob(h).sum(-1)
    average = _averages(h, passes, trace)
    log_prob = p.log_prob(average).sum(-1)
    if isinstance(p, DiagonalNormal):
        variance = _averages(h.square(), passes, trace) - average.square()
        log_prob = log_prob - 0.5 * (variance * torch.exp(-2 * p.log_std)).sum(-1)
    return log_prob


def _averages(h: Float[Tensor, "m d"], passes: int, trace: float) -> Float[Tensor, "m d"]:
    """The moving average of every row after every pass."""
    found, total, weight = [], torch.zeros_like(h[: len(h) // passes]), 0.0
    for now in h.chunk(passes):
        total, weight = trace * total + now, trace * weight + 1
        found.append(total / weight)
    return torch.cat(found)
