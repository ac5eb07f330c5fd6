"""Variational auto-encoder with one or more stochastic layers and an exchangeable prior."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from genmodels.directed_layers import BottomUp, Mixture, PriorOf, StandardNormal
from genmodels.errors import BadInput
from genmodels.interface import Code, Configured, Encoder, Latents, RateDistortion, TopDown
from genmodels.networks import MLP, DiagonalNormal, NormalNetwork
from genmodels.units import Unit, unit_from_config


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
