"""Learning sparse coding and its encoder together."""

from __future__ import annotations

import torch
from torch import Tensor

from genmodels.objectives.objective import Objective, ObjectiveState
from genmodels.psd import PSD


def psd(model: PSD, *, tolerance: float = 1e-2) -> Objective:
    """Descends E(x, z*) at z* = argmin_z E(x, z), reconstruction + sparsity + prediction error (Kavukcuoglu et al., 2008).

    z* is found exactly, to a gap of `tolerance` nats, and held fixed: the gradient is that of min_z E(x, z). Dictionary and
    encoder learn; atoms return to unit length before every step, and the prior's scales and the noise stay.
    """

    def step(x: Tensor, state: ObjectiveState, generator: torch.Generator):
        _prepare(model)
        z = model.infer(x, tolerance=tolerance).z
        energy = model.energy(x, z).mean()
        predicted = model.generative.energy(x, (model.predict(x),)).mean().detach()
        metrics = {"energy": energy, "prediction_energy": predicted, "active": (z[0] != 0).to(x).mean()}
        return energy, state, metrics

    return Objective(lambda x, generator: {}, step)


def amortised_map(model: PSD) -> Objective:
    """Descends −log p(x, f(x)), reconstruction + sparsity at the encoder's own code, through the encoder.

    No optimum is sought: what an encoder learns to lower is the energy by which it is judged. Atoms return to unit length
    before every step, and the prior's scales and the noise stay.
    """

    def step(x: Tensor, state: ObjectiveState, generator: torch.Generator):
        _prepare(model)
        code = model.predict(x)
        energy = model.generative.energy(x, (code,)).mean()
        return energy, state, {"prediction_energy": energy, "active": (code != 0).to(x).mean()}

    return Objective(lambda x, generator: {}, step)


@torch.no_grad()
def _prepare(model: PSD) -> None:
    generative = model.generative
    generative.factors.log_scale.requires_grad_(False)
    generative.dictionary.div_(generative.dictionary.norm(dim=0).clamp_min(1e-12))
