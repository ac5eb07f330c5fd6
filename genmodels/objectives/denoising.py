"""Learning to undo a corruption: the denoising criterion, from the data alone or along walk-back chains."""

from __future__ import annotations

import torch
from torch import Tensor

from genmodels.dae import DAE
from genmodels.errors import BadInput
from genmodels.interface import Denoiser, require
from genmodels.objectives.objective import Objective, ObjectiveState


def denoising(model: DAE, *, walk_back: int = 1) -> Objective:
    """Descends −log P(x | x̃_t), averaged over t = 1, ..., `walk_back` corruptions of a chain that starts at x.

    x̃_1 is drawn from C(· | x), every later x̃_t from C(· | x_{t−1}) with x_{t−1} ~ P(· | x̃_{t−1}), and all of them are to give x
    back: spurious modes that the chain wanders to are learned away (walk-back: Bengio, Yao, Alain and Vincent, 2013,
    section 3, here with a fixed number of steps). For 1 it is the denoising criterion (Vincent et al., 2008). The draws
    carry no gradient. The metric `reconstruction` is the first term, nats per example: not a bound on log p(x).
    """
    require(model, Denoiser, by="denoising")
    if walk_back < 1:
        raise BadInput(f"walk_back must be at least 1, not {walk_back}.")

    def init(x: Tensor, generator: torch.Generator) -> ObjectiveState:
        return {}

    def step(x: Tensor, state: ObjectiveState, generator: torch.Generator):
        losses, at = [], x
        for _ in range(walk_back):
            field = model.reconstruct(model.corrupt(at, model.corruption_noise(at, generator)))
            losses.append(-model.observed.log_prob(field, x).mean())
            with torch.no_grad():
                at = model.draw(field.detach(), model.reconstruction_noise(x, generator))
        loss = torch.stack(losses).mean()
        return loss, state, {"reconstruction": -losses[0], "last_reconstruction": -losses[-1]}

    return Objective(init, step)
