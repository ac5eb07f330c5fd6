"""The KL(Q‖P) stack: auto-encoders on top of each other as one generative model with an explicit prior at the top."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from genmodels.directed_layers import BottomUp, PriorOf, UnitFactor
from genmodels.errors import BadInput
from genmodels.interface import Code, Configured, Encoder, Latents, RateDistortion, TopDown
from genmodels.networks import MLP
from genmodels.stack_layers import LayerFactor, StackLayer
from genmodels.top_priors import TopPrior, prior_from_config
from genmodels.units import Unit, unit_from_config


class AutoEncoderStack(nn.Module, TopDown, Encoder, RateDistortion, Configured):
    """A chain h_0 = x, h_1 ... h_L of encoders f_l and decoders g_l (Bengio, 2014, Eqs. 1 and 2):

        P(x, h) = P(x | h_1) Π_l P(h_l | h_{l+1}) P(h_L),    Q(h | x) = Π_l Q(h_l | h_{l−1}).

    `hidden` are the layers h_1 ... h_{L−1}, the layer h_L is the prior's. f_l and g_l are affine, or have one layer of
    `inner[l]` tanh units within (0: affine; section 6). f_1 sees x less `centre`, the data's mean once `initialise_from_data`
    has set it. Layer numbers are those of h_l: `up(l, h)` is Q(h_l | h_{l−1} = h), `down(l, h)` is P(h_{l−1} | h_l = h).

    >>> from genmodels import Bernoulli
    >>> from genmodels.top_priors import StandardGaussian
    >>> model = AutoEncoderStack(Bernoulli(6), [StackLayer("tanh", 5), StackLayer("binary", 4)], StandardGaussian(3))
    >>> [layer.shape[1] for layer in model.sample(2)]
    [6, 5, 4, 3]
    """

    def __init__(
        self,
        observed: Unit,
        hidden: Sequence[StackLayer],
        prior: TopPrior,
        *,
        inner: Sequence[int] = (),
        generator: torch.Generator | None = None,
    ):
        super().__init__()
        inner = list(inner) or [0] * (len(hidden) + 1)
        if len(inner) != len(hidden) + 1:
            raise BadInput(f"{len(hidden) + 1} layers need as many inner widths (0: affine), not {len(inner)}.")
        self.observed, self.top, self._inner = observed, prior, inner
        self.hidden = nn.ModuleList(hidden)
        sizes = [observed.size, *(layer.size for layer in hidden), prior.size]
        steps = list(zip(sizes, inner, sizes[1:], strict=False))
        self.encoders = nn.ModuleList(_map(below, width, above, generator) for below, width, above in steps)
        self.decoders = nn.ModuleList(_map(above, width, below, generator) for below, width, above in steps)
        self.register_buffer("centre", torch.zeros(observed.size))
        self.centre: Tensor

    @property
    def num_layers(self) -> int:
        """L."""
        return len(self.encoders)

    @property
    def differentiable(self) -> bool:
        """Whether gradients pass through the draws of all layers."""
        return all(self.layer(number).real for number in range(1, self.num_layers + 1))

    def up(self, layer: int, below: Float[Tensor, "n d"]) -> LayerFactor:
        """Q(h_layer | h_{layer−1})."""
        if layer == 1:
            below = below - self.centre
        return self.layer(layer).code(self.encoders[layer - 1](below))

    def down(self, layer: int, above: Float[Tensor, "n d"]) -> LayerFactor:
        """P(h_{layer−1} | h_layer)."""
        field = self.decoders[layer - 1](above)
        return UnitFactor(self.observed, field) if layer == 1 else self.layer(layer - 1).reconstruction(field)

    def layer(self, number: int) -> StackLayer:
        """The units of h_number."""
        layer = self.top.layer if number == self.num_layers else self.hidden[number - 1]
        assert isinstance(layer, StackLayer)
        return layer

    def encode(self, x: Float[Tensor, "n d"]) -> BottomUp:
        return BottomUp(self.up(1, x), tuple(partial(self.up, layer) for layer in range(2, self.num_layers + 1)))

    def prior(self, num: int) -> Code:
        return PriorOf(num, self.top, tuple(partial(self.down, layer) for layer in range(2, self.num_layers + 1)))

    def decode(self, z: Latents) -> Float[Tensor, "n d"]:
        return self.decoders[0](z[0])

    def rate_distortion(
        self, x: Float[Tensor, "n d"], generator: torch.Generator | None
    ) -> tuple[Float[Tensor, " n"], tuple[Tensor, ...]]:
        """The bound's parts; the rate of a layer below the top is −H(Q) in closed form less log P at the draw."""
        code = self.encode(x)
        z = code.draw(generator)
        factors, rates = code.factors(z), []
        for layer in range(1, self.num_layers):
            expected = -factors[layer - 1].cross_entropy(factors[layer - 1])
            rates.append((expected - self.down(layer + 1, z[layer]).log_prob(z[layer - 1]).sum(-1))[:, None])
        rates.append(self.top.rate(factors[-1], z[-1]))
        return -self.observed.log_prob(self.decode(z), x), tuple(rates)

    @torch.no_grad()
    def initialise_from_data(self, x: Float[Tensor, "n d"]) -> None:
        """Centre the lowest encoder at the mean of `x`, and start the lowest decoder there."""
        self.centre.copy_(x.mean(0))
        decoder = self.decoders[0]
        assert isinstance(decoder, MLP)
        decoder.output_bias.copy_(self.observed.bias_from_data(x))

    def config(self) -> dict[str, Any]:
        return {
            "observed": self.observed.config(),
            "hidden": [self.layer(number).config() for number in range(1, self.num_layers)],
            "prior": self.top.config(),
            "inner": self._inner,
        }

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> AutoEncoderStack:
        hidden = [StackLayer(**layer) for layer in config["hidden"]]
        return cls(
            unit_from_config(config["observed"]), hidden, prior_from_config(config["prior"]), inner=config["inner"]
        )


def _map(inputs: int, inner: int, outputs: int, generator: torch.Generator | None) -> MLP:
    return MLP((inputs, inner, outputs) if inner else (inputs, outputs), generator=generator)
