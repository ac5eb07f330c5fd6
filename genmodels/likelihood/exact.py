"""Exact normalising constants: by enumerating one block of layers, or in closed form for two Gaussian layers."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from genmodels.boltzmann import LayeredBoltzmann
from genmodels.dbm import DBM
from genmodels.errors import BadInput
from genmodels.interface import require
from genmodels.likelihood.estimate import Estimate
from genmodels.progress import Progress, no_progress
from genmodels.rbm import RBM
from genmodels.units import Gaussian

MAX_STATES = 1 << 25
_CHUNK_ELEMENTS = 1 << 22


def num_enumerated_states(model: LayeredBoltzmann) -> int | None:
    """States of the cheaper block that can be enumerated: 0 where the closed form needs none, None where neither can be."""
    if all(isinstance(unit, Gaussian) for unit in model.units):
        return 0
    counts = [_num_states(model, block) for block in model.blocks]
    return min((count for count in counts if count is not None), default=None)


def _num_states(model: LayeredBoltzmann, block: Sequence[int]) -> int | None:
    counts = [model.units[i].num_states for i in block]
    return None if None in counts else math.prod(count for count in counts if count is not None)


@torch.no_grad()
def exact_log_z(model: LayeredBoltzmann, *, progress: Progress = no_progress) -> Estimate:
    """log Z, exact up to float64 rounding: the even or the odd layers enumerated (to 2²⁵ states), the others summed out.

    So the smaller side of an RBM. Two Gaussian layers have a joint Gaussian density and a closed form. Memory does not grow
    with the number of states.
    """
    require(model, LayeredBoltzmann, by="exact_log_z")
    model = copy.deepcopy(model).double()  # pyright: ignore[reportAttributeAccessIssue]
    if isinstance(model, RBM):
        model.check_normalisable()
    states = num_enumerated_states(model)
    if states == 0:
        assert isinstance(model, RBM)
        return Estimate(_gaussian_log_z(model), 0.0, "exact", "closed form", 0)
    if states is None or states > MAX_STATES:
        raise BadInput(
            f"The smaller side of this model has 2^{math.log2(states or math.inf):.0f} states, too many to enumerate "
            "(at most 2^25); use method ais or raise."
        )
    odd, even = model.blocks
    kept, summed = (even, odd) if _num_states(model, even) == states else (odd, even)
    layers, device = model.anneal(), model.biases[0].device
    chunk = max(1, _CHUNK_ELEMENTS // sum(unit.size for unit in model.units))
    total = torch.tensor(-math.inf, dtype=torch.float64, device=device)
    for start in progress(range(0, states, chunk), "exact log Z"):
        index = torch.arange(start, min(start + chunk, states), device=device)
        full = [bias.expand(len(index), -1) for bias in model.biases]
        log_weight = torch.zeros(len(index), dtype=torch.float64, device=device)
        for i in kept:
            unit, num = model.units[i], model.units[i].num_states
            assert num is not None
            full[i] = unit.states(index % num).double()
            log_weight += unit.statistic(full[i]) @ model.biases[i] + unit.log_base(full[i])
            index = index // num
        for i in summed:
            log_weight += model.units[i].log_partition(layers.field(i, tuple(full)))
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
def mean_free_energy(model: RBM | DBM, x: Tensor, *, chunk: int = 4096) -> tuple[float, float]:
    """Mean of F(x) over the rows, nats per example, and its standard deviation over them; bounded memory, float64 sums.

    For a DBM the variational free energy at its mean field, an upper bound on F.
    """
    free_energy = model.free_energy if isinstance(model, RBM) else model.variational_free_energy
    values = torch.cat([free_energy(rows).double() for rows in x.split(chunk)])
    return float(values.mean()), float(values.std(correction=0))
