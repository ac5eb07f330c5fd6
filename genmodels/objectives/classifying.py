"""Learning to tell classes apart: exact gradients of log p(y | x), alone or next to a generative objective."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from genmodels.errors import BadInput
from genmodels.interface import require
from genmodels.labels import class_log_probs, label_unit
from genmodels.objectives.objective import Objective, ObjectiveState
from genmodels.rbm import RBM
from samplers.fused import uniform


def discriminative(model: RBM) -> Objective:
    """Ascent on log p(y | x) of an RBM over examples and classes, by its exact gradient (Larochelle and Bengio, 2008, section 4).

    Batches hold the features and behind them the one-hot class (`genmodels.labels.WithClasses`).
    """
    require(model, RBM, by="discriminative")
    num_classes = label_unit(model).size

    def init(x: Tensor, generator: torch.Generator) -> ObjectiveState:
        return {}

    def step(x: Tensor, state: ObjectiveState, generator: torch.Generator):
        features, classes = x[:, :-num_classes], x[:, -num_classes:]
        log_p = class_log_probs(model, features)
        loss = -(classes * log_p).sum(1).mean()
        return loss, state, {"conditional": -loss.detach(), "errors": _errors(log_p, classes)}

    return Objective(init, step)


def hybrid(model: RBM, generative: Objective, *, weight: float = 0.01) -> Objective:
    """Ascent on log p(y | x) + `weight` · log p(x, y), the second by its own objective, such as `pcd(model)`.

    The generative part regularises the discriminative one (Larochelle and Bengio, 2008, section 5).
    """
    if not weight > 0:
        raise BadInput(f"The weight of the generative part must be positive, not {weight}: use discriminative without.")
    conditional = discriminative(model)

    def step(x: Tensor, state: ObjectiveState, generator: torch.Generator):
        joint, state, joint_metrics = generative.step(x, state, generator)
        loss, _, metrics = conditional.step(x, {}, generator)
        return loss + weight * joint, state, metrics | joint_metrics

    return Objective(generative.init, step, chains=generative.chains)


def classification(network: nn.Sequential, *, drop_input: float = 0.0, drop_hidden: float = 0.0) -> Objective:
    """Cross-entropy of a network that ends in a linear layer of logits, as `genmodels.features.to_mlp` makes it.

    The inputs of the first linear layer, and of each later one, are dropped with these probabilities and the others scaled
    up, anew for every row (Srivastava et al., 2014); the network itself holds no dropout. Batches as for `discriminative`.
    """
    linear = [layer for layer in network if isinstance(layer, nn.Linear)]
    if not linear or linear[-1] is not network[-1]:
        raise BadInput("classification takes a network whose last layer is linear: give to_mlp a number of outputs.")
    if not (0 <= drop_input < 1 and 0 <= drop_hidden < 1):
        raise BadInput(f"Probabilities of dropping lie in [0, 1), unlike {drop_input} and {drop_hidden}.")
    num_classes = linear[-1].out_features

    def init(x: Tensor, generator: torch.Generator) -> ObjectiveState:
        return {}

    def step(x: Tensor, state: ObjectiveState, generator: torch.Generator):
        activity, classes = x[:, :-num_classes], x[:, -num_classes:]
        for layer in network:
            if isinstance(layer, nn.Linear):
                activity = _dropped(activity, drop_input if layer is linear[0] else drop_hidden, generator)
            activity = layer(activity)
        loss = cross_entropy(activity, classes)
        return loss, state, {"conditional": -loss.detach(), "errors": _errors(activity, classes)}

    return Objective(init, step)


def _dropped(x: Tensor, probability: float, generator: torch.Generator) -> Tensor:
    if probability == 0:
        return x
    kept = uniform(*x.shape, dtype=x.dtype, device=x.device, generator=generator) >= probability
    return x * kept / (1 - probability)


@torch.no_grad()
def _errors(scores: Tensor, classes: Tensor) -> Tensor:
    """The share of rows whose class has not the highest score."""
    return (scores.argmax(1) != classes.argmax(1)).to(scores.dtype).mean()
