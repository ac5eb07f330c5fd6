"""Variational stochastic maximum likelihood: mean field against persistent chains, for any number of hidden layers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from genmodels.boltzmann import Layers, is_narrow
from genmodels.chains import independent_start
from genmodels.dbm import DBM
from genmodels.errors import BadInput
from genmodels.interface import check_width, require
from genmodels.objectives.objective import Objective, ObjectiveState, with_gradient
from genmodels.objectives.phases import (
    Penalty,
    contrast,
    moved_offsets,
    penalised,
    weighted_correlation,
)
from samplers.fused import Precision, contrasted_correlation


def variational_pcd(
    model: DBM,
    *,
    num_steps: int = 5,
    num_chains: int | None = None,
    num_iterations: int = 10,
    centered: bool = True,
    penalty: Penalty | None = None,
    precision: Precision = "auto",
    start: Float[Tensor, "c d"] | None = None,
) -> Objective:
    """Ascent on the variational bound of a deep Boltzmann machine (Salakhutdinov and Hinton, 2009).

    The positive phase is the mean field after `num_iterations`, the negative one `num_chains` chains (the batch size
    unless given) that persist and take `num_steps` sweeps of block Gibbs an update; their odd layers enter with their
    conditional means. They begin at the rows of `start`, for a model that has learned already, or at uncoupled layers.
    With `centered`, the direction is that of the centered parametrisation, offsets the running mean of both phases, which
    lets all layers learn jointly from the start (Montavon and Müller, 2012).

    As the chains reach equilibrium this is the gradient of the mean bound on −log p(x) at that mean field, at its fixed
    point or not.
    """
    require(model, DBM, by="variational_pcd")
    if start is not None:
        check_width(start, model.units[0].size, "the start of the chains")
    if num_steps < 1 or num_iterations < 0 or (num_chains is not None and num_chains < 1):
        raise BadInput(
            "variational_pcd needs num_steps and num_chains of at least 1, and num_iterations of at least 0."
        )

    @torch.no_grad()
    def init(x: Tensor, generator: torch.Generator) -> ObjectiveState:
        if start is None:
            chains = independent_start(model, len(x) if num_chains is None else num_chains, generator=generator)
        else:
            rows = start.to(model.biases[0])
            chains = rows, *model.recognise(rows, generator=generator)[0]
        state = {f"chain.{i}": layer for i, layer in enumerate(chains)}
        if centered:
            statistics = _statistics(model, (x, *model.means(model.mean_field(x, num_iterations=num_iterations))))
            state |= {f"offset.{i}": t.mean(0) for i, t in enumerate(statistics)}
        return state

    def step(x: Tensor, state: ObjectiveState, generator: torch.Generator):
        with torch.no_grad():
            # Weights change with every step: what is prepared for one must be cheap to prepare.
            layers = model.anneal(precision="sliced" if is_narrow(model, precision) else precision)
            chains, model_means, own_field = _run_chains(layers, state, num_steps, generator)
            fields = model.mean_field(x, num_iterations=num_iterations, tolerance=0.0)
            data_statistics = _statistics(model, (x, *model.means(fields)))
            pairs = zip(_statistics(model, model_means), data_statistics, strict=True)
            statistics = [torch.cat(pair) for pair in pairs]
            num, num_data = len(chains[0]), len(x)
            row_weight = torch.cat([x.new_full((num,), 1 / num), x.new_full((num_data,), -1 / num_data)])

            def correlate(below: Tensor, above: Tensor, left: Tensor, right: Tensor) -> Tensor:
                # Small integers where one side is binary in both phases: in the observed layer.
                if below is statistics[0] and num == num_data and is_narrow(model, precision):
                    return contrasted_correlation(below, above, left, right, generator)
                return weighted_correlation(row_weight, below, above, left, right)

            offsets = [state[f"offset.{i}"] for i in range(len(statistics))] if centered else None
            difference = contrast(statistics, row_weight, offsets, correlate)
            if penalty is not None:
                difference = penalised(model, difference, statistics, num_data, penalty)
            own, own_descent = _unit_descent(model, x, fields, chains)
            odd_fields = [torch.cat([own_field[i], fields[i - 1]]) for i in model.blocks[0]]
            value = -(row_weight @ _energy(model, statistics, odd_fields))
            new = {f"chain.{i}": layer for i, layer in enumerate(chains)}
            new |= moved_offsets(offsets, statistics, row_weight)
        parameters = (*model.weights, *model.biases, *own)
        loss = with_gradient(value, parameters, (*difference.weights, *difference.biases, *own_descent))
        return loss, new, {"energy_difference": value}

    return Objective(init, step, chains=("chain.",))


def _statistics(model: DBM, state: Sequence[Tensor]) -> list[Tensor]:
    return [unit.statistic(layer) for unit, layer in zip(model.units, state, strict=True)]


def _energy(model: DBM, statistics: Sequence[Tensor], odd_fields: Sequence[Tensor]) -> Tensor:
    """Energy up to the reference measures; every coupling is in the field of one odd layer."""
    odd, even = model.blocks
    total = sum((statistics[i] @ model.biases[i] for i in even), statistics[0].new_zeros(()))
    return -sum(((statistics[i] * field).sum(-1) for i, field in zip(odd, odd_fields, strict=True)), total)


def _run_chains(
    layers: Layers, state: ObjectiveState, num_steps: int, generator: torch.Generator
) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...], dict[int, Tensor]]:
    """The chains after `num_steps` sweeps, the same with the odd layers at their means, and the odd layers' fields."""
    fields: dict[int, Tensor] = {}
    chains = [state[f"chain.{i}"] for i in range(len(layers.units))]
    means = list(chains)
    odd, even = layers.blocks
    for _ in range(num_steps):
        for i in even:
            means[i] = chains[i] = layers.draw(i, tuple(chains), layers.noise(i, len(chains[i]), generator))
        for i in odd:
            # A chain rests on its odd layers, whose fields the gradient needs anyway.
            fields[i] = layers.field(i, tuple(chains))
            chains[i], means[i] = layers.draw_given(i, fields[i], generator), layers.units[i].mean(fields[i])
    return tuple(chains), tuple(means), fields


def _unit_descent(
    model: DBM, x: Tensor, fields: Sequence[Tensor], chains: Sequence[Tensor]
) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
    """The units' own parameters (variances), and the gradient of the gap between data and chains in them."""
    own = [p for unit in model.units for p in unit.parameters()]
    if not own:
        return [], []
    with torch.enable_grad():
        data = model.variational_free_energy(x, tuple(fields)).mean()
        return own, torch.autograd.grad(data - model.energy(chains[0], tuple(chains[1:])).mean(), own)
