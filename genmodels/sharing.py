"""What processes that train together share of an objective, and what each has of its own."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from genmodels.errors import BadInput
from genmodels.objectives import Objective
from genmodels.objectives.objective import Metrics, ObjectiveState
from genmodels.processes import Processes
from genmodels.splitting import is_split


class Combined(NamedTuple):
    """One step of all processes."""

    state: ObjectiveState
    loss: Tensor
    metrics: Metrics
    signal: int
    """The signal by which any of them was asked to stop; 0 for none."""


class Sharing:
    """An objective's chains are dealt out; everything else in its state, and the gradients, are means over the processes."""

    def __init__(self, processes: Processes, objective: Objective, parts: int = 1):
        self._processes, self._parts = processes, parts
        self._chains = objective.chains or ()
        if objective.chains is None and processes.size > 1:
            raise BadInput("This objective learns on one process only: train it with --devices 1.")

    def deal(self, state: ObjectiveState) -> ObjectiveState:
        """This process's part of a whole state."""
        for name in filter(self._is_dealt, state):
            if len(state[name]) < self._processes.size * self._parts:
                raise BadInput(
                    f"There are {len(state[name])} chains for {self._processes.size} processes with {self._parts} parts of a "
                    "batch each: have one each at least."
                )
        return {name: self._processes.deal(t) if self._is_dealt(name) else t for name, t in state.items()}

    def collect(self, state: ObjectiveState) -> ObjectiveState:
        """The whole state, of which each process has its part."""
        return {name: self._processes.collect(t) if self._is_dealt(name) else t for name, t in state.items()}

    def backward_weight(self, weight: float) -> float:
        """What a loss is multiplied by before its gradients are taken: networks with split parameters take plain means."""
        return weight * self._processes.size if self._processes.split else 1.0

    @torch.no_grad()
    def combine(
        self,
        weight: float,
        parameters: Sequence[Tensor],
        state: ObjectiveState,
        loss: Tensor,
        metrics: Metrics,
        number: int,
    ) -> Combined:
        """Means over the processes, each with the weight of its rows: of gradients in place, and of all that is shared.

        Gradients of split parameters are such means already; with them, all come multiplied by `backward_weight`. `number`
        is the signal that has asked this process to stop. One message for the gradients and one for the rest.
        """
        if self._processes.size == 1:
            return Combined(state, loss, metrics, number)
        gradients = [p.grad for p in parameters if p.grad is not None and not is_split(p.grad)]
        if gradients:
            torch._foreach_mul_(gradients, 1 / self._processes.size if self._processes.split else weight)
        shared = {n: t for n, t in state.items() if not self._is_dealt(n) and t.is_floating_point()}
        # In float64, so that counts on which all agree stay what they are.
        means = [value.detach().double() * weight for value in (*shared.values(), *metrics.values(), loss)]
        asked = torch.tensor([number == signal.SIGINT, number == signal.SIGTERM]).to(means[-1])
        self._processes.sum_(gradients, [*means, asked])
        new = dict(zip(shared, means, strict=False))
        return Combined(
            state | {name: total.to(state[name]) for name, total in new.items()},
            means[-1],
            dict(zip(metrics, means[len(shared) :], strict=False)),
            signal.SIGTERM if asked[1] > 0 else signal.SIGINT if asked[0] > 0 else 0,
        )

    def _is_dealt(self, name: str) -> bool:
        return name.startswith(self._chains)
