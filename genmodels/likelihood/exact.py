"""Exact normalising constants: by enumerating one side, or in closed form for two Gaussian layers."""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor

from genmodels.errors import BadInput
from genmodels.interface import require
from genmodels.likelihood.estimate import Estimate
from genmodels.progress import Progress, no_progress
from genmodels.rbm import RBM
from genmodels.units import Gaussian

MAX_STATES = 1 << 25
_CHUNK_ELEMENTS = 1 << 22


def num_enumerated_states(model: RBM) -> int | None:
    """States of the cheaper side that can be enumerated: 0 where the closed form needs none, None where neither can be."""
    if all(isinstance(unit, Gaussian) for unit in model.units):
        return 0
    counts = [unit.num_states for unit in model.units if unit.num_states is not None]
    return min(counts)


@torch.no_grad()
def exact_log_z(model: RBM, *, progress: Progress = no_progress) -> Estimate:
    """log Z of an RBM, exact up to float64 rounding: the smaller side enumerated (to 2²⁵ states), the other summed out.

    Two Gaussian layers have a joint Gaussian density and a closed form. Memory does not grow with the number of states.
    """
    require(model, RBM, by="exact_log_z")
    model = copy.deepcopy(model).double()
    model.check_normalisable()
    states = num_enumerated_states(model)
    if states == 0:
        return Estimate(_gaussian_log_z(model), 0.0, "exact", "closed form", 0)
    if states is None or states > MAX_STATES:
        raise BadInput(
            f"The smaller side of this model has 2^{math.log2(states or math.inf):.0f} states, too many to enumerate "
            "(at most 2^25); use method ais or raise."
        )
    side = 0 if model.visible.num_states == states else 1
    unit, other = model.units[side], model.units[1 - side]
    weight = model.weight if side == 0 else model.weight.T
    bias, other_bias = model.biases[side], model.biases[1 - side]
    chunk = max(1, _CHUNK_ELEMENTS // (model.visible.size + model.hidden.size))
    total = torch.tensor(-math.inf, dtype=torch.float64, device=weight.device)
    for start in progress(range(0, states, chunk), "exact log Z"):
        index = torch.arange(start, min(start + chunk, states), device=weight.device)
        s = unit.states(index).double()
        log_weight = s @ bias + other.log_partition(other_bias + s @ weight)
        total = torch.logaddexp(total, torch.logsumexp(log_weight, 0))
    return Estimate(float(total), 0.0, "exact", f"enumeration of {states} states", states)


def _gaussian_log_z(model: RBM) -> float:
    """½ (d + h) log 2π − ½ log det Λ + ½ mᵀ Λ⁻¹ m of the joint Gaussian with precision Λ and linear term m."""
    precisions = [torch.exp(-p) for p in (model.visible.log_variance, model.hidden.log_variance)]  # pyright: ignore
    coupling = precisions[0][:, None] * model.weight * precisions[1]
    joint = torch.cat(
        [torch.cat([precisions[0].diag(), -coupling], 1), torch.cat([-coupling.T, precisions[1].diag()], 1)]
    )
    linear = torch.cat([p * b for p, b in zip(precisions, model.biases, strict=True)])
    return float(
        0.5 * len(joint) * math.log(2 * math.pi)
        - 0.5 * torch.linalg.slogdet(joint).logabsdet
        + 0.5 * linear @ torch.linalg.solve(joint, linear)
    )


@torch.no_grad()
def mean_free_energy(model: RBM, x: Tensor, *, chunk: int = 4096) -> tuple[float, float]:
    """Mean of F(x) over the rows, nats per example, and its standard deviation over them; bounded memory, float64 sums."""
    values = torch.cat([model.free_energy(rows).double() for rows in x.split(chunk)])
    return float(values.mean()), float(values.std(correction=0))
