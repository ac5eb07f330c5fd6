"""The Markov chain that goes up and down a stack of auto-encoders."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from genmodels.interface import Denoiser
from genmodels.target_prop import AutoEncoderStack
from genmodels.units import Unit


@dataclass(frozen=True)
class StackChain(Denoiser):
    """Algorithm 3 of Bengio (2014) as a chain on x: up to h_L by draws of Q, down by draws of P, a step.

    The corruption ends at h_1, from which P(x | h_1) is drawn. Where each P(h_{l−1} | h_l) is the posterior of Q, the chain
    leaves the data's distribution as it is; a trained stack's chain has one of its own, not that of P(x, h).
    """

    model: AutoEncoderStack

    @property
    def observed(self) -> Unit:
        """The layer x."""
        return self.model.observed

    def corruption_noise(self, x: Float[Tensor, "n d"], generator: torch.Generator | None) -> int:
        """The seed of all draws of one way up and down."""
        return int(torch.randint(2**62, (), generator=generator, device=x.device))

    def corrupt(self, x: Float[Tensor, "n d"], noise: int) -> Float[Tensor, "n h"]:
        generator = torch.Generator(x.device).manual_seed(noise)
        return self._up_and_down(x, 0, 1, generator)

    def reconstruct(self, x_noisy: Float[Tensor, "n h"]) -> Float[Tensor, "n f"]:
        return self.model.decode((x_noisy,))

    def reconstruction_noise(self, x: Float[Tensor, "n d"], generator: torch.Generator | None) -> Tensor:
        return self.observed.noise(len(x), x, generator)

    def draw(self, parameters: Float[Tensor, "n f"], noise: Tensor) -> Float[Tensor, "n d"]:
        return self.observed.draw(parameters, noise)

    def step(self, h: Float[Tensor, "n d"], layer: int, generator: torch.Generator) -> Float[Tensor, "n d"]:
        """One step of the chain on h_layer, 0 ≤ layer < L: up from there to h_L, and down again."""
        return self._up_and_down(h, layer, layer, generator)

    def _up_and_down(self, h: Tensor, start: int, end: int, generator: torch.Generator) -> Tensor:
        for layer in range(start + 1, self.model.num_layers + 1):
            h = self.model.up(layer, h).draw(generator)
        for layer in range(self.model.num_layers, end, -1):
            h = self.model.down(layer, h).draw(generator)
        return h
