"""Spike-and-slab sparse coding."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import MultivariateNormal

from genmodels.errors import BadInput
from genmodels.interface import Configured, Encoder, Latents, TopDown, check_width
from genmodels.spike_slab import SpikeSlabCode, SpikeSlabRows
from genmodels.units import Bernoulli, Gaussian, unit_from_config

MOST_ENUMERATED = 14
_SWEEPS, _SETTLED = 50, 1e-4
_CONFIGURATIONS = 512  # whose covariance matrices are held at once


class S3C(nn.Module, TopDown, Encoder, Configured):
    """p(x, h, s): h_j ~ Bernoulli(sigmoid(o_j)), s_j | h_j ~ N(h_j μ_j, v_j), x ~ N(D (h ∘ s) + b, diag(σ²)).

    Spike-and-slab sparse coding (Goodfellow, Courville and Bengio, 2012). Parameters: `dictionary` (d, k),
    `visible_bias` (d,), `observed.log_variance` = log σ² (d,), `log_odds` o, `slab_mean` μ and `slab_log_variance` log v (k,).
    The latents are the spikes h and the slabs s.

    >>> model = S3C(Gaussian(5, variance=0.25), 7)
    >>> [layer.shape for layer in model.prior(2).draw(None)]
    [torch.Size([2, 7]), torch.Size([2, 7])]
    """

    def __init__(
        self,
        observed: Gaussian,
        codes: int,
        *,
        active: float = 0.1,
        slab_variance: float = 1.0,
        generator: torch.Generator | None = None,
    ):
        super().__init__()
        if codes < 1:
            raise BadInput(f"S3C needs at least one code, not {codes}.")
        if not 0 < active < 1:
            raise BadInput(f"The share of active codes must lie between 0 and 1, not {active}.")
        if not 0 < slab_variance < math.inf:
            raise BadInput(f"The variance of the slabs must be a positive number, not {slab_variance}.")
        self.observed, self.codes, self.active, self.slab_variance = observed, codes, active, slab_variance
        atoms = torch.randn(observed.size, codes, generator=generator)
        self.dictionary = nn.Parameter(atoms / atoms.norm(dim=0))
        self.visible_bias = nn.Parameter(torch.zeros(observed.size))
        self.log_odds = nn.Parameter(torch.full((codes,), math.log(active / (1 - active))))
        self.slab_mean = nn.Parameter(torch.zeros(codes))
        self.slab_log_variance = nn.Parameter(torch.full((codes,), math.log(slab_variance)))

    @property
    def noise_variance(self) -> Float[Tensor, " d"]:
        """σ²."""
        assert isinstance(self.observed, Gaussian)
        return self.observed.log_variance.exp()

    def prior(self, num: int) -> SpikeSlabCode:
        variance = self.slab_log_variance.exp()
        return SpikeSlabCode(self.log_odds.expand(num, -1), self.slab_mean.expand(num, -1), variance, variance)

    def decode(self, z: Latents) -> Float[Tensor, "n d"]:
        h, s = z
        return (h * s) @ self.dictionary.T + self.visible_bias

    def rows(self, x: Float[Tensor, "n d"]) -> SpikeSlabRows:
        """What inference needs of x."""
        weighted = self.observed.statistic(self.dictionary.T)
        return SpikeSlabRows(weighted @ self.dictionary, weighted @ (x - self.visible_bias).T, self.prior(1))

    @torch.no_grad()
    def encode(self, x: Float[Tensor, "n d"]) -> SpikeSlabCode:
        """q(h, s | x) = Π_j q(h_j) q(s_j | h_j), the best given all other factors (Goodfellow et al., 2012).

        Coordinate ascent from q = no spikes: every update is the exact optimum of its factor, so that the bound never
        falls, until no mean moves by more than 1e-4 of the slab's deviation, or 50 sweeps. It carries no gradient: at
        the optimum of a bound the bound's gradient through q is zero.
        """
        check_width(x, self.observed.size)
        rows = self.rows(x)
        y, residual = torch.zeros_like(rows.correlation), rows.correlation.clone()
        logit, centre = torch.empty_like(y), torch.empty_like(y)
        deviation = rows.prior.on.sqrt()
        for _ in range(_SWEEPS):
            moved = y.new_zeros(())
            for j in range(self.codes):
                site = rows.site(j, y, residual)
                logit[j], centre[j] = site.logit, site.centre
                moved = torch.maximum(moved, rows.move(j, site.mean, y, residual).abs().amax() / deviation[j])
            if moved < _SETTLED:
                break
        on = 1 / (1 / rows.prior.on + rows.gram.diagonal())
        return SpikeSlabCode(logit.T, centre.T, on, rows.prior.off)

    def bound(self, x: Float[Tensor, "n d"], q: SpikeSlabCode) -> Float[Tensor, " n"]:
        """E_q[log p(x, h, s) − log q(h, s)], nats, in closed form: at most log p(x)."""
        mean = q.mean
        spread = (q.square - mean.square()) @ self.observed.statistic(self.dictionary.T).mul(self.dictionary.T).sum(1)
        expected = self.observed.log_prob(mean @ self.dictionary.T + self.visible_bias, x) - 0.5 * spread
        return expected - q.divergence(self.prior(1))

    def transform(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n k"]:
        """q(h_j = 1 | x), as features; for scikit-learn's pipelines and as examples of a next layer."""
        return torch.sigmoid(self.encode(x).logit)

    def log_evidence(self, x: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
        """log p(x) = log Σ_h P(h) N(x; D (h ∘ μ) + b, D diag(h ∘ v) Dᵀ + diag(σ²)), nats, exact: for at most 14 codes."""
        if self.codes > MOST_ENUMERATED:
            raise BadInput(f"The spikes of {self.codes} codes are too many to enumerate: use AIS or the bound.")
        prior, noise = self.prior(1), torch.diag(self.noise_variance)
        spikes = Bernoulli(self.codes).states(torch.arange(2**self.codes, device=x.device)).to(x)
        terms = []
        for h in spikes.split(_CONFIGURATIONS):
            loading = self.dictionary * (h * prior.on.sqrt())[:, None]
            slabs = MultivariateNormal(self.decode((h, prior.centre)), loading @ loading.mT + noise)
            log_spikes = (h * prior.logit).sum(1) - nn.functional.softplus(prior.logit).sum()
            terms.append(log_spikes + slabs.log_prob(x[:, None]))
        return torch.logsumexp(torch.cat(terms, 1), 1)

    @torch.no_grad()
    def initialise_from_data(self, x: Float[Tensor, "n d"]) -> None:
        """Set the bias to the mean of `x` and the atoms to rows of it, of unit length, from the longer half."""
        self.visible_bias.copy_(x.mean(0))
        rows = x - x.mean(0)
        length = rows.norm(dim=1)
        rows = (rows / length[:, None])[length > length.median()][: self.codes]
        self.dictionary[:, : len(rows)] = rows.T

    def config(self) -> dict[str, Any]:
        start = {"active": self.active, "slab_variance": self.slab_variance}
        return {"observed": self.observed.config(), "codes": self.codes, **start}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> S3C:
        options = dict(config)
        observed = unit_from_config(options.pop("observed"))
        if not isinstance(observed, Gaussian):
            raise BadInput("S3C has a Gaussian observed layer: give no other units.")
        return cls(observed, options.pop("codes"), **options)
