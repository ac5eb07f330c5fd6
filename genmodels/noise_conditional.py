"""Denoising auto-encoder at all noise levels at once: the score of the data smoothed by any amount."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from genmodels.errors import BadInput
from genmodels.interface import Configured, check_width
from genmodels.networks import MLP


class NoiseConditionalDAE(nn.Module, Configured):
    """One network that gives back x from x̃ = x + σ ξ, ξ standard normal, for every σ between `smallest` and `largest`.

    E[x | x̃] = μ + c_skip (x̃ − μ) + c_out F(c_in (x̃ − μ), log(σ)/4), where v² is the data's variance, c_skip = v² / (σ² + v²),
    c_out = σ v / √(σ² + v²) and c_in = 1 / √(σ² + v²) (Karras, Aittala, Aila and Laine, 2022, table 1). With F = 0, as
    it starts, it is exact for N(μ, v²). `initialise_from_data` sets μ and v.

    >>> model = NoiseConditionalDAE(3, hidden=(5,), smallest=0.1, largest=10.0)
    >>> model.score(torch.ones(2, 3), 0.5).shape
    torch.Size([2, 3])
    """

    def __init__(
        self,
        size: int,
        hidden: Sequence[int] = (256, 256),
        *,
        smallest: float = 0.02,
        largest: float = 20.0,
        activation: str = "silu",
        generator: torch.Generator | None = None,
    ):
        super().__init__()
        if not 0 < smallest < largest:
            raise BadInput(f"Noise levels need 0 < smallest < largest, not {smallest} and {largest}.")
        self.size, self.smallest, self.largest = size, smallest, largest
        self._config = {"hidden": list(hidden), "activation": activation}
        self.network = MLP((size + 1, *hidden, size), activation, generator=generator)
        last = self.network[-1]
        assert isinstance(last, nn.Linear)
        nn.init.zeros_(last.weight)
        self.register_buffer("centre", torch.zeros(size))
        self.register_buffer("spread", torch.ones(()))
        self.centre: Tensor
        self.spread: Tensor

    def reconstruct(self, x_noisy: Float[Tensor, "n d"], sigma: float | Float[Tensor, "n 1"]) -> Float[Tensor, "n d"]:
        """E[x | x̃] at noise σ."""
        sigma = torch.as_tensor(sigma, dtype=x_noisy.dtype, device=x_noisy.device).expand(len(x_noisy), 1)
        variance = sigma.square() + self.spread.square()
        away = x_noisy - self.centre
        free = self.network(torch.cat([away * variance.rsqrt(), sigma.log() / 4], 1))
        return self.centre + self.spread.square() / variance * away + sigma * self.spread * variance.rsqrt() * free

    def score(self, x: Float[Tensor, "n d"], sigma: float | Float[Tensor, "n 1"]) -> Float[Tensor, "n d"]:
        """(E[x | x̃] − x̃) / σ² at x̃ = x, an estimate of ∇ log p_σ(x), the data's density smoothed by σ (Vincent, 2011)."""
        return (self.reconstruct(x, sigma) - x) / sigma**2

    @torch.no_grad()
    def initialise_from_data(self, x: Float[Tensor, "n d"]) -> None:
        """Take the data's mean and its mean variance."""
        check_width(x, self.size)
        self.centre.copy_(x.mean(0))
        self.spread.copy_(x.var(0).mean().sqrt())

    def config(self) -> dict[str, Any]:
        return {"size": self.size, "smallest": self.smallest, "largest": self.largest, **self._config}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> NoiseConditionalDAE:
        return cls(**config)
