"""The up-down algorithm: all layers of a deep belief network learn together."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from genmodels.chains import independent_start, run_chains, start_at
from genmodels.dbn import DBN
from genmodels.errors import BadInput
from genmodels.interface import check_width, require
from genmodels.objectives.objective import Objective, ObjectiveState


def up_down(
    model: DBN,
    *,
    num_steps: int = 3,
    num_chains: int | None = None,
    start: Float[Tensor, "c d"] | None = None,
) -> Objective:
    """Fine-tuning of a DBN with weights of its own each way, contrastive wake-sleep (Hinton, Osindero and Teh, 2006, appendix B).

    Wake: at draws of q(z | x) the directed layers follow ∇ log p(layer | layer above), and the top RBM the difference of its
    free energies' gradients there and at `num_chains` persistent chains (the batch size unless given) that take
    `num_steps` sweeps an update. Sleep: from the chains a pass down, at which q follows ∇ log q. They begin at the rows of
    `start`, passed up, or at uncoupled layers of the top.

    As the chains reach equilibrium, p follows the gradient of the mean bound on log p(x), and q goes down the mean over the
    model of KL(p(z | x) ‖ q(z | x)): two players, not the gradient of one function.
    """
    require(model, DBN, by="up_down")
    if start is not None:
        check_width(start, model.units[0].size, "the start of the chains")
    if num_steps < 1 or (num_chains is not None and num_chains < 1):
        raise BadInput("up_down needs num_steps and num_chains of at least 1.")

    @torch.no_grad()
    def init(x: Tensor, generator: torch.Generator) -> ObjectiveState:
        if start is None:
            chains = independent_start(model.top, num_chains or len(x), generator=generator)[0]
        else:
            chains = model.encode(start.to(x)).draw(generator)[-1]
        return {"chains": chains}

    def step(x: Tensor, state: ObjectiveState, generator: torch.Generator):
        z = model.encode(x).draw(generator)
        begin = start_at(model.top, state["chains"])
        chains = run_chains(model.top, begin, num_steps, generator=generator).states
        dream, *dreamt = model.pass_down(chains, generator)
        wake = -model.log_prob_down((x, *z)).mean()
        gap = model.top.free_energy(z[-1]).mean() - model.top.free_energy(chains).mean()
        sleep = -model.encode(dream).log_prob(tuple(dreamt)).mean()
        metrics = {"reconstruction": wake.detach(), "free_energy_gap": gap.detach(), "sleep": sleep.detach()}
        return wake + gap + sleep, {"chains": chains}, metrics

    return Objective(init, step, chains=("chains",))
