"""Multi-prediction training: a Boltzmann machine's mean field learns to fill in what is left out, and nothing else."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from genmodels.dbm import DBM
from genmodels.errors import BadInput
from genmodels.interface import require
from genmodels.joined import Joined
from genmodels.objectives.objective import Objective, ObjectiveState
from genmodels.unit import Unit
from genmodels.units import Categorical
from samplers.fused import uniform


def multi_prediction(model: DBM, *, num_iterations: int = 10, held: float = 0.5) -> Objective:
    """Descends −log q(missing sites | held sites), q being `num_iterations` of mean field (`DBM.fill_in`).

    Each site of each row is held with probability `held`, anew at every read, and gradients pass through all iterations: one
    recurrent network for every subset of the sites (multi-prediction training of DBMs: Goodfellow, Mirza, Courville and Bengio,
    2013, section 3). It needs no chains and no greedy start, and teaches inference, not the density: log p(x) of the machine may
    be poor. The metric `prediction` is log q a missing site, nats, and bounds nothing.
    """
    require(model, DBM, by="multi_prediction")
    if not 0 < held < 1 or num_iterations < 1:
        raise BadInput(f"It takes 0 < held < 1 and num_iterations ≥ 1, not {held} and {num_iterations}.")
    visible = model.units[0]
    if not visible.is_binary:
        raise BadInput(
            "Multi-prediction training fills in Bernoulli and Categorical sites: choose such a visible layer."
        )

    def init(x: Tensor, generator: torch.Generator) -> ObjectiveState:
        return {}

    def step(x: Tensor, state: ObjectiveState, generator: torch.Generator):
        known, num_missing = random_mask(visible, x, held, generator)
        fields = model.fill_in(x, known, num_iterations=num_iterations, tolerance=0.0)
        log_q = visible.log_prob(fields[0], x).sum()
        return -log_q / len(x), state, {"prediction": log_q.detach() / num_missing}

    return Objective(init, step)


def random_mask(
    unit: Unit, x: Float[Tensor, "n d"], held: float, generator: torch.Generator
) -> tuple[Bool[Tensor, "n d"], Int64[Tensor, ""]]:
    """Columns of x held with that probability, those of a site all or none; and how many sites are missing (at least 1)."""
    site = sites(unit)
    num_sites = int(site[-1]) + 1
    known = uniform(len(x), num_sites, dtype=x.dtype, device=x.device, generator=generator) < held
    return known[:, site.to(x.device)], (~known).sum().clamp(min=1)


def sites(unit: Unit) -> Int64[Tensor, " d"]:
    """The number of the site that each column belongs to."""
    if isinstance(unit, Joined):
        found, first = [], 0
        for part in unit.parts:
            found.append(first + sites(part))
            first = int(found[-1][-1]) + 1
        return torch.cat(found)
    if isinstance(unit, Categorical):
        return torch.arange(unit.groups).repeat_interleave(unit.levels)
    return torch.arange(unit.size)
