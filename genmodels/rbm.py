"""Restricted Boltzmann machine, with any unit type on either side."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Distribution

from genmodels.boltzmann import LayeredBoltzmann
from genmodels.errors import BadInput
from genmodels.interface import Configured, FreeEnergy, Posterior
from genmodels.joined import Joined
from genmodels.units import Gaussian, Unit, unit_from_config


class RBM(nn.Module, LayeredBoltzmann, FreeEnergy, Posterior, Configured):
    """Restricted Boltzmann machine: p(x, h) ∝ exp(−E), E = −b·t(x) − c·t(h) − t(x)ᵀ W t(h) − log_base(x) − log_base(h).

    For Bernoulli units on both sides t(s) = s and log_base = 0: the binary RBM (Smolensky, 1986; Hinton, 2002). Variants
    are made of units: `RBM(Gaussian(d), Bernoulli(h))`, `RBM(Categorical(g, k), Bernoulli(h))`.

    Parameters: `weight` (d, h), `visible_bias` (d,), `hidden_bias` (h,), and `visible.log_variance` or
    `hidden.log_variance` for Gaussian layers.

    >>> from genmodels import Bernoulli
    >>> model = RBM(Bernoulli(6), Bernoulli(4))
    >>> model.free_energy(torch.zeros(2, 6)).shape
    torch.Size([2])
    """

    exact_posterior = True

    def __init__(self, visible: Unit, hidden: Unit, *, generator: torch.Generator | None = None):
        super().__init__()
        self.visible, self.hidden = visible, hidden
        # Small enough to start near independent units (Hinton, 2010, section 8), and normalisable for Gaussian pairs.
        scale = 0.1 / math.sqrt(visible.size + hidden.size)
        self.weight = nn.Parameter(scale * torch.randn(visible.size, hidden.size, generator=generator))
        self.visible_bias = nn.Parameter(torch.zeros(visible.size))
        self.hidden_bias = nn.Parameter(torch.zeros(hidden.size))
        self.check_normalisable()
        self.register_load_state_dict_post_hook(lambda module, _: module.check_normalisable())

    @property
    def units(self) -> tuple[Unit, ...]:
        return self.visible, self.hidden

    @property
    def weights(self) -> tuple[Tensor, ...]:
        return (self.weight,)

    @property
    def biases(self) -> tuple[Tensor, ...]:
        return self.visible_bias, self.hidden_bias

    def free_energy(self, x: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
        """F(x) = −log Σ_h exp(−E(x, h)), nats per example, exact."""
        t = self.visible.statistic(x)
        hidden = self.hidden.log_partition(self.hidden_bias + t @ self.weight)
        return -(t @ self.visible_bias + self.visible.log_base(x) + hidden)

    def posterior(self, x: Float[Tensor, "n d"]) -> tuple[Distribution, ...]:
        """p(h | x), exact: the hidden units are independent given x."""
        return (self.hidden.distribution(self.hidden_bias + self.visible.statistic(x) @ self.weight),)

    @torch.no_grad()
    def initialise_from_data(self, x: Float[Tensor, "n d"]) -> None:
        """Set the visible biases so that the uncoupled visible layer has the mean of `x`."""
        self.visible_bias.copy_(self.visible.bias_from_data(x))

    @torch.no_grad()
    def check_normalisable(self) -> None:
        """Refuse Gaussian sites on both sides whose joint density has no finite integral.

        It has one exactly if the largest singular value of their W / (σ_x σ_h) is below 1.
        """
        if self.visible.num_states is not None or self.hidden.num_states is not None:
            return
        scale = self._inverse_deviation(self.visible)[:, None] * self._inverse_deviation(self.hidden)
        largest = float(torch.linalg.matrix_norm(self.weight * scale, 2))
        if not largest < 1:
            raise BadInput(
                "Gaussian visible and Gaussian hidden units with these weights have no normalisable joint density: "
                f"the largest singular value of W / (σ_x σ_h) is {largest:.3g}, and must stay below 1."
            )

    def config(self) -> dict[str, Any]:
        return {"visible": self.visible.config(), "hidden": self.hidden.config()}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> RBM:
        return cls(unit_from_config(config["visible"]), unit_from_config(config["hidden"]))

    def _inverse_deviation(self, unit: Unit) -> Tensor:
        """1 / σ of every Gaussian site; 0 for sites of few states, which leave every integral finite."""
        if isinstance(unit, Joined):
            return torch.cat([self._inverse_deviation(part) for part in unit.parts])
        if isinstance(unit, Gaussian):
            return torch.exp(-0.5 * unit.log_variance)
        return self.weight.new_zeros(unit.size)
