"""The gradient of contrastive learning: states of the data against states of the model's chains.

It is the difference of the expected sufficient statistics under the two, for layered machines with one hidden layer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from genmodels.boltzmann import LayeredBoltzmann, Layers, is_narrow
from genmodels.interface import FreeEnergy
from genmodels.objectives.objective import ObjectiveState
from samplers.fused import Precision, contrasted_correlation

OFFSET_RATE = 0.01


@dataclass(frozen=True)
class Penalty:
    """What is added to the contrastive gradient.

    l1, l2: weight decay, the gradient of l1 Σ|W| + l2/2 Σ W². sparsity_cost: pull of the mean hidden activation towards
    sparsity_target through the hidden biases (Hinton, 2010, section 11).
    """

    l1: float = 0.0
    l2: float = 0.0
    sparsity_target: float = 0.1
    sparsity_cost: float = 0.0


class Direction(NamedTuple):
    """A direction for every coupling matrix and every bias."""

    weights: list[Tensor]
    biases: list[Tensor]


class Phases(NamedTuple):
    """Data against chains: what one step of contrastive learning needs of them."""

    value: Float[Tensor, ""]
    """Mean energy of the data minus that of the chains, the hidden layer at its mean."""
    difference: Direction
    """Down the free-energy gap, centered if there are offsets."""
    descent: tuple[Sequence[Tensor], Sequence[Tensor]]
    """All parameters, and the direction down which each of them goes, penalties included."""
    offsets: ObjectiveState
    """The offsets after this step."""
    field: Float[Tensor, "r h"]
    """The hidden layer's field given the chains, and then given the data."""


def compare_phases(
    model: LayeredBoltzmann,
    layers: Layers,
    chains: Float[Tensor, "c d"],
    x: Float[Tensor, "n d"],
    state: ObjectiveState,
    generator: torch.Generator,
    precision: Precision,
    penalty: Penalty | None = None,
) -> Phases:
    """The descent direction from data and chains; centered where `state` holds offsets."""
    # Both phases are rows of one batch: the chains enter with weight +1/c, the data with −1/n.
    rows = torch.cat([chains, x])
    row_weight = torch.cat([x.new_full((len(chains),), 1 / len(chains)), x.new_full((len(x),), -1 / len(x))])
    field = layers.field(1, (rows, rows))
    statistics, energy = _statistics(model, rows, field)
    # One product in small integers has one scale for all its rows, which phases of one size share.
    narrow = len(chains) == len(x) and is_narrow(model, precision)
    correlate = partial(contrasted_correlation, generator=generator) if narrow else None
    offsets = [state[f"offset.{i}"] for i in range(len(statistics))] if "offset.0" in state else None
    difference = contrast(statistics, row_weight, offsets, correlate)
    descent = difference if penalty is None else penalised(model, difference, statistics, len(x), penalty)
    own, unit_descent = _unit_descent(model, rows, row_weight)
    return Phases(
        -(row_weight @ energy),
        difference,
        ((*model.weights, *model.biases, *own), (*descent.weights, *descent.biases, *unit_descent)),
        moved_offsets(offsets, statistics, row_weight),
        field,
    )


def first_offsets(model: LayeredBoltzmann, x: Float[Tensor, "n d"]) -> ObjectiveState:
    """Offsets for the centered gradient, from a first batch."""
    statistics, _ = _statistics(model, x, model.field(1, (x, x)))
    return {f"offset.{i}": t.mean(0) for i, t in enumerate(statistics)}


def moved_offsets(
    offsets: Sequence[Tensor] | None, statistics: Sequence[Tensor], row_weight: Float[Tensor, " n"]
) -> ObjectiveState:
    """The offsets after a step: a little nearer to the mean of both phases."""
    if offsets is None:
        return {}
    share = 0.5 * row_weight.abs()
    pairs = enumerate(zip(offsets, statistics, strict=True))
    return {f"offset.{i}": torch.lerp(offset, share @ t, OFFSET_RATE) for i, (offset, t) in pairs}


def contrast(
    statistics: Sequence[Tensor],
    row_weight: Float[Tensor, " n"],
    offsets: Sequence[Tensor] | None = None,
    correlate: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor] | None = None,
) -> Direction:
    """Σ_r w_r t(s_l,r) t(s_{l+1},r)ᵀ and Σ_r w_r t(s_l,r), from the statistics of n states, layer by layer.

    With weight +1/n for draws of the model and −1/n for the data it is the gradient of the mean of −log p in the coupling
    matrices and biases. With `offsets` o it is the direction in the centered parametrisation

        E = −Σ (t_l − o_l)ᵀ W_l (t_{l+1} − o_{l+1}) − ...,

    mapped back: weights move by the covariance-like C_l about the offsets, biases by the difference of means minus
    C_l o_{l+1} and C_{l−1}ᵀ o_{l−1} (Montavon and Müller, 2012; Melchior, Fischer and Wiskott, 2016). That is a linear map
    of positive definite form, so it vanishes where the gradient does; it asks for weights whose sum is zero.

    `correlate(below, above, left, right)` stands in for Σ_r w_r below_r above_rᵀ + leftᵀ right.
    """
    correlate = partial(weighted_correlation, row_weight) if correlate is None else correlate
    means = [row_weight @ t for t in statistics]
    biases = list(means)
    center = [torch.zeros_like(b) for b in means] if offsets is None else offsets
    weights = []
    for low, (below, above) in enumerate(pairwise(statistics)):
        # The offsets' terms are a product of rank two: with it the matrix is written once.
        left = torch.stack([center[low], means[low]])
        right = torch.stack([-means[low + 1], -center[low + 1]])
        weights.append(correlate(below, above, left, right))
        if offsets is not None:
            # C o and Cᵀ o from the rows, which are far fewer numbers than C.
            up = (row_weight * (above @ center[low + 1])) @ below + (right @ center[low + 1]) @ left
            down = (row_weight * (below @ center[low])) @ above + (left @ center[low]) @ right
            biases[low] = biases[low] - up
            biases[low + 1] = biases[low + 1] - down
    return Direction(weights, biases)


def weighted_correlation(row_weight: Tensor, below: Tensor, above: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """Σ_r w_r below_r above_rᵀ + leftᵀ right."""
    return (below.T @ (above * row_weight[:, None])).addmm_(left.T, right)


def _statistics(model: LayeredBoltzmann, x: Tensor, field: Tensor) -> tuple[list[Tensor], Tensor]:
    """The statistics of both layers with the hidden one at its conditional mean, and the energy of that state."""
    visible, hidden = model.units
    mean = hidden.mean(field)
    t = visible.statistic(x)
    t_hidden = hidden.statistic(mean)
    energy = -(t @ model.biases[0] + visible.log_base(x) + (t_hidden * field).sum(-1) + hidden.log_base(mean))
    return [t, t_hidden], energy


def penalised(
    model: LayeredBoltzmann, descent: Direction, statistics: Sequence[Tensor], num_data: int, penalty: Penalty
) -> Direction:
    """The direction with that of the penalty added; the last `num_data` rows of the statistics are the data's."""
    weights = [g + penalty.l2 * w + penalty.l1 * w.sign() for g, w in zip(descent.weights, model.weights, strict=True)]
    biases = list(descent.biases)
    for layer in range(1, len(biases)):
        excess = statistics[layer][-num_data:].mean(0) - penalty.sparsity_target
        biases[layer] = biases[layer] + penalty.sparsity_cost * excess
    return Direction(weights, biases)


def _unit_descent(
    model: LayeredBoltzmann, rows: Tensor, row_weight: Tensor
) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
    """The units' own parameters (variances), and the gradient of the free-energy gap in them."""
    own = [p for unit in model.units for p in unit.parameters() if p.requires_grad]
    if not own:
        return [], []
    assert isinstance(model, FreeEnergy)
    with torch.enable_grad():
        return own, torch.autograd.grad(-(row_weight @ model.free_energy(rows)), own)
