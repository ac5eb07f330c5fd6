"""Contrastive learning of layered Boltzmann machines: CD, PCD and fast PCD.

The log-likelihood gradient is the difference of the expected sufficient statistics under the data (positive phase) and
under the model (negative phase). The objectives differ in the chains that stand in for the model.
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

from genmodels.boltzmann import LayeredBoltzmann, Layers
from genmodels.errors import BadInput
from genmodels.interface import FreeEnergy, Posterior, require
from genmodels.objectives.objective import Objective, ObjectiveState, with_gradient
from samplers.fused import Correlation, Precision, contrasted_correlation, has_int8

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


def cd(
    model: LayeredBoltzmann,
    *,
    num_steps: int = 1,
    centered: bool = False,
    penalty: Penalty | None = None,
    precision: Precision = "auto",
) -> Objective:
    """Contrastive divergence CD-k: chains start at the data anew in every step (Hinton, 2002).

    A biased gradient of the log-likelihood; the bias vanishes as num_steps grows.
    """
    return _contrastive(model, num_steps, 0, False, centered, penalty, precision, fast_rate=0.0, fast_decay=0.0)


def pcd(
    model: LayeredBoltzmann,
    *,
    num_steps: int = 1,
    num_chains: int | None = None,
    centered: bool = True,
    penalty: Penalty | None = None,
    precision: Precision = "auto",
) -> Objective:
    """Persistent contrastive divergence PCD-k, stochastic maximum likelihood (Younes, 1989; Tieleman, 2008).

    `num_chains` chains (the batch size unless given) persist from step to step. With `centered`, the gradient is that of
    the centered parametrisation, offsets the running mean of both phases (the enhanced gradient of Cho, Raiko and Ilin,
    2013, as in Melchior, Fischer and Wiskott, 2016): the same model and the same maxima, better conditioned.
    """
    return _contrastive(model, num_steps, num_chains, True, centered, penalty, precision, fast_rate=0.0, fast_decay=0.0)


def fpcd(
    model: LayeredBoltzmann,
    *,
    num_steps: int = 1,
    num_chains: int | None = None,
    centered: bool = False,
    penalty: Penalty | None = None,
    precision: Precision = "auto",
    fast_rate: float = 0.1,
    fast_decay: float = 0.95,
) -> Objective:
    """Fast PCD: the chains run on weights plus fast weights, which learn quickly and decay (Tieleman and Hinton, 2009).

    The fast weights follow the gradient with rate `fast_rate` and shrink by `fast_decay` in every step; they drive the
    chains out of the modes they sit in.
    """
    return _contrastive(
        model, num_steps, num_chains, True, centered, penalty, precision, fast_rate=fast_rate, fast_decay=fast_decay
    )


def _contrastive(
    model: LayeredBoltzmann,
    num_steps: int,
    num_chains: int | None,
    persistent: bool,
    centered: bool,
    penalty: Penalty | None,
    precision: Precision,
    *,
    fast_rate: float,
    fast_decay: float,
) -> Objective:
    require(model, LayeredBoltzmann, FreeEnergy, Posterior, by="contrastive learning")
    if num_steps < 1:
        raise BadInput(f"num_steps must be at least 1, not {num_steps}.")
    if num_chains is not None and num_chains < 1 and persistent:
        raise BadInput(f"num_chains must be at least 1, not {num_chains}.")
    parameters = (*model.weights, *model.biases)
    own = [p for unit in model.units for p in unit.parameters()]

    @torch.no_grad()
    def init(x: Tensor, generator: torch.Generator) -> ObjectiveState:
        state: ObjectiveState = {}
        if persistent:
            unit, bias = model.units[0], model.biases[0]
            num = len(x) if num_chains is None else num_chains
            chains = unit.draw(bias.expand(num, -1), unit.noise(num, bias, generator))
            state |= {"chains": chains, "hidden": _draw(model.anneal(), 1, chains, generator)}
        if centered:
            statistics, _ = _statistics(model, x, model.field(1, (x, x)))
            state |= {f"offset.{i}": t.mean(0) for i, t in enumerate(statistics)}
        if fast_rate > 0:
            state |= {f"fast.{i}": torch.zeros_like(p) for i, p in enumerate(parameters)}
        return state

    def step(x: Tensor, state: ObjectiveState, generator: torch.Generator):
        # Under mixed precision too: statistics are sums over many units, and what may be narrow is narrow already.
        with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
            layers = model.anneal(precision=precision)
            chain_layers = _with_fast_weights(model, state, precision) if fast_rate > 0 else layers
            hidden = state["hidden"] if persistent else _draw(layers, 1, x, generator)
            chains = _run_chains(chain_layers, hidden, num_steps, generator)
            # Both phases are rows of one batch: the chains enter with weight +1/n, the data with −1/n.
            rows = torch.cat([chains, x])
            row_weight = torch.cat([x.new_full((len(chains),), 1 / len(chains)), x.new_full((len(x),), -1 / len(x))])
            field = layers.field(1, (rows, rows))
            statistics, energy = _statistics(model, rows, field)
            offsets = [state[f"offset.{i}"] for i in range(len(statistics))] if centered else None
            # One product in small integers has one scale for all its rows, which phases of one size share.
            narrow = len(chains) == len(x) and _narrow(model, precision)
            correlate = partial(contrasted_correlation, generator=generator) if narrow else None
            difference = contrast(statistics, row_weight, offsets, correlate)
            value = -(row_weight @ energy)
            new = dict(state)
            if persistent:
                # A chain rests on its hidden layer, whose field the gradient needs anyway: a sweep then costs one product.
                if fast_rate > 0:
                    hidden = _draw(chain_layers, 1, chains, generator)
                else:
                    hidden = layers.units[1].draw(field[: len(chains)], layers.noise(1, len(chains), generator))
                new |= {"chains": chains, "hidden": hidden}
            if offsets is not None:
                means = [0.5 * row_weight.abs() @ t for t in statistics]
                new |= {f"offset.{i}": torch.lerp(o, means[i], OFFSET_RATE) for i, o in enumerate(offsets)}
            if fast_rate > 0:
                fast = enumerate((*difference.weights, *difference.biases))
                new |= {f"fast.{i}": fast_decay * state[f"fast.{i}"] - fast_rate * g for i, g in fast}
            descent = difference if penalty is None else _penalised(model, difference, statistics, len(x), penalty)
            unit_descent = _unit_descent(model, own, rows, row_weight)
        loss = with_gradient(value, (*parameters, *own), (*descent.weights, *descent.biases, *unit_descent))
        return loss, new, {"energy_difference": value}

    return Objective(init, step)


def contrast(
    statistics: Sequence[Tensor],
    row_weight: Float[Tensor, " n"],
    offsets: Sequence[Tensor] | None = None,
    correlate: Callable[[Tensor, Tensor], Correlation] | None = None,
) -> Direction:
    """Σ_r w_r t(s_l,r) t(s_{l+1},r)ᵀ and Σ_r w_r t(s_l,r), from the statistics of n states, layer by layer.

    With weight +1/n for draws of the model and −1/n for the data it is the gradient of the mean of −log p in the coupling
    matrices and biases. With `offsets` o it is the direction in the centered parametrisation

        E = −Σ (t_l − o_l)ᵀ W_l (t_{l+1} − o_{l+1}) − ...,

    mapped back: weights move by the covariance-like C_l about the offsets, biases by the difference of means minus
    C_l o_{l+1} and C_{l−1}ᵀ o_{l−1} (Montavon and Müller, 2012; Melchior, Fischer and Wiskott, 2016). That is a linear map
    of positive definite form, so it vanishes where the gradient does; it asks for weights whose sum is zero.

    `correlate(below, above)` stands in for the product Σ_r w_r below_r above_rᵀ.
    """
    biases = [row_weight @ t for t in statistics]
    center = [torch.zeros_like(b) for b in biases] if offsets is None else offsets
    weights = []
    for low, (below, above) in enumerate(pairwise(statistics)):
        if correlate is None:
            total = Correlation(below.T @ (above * row_weight[:, None]), 1.0, 0.0)
        else:
            total = correlate(below, above)
        # The shift and the offsets' terms as one product of rank two: a single pass over the matrix, in place.
        left = torch.stack([center[low], biases[low]], 1)
        right = torch.stack([-biases[low + 1], total.shift - center[low + 1]])
        weights.append(total.product.addmm_(left, right, beta=total.scale))
    if offsets is not None:
        for low, weight in enumerate(weights):
            biases[low] = torch.addmv(biases[low], weight, offsets[low + 1], alpha=-1)
            biases[low + 1] = torch.addmv(biases[low + 1], weight.T, offsets[low], alpha=-1)
    return Direction(weights, biases)


def _statistics(model: LayeredBoltzmann, x: Tensor, field: Tensor) -> tuple[list[Tensor], Tensor]:
    """The statistics of both layers with the hidden one at its conditional mean, and the energy of that state."""
    visible, hidden = model.units
    mean = hidden.mean(field)
    t = visible.statistic(x)
    t_hidden = hidden.statistic(mean)
    energy = -(t @ model.biases[0] + visible.log_base(x) + (t_hidden * field).sum(-1) + hidden.log_base(mean))
    return [t, t_hidden], energy


def _draw(layers: Layers, layer: int, other: Tensor, generator: torch.Generator) -> Tensor:
    """A draw of one of two layers given the other."""
    return layers.draw(layer, (other, other), layers.noise(layer, len(other), generator))


def _run_chains(layers: Layers, hidden: Tensor, num_steps: int, generator: torch.Generator) -> Tensor:
    """The visible states after `num_steps` sweeps that begin with a draw of the visible layer."""
    visible = _draw(layers, 0, hidden, generator)
    for _ in range(num_steps - 1):
        visible = _draw(layers, 0, _draw(layers, 1, visible, generator), generator)
    return visible


def _with_fast_weights(model: LayeredBoltzmann, state: ObjectiveState, precision: Precision) -> Layers:
    count = len(model.weights)
    weights = [w + state[f"fast.{i}"] for i, w in enumerate(model.weights)]
    biases = [b + state[f"fast.{count + i}"] for i, b in enumerate(model.biases)]
    return Layers(model.units, weights, biases, precision=precision)


def _narrow(model: LayeredBoltzmann, precision: Precision) -> bool:
    """Whether "auto" may use small integers: float32 parameters, states in {0, 1}, and hardware that multiplies them."""
    weight = model.weights[0]
    binary = all(unit.num_states is not None for unit in model.units)
    return precision == "auto" and binary and weight.dtype == torch.float32 and has_int8(weight.device)


def _penalised(
    model: LayeredBoltzmann, descent: Direction, statistics: Sequence[Tensor], num_data: int, penalty: Penalty
) -> Direction:
    weights = [g + penalty.l2 * w + penalty.l1 * w.sign() for g, w in zip(descent.weights, model.weights, strict=True)]
    biases = list(descent.biases)
    for layer in range(1, len(biases)):
        excess = statistics[layer][-num_data:].mean(0) - penalty.sparsity_target
        biases[layer] = biases[layer] + penalty.sparsity_cost * excess
    return Direction(weights, biases)


def _unit_descent(model: LayeredBoltzmann, own: Sequence[Tensor], rows: Tensor, row_weight: Tensor) -> tuple[Tensor, ...]:
    """Gradient of the free-energy gap in the units' own parameters (variances)."""
    if not own:
        return ()
    assert isinstance(model, FreeEnergy)
    with torch.enable_grad():
        return torch.autograd.grad(-(row_weight @ model.free_energy(rows)), own)
