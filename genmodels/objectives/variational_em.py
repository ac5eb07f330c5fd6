"""Variational expectation maximisation for spike-and-slab sparse coding."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from genmodels.errors import BadInput
from genmodels.objectives.objective import Objective, ObjectiveState, with_gradient
from genmodels.s3c import S3C
from genmodels.spike_slab import SpikeSlabCode

_RIDGE = 1e-6  # of the mean squared code: keeps the regression solvable where codes are never used
_RARE = 1e-6
_LEAST = 1e-6  # share of a variance that is left to it


class Statistics(NamedTuple):
    """Sums over examples of what the M-step needs, with y = h ∘ s and y' = (y, 1)."""

    second: Float[Tensor, "m m"]
    """E[y' y'ᵀ]."""
    cross: Float[Tensor, "d m"]
    """x E[y']ᵀ."""
    squares: Float[Tensor, " d"]
    """x²."""
    spikes: Float[Tensor, " k"]
    """E[h]."""


def expected_statistics(x: Float[Tensor, "n d"], q: SpikeSlabCode) -> Statistics:
    """The statistics of the rows x under q."""
    mean = q.mean
    extended = torch.cat([mean, torch.ones_like(mean[:, :1])], 1)
    second = extended.T @ extended
    codes = slice(0, mean.shape[1])
    second[codes, codes] += torch.diag((q.square - mean.square()).sum(0))
    return Statistics(second, x.T @ extended, x.square().sum(0), torch.sigmoid(q.logit).sum(0))


def m_step(found: Statistics) -> dict[str, Tensor]:
    """The parameters of S3C that maximise the mean bound for fixed q, in closed form (Goodfellow et al., 2012).

    Dictionary and bias by regression of x on the codes, noise from its residual; odds, means and variances of the slabs
    from the moments of the spikes and of the slabs that are on: s is summed out exactly where h = 0.
    """
    second, cross, squares, spikes = found
    num = second[-1, -1]
    codes = second.diagonal()[:-1]
    ridge = torch.cat([_RIDGE * codes.mean().expand_as(codes), codes.new_zeros(1)])
    weight = torch.linalg.solve(second + torch.diag(ridge), cross.T).T
    residual = squares - 2 * (weight * cross).sum(1) + (weight @ second * weight).sum(1)
    share = (spikes / num).clamp(_RARE, 1 - _RARE)
    mean = second[-1, :-1] / (share * num)
    spread = codes / (share * num)
    return {
        "dictionary": weight[:, :-1],
        "visible_bias": weight[:, -1],
        "observed.log_variance": torch.maximum(residual, _LEAST * squares).div(num).log(),
        "log_odds": torch.logit(share),
        "slab_mean": mean,
        "slab_log_variance": torch.maximum(spread - mean.square(), _LEAST * spread).clamp_min(1e-30).log(),
    }


def variational_em(model: S3C, *, forgetting: float = 2.0) -> Objective:
    """Climbs E_q[log p(x, h, s) − log q], a lower bound on log p(x), by online EM (Cappé and Moulines, 2009).

    The E-step is `model.encode`. Its statistics of all batches, of which the s-th of t has the weight (s / t)^`forgetting`,
    give the M-step. The gradient is each parameter minus what the M-step makes of it: `torch.optim.SGD` with a constant
    learning rate of 1 and no average does the steps of EM, which on full batches that forget all before never lower the bound.
    """
    if forgetting < 0:
        raise BadInput(f"forgetting must be at least 0, not {forgetting}.")

    def init(x: Tensor, generator: torch.Generator) -> ObjectiveState:
        size, num = model.dictionary.shape
        shapes = ((num + 1, num + 1), (size, num + 1), (size,), (num,))
        sums = {name: x.new_zeros(shape) for name, shape in zip(Statistics._fields, shapes, strict=True)}
        return {"step": x.new_zeros(()), **sums}

    def step(x: Tensor, state: ObjectiveState, generator: torch.Generator):
        with torch.no_grad():
            q = model.encode(x)
            bound = model.bound(x, q).mean()
            count = state["step"] + 1
            keep = (1 - 1 / count) ** forgetting
            fresh = expected_statistics(x, q)._asdict()
            sums = {name: keep * state[name] + value for name, value in fresh.items()}
            better = m_step(Statistics(**sums))
            parameters = [model.get_parameter(name) for name in better]
            gradients = [now - then for now, then in zip(parameters, better.values(), strict=True)]
        metrics = {"bound": bound, "active": torch.sigmoid(q.logit).mean()}
        return with_gradient(-bound, parameters, gradients), {"step": count, **sums}, metrics

    # The parameters are found from the statistics of all rows.
    return Objective(init, step, chains=None)
