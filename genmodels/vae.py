"""Variational auto-encoder with one or more stochastic layers and an exchangeable prior."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from genmodels.errors import BadInput
from genmodels.interface import Code, Configured, Encoder, Latents, RateDistortion, TopDown
from genmodels.networks import MLP, DiagonalNormal, NormalNetwork
from genmodels.units import Unit, unit_from_config

Layer = Callable[[Tensor], DiagonalNormal]


@dataclass(frozen=True)
class BottomUp:
    """q(z | x) = q(z_1 | x) Π_l q(z_{l+1} | z_l), each a diagonal normal."""

    first: DiagonalNormal
    above: tuple[Layer, ...]

    def draw(self, generator: torch.Generator | None) -> Latents:
        z = [self.first.draw(generator)]
        for layer in self.above:
            z.append(layer(z[-1]).draw(generator))
        return tuple(z)

    def log_prob(self, z: Latents) -> Float[Tensor, " n"]:
        pairs = zip(self.factors(z), z, strict=True)
        return sum((factor.log_prob(value).sum(-1) for factor, value in pairs), start=z[0].new_zeros(()))

    def factors(self, z: Latents) -> list[DiagonalNormal]:
        """Every layer's distribution given the layer below in z."""
        return [self.first, *(layer(below) for layer, below in zip(self.above, z, strict=False))]

    def repeat(self, num: int) -> BottomUp:
        return BottomUp(self.first.repeat(num), self.above)


@dataclass(frozen=True)
class StandardNormal:
    """N(0, I)."""

    origin: Float[Tensor, " d"]

    def draw(self, num: int, generator: torch.Generator | None) -> Float[Tensor, "n d"]:
        zeros = self.origin.expand(num, -1)
        return DiagonalNormal(zeros, zeros).draw(generator)

    def rate(self, q: DiagonalNormal, z: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        """KL(q ‖ p) of each coordinate, in closed form."""
        return q.divergence_from_standard()

    def log_prob(self, z: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
        return -0.5 * (z.square() + math.log(2 * math.pi)).sum(-1)


@dataclass(frozen=True)
class Mixture:
    """(1/K) Σ_k of diagonal normals."""

    components: DiagonalNormal

    def draw(self, num: int, generator: torch.Generator | None) -> Float[Tensor, "n d"]:
        mean, log_std = self.components
        which = torch.randint(len(mean), (num,), generator=generator, device=mean.device)
        return DiagonalNormal(mean[which], log_std[which]).draw(generator)

    def rate(self, q: DiagonalNormal, z: Float[Tensor, "n d"]) -> Float[Tensor, "n 1"]:
        """log q(z) − log p(z) at the draw: a mixture does not fall into coordinates."""
        return (q.log_prob(z).sum(-1) - self.log_prob(z))[:, None]

    def log_prob(self, z: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
        # |z − m|² / s² as three products, so that no tensor has n × K × d entries.
        mean, log_std = self.components
        precision = torch.exp(-2 * log_std)
        linear = mean * precision
        constant = (mean * linear + 2 * log_std + math.log(2 * math.pi)).sum(-1)
        squares = z.square() @ precision.T - 2 * z @ linear.T
        return torch.logsumexp(-0.5 * (squares + constant), -1) - math.log(len(mean))


@dataclass(frozen=True)
class PriorOf:
    """p(z) = p(z_L) Π_l p(z_l | z_{l+1}), for a number of rows."""

    num: int
    top: StandardNormal | Mixture
    below: tuple[Layer, ...]
    """p(z_l | z_{l+1}), the lowest first."""

    def draw(self, generator: torch.Generator | None) -> Latents:
        z = [self.top.draw(self.num, generator)]
        for layer in reversed(self.below):
            z.insert(0, layer(z[0]).draw(generator))
        return tuple(z)

    def log_prob(self, z: Latents) -> Float[Tensor, " n"]:
        layers = zip(self.below, pairwise(z), strict=True)
        return self.top.log_prob(z[-1]) + sum(layer(above).log_prob(at).sum(-1) for layer, (at, above) in layers)

    def repeat(self, num: int) -> PriorOf:
        return PriorOf(num * self.num, self.top, self.below)


class VAE(nn.Module, TopDown, Encoder, RateDistortion, Configured):
    """Variational auto-encoder (Kingma and Welling, 2014; Rezende, Mohamed and Wierstra, 2014) with L stochastic layers:

        p(x, z) = p(x | z_1) Π_l p(z_l | z_{l+1}) p(z_L),    q(z | x) = q(z_1 | x) Π_l q(z_{l+1} | z_l),

    all factors of latents diagonal normals, x a layer of `units` (Burda, Grosse and Salakhutdinov, 2016, section 5).

    `latent` holds the sizes of z_1, ..., z_L; `hidden[l]` those of the deterministic layers between z_l and what is below
    it (z_0 = x), upwards; the decoder has them in reverse. The prior of z_L is standard normal or, with `pseudo_inputs` = K,
    the encoder's own mixture over K learned inputs, (1/K) Σ_k q(z_L | u_k) (VampPrior: Tomczak and Welling, 2018), kept as
    fields so that those of a Bernoulli layer stay within [0, 1]. The encoder sees x less `centre`, the data's mean once
    `initialise_from_data` has set it.

    >>> from genmodels import Bernoulli
    >>> model = VAE(Bernoulli(6), latent=(3, 2), hidden=((5,), (4,)))
    >>> [layer.shape[1] for layer in model.sample(7)]
    [6, 3, 2]
    """

    def __init__(
        self,
        observed: Unit,
        latent: Sequence[int] = (50,),
        hidden: Sequence[Sequence[int]] = ((200, 200),),
        *,
        activation: str = "tanh",
        pseudo_inputs: int = 0,
        generator: torch.Generator | None = None,
    ):
        super().__init__()
        if len(latent) == 0 or len(latent) != len(hidden):
            raise BadInput(
                f"A VAE needs one list of hidden sizes for every stochastic layer, not {len(hidden)} for {len(latent)}."
            )
        self.observed = observed
        self._config = {
            "latent": list(latent),
            "hidden": [list(sizes) for sizes in hidden],
            "activation": activation,
            "pseudo_inputs": pseudo_inputs,
        }
        sizes = (observed.size, *latent)
        up = zip(sizes, hidden, latent, strict=False)
        self.encoders = nn.ModuleList(NormalNetwork(*layer, activation, generator=generator) for layer in up)
        self.decoder = MLP((latent[0], *reversed(hidden[0]), observed.size), activation, generator=generator)
        down = zip(latent[1:], hidden[1:], latent, strict=False)
        self.decoders = nn.ModuleList(
            NormalNetwork(above, tuple(reversed(between)), below, activation, generator=generator)
            for above, between, below in down
        )
        below_top = torch.randn(pseudo_inputs, sizes[-2], generator=generator)
        self.pseudo_inputs = nn.Parameter(below_top) if pseudo_inputs else None
        self.register_buffer("centre", torch.zeros(observed.size))
        self.centre: Tensor

    def _first(self, x: Float[Tensor, "n d"]) -> DiagonalNormal:
        return self.encoders[0](x - self.centre)

    def _top(self) -> StandardNormal | Mixture:
        """p(z_L)."""
        if self.pseudo_inputs is None:
            return StandardNormal(self.decoder.output_bias.new_zeros(self._config["latent"][-1]))
        if len(self.encoders) == 1:
            return Mixture(self._first(self.observed.mean(self.pseudo_inputs)))
        return Mixture(self.encoders[-1](self.pseudo_inputs))

    def encode(self, x: Float[Tensor, "n d"]) -> BottomUp:
        return BottomUp(self._first(x), tuple(self.encoders[1:]))

    def prior(self, num: int) -> Code:
        return PriorOf(num, self._top(), tuple(self.decoders))

    def decode(self, z: Latents) -> Float[Tensor, "n d"]:
        return self.decoder(z[0])

    def rate_distortion(
        self, x: Float[Tensor, "n d"], generator: torch.Generator | None
    ) -> tuple[Float[Tensor, " n"], tuple[Tensor, ...]]:
        code = self.encode(x)
        z = code.draw(generator)
        factors = code.factors(z)
        between = zip(self.decoders, factors, pairwise(z), strict=False)
        rates = [q.log_prob(at) - layer(above).log_prob(at) for layer, q, (at, above) in between]
        rates.append(self._top().rate(factors[-1], z[-1]))
        return -self.observed.log_prob(self.decode(z), x), tuple(rates)

    @torch.no_grad()
    def initialise_from_data(self, x: Float[Tensor, "n d"]) -> None:
        """Centre the encoder at the mean of `x`, start the decoder there, and pseudo-inputs at rows of `x`."""
        self.centre.copy_(x.mean(0))
        self.decoder.output_bias.copy_(self.observed.bias_from_data(x))
        if self.pseudo_inputs is not None and len(self.encoders) == 1:
            rows = torch.linspace(0, len(x) - 1, len(self.pseudo_inputs), device=x.device).long()
            self.pseudo_inputs.copy_(torch.stack([self.observed.bias_from_data(x[row : row + 1]) for row in rows]))

    def config(self) -> dict[str, Any]:
        return {"observed": self.observed.config(), **self._config}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> VAE:
        arguments = dict(config)
        return cls(unit_from_config(arguments.pop("observed")), **arguments)
