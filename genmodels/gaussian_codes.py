"""Distributions over codes that approximate the posterior of a linear model."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from genmodels.interface import Latents


@dataclass(frozen=True)
class CorrelatedNormal:
    """N(mean, (L Lᵀ)⁻¹) of every row, where `factor` is the lower triangular L; `copies` of all rows share theirs."""

    mean: Float[Tensor, "n k"]
    factor: Float[Tensor, "n k k"]
    copies: int = 1

    def draw(self, generator: torch.Generator | None) -> Latents:
        noise = self._noise(generator)
        # L⁻ᵀ times white noise has the covariance (L Lᵀ)⁻¹.
        moved = torch.linalg.solve_triangular(self.factor.mT, noise.permute(1, 2, 0), upper=True)
        return ((self.mean + moved.permute(2, 0, 1)).flatten(0, 1),)

    def log_prob(self, z: Latents) -> Float[Tensor, " n"]:
        centred = z[0].unflatten(0, (self.copies, len(self.mean))) - self.mean
        standard = torch.einsum("cnk,nkl->cnl", centred, self.factor)
        log_volume = self.factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        constant = 0.5 * self.mean.shape[-1] * math.log(2 * math.pi)
        return (log_volume - constant - 0.5 * standard.square().sum(-1)).flatten()

    def repeat(self, num: int) -> CorrelatedNormal:
        return replace(self, copies=num * self.copies)

    def _noise(self, generator: torch.Generator | None) -> Tensor:
        mean = self.mean
        shape = (self.copies, *mean.shape)
        return torch.randn(shape, dtype=mean.dtype, device=mean.device, generator=generator)


@dataclass(frozen=True)
class TruncatedNormal:
    """Independent N(mean, deviation²) restricted to z ≥ 0, float64; no mean more than 30 deviations below 0."""

    mean: Float[Tensor, "n k"]
    deviation: Float[Tensor, " k"]
    dtype: torch.dtype
    """Of the draws."""

    def draw(self, generator: torch.Generator | None) -> Latents:
        mean = self.mean
        uniform = 1 - torch.rand(mean.shape, dtype=mean.dtype, device=mean.device, generator=generator)
        # Inverse CDF from the upper tail, where 1 − Φ would lose all digits.
        inside = torch.special.ndtr(mean / self.deviation)
        code = mean - self.deviation * torch.special.ndtri(uniform * inside)
        return (code.clamp_min(0).to(self.dtype),)

    def log_prob(self, z: Latents) -> Float[Tensor, " n"]:
        standard = (z[0] - self.mean) / self.deviation
        inside = torch.special.log_ndtr(self.mean / self.deviation)
        constant = 0.5 * math.log(2 * math.pi) + self.deviation.log() + inside
        return torch.where(z[0] >= 0, -0.5 * standard.square() - constant, -math.inf).sum(-1)

    def repeat(self, num: int) -> TruncatedNormal:
        return replace(self, mean=self.mean.repeat(num, 1))
