"""Codes that are products of a binary spike and a Gaussian slab: their distributions, and each given all others."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import logsigmoid

from genmodels.interface import Latents


@dataclass(frozen=True)
class SpikeSlabCode:
    """Independent pairs of every row: P(h = 1) = sigmoid(logit), s | h = 1 ~ N(centre, on), s | h = 0 ~ N(0, off)."""

    logit: Float[Tensor, "n k"]
    centre: Float[Tensor, "n k"]
    on: Float[Tensor, " k"]
    off: Float[Tensor, " k"]

    def draw(self, generator: torch.Generator | None) -> Latents:
        like = self.logit
        options = {"dtype": like.dtype, "device": like.device, "generator": generator}
        h = (torch.rand(like.shape, **options) < torch.sigmoid(like)).to(like)
        noise = torch.randn(like.shape, **options)
        return h, torch.where(h > 0, self.centre + self.on.sqrt() * noise, self.off.sqrt() * noise)

    def log_prob(self, z: Latents) -> Float[Tensor, " n"]:
        h, s = z
        spike = logsigmoid(torch.where(h > 0, self.logit, -self.logit))
        slab = torch.where(h > 0, _log_normal(s - self.centre, self.on), _log_normal(s, self.off))
        return (spike + slab).sum(-1)

    def repeat(self, num: int) -> SpikeSlabCode:
        return replace(self, logit=self.logit.repeat(num, 1), centre=self.centre.repeat(num, 1))

    @property
    def mean(self) -> Float[Tensor, "n k"]:
        """E[h s]."""
        return torch.sigmoid(self.logit) * self.centre

    @property
    def square(self) -> Float[Tensor, "n k"]:
        """E[(h s)²]."""
        return torch.sigmoid(self.logit) * (self.centre.square() + self.on)

    def divergence(self, prior: SpikeSlabCode) -> Float[Tensor, " n"]:
        """KL(self ‖ prior), nats, exact, where both have the same slab off."""
        p = torch.sigmoid(self.logit)
        spike = p * (logsigmoid(self.logit) - logsigmoid(prior.logit))
        silence = (1 - p) * (logsigmoid(-self.logit) - logsigmoid(-prior.logit))
        ratio = self.on / prior.on
        slab = 0.5 * (ratio - 1 - ratio.log() + (self.centre - prior.centre).square() / prior.on)
        return (spike + silence + p * slab).sum(-1)


def _log_normal(centred: Tensor, variance: Tensor) -> Tensor:
    return -0.5 * (centred.square() / variance + variance.log() + math.log(2 * math.pi))


class Site(NamedTuple):
    """One code of every row given all others: y = h s with P(h = 1) = sigmoid(logit), s ~ N(centre, variance)."""

    logit: Float[Tensor, " n"]
    centre: Float[Tensor, " n"]
    variance: Float[Tensor, ""]

    @property
    def mean(self) -> Float[Tensor, " n"]:
        return torch.sigmoid(self.logit) * self.centre

    def draw(self, uniform: Float[Tensor, " n"], normal: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        drawn = self.centre + self.variance.sqrt() * normal
        return torch.where(uniform < torch.sigmoid(self.logit), drawn, 0.0)


@dataclass(frozen=True)
class SpikeSlabRows:
    """Rows x = D y + noise with spike-and-slab codes y, a code a row of its matrices, so that each is contiguous.

    Sweeps keep r = Dᵀ P (x − D y), P the noise's precision, beside y: a code given all others needs no more.
    """

    gram: Float[Tensor, "k k"]
    """Dᵀ P D."""
    correlation: Float[Tensor, "k n"]
    """Dᵀ P x."""
    prior: SpikeSlabCode
    """Of one row."""

    def residual(self, y: Float[Tensor, "k n"]) -> Float[Tensor, "k n"]:
        """r at y."""
        return self.correlation - self.gram @ y

    def site(self, j: int, y: Float[Tensor, "k n"], residual: Float[Tensor, "k n"], beta: float = 1.0) -> Site:
        """p(y_j | the other codes, x), where the likelihood has the inverse temperature `beta`; exact.

        For means of the other codes, the best factor of a mean field (Goodfellow, Courville and Bengio, 2012).
        """
        own = self.gram[j, j]
        drive = beta * (residual[j] + own * y[j])
        mean, slab = self.prior.centre[0, j], self.prior.on[j]
        variance = 1 / (1 / slab + beta * own)
        pull = mean / slab + drive
        gain = 0.5 * (variance / slab).log() + 0.5 * (pull.square() * variance - mean.square() / slab)
        return Site(self.prior.logit[0, j] + gain, pull * variance, variance)

    def move(
        self, j: int, new: Float[Tensor, " n"], y: Float[Tensor, "k n"], residual: Float[Tensor, "k n"]
    ) -> Float[Tensor, " n"]:
        """Set y_j, in place, and r with it; by how much y_j changed."""
        change = new - y[j]
        residual.addr_(self.gram[j], change, alpha=-1)
        y[j] = new
        return change

    def gibbs(
        self,
        y: Float[Tensor, "k n"],
        residual: Float[Tensor, "k n"],
        beta: float,
        generator: torch.Generator,
        order: Iterable[int],
    ) -> None:
        """Draw one code after the other from what it is given all others, in place: leaves p(y | x) at `beta` invariant."""
        options = {"dtype": y.dtype, "device": y.device, "generator": generator}
        uniform, normal = torch.rand(y.shape, **options), torch.randn(y.shape, **options)
        for j in order:
            self.move(j, self.site(j, y, residual, beta).draw(uniform[j], normal[j]), y, residual)
