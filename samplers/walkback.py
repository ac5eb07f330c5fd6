"""Walk-back: the Markov chain that alternates a corruption of the state with a draw of its reconstruction."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool
from torch import Tensor

from samplers.kernel import Kernel


@runtime_checkable
class Denoiser(Protocol):
    """A corruption C(x̃ | x) and a reconstruction P(x | x̃), each drawn by a deterministic function of its noise."""

    def corruption_noise(self, x: Tensor, generator: torch.Generator) -> Any:
        """The random numbers that corrupt every row of `x`."""
        ...

    def corrupt(self, x: Tensor, noise: Any) -> Any:
        """A draw of x̃ from C(x̃ | x)."""
        ...

    def reconstruct(self, x_noisy: Any) -> Any:
        """The parameters of P(x | x̃)."""
        ...

    def reconstruction_noise(self, x: Tensor, generator: torch.Generator) -> Any:
        """The random numbers that draw as many reconstructions as `x` has rows."""
        ...

    def draw(self, parameters: Any, noise: Any) -> Tensor:
        """A draw of x from P(x | x̃): the whole state, of which the mean is no substitute."""
        ...


def walk_back(denoiser: Denoiser, *, clamp: Bool[Tensor, "*n d"] | None = None) -> Kernel:
    """The chain of a denoising auto-encoder, which walk-back training runs from the data: x̃ ~ C(x̃ | x), then x' ~ P(x | x̃).

    Bengio, Yao, Alain and Vincent (2013, theorem 1); a generative stochastic network where x̃ is latent layers, drawn anew
    from x (Bengio et al., 2014). Where P is the exact posterior of π under the same corruption, P(x | x̃) ∝ π(x) C(x̃ | x),
    the chain is block Gibbs on the pair (x, x̃): π is invariant and the chain reversible. It is ergodic if the corruption
    links all states. Any other P, such as a product over sites where the posterior is none, or one for another noise level,
    has an invariant distribution of its own, if any, whose distance from π nothing here measures.

    `clamp` is a boolean mask, shape (d,) or (n, d), of the sites of x that keep their values (in-painting). They are
    corrupted like the others, which is how the free sites hear of them, and then put back. With the exact posterior this
    leaves π(free sites | held sites) invariant, reversibly, if under P(x | x̃) the held sites are independent of the free
    ones, as they are where P is a product over sites; otherwise the free sites would have to be drawn from
    P(free | x̃, held) (Bengio et al., 2014, on clamping), and putting back leaves a bias.

    States are tensors, shape (n, d).
    """
    return Kernel(
        init=lambda x: x,
        noise=lambda x, generator: (
            denoiser.corruption_noise(x, generator),
            denoiser.reconstruction_noise(x, generator),
        ),
        update=lambda x, noise: (update(denoiser, x, noise, clamp), {}),
    )


def update(denoiser: Denoiser, x: Tensor, noise: tuple[Any, Any], clamp: Tensor | None) -> Tensor:
    """One step, deterministic given the noise of the corruption and that of the draw."""
    drawn = denoiser.draw(denoiser.reconstruct(denoiser.corrupt(x, noise[0])), noise[1])
    return drawn if clamp is None else torch.where(clamp, x, drawn)
