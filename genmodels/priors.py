"""Factorial priors of real codes: every code is independent, with its own learned scale s_j = exp(log_scale_j)."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from genmodels.errors import BadInput


class Prior(nn.Module, ABC):
    """p(z) = Π_j p(z_j / s_j) / s_j."""

    non_negative = False
    """Whether the support is z ≥ 0."""

    def __init__(self, size: int, *, scale: float = 1.0):
        super().__init__()
        if size < 1:
            raise BadInput(f"A prior needs at least one code, not {size}.")
        if not 0 < scale < math.inf:
            raise BadInput(f"The scale of a prior must be a positive number, not {scale}.")
        self.size = size
        self.log_scale = nn.Parameter(torch.full((size,), math.log(scale)))

    @property
    def scale(self) -> Float[Tensor, " k"]:
        """s_j."""
        return self.log_scale.exp()

    def log_prob(self, z: Float[Tensor, "*n k"]) -> Float[Tensor, "*n"]:
        """log p(z), nats."""
        return (self.standard_log_prob(z / self.scale) - self.log_scale).sum(-1)

    def sample(self, num: int, *, generator: torch.Generator | None = None) -> Float[Tensor, "n k"]:
        """Independent exact draws."""
        return self.scale * self._standard_draws(num, generator)

    def curvature(self, squared: Float[Tensor, "*n k"]) -> Float[Tensor, "*n k"]:
        """w(z²) = −∂ log p / ∂z / z at z² = `squared`, of a symmetric prior.

        −log p(z') ≤ −log p(z) + w (z'² − z²) / 2 for all z', because these priors are log-convex in z²: they are scale
        mixtures of Gaussians (Palmer, Wipf, Kreutz-Delgado and Rao, 2005).
        """
        return self._standard_curvature(squared / self.scale.square()) / self.scale.square()

    @abstractmethod
    def standard_log_prob(self, u: Tensor) -> Tensor:
        """log p of every code at scale 1; −∞ outside the support."""

    @abstractmethod
    def _standard_draws(self, num: int, generator: torch.Generator | None) -> Tensor:
        """Draws at scale 1, (num, size)."""

    def _standard_curvature(self, squared: Tensor) -> Tensor:
        raise BadInput(f"{type(self).__name__} is not symmetric and has no quadratic bound: choose another prior.")

    def config(self) -> dict[str, Any]:
        """The arguments that build this prior again."""
        return {"type": type(self).__name__, "size": self.size}

    def _uniform(self, num: int, generator: torch.Generator | None) -> Tensor:
        like = self.log_scale
        return torch.rand(num, self.size, dtype=like.dtype, device=like.device, generator=generator)

    def _normal(self, num: int, generator: torch.Generator | None) -> Tensor:
        like = self.log_scale
        return torch.randn(num, self.size, dtype=like.dtype, device=like.device, generator=generator)


class GaussianPrior(Prior):
    """z_j ~ N(0, s_j²): factor analysis, or probabilistic PCA."""

    def standard_log_prob(self, u):
        return -0.5 * u.square() - 0.5 * math.log(2 * math.pi)

    def _standard_draws(self, num, generator):
        return self._normal(num, generator)

    def _standard_curvature(self, squared):
        return torch.ones_like(squared)


class LaplacePrior(Prior):
    """p(z_j) = exp(−|z_j| / s_j) / (2 s_j): the lasso's penalty."""

    def standard_log_prob(self, u):
        return -u.abs() - math.log(2)

    def _standard_draws(self, num, generator):
        u = self._uniform(num, generator) - 0.5
        return -u.sign() * torch.log1p(-2 * u.abs())

    def _standard_curvature(self, squared):
        return squared.clamp_min(torch.finfo(squared.dtype).tiny).rsqrt()


class ExponentialPrior(Prior):
    """p(z_j) = exp(−z_j / s_j) / s_j for z_j ≥ 0: non-negative sparse codes."""

    non_negative = True

    def standard_log_prob(self, u):
        return torch.where(u >= 0, -u, -math.inf)

    def _standard_draws(self, num, generator):
        return -torch.log1p(-self._uniform(num, generator))


class StudentTPrior(Prior):
    """p(z_j) ∝ (1 + z_j² / (ν s_j²))^(−(ν + 1) / 2) with ν = `dof`; ν = 1 is the Cauchy prior."""

    def __init__(self, size: int, *, scale: float = 1.0, dof: float = 3.0):
        super().__init__(size, scale=scale)
        if not 0 < dof < math.inf:
            raise BadInput(f"The degrees of freedom must be a positive number, not {dof}.")
        self.dof = dof

    def standard_log_prob(self, u):
        nu = self.dof
        normaliser = math.lgamma((nu + 1) / 2) - math.lgamma(nu / 2) - 0.5 * math.log(nu * math.pi)
        return normaliser - (nu + 1) / 2 * torch.log1p(u.square() / nu)

    def _standard_draws(self, num, generator):
        # Bailey (1994): a polar form that needs two uniform numbers and no gamma draws.
        first, second = 1 - self._uniform(num, generator), self._uniform(num, generator)
        radius = (self.dof * (first ** (-2 / self.dof) - 1)).sqrt()
        return radius * torch.cos(2 * math.pi * second)

    def _standard_curvature(self, squared):
        return (self.dof + 1) / (self.dof + squared)

    def config(self):
        return {**super().config(), "dof": self.dof}


PRIORS: tuple[type[Prior], ...] = (GaussianPrior, LaplacePrior, ExponentialPrior, StudentTPrior)


def prior_from_config(config: Mapping[str, Any]) -> Prior:
    """Build the prior that `Prior.config` describes."""
    arguments = dict(config)
    name = arguments.pop("type", None)
    kinds = {kind.__name__: kind for kind in PRIORS}
    if name not in kinds:
        raise BadInput(f"Unknown prior {name!r}; known are {', '.join(kinds)}.")
    return kinds[name](**arguments)
