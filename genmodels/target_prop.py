"""The KL(Q‖P) stack: auto-encoders on top of each other as one generative model with an explicit prior at the top."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from genmodels.climb import MAX_STEPS, TOLERANCE, Peak, climb
from genmodels.directed_layers import BottomUp, PriorOf, UnitFactor
from genmodels.errors import BadInput
from genmodels.interface import Code, Configured, Encoder, Latents, RateDistortion, TopDown
from genmodels.invertible import KINDS, InvertibleAffine
from genmodels.networks import MLP
from genmodels.stack_layers import LayerFactor, StackLayer
from genmodels.top_priors import TopPrior, prior_from_config
from genmodels.units import Unit, unit_from_config

PAIRS = ("networks", "optimised", *KINDS)


class AutoEncoderStack(nn.Module, TopDown, Encoder, RateDistortion, Configured):
    """A chain h_0 = x, h_1 ... h_L of encoders f_l and decoders g_l (Bengio, 2014, Eqs. 1 and 2):

        P(x, h) = P(x | h_1) Π_l P(h_l | h_{l+1}) P(h_L),    Q(h | x) = Π_l Q(h_l | h_{l−1}).

    `hidden` are the layers h_1 ... h_{L−1}, the layer h_L is the prior's. f_l and g_l are affine, or have one layer of
    `inner[l]` tanh units within (0: affine; section 6). f_1 sees x less `centre`, the data's mean once `initialise_from_data`
    has set it. Layer numbers are those of h_l: `up(l, h)` is Q(h_l | h_{l−1} = h), `down(l, h)` is P(h_{l−1} | h_l = h).

    `pairs` may be other than two networks a layer (section 6). "optimised": f_l has no parameters; it is the h_l, in the range
    of the layer's units, that makes h_{l−1} most probable, argmax log P(h_{l−1} | h_l) (Eq. 20), by `climb` from the field 0.
    "triangular" or "orthogonal": layers 2 ... L have one size, f_l is an affine map of that kind and its units' function, and
    g_l is the inverse of f_l itself, without parameters.

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
        pairs: str = "networks",
        generator: torch.Generator | None = None,
    ):
        super().__init__()
        inner = list(inner) or [0] * (len(hidden) + 1)
        if len(inner) != len(hidden) + 1:
            raise BadInput(f"{len(hidden) + 1} layers need as many inner widths (0: affine), not {len(inner)}.")
        self.observed, self.top, self._inner, self.pairs = observed, prior, inner, pairs
        self.hidden = nn.ModuleList(hidden)
        sizes = [observed.size, *(layer.size for layer in hidden), prior.size]
        _check_pairs(pairs, [*hidden, prior.layer], inner)
        steps = list(zip(sizes, inner, sizes[1:], strict=False))
        learned = steps[:1] if self.has_inverses else steps
        up = [] if pairs == "optimised" else [_map(*step, generator) for step in learned]
        exact = [InvertibleAffine(size, pairs, generator=generator) for size in sizes[2:]] if self.has_inverses else []
        self.encoders = nn.ModuleList([*up, *exact])
        self.decoders = nn.ModuleList(_map(above, width, below, generator) for below, width, above in learned)
        self.register_buffer("centre", torch.zeros(observed.size))
        self.centre: Tensor

    @property
    def num_layers(self) -> int:
        """L."""
        return len(self.hidden) + 1

    @property
    def real(self) -> bool:
        """Whether all hidden units are."""
        return all(self.layer(number).real for number in range(1, self.num_layers + 1))

    @property
    def differentiable(self) -> bool:
        """Whether gradients pass through the draws of all layers."""
        return self.real and self.pairs != "optimised"

    @property
    def has_inverses(self) -> bool:
        """Whether decoders above the lowest are the inverses of their encoders."""
        return self.pairs in KINDS

    def up(self, layer: int, below: Float[Tensor, "n d"]) -> LayerFactor:
        """Q(h_layer | h_{layer−1})."""
        if self.pairs == "optimised":
            return self.layer(layer).code(self.optimum(layer, below).at)
        if layer == 1:
            below = below - self.centre
        return self.layer(layer).code(self.encoders[layer - 1](below))

    def optimum(
        self, layer: int, below: Float[Tensor, "n d"], *, tolerance: float = TOLERANCE, max_steps: int = MAX_STEPS
    ) -> Peak:
        """The field of argmax log P(h_{layer−1} | h_layer) and the nats there (Bengio, 2014, Eq. 20), without gradients."""
        units, below = self.layer(layer), below.detach()

        def log_prob(field: Tensor) -> Tensor:
            return self.down(layer, units.code(field).mean).log_prob(below).sum(-1)

        return climb(log_prob, below.new_zeros(len(below), units.size), tolerance=tolerance, max_steps=max_steps)

    def down(self, layer: int, above: Float[Tensor, "n d"]) -> LayerFactor:
        """P(h_{layer−1} | h_layer)."""
        encoder = self.encoders[layer - 1] if self.has_inverses else None
        if isinstance(encoder, InvertibleAffine):
            return self.layer(layer - 1).around(encoder.inverse(self.layer(layer).field(above)))
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
            "pairs": self.pairs,
        }

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> AutoEncoderStack:
        hidden = [StackLayer(**layer) for layer in config["hidden"]]
        prior = prior_from_config(config["prior"])
        pairs = config.get("pairs", "networks")  # that runs from before there were others do not name
        return cls(unit_from_config(config["observed"]), hidden, prior, inner=config["inner"], pairs=pairs)


def _check_pairs(pairs: str, layers: Sequence[StackLayer], inner: Sequence[int]) -> None:
    """Refuse encoders and decoders that there are not, or not for these layers."""
    if pairs not in PAIRS:
        raise BadInput(f"There are no pairs {pairs!r} of encoders and decoders: choose one of {', '.join(PAIRS)}.")
    if pairs == "optimised" and not all(layer.real and layer.kind != "rectifier" for layer in layers):
        raise BadInput(
            "Codes are optimised along their derivatives: choose linear, tanh or sigmoid units and a real prior."
        )
    if pairs in KINDS and (
        len({layer.size for layer in layers}) > 1 or any(inner[1:]) or not all(layer.invertible for layer in layers)
    ):
        raise BadInput("Exact inverses need affine maps between linear or tanh layers of one size, the top's as well.")


def _map(inputs: int, inner: int, outputs: int, generator: torch.Generator | None) -> MLP:
    return MLP((inputs, inner, outputs) if inner else (inputs, outputs), generator=generator)
