"""A batch in parts, one after the other: less memory, the same step."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from genmodels.errors import BadInput
from genmodels.groups import share
from genmodels.objectives.objective import Metrics, Objective, ObjectiveState, with_gradient


def accumulated(objective: Objective, parameters: Sequence[Tensor], num_parts: int) -> Objective:
    """`objective` with every batch in `num_parts` parts: the gradients, and what its state shares, are means over the rows.

    Parts take turns as processes work side by side: each has its rows and its chains, and nothing else that it does not share.
    So what is a mean over rows stays what it was, and what looks at a batch as a whole (free bits) looks at a part.
    """
    if objective.chains is None:
        raise BadInput("This objective takes a batch as a whole: train it without parts.")
    chains = objective.chains

    def step(x: Tensor, state: ObjectiveState, generator: torch.Generator):
        dealt = {name for name in state if name.startswith(chains)}
        if short := [name for name in dealt if len(state[name]) < num_parts]:
            raise BadInput(
                f"There are {len(state[short[0]])} chains for {num_parts} parts of a batch: lower their number."
            )
        sums, drawn, gradients = _Sums(), [], _Sums()
        for part in range(num_parts):
            rows = x[share(len(x), part, num_parts)]
            own = {name: t[share(len(t), part, num_parts)] if name in dealt else t for name, t in state.items()}
            # A batch of few rows leaves some parts with none: their chains move on by a row that counts nothing.
            loss, own, metrics = objective.step(rows if len(rows) > 0 else x[:1], own, generator)
            weight = len(rows) / len(x)
            found = torch.autograd.grad(loss, parameters, allow_unused=True)
            gradients.add(weight, {str(i): g for i, g in enumerate(found) if g is not None})
            shared = {f"state {n}": t for n, t in own.items() if n not in dealt and t.is_floating_point()}
            sums.add(weight, {"loss": loss, **{f"metric {n}": t for n, t in metrics.items()}, **shared})
            drawn.append(own)
        new = drawn[-1] | {name: torch.cat([part[name] for part in drawn]) for name in dealt}
        new |= {n: total.to(new[n]) for n, total in sums.named("state ").items()}
        learned = [parameters[int(i)] for i in gradients.totals]
        loss = with_gradient(sums.totals["loss"], learned, list(gradients.totals.values()))
        return loss, new, sums.named("metric ")

    return Objective(objective.init, step, objective.chains)


class _Sums:
    """Weighted sums of tensors by name."""

    def __init__(self) -> None:
        self.totals: Metrics = {}

    def add(self, weight: float, tensors: Metrics) -> None:
        for name, tensor in tensors.items():
            term = weight * tensor.detach()
            self.totals[name] = self.totals[name] + term if name in self.totals else term

    def named(self, start: str) -> Metrics:
        return {name.removeprefix(start): total for name, total in self.totals.items() if name.startswith(start)}
