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


def nearest_neighbour(model: DAE, *, pull: float = 1.0) -> Objective:
    """−log P(x | f(x') + σ ξ), x' the example of the batch whose code is nearest to f(x) − σ ξ (Bengio, 2014, Eq. 15).

    With much noise no decoder finds x again; it is enough that every x is reached from some x'. Plus the logarithm of the
    batch's size it is, averaged over ξ, at least −log of the probability of x after one step from a row of the batch drawn
    at random (Eq. 14), nats. `pull` weighs "f(x) and f(x') are targets for each other": half their squared distance, in
    units of σ². For one hidden layer with noise.

    Metrics: `reconstruction` of the first term; `moved`, the share of rows whose neighbour is another one.
    """
    require(model, DAE, by="nearest-neighbour reconstruction")
    sizes, deviation = model.config()["hidden"], model.config()["hidden_noise"]
    if len(sizes) != 1 or not deviation or pull < 0:
        raise BadInput("Nearest-neighbour reconstruction needs one hidden layer with noise, and a pull of at least 0.")

    def init(x: Tensor, generator: torch.Generator) -> ObjectiveState:
        return {}

    def step(x: Tensor, state: ObjectiveState, generator: torch.Generator):
        noise = model.corruption_noise(x, generator)
        code = model.code(x)
        with torch.no_grad():
            nearest = torch.cdist(code - deviation * noise[1], code).argmin(1)
        field = model.reconstruct(model.corrupt(x[nearest], noise))
        reconstruction = model.observed.log_prob(field, x).mean()
        apart = 0.5 * ((code - code[nearest]) / deviation).square().sum(1).mean()
        moved = (nearest != torch.arange(len(x), device=x.device)).to(x.dtype).mean()
        return pull * apart - reconstruction, state, {"reconstruction": reconstruction.detach(), "moved": moved}

    return Objective(init, step)
