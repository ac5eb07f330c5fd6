"""Greedy learning of a deep belief network, all its RBMs side by side."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from genmodels.dbn import DBN
from genmodels.errors import BadInput
from genmodels.interface import require
from genmodels.objectives.contrastive import pcd
from genmodels.objectives.objective import Objective, ObjectiveState, with_gradient
from genmodels.objectives.phases import Penalty
from genmodels.rbm import RBM
from genmodels.training_state import part, with_prefix
from samplers.fused import Precision


def layerwise(
    model: DBN,
    *,
    num_steps: int = 1,
    num_chains: int | None = None,
    centered: bool = True,
    penalty: Penalty | None = None,
    precision: Precision = "auto",
) -> Objective:
    """Persistent contrastive divergence for every RBM of a stack, each on draws of the hidden layer below it.

    The greedy learning of Hinton, Osindero and Teh (2006, section 4), with all layers at work from the first step: no
    gradient passes between them, so each RBM learns as it would alone, from hidden states that settle as the RBM below does.
    Directed layers keep equal weights up and down. The options are those of `pcd`.
    """
    require(model, DBN, by="layerwise")
    if any(unit.num_states is None for unit in model.latent_units):
        raise BadInput(
            "layerwise takes discrete hidden layers: the variances of Gaussian ones would have two RBMs to obey."
        )
    options: dict[str, Any] = {"num_steps": num_steps, "num_chains": num_chains, "centered": centered}
    rbms = [*(_directed(model, i) for i in range(len(model.layers))), model.top]
    learners = [pcd(rbm, **options, penalty=penalty, precision=precision) for rbm in rbms]
    names = [f"layer.{i}" for i in range(len(rbms))]

    @torch.no_grad()
    def up(rbm: RBM, x: Tensor, generator: torch.Generator) -> Tensor:
        return rbm.hidden.draw(rbm.field(1, (x, x)), rbm.hidden.noise(len(x), x, generator))

    def init(x: Tensor, generator: torch.Generator) -> ObjectiveState:
        state: ObjectiveState = {}
        for name, rbm, learner in zip(names, rbms, learners, strict=True):
            state |= with_prefix(name, learner.init(x, generator))
            if rbm is not model.top:
                x = up(rbm, x, generator)
        return state

    def step(x: Tensor, state: ObjectiveState, generator: torch.Generator):
        new, losses = {}, []
        for i, (name, learner) in enumerate(zip(names, learners, strict=True)):
            loss, after, _ = learner.step(x, part(name, state), generator)
            new |= with_prefix(name, after)
            losses.append(loss if rbms[i] is model.top else _both_ways(model, i, rbms[i], loss))
            if rbms[i] is not model.top:
                x = up(rbms[i], x, generator)
        metrics = {f"energy_difference_{i + 1}": loss.detach() for i, loss in enumerate(losses)}
        return torch.stack(losses).sum(), new, metrics

    chains = tuple(f"{name}.{kind}" for name in names for kind in ("chains", "hidden"))
    return Objective(init, step, chains=chains)


def _directed(model: DBN, layer: int) -> RBM:
    """The RBM whose weights and biases are those of a directed layer, the same tensors."""
    visible, hidden = model.units[layer : layer + 2]
    rbm = RBM(visible, hidden, generator=torch.Generator())
    rbm.weight = model.generative[layer]
    rbm.visible_bias, rbm.hidden_bias = model.bias_down[layer], model.bias_up[layer]
    return rbm


def _both_ways(model: DBN, layer: int, rbm: RBM, loss: Tensor) -> Tensor:
    """The same loss, which moves the weights up of a directed layer as those down."""
    parameters = list(rbm.parameters())
    gradients = torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)
    of = next(g for p, g in zip(parameters, gradients, strict=True) if p is rbm.weight)
    return with_gradient(loss.detach(), [*parameters, model.recognition[layer]], [*gradients, of.clone()])
