"""Learning to undo Gaussian noise of every amount."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from genmodels.dequantisation import dequantised
from genmodels.noise_conditional import NoiseConditionalDAE
from genmodels.objectives.objective import Objective, ObjectiveState


def noise_levels(model: NoiseConditionalDAE) -> Objective:
    """Descends the mean of w(σ) |E[x | x̃] − x|² / d with log σ even between the model's ends, w = (σ² + v²) / (σ v)².

    The weight gives all levels of an untrained network the same share (Karras et al., 2022, table 1). Up to a constant this
    is the denoising score matching loss with weights σ² (1 + σ²/v²) (Vincent, 2011; Song and Ermon, 2019). Grey
    levels are dequantised anew at every step.
    """
    low, high = math.log(model.smallest), math.log(model.largest)

    def init(x: Tensor, generator: torch.Generator) -> ObjectiveState:
        return {}

    def step(x: Tensor, state: ObjectiveState, generator: torch.Generator):
        if model.levels:
            x = dequantised(x, model.levels, generator)
        level = torch.rand(len(x), 1, dtype=x.dtype, device=x.device, generator=generator)
        sigma = torch.exp(low + (high - low) * level)
        noisy = x + sigma * torch.randn(x.shape, dtype=x.dtype, device=x.device, generator=generator)
        weight = (sigma.square() + model.spread.square()) / (sigma * model.spread).square()
        loss = (weight * (model.reconstruct(noisy, sigma) - x).square()).mean()
        return loss, state, {"denoising": loss}

    return Objective(init, step)
