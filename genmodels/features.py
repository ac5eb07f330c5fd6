"""Trained machines as the first layers of a network that is to be fine-tuned."""

from __future__ import annotations

import copy

import torch
from jaxtyping import Float
from torch import Tensor, nn

from genmodels.dbm import DBM
from genmodels.dbn import DBN
from genmodels.errors import BadInput
from genmodels.rbm import RBM
from genmodels.units import Bernoulli, Unit


class MeanFieldInput(nn.Module):
    """x next to E_q[h_2 | x], the mean field of a DBM that stays as it is."""

    def __init__(self, model: DBM):
        super().__init__()
        self.model = copy.deepcopy(model).requires_grad_(False)

    def forward(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n m"]:
        with torch.no_grad():
            return torch.cat([x, self.model.means(self.model.mean_field(x))[1]], 1)


def to_mlp(model: RBM | DBN | DBM, num_outputs: int | None = None) -> nn.Sequential:
    """Linear and sigmoid layers that begin as the model's own pass up, with copies of its weights, and learn by back-propagation.

    An RBM gives E[h | x]; a DBN the means of each layer given those of the layer below, up to the hidden layer of its top
    RBM. A DBM of two hidden layers takes x next to the mean field of the second one, and so begins with its own mean
    field as the activity of both layers (Salakhutdinov and Hinton, 2009, section 4). `num_outputs` adds a linear layer of
    zeros: logits that begin equal. Hidden layers must be Bernoulli.
    """
    first: list[nn.Module] = []
    if isinstance(model, DBM):
        if len(model.units) != 3:
            raise BadInput(f"to_mlp takes a DBM of two hidden layers, not of {len(model.units) - 1}.")
        x, h, top = model.units
        augmented = torch.cat([_on_states(x, model.weights[0]), _on_states(top, model.weights[1].T)])
        pairs = [(h, augmented, model.biases[1]), (top, _on_states(h, model.weights[1]), model.biases[2])]
        first = [MeanFieldInput(model)]
    elif isinstance(model, DBN):
        sides = zip(model.units, model.latent_units, model.recognition, model.bias_up, strict=False)
        pairs = [(above, _on_states(below, weight), bias) for below, above, weight, bias in sides]
        pairs.append((model.top.hidden, _on_states(model.top.visible, model.top.weight), model.top.hidden_bias))
    else:
        pairs = [(model.hidden, _on_states(model.visible, model.weight), model.hidden_bias)]
    layers = [module for unit, weight, bias in pairs for module in (_linear(weight, bias), _activation(unit))]
    if num_outputs is not None:
        size = pairs[-1][0].size
        layers.append(_linear(pairs[-1][1].new_zeros(size, num_outputs), pairs[-1][1].new_zeros(num_outputs)))
    return nn.Sequential(*first, *layers)


def _on_states(unit: Unit, weight: Tensor) -> Tensor:
    """The weights for a layer's states instead of its statistics, which are linear in them."""
    return unit.statistic(torch.eye(unit.size, dtype=weight.dtype, device=weight.device)) @ weight


@torch.no_grad()
def _linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    # Made on no device first, so that no random numbers are drawn for values that are overwritten.
    num_inputs, num_outputs = weight.shape
    layer = nn.Linear(num_inputs, num_outputs, dtype=weight.dtype, device="meta").to_empty(device=weight.device)
    layer.weight.copy_(weight.T)
    layer.bias.copy_(bias)
    return layer


def _activation(unit: Unit) -> nn.Module:
    if not isinstance(unit, Bernoulli):
        raise BadInput(f"to_mlp takes Bernoulli hidden layers, whose means are sigmoids, not {type(unit).__name__}.")
    return nn.Sigmoid()
