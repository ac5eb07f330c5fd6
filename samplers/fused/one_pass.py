"""What a layer of binary sites can do in one pass over its inputs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

KEY_BYTES = 8


class OnePass(ABC):
    """p(s_j = 1 | inputs) = sigmoid(β (Σ_i x_i W_ij + slope_j) + base_j), for inputs x_i in {0, 1} of any layers.

    A state is 1 with its probability to 2⁻³² and float32's rounding of the sigmoid. Its random number is a word of Philox
    4x32-10 (Salmon et al., 2011) under the 64-bit key of the call, counted by chain and output, so that no number is used
    twice and every implementation uses the same one: a state is 1 where its number lies below the probability, so that with
    one key higher fields only turn states on. How exact the sums are is each implementation's to say.
    """

    @abstractmethod
    def field(self, inputs: Sequence[Tensor], beta: float | Tensor, slope: Tensor, base: Tensor) -> Tensor:
        """β (Σ_i x_i W_ij + slope_j) + base_j, shape (n, h), float32; β is one number or one a chain."""

    @abstractmethod
    def draw(self, inputs: Sequence[Tensor], beta: float | Tensor, slope: Tensor, base: Tensor, key: Tensor) -> Tensor:
        """States of the layer, shape (n, h), drawn with the random numbers of `key`."""

    @abstractmethod
    def draw_sites(self, fields: Float[Tensor, "n d"], beta: float, key: Tensor) -> Float[Tensor, "n d"]:
        """States of independent sites, each 1 with probability sigmoid(β field)."""

    @abstractmethod
    def log_partition(self, fields: Float[Tensor, "n d"], beta: float) -> Float[Tensor, " n"]:
        """Σ_j log(1 + exp(β field_j)) of each row, float64: terms to float32's precision, their sum in float64."""

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Where it runs."""

    def key(self, generator: torch.Generator | None) -> Tensor:
        """A fresh 64-bit key, shape (8,): bytes, whose shape no layer's noise has, so that none is taken for the other."""
        return torch.empty(KEY_BYTES, dtype=torch.uint8, device=self.device).random_(generator=generator)


def vector(value: float | Tensor, size: int, device: torch.device) -> Tensor:
    """A float32 vector of the given size in memory, from a number or a tensor of one or `size` numbers."""
    if not isinstance(value, Tensor):
        return torch.full((size,), value, dtype=torch.float32, device=device)
    if value.shape == (size,) and value.dtype == torch.float32 and value.is_contiguous():
        return value
    return value.detach().to(torch.float32).flatten().expand(size).contiguous()


def check_shape(x: Tensor, num: int, size: int) -> None:
    """Refuse states of another shape than (num, size)."""
    if x.shape != (num, size):
        raise ValueError(
            f"States of shape {tuple(x.shape)} do not fit {num} chains of {size} inputs; check the layers."
        )
