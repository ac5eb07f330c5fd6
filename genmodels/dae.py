"""Denoising auto-encoder of any depth, with noise in its hidden layers too if wanted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from genmodels.corruptions import Corruption, GaussianNoise, corruption_from_config
from genmodels.errors import BadInput
from genmodels.interface import Configured, Denoiser
from genmodels.networks import ACTIVATIONS, MLP, Upended
from genmodels.units import Unit, unit_from_config


class DAE(nn.Module, Denoiser, Configured):
    """Denoising auto-encoder (Vincent et al., 2008): P(x | x̃) is a layer of units whose field is a network of the corrupted x̃.

    The encoder has layers of the sizes `hidden`, the decoder the same in reverse, and with `tied` the encoder's weights,
    transposed (Vincent et al., 2010). With `hidden_noise` σ, each layer of the
    encoder is h = act(a + σ ξ), ξ standard normal: a generative stochastic network whose latent layers are drawn anew from
    x in every step (Bengio, Laufer, Alain and Yosinski, 2014). All noise that P depends on counts as part of x̃: a corrupted
    state is the corrupted x followed by the numbers ξ of all layers.

    >>> from genmodels import Bernoulli
    >>> from genmodels.corruptions import Masking
    >>> model = DAE(Bernoulli(6), Masking(0.3), hidden=(5, 4), hidden_noise=0.5)
    >>> x = torch.ones(2, 6)
    >>> model.corrupt(x, model.corruption_noise(x, None)).shape
    torch.Size([2, 15])
    """

    def __init__(
        self,
        observed: Unit,
        corruption: Corruption,
        hidden: Sequence[int] = (500,),
        *,
        hidden_noise: float = 0.0,
        tied: bool = False,
        activation: str = "tanh",
        generator: torch.Generator | None = None,
    ):
        super().__init__()
        if hidden_noise < 0:
            raise BadInput(f"The noise of hidden layers must be at least 0, not {hidden_noise}.")
        if hidden_noise and not hidden:
            raise BadInput("Without hidden layers there is nothing for hidden_noise to act on.")
        if tied and not hidden:
            raise BadInput("Without hidden layers there are no two weights to tie.")
        self.observed, self.corruption = observed, corruption
        self._config = {"hidden": list(hidden), "hidden_noise": hidden_noise, "tied": tied, "activation": activation}
        down = (*reversed(hidden), observed.size)
        up = (observed.size, *hidden)
        self.encoder = MLP(up, activation, generator=generator) if hidden else nn.Sequential()
        if isinstance(self.encoder, MLP) and tied:
            self.decoder = Upended(self.encoder, activation)
        else:
            self.decoder = MLP(down if hidden else (observed.size, observed.size), activation, generator=generator)
        self._act = ACTIVATIONS[activation]()
        self.register_buffer("centre", torch.zeros(observed.size))
        self.centre: Tensor

    @property
    def observed_bias(self) -> Float[Tensor, " d"]:
        """The field of x that the decoder starts from."""
        return self.decoder.output_bias

    @property
    def filters(self) -> Float[Tensor, "h d"]:
        """The weights of the lowest hidden units."""
        weight = next(iter(self.encoder), self.decoder[0]).weight
        assert isinstance(weight, Tensor)
        return weight

    @property
    def _noisy_units(self) -> list[int]:
        return self._config["hidden"] if self._config["hidden_noise"] else []

    def code(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n h"]:
        """The field of the first hidden layer, to which its noise is added."""
        if not self._config["hidden"]:
            raise BadInput("Without hidden layers there is no code.")
        return self.encoder[0](x - self.centre)

    def corruption_noise(self, x: Float[Tensor, "n d"], generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        inner = (len(x), sum(self._noisy_units))
        noise = torch.randn(inner, dtype=x.dtype, device=x.device, generator=generator)
        return self.corruption.noise(x, generator), noise

    def corrupt(self, x: Float[Tensor, "n d"], noise: tuple[Tensor, Tensor]) -> Float[Tensor, "n c"]:
        return torch.cat([self.corruption.apply(x, noise[0]), noise[1]], 1)

    def reconstruct(self, x_noisy: Float[Tensor, "n c"]) -> Float[Tensor, "n f"]:
        x, *noise = x_noisy.split([self.observed.size, *self._noisy_units], 1)
        h = x - self.centre
        for layer in self.encoder:
            if isinstance(layer, nn.Linear):
                h = layer(h)
                if noise:
                    h = h + self._config["hidden_noise"] * noise.pop(0)
                h = self._act(h)
        return self.decoder(h)

    def codes(self, x: Float[Tensor, "n d"]) -> list[Tensor]:
        """The hidden layers given x itself, neither corrupted nor noisy, the lowest first."""
        h, found = x - self.centre, []
        for layer in self.encoder:
            if isinstance(layer, nn.Linear):
                h = self._act(layer(h))
                found.append(h)
        return found

    def by_way_of(self, layer: int, below: Float[Tensor, "n b"]) -> Float[Tensor, "n b"]:
        """Up to a hidden layer, 1 for the lowest, from what is below it, and down again: a shallow auto-encoder of the deep one.

        For the lowest layer from x less its centre to the field of x.
        """
        # Layers stand between their activations, the decoder's in reverse.
        depth = len(self._config["hidden"])
        back = self.decoder[2 * (depth - layer)](self._act(self.encoder[2 * (layer - 1)](below)))
        return back if layer == 1 else self._act(back)

    def reconstruction_noise(self, x: Float[Tensor, "n d"], generator: torch.Generator | None) -> Tensor:
        return self.observed.noise(len(x), x, generator)

    def draw(self, parameters: Float[Tensor, "n f"], noise: Tensor) -> Float[Tensor, "n d"]:
        return self.observed.draw(parameters, noise)

    def score(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        """(E[x | x̃] − x̃) / σ² at x̃ = x, an estimate of ∇ log of the data's density smoothed by σ (Vincent, 2011, section 4).

        Exact where the reconstruction is, by Tweedie's formula; for Gaussian corruption and no hidden noise.
        """
        if not isinstance(self.corruption, GaussianNoise) or self._noisy_units:
            raise BadInput("A score needs Gaussian corruption and hidden layers without noise.")
        return (self.observed.mean(self.reconstruct(x)) - x) / self.corruption.std**2

    @torch.no_grad()
    def initialise_from_data(self, x: Float[Tensor, "n d"]) -> None:
        """Centre the encoder at the mean of `x`, and start the decoder there."""
        self.centre.copy_(x.mean(0))
        self.decoder.output_bias.copy_(self.observed.bias_from_data(x))

    def config(self) -> dict[str, Any]:
        return {"observed": self.observed.config(), "corruption": self.corruption.config(), **self._config}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> DAE:
        arguments = dict(config)
        observed = unit_from_config(arguments.pop("observed"))
        return cls(observed, corruption_from_config(arguments.pop("corruption")), **arguments)
