"""What a layer of units is: independent sites with a field each."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Distribution

from genmodels.errors import BadInput


class Unit(nn.Module, ABC):
    """A layer of independent sites with a field each."""

    is_binary = False
    """Whether every entry of a state is 0 or 1."""

    def __init__(self, size: int):
        super().__init__()
        if size < 1:
            raise BadInput(f"A layer needs at least one unit, not {size}.")
        self.size = size

    @property
    @abstractmethod
    def num_states(self) -> int | None:
        """Number of joint states of the layer; None where the support is continuous."""

    @property
    @abstractmethod
    def num_draws(self) -> int:
        """Noise numbers that one joint draw of the layer consumes."""

    @abstractmethod
    def log_partition(self, field: Float[Tensor, "*n d"]) -> Float[Tensor, "*n"]:
        """log Σ_s exp(field · t(s) + log_base(s)), summed over the sites, in nats; exact."""

    @abstractmethod
    def mean(self, field: Float[Tensor, "*n d"]) -> Float[Tensor, "*n d"]:
        """Expected state of each site given its field."""

    @abstractmethod
    def noise(self, num: int, like: Tensor, generator: torch.Generator | None) -> Tensor:
        """The random numbers that `draw` turns into `num` joint states, of the dtype and device of `like`."""

    @abstractmethod
    def draw(self, field: Float[Tensor, "n d"], noise: Tensor) -> Float[Tensor, "n d"]:
        """An exact draw of every site: a deterministic function of field and noise."""

    @abstractmethod
    def distribution(self, field: Float[Tensor, "*n d"]) -> Distribution:
        """The layer given its field, as a torch distribution with event shape (d,)."""

    @abstractmethod
    def bias_from_data(self, x: Float[Tensor, "n d"]) -> Float[Tensor, " d"]:
        """The field at which the sites alone, uncoupled, have the mean of the data (slightly smoothed where bounded)."""

    @abstractmethod
    def check(self, x: Tensor) -> None:
        """Raise `BadInput`, naming the first row and column, where `x` leaves the support."""

    @abstractmethod
    def config(self) -> dict[str, object]:
        """The arguments that build this layer again."""

    def statistic(self, state: Float[Tensor, "*n d"]) -> Float[Tensor, "*n d"]:
        """t(s), what the layer's neighbours and its bias couple to."""
        return state

    def log_base(self, state: Float[Tensor, "*n d"]) -> Float[Tensor, "*n"]:
        """Log of the reference measure, summed over the sites, in nats."""
        return state.new_zeros(state.shape[:-1])

    def log_prob(self, field: Float[Tensor, "*n d"], state: Float[Tensor, "*n d"]) -> Float[Tensor, "*n"]:
        """log p(s | field), summed over the sites, in nats; exact."""
        return (field * self.statistic(state)).sum(-1) + self.log_base(state) - self.log_partition(field)

    def states(self, index: Tensor) -> Float[Tensor, "n d"]:
        """The joint states with the given numbers, 0 ≤ index < num_states."""
        raise BadInput(f"{type(self).__name__} units are continuous: their states cannot be enumerated.")
