"""Likelihoods of a Markov chain from its samples: the conservative estimator, and Parzen windows for historic tables."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from genmodels.errors import BadInput
from genmodels.groups import Rows, in_groups
from genmodels.interface import Denoiser, check_width, default_generator
from genmodels.likelihood.estimate import Estimate
from genmodels.progress import Progress, no_progress
from genmodels.units import Gaussian, Unit

_BLOCK = 1000


@torch.no_grad()
def chain_fields(
    model: Denoiser,
    start: Float[Tensor, "c d"],
    num_steps: int,
    *,
    burn_in: int = 0,
    thin: int = 1,
    group_size: int | None = None,
    generator: torch.Generator,
    progress: Progress = no_progress,
) -> Float[Tensor, "s c f"]:
    """The parameters of P(x | x̃) at every `thin`-th step of walk-back chains after `burn_in` steps: what `csl` takes.

    Groups of `group_size` chains have random numbers of their own, and all processes of torch.distributed share them.
    """
    if num_steps < 1:
        raise BadInput("There must be at least one step after the burn-in.")

    def work(numbers: Tensor, generator: torch.Generator) -> Rows:
        state, fields = model.start(start[numbers]), []
        for step in progress(range(burn_in + num_steps), "walk-back"):
            parameters = model.reconstruct(model.corrupt(state, model.corruption_noise(state, generator)))
            if step >= burn_in and (step - burn_in) % thin == 0:
                fields.append(model.apart(parameters)[0])
            state = model.draw(parameters, model.reconstruction_noise(state, generator))
        return (torch.stack(fields, 1),)

    (fields,) = in_groups(len(start), group_size, generator, work)
    return fields.transpose(0, 1)


@torch.no_grad()
def csl(
    observed: Unit,
    x: Float[Tensor, "n d"],
    fields: Float[Tensor, "s c f"],
    *,
    group_size: int | None = None,
    progress: Progress = no_progress,
) -> Estimate:
    """Mean over the rows of log (1/S) Σ_s P(x | x̃_s) for the S = s · c corrupted states of c stationary chains, nats per example.

    The conservative sampling-based estimator of the log-likelihood (Bengio, Yao and Cho, 2013): where the chains stand at
    their invariant distribution π, in expectation a lower bound on log Σ_x̃ π(x̃) P(x | x̃), which is the log-probability of
    x under that distribution, and it rises to it with S; slowly, where few states explain a row. `fields` holds the
    parameters of P(x | x̃_s), steps by chains. The standard error is that of the chains by the delta method, from their
    differences (of the states, for a single chain, as if they were independent); too small where few states carry the weight,
    which the diagnostics' effective sample size shows. All processes of torch.distributed share the rows, in groups of
    `group_size`; nothing here is random.
    """
    check_width(x, observed.size)
    observed.check(x)
    value, error, ess = _mean_log_mixture(observed, x, fields, group_size, progress)
    steps, chains = fields.shape[:2]
    what = f"CSL, {chains} chains × {steps} states"
    return Estimate(value, error, "lower", what, steps * chains, {"ess": ess})


@torch.no_grad()
def parzen(x: Float[Tensor, "n d"], samples: Float[Tensor, "s d"], bandwidth: float) -> Estimate:
    """Mean log-density of the rows under a Gaussian of deviation `bandwidth` around each sample, nats per example.

    A number of historic tables (Breuleux, Bengio and Vincent, 2011), and no bound on anything: it ranks models wrongly (Wu
    et al., 2017). Choose the bandwidth on validation rows, by `best_bandwidth`. The standard error is that of the samples.
    """
    check_width(x, samples.shape[1])
    unit = Gaussian(x.shape[1]).to(x.device, torch.float64)
    unit.log_variance.fill_(2 * math.log(bandwidth))
    value, error, ess = _mean_log_mixture(unit, x, samples[None], None, no_progress)
    what = f"Parzen windows, {len(samples)} samples, bandwidth {bandwidth:.3g}"
    return Estimate(value, error, "none", what, len(samples), {"ess": ess})


def best_bandwidth(valid: Float[Tensor, "n d"], samples: Float[Tensor, "s d"], candidates: Sequence[float]) -> float:
    """The candidate under which the validation rows have the largest mean log-density by `parzen`."""
    if not candidates:
        raise BadInput("There are no bandwidths to choose from.")
    return max(candidates, key=lambda bandwidth: parzen(valid, samples, bandwidth).value)


def _mean_log_mixture(
    observed: Unit, x: Tensor, fields: Tensor, group_size: int | None, progress: Progress
) -> tuple[float, float, float]:
    """Mean over rows of log (1/S) Σ_s P(x | s), its standard error, and the mean effective sample size of a row."""
    steps, chains = fields.shape[:2]
    flat = fields.flatten(0, 1).double()
    unit = _as_double(observed)
    normaliser = torch.cat([unit.log_partition(part) for part in flat.split(_BLOCK)])
    blocks = x.split(_BLOCK if group_size is None else group_size)

    def work(numbers: Tensor, generator: torch.Generator) -> Rows:
        totals, ess, share = [], [], []
        for i in progress(range(len(numbers)), "rows of data"):
            rows = blocks[int(numbers[i])].double()
            log_p = unit.statistic(rows) @ flat.T + unit.log_base(rows)[:, None] - normaliser
            total = torch.logsumexp(log_p, 1)
            weight = torch.exp(log_p - total[:, None])
            totals.append(total.sum())
            ess.append((1 / weight.square().sum(1)).sum())
            share.append(weight.sum(0))
        return torch.stack(totals), torch.stack(ess), torch.stack(share)

    shared = None if group_size is None else 1
    total, ess, share = (part.sum(0) for part in in_groups(len(blocks), shared, default_generator(0, x.device), work))
    # Each state's part in the mean of log-means, 1 on average: how the value moves with the state's frequency.
    part = share / len(x) * len(flat)
    independent = part.view(steps, chains).mean(0) if chains > 1 else part
    error = math.inf if len(independent) < 2 else float(independent.std()) / len(independent) ** 0.5
    return float(total) / len(x) - math.log(len(flat)), error, float(ess) / len(x)


def _as_double(observed: Unit) -> Unit:
    return copy.deepcopy(observed).double()
