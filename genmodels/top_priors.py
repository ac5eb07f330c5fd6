"""Explicit priors P(H_L) for the top of a stack of auto-encoders."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from genmodels.directed_layers import StandardNormal, UnitFactor
from genmodels.errors import BadInput
from genmodels.networks import DiagonalNormal
from genmodels.stack_layers import StackLayer

_LOG_2PI = math.log(2 * math.pi)


class TopPrior(nn.Module, ABC):
    """P(H_L): draws, log-density, a target for h_L, and the layer of units that it is a prior of."""

    kind = "linear"
    """Of the units of h_L."""

    def __init__(self, size: int):
        super().__init__()
        self.size = size
        self.layer = StackLayer(self.kind, size)

    @abstractmethod
    def draw(self, num: int, generator: torch.Generator | None) -> Float[Tensor, "n d"]:
        """`num` exact draws."""

    @abstractmethod
    def log_prob(self, z: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
        """log P(h_L), nats, exact."""

    @abstractmethod
    def target(self, z: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        """The reconstruction of h_L by the prior: a more probable state near it."""

    def rate(self, q: Any, z: Float[Tensor, "n d"]) -> Float[Tensor, "n c"]:
        """KL(Q(H_L | h_{L−1}) ‖ P(H_L)) in parts, nats: here unbiased from the draw, in closed form where there is one."""
        return (q.log_prob(z).sum(-1) - self.log_prob(z))[:, None]

    def config(self) -> dict[str, Any]:
        """The arguments that build this prior again."""
        return {"type": type(self).__name__, "size": self.size}


class GaussianPrior(TopPrior):
    """A prior of real units."""

    def __init__(self, size: int):
        super().__init__(size)
        del self.layer.log_error  # nothing above reconstructs the top

    @property
    def noise_variance(self) -> Float[Tensor, " d"]:
        """σ_j² of Q(h_L | h_{L−1}): its spectrum shows the dimensionality that was found (Bengio, 2014, section 7.4)."""
        return torch.exp(2 * self.layer.log_noise)


class StandardGaussian(GaussianPrior):
    """P(H_L) = N(0, 1) on every unit."""

    def _density(self) -> StandardNormal:
        return StandardNormal(self.layer.log_noise.new_zeros(self.size))

    def draw(self, num, generator):
        return self._density().draw(num, generator)

    def log_prob(self, z):
        return self._density().log_prob(z)

    def target(self, z):
        """The best denoiser of N(0, 1) under the code's own noise: h / (1 + σ²)."""
        return z / (1 + self.noise_variance)

    def rate(self, q: DiagonalNormal, z):
        """−½ (log σ_j² + 1 − μ_j² − σ_j²), exact (Bengio, 2014, Eq. 22)."""
        return q.divergence_from_standard()


class LinearAutoEncoder(NamedTuple):
    """reconstruction = weight h + bias, the best for Gaussian h corrupted by N(0, noise_variance)."""

    weight: Float[Tensor, "d d"]
    bias: Float[Tensor, " d"]
    noise_variance: float


class FullGaussian(GaussianPrior):
    """P(H_L) = N(μ, Σ), the prior of a linear denoising auto-encoder (Bengio, 2014, section 7.1); Σ = scale scaleᵀ."""

    def __init__(self, size: int):
        super().__init__(size)
        self.mean = nn.Parameter(torch.zeros(size))
        self.below = nn.Parameter(torch.zeros(size, size))
        self.log_diagonal = nn.Parameter(torch.zeros(size))

    @property
    def scale(self) -> Float[Tensor, "d d"]:
        """The Cholesky factor of Σ."""
        return self.below.tril(-1) + torch.diag(torch.exp(self.log_diagonal))

    def auto_encoder(self, noise_variance: float) -> LinearAutoEncoder:
        """weight = Σ (Σ + s²)⁻¹, bias = (1 − weight) μ: the best reconstruction at corruption s², closed form."""
        covariance = self.scale @ self.scale.T
        noisy = covariance + noise_variance * torch.eye(self.size, dtype=covariance.dtype, device=covariance.device)
        weight = torch.linalg.solve(noisy, covariance)  # the two commute
        return LinearAutoEncoder(weight, self.mean - weight @ self.mean, noise_variance)

    @torch.no_grad()
    def set_from(self, auto_encoder: LinearAutoEncoder) -> None:
        """Take over the Gaussian of a linear auto-encoder: Σ = s² weight (1 − weight)⁻¹, μ = (1 − weight)⁻¹ bias."""
        weight, bias, variance = auto_encoder
        shrink = torch.eye(self.size, dtype=weight.dtype, device=weight.device) - weight
        covariance = variance * torch.linalg.solve(shrink, weight)
        factor, failed = torch.linalg.cholesky_ex(0.5 * (covariance + covariance.T))
        if bool(failed) or not bool((covariance - covariance.T).abs().max() < 1e-3 * covariance.abs().max()):
            raise BadInput(
                "These weights belong to no Gaussian: they must be symmetric, with eigenvalues between 0 and 1."
            )
        self.mean.copy_(torch.linalg.solve(shrink, bias))
        self.below.copy_(factor.tril(-1))
        self.log_diagonal.copy_(factor.diagonal().log())

    def draw(self, num, generator):
        noise = torch.randn(num, self.size, generator=generator, dtype=self.mean.dtype, device=self.mean.device)
        return self.mean + noise @ self.scale.T

    def log_prob(self, z):
        white = torch.linalg.solve_triangular(self.scale, (z - self.mean).T, upper=False)
        return -0.5 * (white.square().sum(0) + self.size * _LOG_2PI) - self.log_diagonal.sum()

    def target(self, z):
        """The reconstruction by the linear auto-encoder at the code's mean noise variance."""
        weight, bias, _ = self.auto_encoder(float(self.noise_variance.detach().mean()))
        return z @ weight.T + bias


class Parzen(GaussianPrior):
    """P(H_L) = mean of N(template_i, bandwidth²) over stored templates (Bengio, 2014, section 7.3); the bandwidth is learned.

    Templates must not be the codes that are scored: a density of points at themselves has no best bandwidth but 0.
    """

    templates: Tensor

    def __init__(self, size: int, num_templates: int):
        super().__init__(size)
        self.log_bandwidth = nn.Parameter(torch.zeros(()))
        self.register_buffer("templates", torch.zeros(num_templates, size))

    @torch.no_grad()
    def remember(self, codes: Float[Tensor, "t d"]) -> None:
        """Take these codes as the templates."""
        if codes.shape != self.templates.shape:
            raise BadInput(f"This prior holds {len(self.templates)} templates of {self.size}: give as many codes.")
        self.templates.copy_(codes)

    def draw(self, num, generator):
        templates = self.templates
        chosen = torch.randint(len(templates), (num,), generator=generator, device=templates.device)
        noise = torch.randn(num, self.size, generator=generator, dtype=templates.dtype, device=templates.device)
        return templates[chosen] + torch.exp(self.log_bandwidth) * noise

    def log_prob(self, z):
        joint = torch.logsumexp(self._exponents(z), -1) - math.log(len(self.templates))
        return joint - self.size * (0.5 * _LOG_2PI + self.log_bandwidth)

    def weights(self, z: Float[Tensor, "n d"]) -> Float[Tensor, "n t"]:
        """w_i, the share of every template in the density at h (Bengio, 2014, Eq. 21)."""
        return torch.softmax(self._exponents(z), -1)

    def target(self, z):
        """Σ_i w_i μ_i, so that target − h = bandwidth² ∂ log P(h) / ∂h (Bengio, 2014, Eq. 21)."""
        return self.weights(z) @ self.templates

    def _exponents(self, z: Tensor) -> Tensor:
        distance = z.square().sum(-1, keepdim=True) - 2 * z @ self.templates.T + self.templates.square().sum(-1)
        return -0.5 * torch.exp(-2 * self.log_bandwidth) * distance

    def config(self) -> dict[str, Any]:
        return {**super().config(), "num_templates": len(self.templates)}


class FactorialBernoulli(TopPrior):
    """P(H_L): independent binary units of learned log-odds (Bengio, 2014, section 7.2)."""

    kind = "binary"

    def __init__(self, size: int):
        super().__init__(size)
        self.log_odds = nn.Parameter(torch.zeros(size))

    def _factor(self, num: int) -> UnitFactor:
        assert self.layer.unit is not None
        return UnitFactor(self.layer.unit, self.log_odds.expand(num, -1))

    def draw(self, num, generator):
        return self._factor(num).draw(generator)

    def log_prob(self, z):
        return self._factor(len(z)).log_prob(z).sum(-1)

    def target(self, z):
        """The prior's probabilities: the continuous reconstruction of discrete units (Bengio, 2014, section 7.2)."""
        return torch.sigmoid(self.log_odds).expand_as(z)

    def rate(self, q: UnitFactor, z):
        """Σ_j q_j log(q_j / p_j) + (1 − q_j) log((1 − q_j) / (1 − p_j)), exact (Bengio, 2014, section 7.4)."""
        return (q.cross_entropy(self._factor(len(z))) - q.cross_entropy(q))[:, None]


PRIORS: dict[str, type[TopPrior]] = {
    each.__name__: each for each in (StandardGaussian, FullGaussian, Parzen, FactorialBernoulli)
}


def prior_from_config(config: Mapping[str, Any]) -> TopPrior:
    """The prior that `TopPrior.config` describes."""
    arguments = dict(config)
    kind = arguments.pop("type", None)
    if kind not in PRIORS:
        raise BadInput(f"There is no top prior {kind!r}: choose one of {', '.join(PRIORS)}.")
    return PRIORS[kind](**arguments)
