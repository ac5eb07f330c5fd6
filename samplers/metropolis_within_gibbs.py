"""Missing values of a directed model: Gibbs on them, Metropolis on the code with an encoder as the proposal."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from samplers.kernel import Info, Kernel

Latents = tuple[Tensor, ...]
State = tuple[Tensor, Latents]


@runtime_checkable
class Autoencoder(Protocol):
    """p(x, z) = p(z) p(x | z) with x a layer of units given z, and a proposal q(z | x)."""

    observed: Any
    """The observed layer: `noise(num, like, generator)` and `draw(field, noise)`."""

    def encode(self, x: Tensor) -> Any:
        """q(z | x): `draw(generator)` and `log_prob(z)`."""
        ...

    def decode(self, z: Latents) -> Tensor:
        """The field of the observed layer."""
        ...

    def log_joint(self, x: Tensor, z: Latents) -> Tensor:
        """log p(x, z), shape (n,)."""
        ...


def metropolis_within_gibbs(model: Autoencoder, held: Bool[Tensor, "*n d"]) -> Kernel:
    """Draws from p(missing sites, z | held sites), where the sites of x in the mask `held`, (d,) or (n, d), keep their values.

    A step proposes z' ~ q(z | x) and takes it with probability min(1, p(x, z') q(z | x) / (p(x, z) q(z' | x))), then draws
    the missing sites from p(x | z), which must be a product over sites (Mattei and Frellsen, 2018, algorithm 1). Without
    the acceptance it is the pseudo-Gibbs of Rezende, Mohamed and Wierstra (2014), exact only where q is the posterior.

    States are pairs (x, z) of x, (n, d), and the tuple of latent layers; start with z drawn from q(z | x). The info holds
    accept_prob, shape (n,).
    """

    @torch.no_grad()
    def noise(state: State, generator: torch.Generator) -> tuple[Any, Latents, Tensor, Tensor]:
        x = state[0]
        code = model.encode(x)
        accept = torch.rand(len(x), dtype=x.dtype, device=x.device, generator=generator)
        return code, code.draw(generator), accept, model.observed.noise(len(x), x, generator)

    @torch.no_grad()
    def update(state: State, noise: tuple[Any, Latents, Tensor, Tensor]) -> tuple[State, Info]:
        (x, z), (code, proposed, accept, pixels) = state, noise
        gain = _log_weight(model, code, x, proposed) - _log_weight(model, code, x, z)
        accept_prob = gain.clamp(max=0).exp().nan_to_num(nan=0.0)
        taken = (accept < accept_prob)[:, None]
        z = tuple(torch.where(taken, new, old) for new, old in zip(proposed, z, strict=True))
        x = torch.where(held, x, model.observed.draw(model.decode(z), pixels))
        return (x, z), {"accept_prob": accept_prob}

    return Kernel(init=lambda position: position, noise=noise, update=update)


def _log_weight(model: Autoencoder, code: Any, x: Tensor, z: Latents) -> Float[Tensor, " n"]:
    return model.log_joint(x, z) - code.log_prob(z)
