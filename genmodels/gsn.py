"""Deep generative stochastic network: a Markov chain whose state holds noisy hidden layers beside the observed one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from genmodels.corruptions import Corruption, corruption_from_config
from genmodels.errors import BadInput
from genmodels.interface import Configured, Denoiser
from genmodels.networks import ACTIVATIONS
from genmodels.units import Unit, unit_from_config


class GSN(nn.Module, Denoiser, Configured):
    """Generative stochastic network (Bengio, Laufer, Alain and Yosinski, 2014) with hidden layers h_1, ..., h_L.

    `hidden` holds their sizes. A step from (x, h): x̃ ~ C(x̃ | x); the odd hidden layers, then the even ones, each from what
    lies below and above it,

        h_l = act(b_l + W_l h_{l−1} + W_{l+1}ᵀ h_{l+1} + σ ξ_l) + τ ζ_l,   h_0 = x̃ less the data's mean, ξ, ζ standard normal;

    and x' ~ P(x | h_1), a layer of units with the field b_0 + W_1ᵀ h_1. So h is carried from step to step, and the weights
    up and down are the same. Large weights can drown `noise` σ, but not `noise_after` τ, as act is bounded. With `clean_first`
    there is no noise in h_1, from which x is drawn: an option of the authors' code (github.com/yaoli/GSN, `noiseless_h1`),
    where one deviation serves as σ and τ.

    As a `Denoiser` its rows are states, x and all h side by side: `start` makes them from x, and the corrupted state is the
    new h. What the chain's x converge to is the model; it has no density in closed form.

    >>> from genmodels import Bernoulli
    >>> from genmodels.corruptions import SaltAndPepper
    >>> model = GSN(Bernoulli(6), SaltAndPepper(0.4), hidden=(5, 4), noise=0.5)
    >>> model.start(torch.ones(2, 6)).shape
    torch.Size([2, 15])
    """

    def __init__(
        self,
        observed: Unit,
        corruption: Corruption,
        hidden: Sequence[int] = (500, 500),
        *,
        noise: float = 0.5,
        noise_after: float = 0.0,
        clean_first: bool = False,
        activation: str = "tanh",
        generator: torch.Generator | None = None,
    ):
        super().__init__()
        if not hidden or min(hidden) < 1:
            raise BadInput(f"A GSN needs hidden layers of at least one unit each, not {tuple(hidden)}.")
        if min(noise, noise_after) < 0:
            raise BadInput(f"The noise of hidden layers must be at least 0, not {min(noise, noise_after)}.")
        if activation not in ACTIVATIONS:
            raise BadInput(f"There is no activation {activation!r}: choose {', '.join(ACTIVATIONS)}.")
        self.observed, self.corruption = observed, corruption
        self._config = {
            "hidden": list(hidden),
            "noise": noise,
            "noise_after": noise_after,
            "clean_first": clean_first,
            "activation": activation,
        }
        self._act = ACTIVATIONS[activation]()
        sizes = (observed.size, *hidden)
        self.weights = nn.ParameterList(torch.empty(above, below) for below, above in pairwise(sizes))
        self.biases = nn.ParameterList(torch.zeros(size) for size in hidden)
        self.observed_bias = nn.Parameter(torch.zeros(observed.size))
        for weight in self.weights:
            nn.init.xavier_uniform_(weight, generator=generator)
        self.register_buffer("centre", torch.zeros(observed.size))
        self.centre: Tensor

    @property
    def filters(self) -> Float[Tensor, "h d"]:
        """The weights of the lowest hidden units."""
        return self.weights[0]

    @property
    def num_hidden(self) -> int:
        """Hidden units of all layers together."""
        return sum(self._config["hidden"])

    def start(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n s"]:
        """States at x with all hidden units 0."""
        return self.join(x, x.new_zeros(len(x), self.num_hidden))

    def join(self, x: Float[Tensor, "n d"], carried: Float[Tensor, "n h"]) -> Float[Tensor, "n s"]:
        return torch.cat([x, carried], 1)

    def apart(self, state: Float[Tensor, "n s"]) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n h"]]:
        x, h = state.split([self.observed.size, self.num_hidden], 1)
        return x, h

    def clamp(self, held: Bool[Tensor, "*n d"]) -> Bool[Tensor, "*n s"]:
        return torch.cat([held, held.new_zeros(*held.shape[:-1], self.num_hidden)], -1)

    def corruption_noise(self, x: Float[Tensor, "n s"], generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        """For x, and ξ of all layers, followed by ζ if there is noise after the activations."""
        size = self.num_hidden * (2 if self._config["noise_after"] else 1)
        noise = torch.randn(len(x), size, dtype=x.dtype, device=x.device, generator=generator)
        return self.corruption.noise(self.apart(x)[0], generator), noise

    def corrupt(self, x: Float[Tensor, "n s"], noise: tuple[Tensor, Tensor]) -> Float[Tensor, "n h"]:
        """The new hidden layers, side by side."""
        x, h = self.apart(x)
        sizes, after = self._config["hidden"], self._config["noise_after"]
        layers = [self.corruption.apply(x, noise[0]) - self.centre, *h.split(sizes, 1)]
        fresh = noise[1].split(sizes * 2 if after else sizes, 1)
        for first in (1, 2):
            for i in range(first, len(layers), 2):
                total = self.biases[i - 1] + layers[i - 1] @ self.weights[i - 1].T
                if i + 1 < len(layers):
                    total = total + layers[i + 1] @ self.weights[i]
                noisy = i > 1 or not self._config["clean_first"]
                layers[i] = self._act(total + self._config["noise"] * fresh[i - 1] if noisy else total)
                if after and noisy:
                    layers[i] = layers[i] + after * fresh[len(sizes) + i - 1]
        return torch.cat(layers[1:], 1)

    def reconstruct(self, x_noisy: Float[Tensor, "n h"]) -> Float[Tensor, "n s"]:
        """The field of x given h, beside h."""
        lowest = x_noisy[:, : self._config["hidden"][0]]
        return self.join(self.observed_bias + lowest @ self.weights[0], x_noisy)

    def reconstruction_noise(self, x: Float[Tensor, "n s"], generator: torch.Generator | None) -> Tensor:
        return self.observed.noise(len(x), x, generator)

    def draw(self, parameters: Float[Tensor, "n s"], noise: Tensor) -> Float[Tensor, "n s"]:
        field, h = self.apart(parameters)
        return self.join(self.observed.draw(field, noise), h)

    @torch.no_grad()
    def initialise_from_data(self, x: Float[Tensor, "n d"]) -> None:
        """Centre the input at the mean of `x`, and start the field of x there."""
        self.centre.copy_(x.mean(0))
        self.observed_bias.copy_(self.observed.bias_from_data(x))

    def config(self) -> dict[str, Any]:
        return {"observed": self.observed.config(), "corruption": self.corruption.config(), **self._config}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> GSN:
        arguments = dict(config)
        observed = unit_from_config(arguments.pop("observed"))
        return cls(observed, corruption_from_config(arguments.pop("corruption")), **arguments)
