"""Sparse coding: x is a linear function of independent, sparse codes, plus Gaussian noise."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import MultivariateNormal

from genmodels.errors import BadInput
from genmodels.gaussian_codes import CorrelatedNormal, TruncatedNormal
from genmodels.interface import Code, Configured, Encoder, Latents, MapInference, Optimum, TopDown, check_width
from genmodels.lasso import TOLERANCE, Lasso, solve
from genmodels.priors import ExponentialPrior, GaussianPrior, LaplacePrior, Prior, prior_from_config
from genmodels.units import Gaussian, unit_from_config

_REWEIGHTINGS = 30
_ROWS = 256  # whose matrices of k × k are held at once
_FAR = 30.0


@dataclass(frozen=True)
class FactorialCode:
    """`num` rows of independent codes."""

    factors: Prior
    num: int

    def draw(self, generator: torch.Generator | None) -> Latents:
        return (self.factors.sample(self.num, generator=generator),)

    def log_prob(self, z: Latents) -> Float[Tensor, " n"]:
        return self.factors.log_prob(z[0])

    def repeat(self, num: int) -> FactorialCode:
        return replace(self, num=num * self.num)


class SparseCoding(nn.Module, TopDown, MapInference, Encoder, Configured):
    """p(x, z) = N(x; D z + b, diag(σ²)) Π_j p(z_j) (Olshausen and Field, 1996; Deep Learning, section 13.4).

    The prior is any of `genmodels.priors`; with a Gaussian one the model is factor analysis, or probabilistic PCA where all
    σ are equal. Parameters: `dictionary` (d, k), `visible_bias` (d,), `observed.log_variance` = log σ² (d,), unless
    `learn_noise` is off, and `factors.log_scale` (k,).

    >>> from genmodels.priors import LaplacePrior
    >>> model = SparseCoding(Gaussian(5, variance=0.25), LaplacePrior(7))
    >>> model.infer(torch.ones(2, 5)).z[0].shape
    torch.Size([2, 7])
    """

    def __init__(
        self,
        observed: Gaussian,
        factors: Prior,
        *,
        learn_noise: bool = True,
        generator: torch.Generator | None = None,
    ):
        super().__init__()
        self.observed, self.factors, self.learn_noise = observed, factors, learn_noise
        observed.log_variance.requires_grad_(learn_noise)
        atoms = torch.randn(observed.size, factors.size, generator=generator)
        self.dictionary = nn.Parameter(atoms / atoms.norm(dim=0))
        self.visible_bias = nn.Parameter(torch.zeros(observed.size))

    @property
    def noise_variance(self) -> Float[Tensor, " d"]:
        """σ²."""
        assert isinstance(self.observed, Gaussian)
        return self.observed.log_variance.exp()

    def prior(self, num: int) -> Code:
        return FactorialCode(self.factors, num)

    def decode(self, z: Latents) -> Float[Tensor, "n d"]:
        return z[0] @ self.dictionary.T + self.visible_bias

    @torch.no_grad()
    def infer(
        self, x: Float[Tensor, "n d"], *, start: Float[Tensor, "n k"] | None = None, tolerance: float = TOLERANCE
    ) -> Optimum:
        """argmin_z E(x, z): the lasso for Laplace and exponential priors, a linear solve for Gaussian ones.

        The gap is at most `tolerance` nats for the lasso, and 0 for Gaussian priors. For Student-t priors, whose energy has
        many minima, it is one of them, by reweighted least squares, and the gap is infinite.
        """
        check_width(x, self.observed.size)
        if isinstance(self.factors, LaplacePrior | ExponentialPrior):
            solution = solve(self.lasso(x), start=start, tolerance=tolerance)
            code = solution.code.to(x.dtype)
            constant = self.energy(self.visible_bias[None], (torch.zeros_like(code[:1]),))
            return Optimum((code,), solution.objective.to(x.dtype) + constant, solution.gap)
        code = torch.cat([self._reweighted(rows, spread=False)[0] for rows in x.split(_ROWS)])
        known = 0.0 if isinstance(self.factors, GaussianPrior) else math.inf
        gap = torch.full((len(x),), known, dtype=torch.float64, device=x.device)
        return Optimum((code,), self.energy(x, (code,)), gap)

    def lasso(self, x: Float[Tensor, "n d"]) -> Lasso:
        """E(x, z) less what does not depend on z, ½|(x − b − D z) / σ|² + Σ_j |z_j| / s_j, in float64."""
        whiten = self.noise_variance.double().rsqrt()
        dictionary = self.dictionary.double() * whiten[:, None]
        rows = (x - self.visible_bias).double() * whiten
        return Lasso(rows, dictionary, 1 / self.factors.scale.double(), non_negative=self.factors.non_negative)

    @torch.no_grad()
    def linear_code(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n k"]:
        """The posterior mean under a Gaussian prior of the same scales: one linear map for all x, a place to start from."""
        weighted = self.observed.statistic(self.dictionary.T)
        precision = weighted @ self.dictionary + torch.diag(self.factors.scale**-2)
        return torch.linalg.solve(precision, weighted @ (x - self.visible_bias).T).T

    @torch.no_grad()
    def encode(self, x: Float[Tensor, "n d"]) -> Code:
        """A normal distribution fitted to p(z | x): exact for a Gaussian prior.

        For other symmetric priors, the optimum of the bound in which every factor of the prior is replaced by the
        Gaussian below it that fits best (Girolami, 2001; Palmer et al., 2005). For the exponential prior, independent
        truncated normals at the most probable code, each with the curvature of the likelihood. It carries no gradient: q is
        found anew for every model, and at the optimum of a bound the bound's gradient through q is zero.
        """
        if self.factors.non_negative:
            return self._truncated(x)
        return CorrelatedNormal(*self._reweighted(x, spread=True))

    def _reweighted(
        self, x: Float[Tensor, "n d"], *, spread: bool
    ) -> tuple[Float[Tensor, "n k"], Float[Tensor, "n k k"]]:
        """Mean m and the Cholesky factor of the precision Dᵀdiag(σ⁻²)D + diag(w), with w the prior's curvature at m².

        A majorise–minimise iteration for the most probable code, which never raises the energy. With `spread`, w is taken
        at m² plus the variance, and the iteration climbs a lower bound on log p(x) whose q is N(m, precision⁻¹).
        """
        weighted = self.observed.statistic(self.dictionary.T)
        gram = weighted @ self.dictionary
        target = ((x - self.visible_bias) @ weighted.T)[..., None]
        mean = self.factors.scale.expand(len(x), -1)
        squared, factor = mean.square(), gram
        for _ in range(1 if isinstance(self.factors, GaussianPrior) else _REWEIGHTINGS):
            factor = torch.linalg.cholesky(gram + torch.diag_embed(self.factors.curvature(squared)))
            mean = torch.cholesky_solve(target, factor)[..., 0]
            squared = mean.square()
            if spread:
                squared = squared + torch.cholesky_inverse(factor).diagonal(dim1=-2, dim2=-1)
        return mean, factor

    def _truncated(self, x: Float[Tensor, "n d"]) -> TruncatedNormal:
        problem, code = self.lasso(x), self.infer(x).z[0].double()
        curvature = problem.gram.diagonal().clamp_min(1e-12)
        slope = problem.correlation - code @ problem.gram - problem.penalty
        deviation = curvature.rsqrt()
        # Further out the normal distribution's tail leaves the range of numbers; any proposal is a correct one.
        return TruncatedNormal(torch.maximum(code + slope / curvature, -_FAR * deviation), deviation, x.dtype)

    @torch.no_grad()
    def initialise_from_data(self, x: Float[Tensor, "n d"]) -> None:
        """Set the bias to the mean of `x` and the atoms to rows of it, of unit length, from the longer half."""
        self.visible_bias.copy_(x.mean(0))
        rows = x - x.mean(0)
        length = rows.norm(dim=1)
        rows = (rows / length[:, None])[length > length.median()][: self.factors.size]
        self.dictionary[:, : len(rows)] = rows.T

    def log_evidence(self, x: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
        """log p(x), nats, exact: N(b, D diag(s²) Dᵀ + diag(σ²)). For a Gaussian prior only."""
        if not isinstance(self.factors, GaussianPrior):
            raise BadInput("Only a Gaussian prior has its evidence in closed form: use AIS or importance_bound.")
        loading = self.dictionary * self.factors.scale
        covariance = loading @ loading.T + torch.diag(self.noise_variance)
        return MultivariateNormal(self.visible_bias, covariance).log_prob(x)

    def transform(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n k"]:
        """The most probable codes, as features; for scikit-learn's pipelines and as examples of a next layer."""
        return self.infer(x).z[0]

    def config(self) -> dict[str, Any]:
        layers = {"observed": self.observed.config(), "factors": self.factors.config()}
        return {**layers, "learn_noise": self.learn_noise}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> SparseCoding:
        observed = unit_from_config(config["observed"])
        if not isinstance(observed, Gaussian):
            raise BadInput("Sparse coding has a Gaussian observed layer: give no other units.")
        return cls(observed, prior_from_config(config["factors"]), learn_noise=config["learn_noise"])
