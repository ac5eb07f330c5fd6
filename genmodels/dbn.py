"""Deep belief network: an RBM on directed layers."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from genmodels.errors import BadInput
from genmodels.interface import Configured, Encoder, JointEnergy, Latents, State
from genmodels.joined import Joined
from genmodels.rbm import RBM
from genmodels.units import Unit, unit_from_config


class PassUp(NamedTuple):
    """q(z | x) = q(h_1 | x) q(h_2 | h_1) ..., each layer of its own family. Satisfies `Code`."""

    model: DBN
    first: Tensor
    """The field of h_1."""

    @torch.no_grad()
    def draw(self, generator: torch.Generator | None) -> Latents:
        z, field = [], self.first
        for i, unit in enumerate(self.model.latent_units):
            field = self.first if i == 0 else self.model.field_up(i, z[-1])
            z.append(unit.draw(field, unit.noise(len(field), field, generator)))
        return tuple(z)

    def log_prob(self, z: Latents) -> Float[Tensor, " n"]:
        fields = [self.first, *(self.model.field_up(i + 1, below) for i, below in enumerate(z[:-1]))]
        layers = zip(self.model.latent_units, fields, z, strict=True)
        return torch.stack([unit.log_prob(field, state) for unit, field, state in layers]).sum(0)

    def repeat(self, num: int) -> PassUp:
        return PassUp(self.model, self.first.repeat(num, 1))


class DBN(nn.Module, JointEnergy, Encoder, Configured):
    """Deep belief network (Hinton, Osindero and Teh, 2006): directed layers below an RBM on the highest of them,

        p(x, h_1, ..., h_L) = p(x | h_1) ... p(h_{L−1} | h_L) p_top(h_L),    p_top(h_L) ∝ exp(−F_top(h_L)),

    with the RBM's own hidden layer summed out, so that it is none of the latents. log Z is that of `top`. Recognition is one
    pass up, q(h_1 | x) q(h_2 | h_1) ..., with weights of its own. A stack of one RBM trained after the other starts with equal
    weights both ways.

    Parameters: for every directed layer l, `generative.l` and `recognition.l` (size of layer l, size of layer l + 1),
    `bias_down.l` (size of layer l,), `bias_up.l` (size of layer l + 1,); and those of `top`.
    """

    def __init__(self, units: Sequence[Unit], top: RBM, *, generator: torch.Generator | None = None):
        super().__init__()
        if not units:
            raise BadInput("A DBN needs at least one directed layer below its RBM: without one, use the RBM.")
        self.layers = nn.ModuleList(units)
        self.top = top
        sizes = [unit.size for unit in (*units, top.visible)]
        # As an RBM begins, and both ways alike.
        small = [
            0.1 / math.sqrt(below + above) * torch.randn(below, above, generator=generator)
            for below, above in pairwise(sizes)
        ]
        self.generative = nn.ParameterList(copy.deepcopy(small))
        self.recognition = nn.ParameterList(copy.deepcopy(small))
        self.bias_down = nn.ParameterList(torch.zeros(size) for size in sizes[:-1])
        self.bias_up = nn.ParameterList(torch.zeros(size) for size in sizes[1:])

    @classmethod
    @torch.no_grad()
    def from_stack(cls, rbms: Sequence[RBM]) -> DBN:
        """The network of RBMs of which each has learned the hidden layer of the one before; copies of their parameters.

        The top RBM may have learned more next to that layer, such as a label: `Joined(hidden layer below, label)`. Nothing
        below depends on such columns, and recognition draws them from their biases.
        """
        for below, above in pairwise(rbms):
            visible = above.visible
            shared = visible.parts[0] if isinstance(visible, Joined) and above is rbms[-1] else visible
            if below.hidden.config() != shared.config():
                raise BadInput("The visible layer of each RBM of a stack must be the hidden layer of the one below.")
        rbms = [copy.deepcopy(rbm) for rbm in rbms]
        model = cls([rbm.visible for rbm in rbms[:-1]], rbms[-1], generator=torch.Generator()).to(rbms[0].weight)
        for i, rbm in enumerate(rbms[:-1]):
            for weight in (model.generative[i], model.recognition[i]):
                weight.zero_()[:, : rbm.hidden.size] = rbm.weight
            model.bias_down[i].copy_(rbm.visible_bias)
            model.bias_up[i].copy_(rbms[i + 1].visible_bias)
            model.bias_up[i][: rbm.hidden.size] = rbm.hidden_bias
        return model

    @property
    def units(self) -> tuple[Unit, ...]:
        """The observed layer and the latent ones, the top RBM's visible layer last."""
        return *self.layers, self.top.visible  # pyright: ignore[reportReturnType]

    @property
    def latent_units(self) -> tuple[Unit, ...]:
        """The layers of z."""
        return self.units[1:]

    def field_up(self, layer: int, below: Float[Tensor, "n d"]) -> Float[Tensor, "n h"]:
        """The field of q for layer + 1 given `layer`."""
        return self.units[layer].statistic(below) @ self.recognition[layer] + self.bias_up[layer]

    def field_down(self, layer: int, above: Float[Tensor, "n h"]) -> Float[Tensor, "n d"]:
        """The field of p for `layer` given layer + 1."""
        return self.units[layer + 1].statistic(above) @ self.generative[layer].T + self.bias_down[layer]

    def log_prob_down(self, state: State) -> Float[Tensor, " n"]:
        """Σ_l log p(layer l | layer l + 1), nats."""
        pairs = enumerate(pairwise(state))
        terms = [self.units[i].log_prob(self.field_down(i, above), below) for i, (below, above) in pairs]
        return torch.stack(terms).sum(0)

    def energy(self, x: Float[Tensor, "n d"], z: Latents) -> Float[Tensor, " n"]:
        return self.top.free_energy(z[-1]) - self.log_prob_down((x, *z))

    def encode(self, x: Float[Tensor, "n d"]) -> PassUp:
        return PassUp(self, self.field_up(0, x))

    @torch.no_grad()
    def pass_down(self, above: Float[Tensor, "n h"], generator: torch.Generator | None) -> State:
        """Draws of all layers below given the top RBM's visible layer, which comes last."""
        state: list[Tensor] = [above]
        for i in reversed(range(len(self.layers))):
            field = self.field_down(i, state[0])
            state.insert(0, self.units[i].draw(field, self.units[i].noise(len(field), field, generator)))
        return tuple(state)

    def observed_mean(self, z: Latents) -> Float[Tensor, "n d"]:
        """E[x | z]."""
        return self.units[0].mean(self.field_down(0, z[0]))

    @torch.no_grad()
    def initialise_from_data(self, x: Float[Tensor, "n d"]) -> None:
        """Set the biases of x so that the uncoupled layer has the mean of the data."""
        self.bias_down[0].copy_(self.units[0].bias_from_data(x))

    def config(self) -> dict[str, Any]:
        return {"layers": [unit.config() for unit in self.units[:-1]], "top": self.top.config()}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> DBN:
        return cls([unit_from_config(layer) for layer in config["layers"]], RBM.from_config(config["top"]))
