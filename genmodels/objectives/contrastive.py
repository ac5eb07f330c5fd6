"""Contrastive learning of layered Boltzmann machines: CD, PCD and fast PCD.

The log-likelihood gradient is the difference of the expected sufficient statistics under the data (positive phase) and
under the model (negative phase). The objectives differ in the chains that stand in for the model.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from genmodels.boltzmann import LayeredBoltzmann, Layers, is_narrow
from genmodels.errors import BadInput
from genmodels.interface import FreeEnergy, Posterior, check_width, require
from genmodels.objectives.objective import Objective, ObjectiveState, with_gradient
from genmodels.objectives.phases import Penalty, compare_phases, first_offsets
from samplers.fused import Precision


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
    start: Float[Tensor, "c d"] | None = None,
) -> Objective:
    """Persistent contrastive divergence PCD-k, stochastic maximum likelihood (Younes, 1989; Tieleman, 2008).

    `num_chains` chains (the batch size unless given) persist from step to step. They begin at the rows of `start`, for a
    model that has learned already, or at independent sites with the visible biases. With `centered`, the gradient is that of
    the centered parametrisation, offsets the running mean of both phases (the enhanced gradient of Cho, Raiko and Ilin,
    2013, as in Melchior, Fischer and Wiskott, 2016): the same model and the same maxima, better conditioned.
    """
    if start is not None:
        check_width(start, model.units[0].size, "the start of the chains")
        num_chains = len(start)
    return _contrastive(
        model, num_steps, num_chains, True, centered, penalty, precision, fast_rate=0.0, fast_decay=0.0, start=start
    )


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
    start: Tensor | None = None,
) -> Objective:
    require(model, LayeredBoltzmann, FreeEnergy, Posterior, by="contrastive learning")
    if num_steps < 1:
        raise BadInput(f"num_steps must be at least 1, not {num_steps}.")
    if num_chains is not None and num_chains < 1 and persistent:
        raise BadInput(f"num_chains must be at least 1, not {num_chains}.")

    @torch.no_grad()
    def init(x: Tensor, generator: torch.Generator) -> ObjectiveState:
        state: ObjectiveState = {}
        if persistent:
            unit, bias = model.units[0], model.biases[0]
            num = len(x) if num_chains is None else num_chains
            independent = unit.draw(bias.expand(num, -1), unit.noise(num, bias, generator))
            chains = independent if start is None else start.to(bias)
            state |= {"chains": chains, "hidden": _draw(model.anneal(), 1, chains, generator)}
        if centered:
            state |= first_offsets(model, x)
        if fast_rate > 0:
            state |= {f"fast.{i}": torch.zeros_like(p) for i, p in enumerate((*model.weights, *model.biases))}
        return state

    def step(x: Tensor, state: ObjectiveState, generator: torch.Generator):
        with torch.no_grad():
            # Weights change with every step: what is prepared for one must be cheap to prepare.
            narrow = "sliced" if is_narrow(model, precision) else precision
            layers = model.anneal(precision=narrow)
            chain_layers = _with_fast_weights(model, state, narrow) if fast_rate > 0 else layers
            hidden = state["hidden"] if persistent else _draw(layers, 1, x, generator)
            chains = _run_chains(chain_layers, hidden, num_steps, generator)
            phases = compare_phases(model, layers, chains, x, state, generator, precision, penalty)
            new = state | phases.offsets
            if persistent:
                # A chain rests on its hidden layer, whose field the gradient needs anyway: a sweep then costs one product.
                if fast_rate > 0:
                    hidden = _draw(chain_layers, 1, chains, generator)
                else:
                    hidden = layers.draw_given(1, phases.field[: len(chains)], generator)
                new |= {"chains": chains, "hidden": hidden}
            if fast_rate > 0:
                fast = enumerate((*phases.difference.weights, *phases.difference.biases))
                new |= {f"fast.{i}": fast_decay * state[f"fast.{i}"] - fast_rate * g for i, g in fast}
        return with_gradient(phases.value, *phases.descent), new, {"energy_difference": phases.value}

    return Objective(init, step, chains=("chains", "hidden"))


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
