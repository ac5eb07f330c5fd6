"""Maximum likelihood for linear models by sampling their posterior."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from genmodels.errors import BadInput
from genmodels.objectives.objective import Objective, ObjectiveState
from genmodels.sparse_coding import SparseCoding
from samplers import hmc

TARGET_ACCEPT, _PACE, _FIRST_STEP = 0.65, 0.1, 0.1


def posterior_sampling(model: SparseCoding, *, num_steps: int = 20, num_leapfrog: int = 8) -> Objective:
    """Descends −log p(x): its gradient is the mean of ∇E(x, z) over p(z | x) (Fisher's identity).

    One draw of z for every example, from the end of `num_steps` transitions of HMC that start at the posterior mean under a
    Gaussian prior of the same scales: biased by what they have not forgotten, which falls with `num_steps`. The step size
    follows the acceptance. Dictionary, bias, scales and noise learn, unless the model says that its noise does not.
    """
    if model.factors.non_negative:
        raise BadInput("HMC does not keep codes non-negative: choose a symmetric prior, or the objective iwae.")
    if num_steps < 1 or num_leapfrog < 1:
        raise BadInput("Posterior sampling needs at least one step of at least one leapfrog step.")

    def init(x: Tensor, generator: torch.Generator) -> ObjectiveState:
        return {"log_step": x.new_tensor(math.log(_FIRST_STEP))}

    def step(x: Tensor, state: ObjectiveState, generator: torch.Generator):
        kernel = hmc(lambda z: model.energy(x, (z,)), state["log_step"].exp(), num_leapfrog)
        with torch.no_grad():
            chain, accept = kernel.init(model.linear_code(x)), x.new_zeros(())
            for _ in range(num_steps):
                chain, info = kernel.step(chain, generator)
                accept = accept + info["accept_prob"].mean() / num_steps
        energy = model.energy(x, (chain.position,)).mean()
        log_step = state["log_step"] + _PACE * (accept - TARGET_ACCEPT)
        return energy, {"log_step": log_step}, {"energy": energy, "accept_prob": accept}

    return Objective(init, step)
