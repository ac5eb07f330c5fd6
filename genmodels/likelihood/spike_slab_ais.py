"""log p(x) of spike-and-slab sparse coding: annealed importance sampling by Gibbs sweeps."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from genmodels.errors import BadInput
from genmodels.interface import Latents
from genmodels.likelihood.estimate import Estimate
from genmodels.likelihood.latent_ais import Sandwich, lower_bound, row_log_weights, sandwiched
from genmodels.progress import Progress, no_progress
from genmodels.s3c import S3C
from samplers import ais_log_weights, reverse_ais_log_weights


class SpikeSlabState(NamedTuple):
    """Codes of the chains, a code a row, with Dᵀ P (x − D y)."""

    y: Float[Tensor, "k n"]
    residual: Float[Tensor, "k n"]


class SpikeSlabPath:
    """The codes of the rows of x, a chain a row, from the prior to the posterior: f_β = p(y) p(x | y)^β, relative to p(y).

    A transition is a Gibbs sweep over all codes and one back, which together are reversible. Satisfies `samplers.Path`.
    """

    def __init__(self, model: S3C, x: Float[Tensor, "n d"]):
        self._model, self._x, self._rows = model, x, model.rows(x)
        field = model.visible_bias.expand_as(x)
        self._without_codes = model.observed.log_prob(field, x).double()

    def start(self, num: int, generator: torch.Generator) -> SpikeSlabState:
        return self.state_of(self._model.prior(len(self._x)).draw(generator))

    def state_of(self, z: Latents) -> SpikeSlabState:
        """The path's state at the given latents."""
        return self._fresh((z[0] * z[1]).T.contiguous())

    def log_density(self, state: SpikeSlabState, beta: float) -> Float[Tensor, " n"]:
        codes = 0.5 * (state.y * (self._rows.correlation + state.residual)).double().sum(0)
        return beta * (self._without_codes + codes)

    def transition(self, state: SpikeSlabState, beta: float, generator: torch.Generator) -> SpikeSlabState:
        y, residual = state.y.clone(), state.residual.clone()
        for order in (range(len(y)), reversed(range(len(y)))):
            self._rows.gibbs(y, residual, beta, generator, order)
        return self._fresh(y)

    def _fresh(self, y: Float[Tensor, "k n"]) -> SpikeSlabState:
        # Rounding adds up in the residual, one change after the other.
        return SpikeSlabState(y, self._rows.residual(y))


def _schedule(num_temperatures: int) -> Float[Tensor, " t"]:
    """β from 0 to 1 as cubes: at 0 the prior is indifferent to x, and the likelihood of its draws varies most."""
    if num_temperatures < 1:
        raise BadInput("Annealing needs at least one temperature.")
    return torch.linspace(0, 1, num_temperatures + 1, dtype=torch.float64) ** 3


@torch.no_grad()
def spike_slab_log_weights(
    model: S3C,
    x: Float[Tensor, "n d"],
    *,
    num_temperatures: int = 500,
    num_chains: int = 16,
    exact: Latents | None = None,
    group_size: int | None = None,
    generator: torch.Generator,
    progress: Progress = no_progress,
) -> Float[Tensor, "c n"]:
    """Log-weights of AIS of every chain and row, float64, nats; in reverse from `exact` latents where they are given."""
    betas = _schedule(num_temperatures)

    def annealed(rows: Tensor, repeats: int, generator: torch.Generator) -> Float[Tensor, " m"]:
        path = SpikeSlabPath(model, x[rows].repeat(repeats, 1))
        if exact is None:
            return ais_log_weights(path, betas, repeats * len(rows), generator=generator)
        state = path.state_of(tuple(layer[rows].repeat(repeats, 1) for layer in exact))
        return reverse_ais_log_weights(path, betas, state, generator=generator)

    return row_log_weights(annealed, x, num_chains, group_size=group_size, generator=generator, progress=progress)


def spike_slab_ais(
    model: S3C,
    x: Float[Tensor, "n d"],
    *,
    num_temperatures: int = 500,
    num_chains: int = 16,
    group_size: int | None = None,
    generator: torch.Generator,
    progress: Progress = no_progress,
) -> Estimate:
    """Mean over the rows of log p(x) by AIS from the prior to the posterior of each row's codes, nats per example.

    In expectation a lower bound, which rises to log p(x) with temperatures and chains (Neal, 2001); its error is that of
    `latent_ais`. Slabs that are off are summed out exactly.
    """
    weights = spike_slab_log_weights(
        model,
        x,
        num_temperatures=num_temperatures,
        num_chains=num_chains,
        group_size=group_size,
        generator=generator,
        progress=progress,
    )
    return lower_bound(weights, num_temperatures)


@torch.no_grad()
def spike_slab_bdmc(
    model: S3C,
    *,
    num_rows: int = 100,
    num_temperatures: int = 500,
    num_chains: int = 16,
    group_size: int | None = None,
    generator: torch.Generator,
    progress: Progress = no_progress,
) -> Sandwich:
    """Bidirectional Monte Carlo on rows simulated from the model, as `latent_bdmc`."""

    def weights(x: Tensor, exact: Latents | None) -> Float[Tensor, "c n"]:
        return spike_slab_log_weights(
            model,
            x,
            num_temperatures=num_temperatures,
            num_chains=num_chains,
            exact=exact,
            group_size=group_size,
            generator=generator,
            progress=progress,
        )

    return sandwiched(model, num_rows, weights, num_temperatures, generator)
