"""Layers of latents on top of each other: what a pass up draws, simple priors for the top, and a chain of layers as a prior."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from genmodels.interface import Latents
from genmodels.networks import DiagonalNormal
from genmodels.units import Unit


@runtime_checkable
class Factor(Protocol):
    """The distribution of one layer given another, for n rows."""

    def draw(self, generator: torch.Generator | None) -> Float[Tensor, "n d"]: ...

    def log_prob(self, z: Float[Tensor, "n d"]) -> Float[Tensor, "n c"]:
        """Log-density in parts that sum to that of the layer: coordinates, where there are such."""
        ...

    def repeat(self, num: int) -> Factor: ...


Layer = Callable[[Tensor], Factor]


@dataclass(frozen=True)
class UnitFactor:
    """A layer of `units` given its field."""

    unit: Unit
    field: Float[Tensor, "n d"]

    @property
    def mean(self) -> Float[Tensor, "n d"]:
        """E[h]."""
        return self.unit.mean(self.field)

    def draw(self, generator: torch.Generator | None) -> Float[Tensor, "n d"]:
        with torch.no_grad():
            return self.unit.draw(self.field, self.unit.noise(len(self.field), self.field, generator))

    def log_prob(self, z: Float[Tensor, "n d"]) -> Float[Tensor, "n 1"]:
        return self.unit.log_prob(self.field, z)[:, None]

    def cross_entropy(self, other: UnitFactor) -> Float[Tensor, " n"]:
        """−E[log other(h)] under this one, nats; the entropy, where other is this one. For discrete units."""
        return other.unit.log_partition(other.field) - (other.field * self.mean).sum(-1)

    def detach(self) -> UnitFactor:
        return UnitFactor(self.unit, self.field.detach())

    def repeat(self, num: int) -> UnitFactor:
        return UnitFactor(self.unit, self.field.repeat(num, 1))


@dataclass(frozen=True)
class BottomUp:
    """q(z | x) = q(z_1 | x) Π_l q(z_{l+1} | z_l)."""

    first: Any
    """A `Factor`; which one is the model's to say."""
    above: tuple[Layer, ...]

    def draw(self, generator: torch.Generator | None) -> Latents:
        z = [self.first.draw(generator)]
        for layer in self.above:
            z.append(layer(z[-1]).draw(generator))
        return tuple(z)

    def log_prob(self, z: Latents) -> Float[Tensor, " n"]:
        pairs = zip(self.factors(z), z, strict=True)
        return sum((factor.log_prob(value).sum(-1) for factor, value in pairs), start=z[0].new_zeros(()))

    def factors(self, z: Latents) -> list[Any]:
        """Every layer's distribution given the layer below in z."""
        return [self.first, *(layer(below) for layer, below in zip(self.above, z, strict=False))]

    def repeat(self, num: int) -> BottomUp:
        return BottomUp(self.first.repeat(num), self.above)


@runtime_checkable
class Top(Protocol):
    """The distribution of the uppermost layer."""

    def draw(self, num: int, generator: torch.Generator | None) -> Float[Tensor, "n d"]: ...

    def log_prob(self, z: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
        """Nats, exact."""
        ...


@dataclass(frozen=True)
class StandardNormal:
    """N(0, I)."""

    origin: Float[Tensor, " d"]

    def draw(self, num: int, generator: torch.Generator | None) -> Float[Tensor, "n d"]:
        zeros = self.origin.expand(num, -1)
        return DiagonalNormal(zeros, zeros).draw(generator)

    def rate(self, q: DiagonalNormal, z: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        """KL(q ‖ p) of each coordinate, in closed form."""
        return q.divergence_from_standard()

    def log_prob(self, z: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
        return -0.5 * (z.square() + math.log(2 * math.pi)).sum(-1)


@dataclass(frozen=True)
class Mixture:
    """(1/K) Σ_k of diagonal normals."""

    components: DiagonalNormal

    def draw(self, num: int, generator: torch.Generator | None) -> Float[Tensor, "n d"]:
        mean, log_std = self.components
        which = torch.randint(len(mean), (num,), generator=generator, device=mean.device)
        return DiagonalNormal(mean[which], log_std[which]).draw(generator)

    def rate(self, q: DiagonalNormal, z: Float[Tensor, "n d"]) -> Float[Tensor, "n 1"]:
        """log q(z) − log p(z) at the draw: a mixture does not fall into coordinates."""
        return (q.log_prob(z).sum(-1) - self.log_prob(z))[:, None]

    def log_prob(self, z: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
        # |z − m|² / s² as three products, so that no tensor has n × K × d entries.
        mean, log_std = self.components
        precision = torch.exp(-2 * log_std)
        linear = mean * precision
        constant = (mean * linear + 2 * log_std + math.log(2 * math.pi)).sum(-1)
        squares = z.square() @ precision.T - 2 * z @ linear.T
        return torch.logsumexp(-0.5 * (squares + constant), -1) - math.log(len(mean))


@dataclass(frozen=True)
class PriorOf:
    """p(z) = p(z_L) Π_l p(z_l | z_{l+1}), for a number of rows."""

    num: int
    top: Top
    below: tuple[Layer, ...]
    """p(z_l | z_{l+1}), the lowest first."""

    def draw(self, generator: torch.Generator | None) -> Latents:
        z = [self.top.draw(self.num, generator)]
        for layer in reversed(self.below):
            z.insert(0, layer(z[0]).draw(generator))
        return tuple(z)

    def log_prob(self, z: Latents) -> Float[Tensor, " n"]:
        layers = zip(self.below, pairwise(z), strict=True)
        return self.top.log_prob(z[-1]) + sum(layer(above).log_prob(at).sum(-1) for layer, (at, above) in layers)

    def repeat(self, num: int) -> PriorOf:
        return PriorOf(num * self.num, self.top, self.below)
