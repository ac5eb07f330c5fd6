"""Bounds on log p(x) from draws of q(z | x): the ELBO and its importance-weighted tightening."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from genmodels.errors import BadInput
from genmodels.interface import JointDensity, JointEnergy, Recognition, check_width, require
from genmodels.likelihood.estimate import Bound, Estimate
from genmodels.progress import Progress, no_progress

MAX_ROWS = 4096  # rows through the model at once; what is kept of each is its log-weight


def elbo(
    model: JointEnergy,
    x: Float[Tensor, "n d"],
    *,
    generator: torch.Generator,
    log_z: Estimate | None = None,
    num_samples: int = 1,
    progress: Progress = no_progress,
) -> Estimate:
    """Mean over the rows of E_q[log p(x, z) − log q(z | x)], nats per example: a lower bound on the mean log p(x).

    The expectation is a mean over `num_samples` draws, unbiased; the standard error is that of the draws. A model that is
    not normalised needs `log_z`; see `importance_bound` for what its kind of bound does. Jordan et al. (1999).
    """
    log_weight = log_weights(model, x, num_samples=num_samples, generator=generator, progress=progress)
    error = _error_of_means(log_weight)
    return _with_log_z(model, float(log_weight.mean()), error, log_z, f"ELBO, {num_samples} draws", num_samples)


def importance_bound(
    model: JointEnergy,
    x: Float[Tensor, "n d"],
    *,
    num_samples: int,
    generator: torch.Generator,
    log_z: Estimate | None = None,
    progress: Progress = no_progress,
) -> Estimate:
    """Mean over the rows of log (1/K) Σ_k p(x, z_k) / q(z_k | x) for K draws of q, nats per example (IWAE-K).

    In expectation a lower bound on the mean log p(x) that rises with K towards it (Burda, Grosse and Salakhutdinov, 2016).
    The standard error is that of the draws, by the delta method, too small where few draws carry the weight: the
    diagnostics hold the mean effective sample size over the rows. For a model that is not normalised, log Z is taken off:
    a `log_z` that is itself a lower bound leaves a number that bounds nothing, and is labelled so.
    """
    log_weight = log_weights(model, x, num_samples=num_samples, generator=generator, progress=progress)
    value = torch.logsumexp(log_weight, 0) - math.log(num_samples)
    relative = torch.exp(log_weight - log_weight.amax(0))
    ess = relative.sum(0).square() / relative.square().sum(0)
    variance = (1 / ess - 1 / num_samples).clamp_min(0) * num_samples / max(num_samples - 1, 1)
    error = math.inf if num_samples < 2 else float(variance.sum().sqrt()) / len(x)
    found = _with_log_z(model, float(value.mean()), error, log_z, f"importance-weighted bound, K = {num_samples}", 0)
    return Estimate(found.value, found.std_error, found.bound, found.method, num_samples, {"ess": float(ess.mean())})


@torch.no_grad()
def log_weights(
    model: JointEnergy,
    x: Float[Tensor, "n d"],
    *,
    num_samples: int,
    generator: torch.Generator,
    progress: Progress = no_progress,
) -> Float[Tensor, "k n"]:
    """−E(x, z_k) − log q(z_k | x) for `num_samples` draws z_k of q a row, float64, nats."""
    require(model, JointEnergy, Recognition, by="a variational bound")
    check_width(x, x.shape[-1])  # the model knows its width; here it is the two axes and at least one row
    if num_samples < 1:
        raise BadInput(f"A bound needs at least one draw, not {num_samples}.")
    assert isinstance(model, Recognition)
    found = torch.empty(num_samples, len(x), dtype=torch.float64, device=x.device)
    # A batch is some rows with all their draws, or some draws of one row.
    draws = min(num_samples, MAX_ROWS)
    rows_at_once = max(1, MAX_ROWS // draws)
    for first in progress(range(0, len(x), rows_at_once), "draws of q"):
        rows = x[first : first + rows_at_once]
        for begin in range(0, num_samples, draws):
            num = min(draws, num_samples - begin)
            repeated = rows.repeat(num, 1)
            z, log_q = model.recognise(repeated, generator=generator)
            weight = -model.energy(repeated, z).double() - log_q.double()
            found[begin : begin + num, first : first + len(rows)] = weight.view(num, len(rows))
    return found


def _error_of_means(log_weight: Tensor) -> float:
    """Standard error of the mean over rows of the mean over draws; the rows are given, the draws are random."""
    num, rows = log_weight.shape
    return math.inf if num < 2 else float((log_weight.var(0) / num).sum().sqrt()) / rows


def _with_log_z(
    model: JointEnergy, value: float, error: float, log_z: Estimate | None, method: str, samples: int
) -> Estimate:
    if log_z is None:
        if not isinstance(model, JointDensity):
            raise BadInput(f"{type(model).__name__} is not normalised: give its log_z, as by ais_log_z.")
        return Estimate(value, error, "lower", method, samples)
    # A lower bound minus what is too small may lie on either side.
    bound: Bound = "none" if log_z.bound in ("lower", "none") else "lower"
    total = math.hypot(error, log_z.std_error)
    return Estimate(value - log_z.value, total, bound, f"{method}, log Z by {log_z.method}", samples)
