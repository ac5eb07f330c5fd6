"""Denoising auto-encoder at all noise levels at once: the score of the data smoothed by any amount."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from genmodels.errors import BadInput
from genmodels.interface import Configured, NoisyScore, check_width
from genmodels.networks import ResidualMLP

WAVES = 8
"""Frequencies of log σ that the network is told."""
REACH = 3.0
"""Noise deviations within which a site hears of an atom."""


class NoiseConditionalDAE(nn.Module, NoisyScore, Configured):
    """One network that gives back x from x̃ = x + σ ξ, ξ standard normal, for every σ between `smallest` and `largest`.

    E[x | x̃] = μ + c_skip (x̃ − μ) + c_out F(c_in (x̃ − μ), log σ), where v² is the data's variance, c_skip = v² / (σ² + v²),
    c_out = σ v / √(σ² + v²) and c_in = 1 / √(σ² + v²) (Karras, Aittala, Aila and Laine, 2022, table 1). With F = 0, as
    it starts, it is exact for N(μ, v²). `initialise_from_data` sets μ and v. F is a residual network.

    `atoms` are values that many sites have, such as black and white. Noise far below their distance leaves no doubt where a
    site came from, but F would need slopes of 1/σ to say so; so a site i has of its own, with shares g that the network
    gives, F_i = f_i − Σ_a g_ia u exp(−u² / 18), u = (x̃_i − a) / σ: with g = 1, the way back to the atom.

    With `levels` the data are so many grey levels from 0 to 1, and the model is one of their dequantised values.

    >>> model = NoiseConditionalDAE(3, width=5, smallest=0.1, largest=10.0)
    >>> model.score(torch.ones(2, 3), 0.5).shape
    torch.Size([2, 3])
    """

    def __init__(
        self,
        size: int,
        width: int = 256,
        depth: int = 2,
        *,
        smallest: float = 0.02,
        largest: float = 20.0,
        atoms: Sequence[float] = (),
        levels: int = 0,
        activation: str = "silu",
        generator: torch.Generator | None = None,
    ):
        super().__init__()
        if levels < 0 or levels == 1:
            raise BadInput(f"Grey levels are at least 2, or 0 for data without, not {levels}.")
        if not 0 < smallest < largest < math.inf:
            raise BadInput(f"Noise levels need 0 < smallest < largest, not {smallest} and {largest}.")
        self.size, self.smallest, self.largest, self.atoms = size, smallest, largest, tuple(atoms)
        self.levels = levels
        self._config = {"width": width, "depth": depth, "activation": activation}
        outputs = size * (1 + len(self.atoms))
        self.network = ResidualMLP(size, 2 * WAVES, width, depth, outputs, activation, generator=generator)
        self.register_buffer("centre", torch.zeros(size))
        self.register_buffer("spread", torch.ones(()))
        self.centre: Tensor
        self.spread: Tensor

    def reconstruct(self, x_noisy: Float[Tensor, "n d"], sigma: float | Float[Tensor, "n 1"]) -> Float[Tensor, "n d"]:
        """E[x | x̃] at noise σ."""
        sigma = torch.as_tensor(sigma, dtype=x_noisy.dtype, device=x_noisy.device).expand(len(x_noisy), 1)
        variance = sigma.square() + self.spread.square()
        away = x_noisy - self.centre
        free, *shares = self.network(away * variance.rsqrt(), _waves(sigma.log())).split(self.size, 1)
        for atom, share in zip(self.atoms, shares, strict=True):
            u = (x_noisy - atom) / sigma
            free = free - share * u * torch.exp(u.square() / (-2 * REACH**2))
        return self.centre + self.spread.square() / variance * away + sigma * self.spread * variance.rsqrt() * free

    def score(self, x: Float[Tensor, "n d"], sigma: float | Float[Tensor, "n 1"]) -> Float[Tensor, "n d"]:
        """(E[x | x̃] − x̃) / σ² at x̃ = x, an estimate of ∇ log p_σ(x), the data's density smoothed by σ (Vincent, 2011)."""
        return (self.reconstruct(x, sigma) - x) / sigma**2

    def base(self, x: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
        """log N(x; μ, v² + `largest`²), nats: what the data smoothed by the largest noise hardly differ from."""
        variance = self.spread.double().square() + self.largest**2
        squares = (x.double() - self.centre).square().sum(1)
        return -0.5 * (squares / variance + self.size * torch.log(2 * math.pi * variance))

    def widest(self, num: int, generator: torch.Generator | None) -> Float[Tensor, "n d"]:
        """Draws of the distribution of `base`."""
        like = self.centre
        noise = torch.randn(num, self.size, dtype=like.dtype, device=like.device, generator=generator)
        return like + (self.spread.square() + self.largest**2).sqrt() * noise

    @torch.no_grad()
    def initialise_from_data(self, x: Float[Tensor, "n d"]) -> None:
        """Take the data's mean and its mean variance."""
        check_width(x, self.size)
        self.centre.copy_(x.mean(0))
        self.spread.copy_(x.var(0).mean().sqrt())

    def config(self) -> dict[str, Any]:
        levels = {"smallest": self.smallest, "largest": self.largest, "atoms": list(self.atoms), "levels": self.levels}
        return {"size": self.size, **levels, **self._config}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> NoiseConditionalDAE:
        return cls(**config)


def _waves(time: Float[Tensor, "n 1"]) -> Float[Tensor, "n w"]:
    """Sines and cosines of the logarithm of the noise, from slow to fast."""
    pace = torch.logspace(-2, 2, WAVES, base=2.0, dtype=time.dtype, device=time.device)
    return torch.cat([torch.sin(time * pace), torch.cos(time * pace)], 1)
