"""Learning a chain by walking it: a generative stochastic network unrolled from the data."""

from __future__ import annotations

import torch
from torch import Tensor

from genmodels.errors import BadInput
from genmodels.gsn import GSN
from genmodels.interface import require
from genmodels.objectives.objective import Objective, ObjectiveState


def unrolled(model: GSN, *, num_steps: int = 4) -> Objective:
    """Descends −log P(x | h_1) at x, averaged over `num_steps` steps of the chain from (x, 0).

    The walk-back training of the deep GSN (Bengio, Laufer, Alain and Yosinski, 2014): every step is to give x back, whatever the
    chain has drawn in between. Gradients pass through the hidden layers from step to step, and not through draws of x. What
    x tells the highest of L layers needs L steps up and L down: take num_steps = 2 L or more. The metric
    `reconstruction` is the first step's term, nats per example: not a bound on log p(x).
    """
    require(model, GSN, by="unrolled")
    if num_steps < 1:
        raise BadInput(f"num_steps must be at least 1, not {num_steps}.")

    def init(x: Tensor, generator: torch.Generator) -> ObjectiveState:
        return {}

    def step(x: Tensor, state: ObjectiveState, generator: torch.Generator):
        losses, at = [], model.start(x)
        for _ in range(num_steps):
            field, h = model.apart(model.reconstruct(model.corrupt(at, model.corruption_noise(at, generator))))
            losses.append(-model.observed.log_prob(field, x).mean())
            with torch.no_grad():
                drawn = model.observed.draw(field.detach(), model.reconstruction_noise(at, generator))
            at = model.join(drawn, h)
        loss = torch.stack(losses).mean()
        return loss, state, {"reconstruction": -losses[0], "last_reconstruction": -losses[-1]}

    return Objective(init, step)
