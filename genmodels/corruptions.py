"""How a denoising auto-encoder's input is spoilt: deterministic functions of their noise."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from genmodels.errors import BadInput


class Corruption(ABC):
    """C(x̃ | x), each site on its own."""

    @abstractmethod
    def noise(self, x: Float[Tensor, "n d"], generator: torch.Generator | None) -> Tensor:
        """The random numbers of one corruption of every row."""

    @abstractmethod
    def apply(self, x: Float[Tensor, "n d"], noise: Tensor) -> Float[Tensor, "n d"]:
        """A draw of x̃."""

    @abstractmethod
    def config(self) -> dict[str, Any]:
        """The arguments that build it again."""


class GaussianNoise(Corruption):
    """x̃ = x + σ ξ with ξ standard normal."""

    def __init__(self, std: float):
        if not std > 0:
            raise BadInput(f"The deviation of the noise must be positive, not {std}.")
        self.std = std

    def noise(self, x, generator):
        return torch.randn(x.shape, dtype=x.dtype, device=x.device, generator=generator)

    def apply(self, x, noise):
        return x + self.std * noise

    def config(self):
        return {"type": "gaussian", "std": self.std}


class Masking(Corruption):
    """Each site is set to 0 with probability p (Vincent et al., 2008)."""

    def __init__(self, prob: float):
        self.prob = _probability(prob)

    def noise(self, x, generator):
        return torch.rand(x.shape, dtype=x.dtype, device=x.device, generator=generator)

    def apply(self, x, noise):
        return torch.where(noise < self.prob, torch.zeros_like(x), x)

    def config(self):
        return {"type": "masking", "prob": self.prob}


class SaltAndPepper(Corruption):
    """Each site is replaced, with probability p, by 0 or 1 with equal chance: a bit flips with probability p/2."""

    def __init__(self, prob: float):
        self.prob = _probability(prob)

    def noise(self, x, generator):
        return torch.rand(x.shape, dtype=x.dtype, device=x.device, generator=generator)

    def apply(self, x, noise):
        # One uniform number decides both whether and by what.
        return torch.where(noise < self.prob, (noise < self.prob / 2).to(x.dtype), x)

    def config(self):
        return {"type": "salt-and-pepper", "prob": self.prob}


class NoCorruption(Corruption):
    """x̃ = x: for noise in hidden layers alone."""

    def noise(self, x, generator):
        return x.new_zeros(len(x), 0)

    def apply(self, x, noise):
        return x

    def config(self):
        return {"type": "none"}


def corruption_from_config(config: dict[str, Any]) -> Corruption:
    """Build the corruption that `Corruption.config` describes.

    >>> corruption_from_config({"type": "masking", "prob": 0.3}).config()
    {'type': 'masking', 'prob': 0.3}
    """
    kinds: dict[str, type[Any]] = {
        "gaussian": GaussianNoise,
        "masking": Masking,
        "salt-and-pepper": SaltAndPepper,
        "none": NoCorruption,
    }
    arguments = dict(config)
    kind = arguments.pop("type", None)
    if kind not in kinds:
        raise BadInput(f"There is no corruption {kind!r}: choose {', '.join(kinds)}.")
    return kinds[kind](**arguments)


def _probability(prob: float) -> float:
    if not 0 < prob <= 1:
        raise BadInput(f"The probability of corruption must lie in (0, 1], not {prob}.")
    return prob
