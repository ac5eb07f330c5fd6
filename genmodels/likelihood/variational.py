"""Bounds on log p(x) from draws of q(z | x): the ELBO and its importance-weighted tightening."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from genmodels.errors import BadInput
from genmodels.groups import Rows, in_groups
from genmodels.interface import Encoder, JointDensity, JointEnergy, Latents, Recognition, check_width, require
from genmodels.likelihood.estimate import Estimate
from genmodels.progress import Progress, no_progress

MAX_ROWS = 4096  # through the model at once


@torch.no_grad()
def elbo(
    model: JointEnergy,
    x: Float[Tensor, "n d"],
    *,
    generator: torch.Generator,
    log_z: Estimate | None = None,
    num_samples: int = 1,
    group_size: int | None = None,
    progress: Progress = no_progress,
) -> Estimate:
    """Mean over the rows of E_q[log p(x, z) − log q(z | x)], nats per example: a lower bound on the mean log p(x).

    The expectation is a mean over `num_samples` draws, unbiased; the standard error is that of the draws. A model that is
    not normalised needs `log_z`; see `importance_bound` for what its kind of bound does. Jordan et al. (1999).
    Groups of `group_size` rows have random numbers of their own, and all processes of torch.distributed share them.
    """
    rows = _each_row(_mean_of_means, model, x, num_samples, group_size, generator, progress)
    value, error = _over_rows(rows)[:2]
    return _with_log_z(model, Estimate(value, error, "lower", f"ELBO, {num_samples} draws", num_samples), log_z)


@torch.no_grad()
def importance_bound(
    model: JointEnergy,
    x: Float[Tensor, "n d"],
    *,
    num_samples: int,
    generator: torch.Generator,
    log_z: Estimate | None = None,
    group_size: int | None = None,
    progress: Progress = no_progress,
) -> Estimate:
    """Mean over the rows of log (1/K) Σ_k p(x, z_k) / q(z_k | x) for K draws of q, nats per example (IWAE-K).

    In expectation a lower bound on the mean log p(x) that rises with K towards it (Burda, Grosse and Salakhutdinov, 2016).
    The standard error is that of the draws, by the delta method, too small where few draws carry the weight: the
    diagnostics hold the mean effective sample size over the rows. For a model that is not normalised, log Z is taken off:
    a `log_z` that is itself a lower bound leaves a number that bounds nothing, and is labelled so. Groups of `group_size`
    rows have random numbers of their own, and all processes of torch.distributed share them.
    """
    rows = _each_row(_log_mean_exp, model, x, num_samples, group_size, generator, progress)
    value, error, ess = _over_rows(rows)
    method = f"importance-weighted bound, K = {num_samples}"
    return _with_log_z(model, Estimate(value, error, "lower", method, num_samples, {"ess": ess}), log_z)


def mean_log_mean_exp(log_weight: Float[Tensor, "k n"]) -> tuple[float, float, float]:
    """Mean over n rows of log (1/k) Σ exp(log_weight), its standard error, and the mean effective sample size.

    The error is that of the k draws of each row, by the delta method: too small where few of them carry the weight.
    """
    return _over_rows(_log_mean_exp(log_weight))


@torch.no_grad()
def log_weights(
    model: JointEnergy,
    x: Float[Tensor, "n d"],
    *,
    num_samples: int,
    generator: torch.Generator,
    group_size: int | None = None,
    progress: Progress = no_progress,
) -> Float[Tensor, "k n"]:
    """−E(x, z_k) − log q(z_k | x) for `num_samples` draws z_k of q a row, float64, nats; groups as in `elbo`."""

    def work(numbers: Tensor, generator: torch.Generator) -> Rows:
        return (torch.cat(list(_by_rows(model, x[numbers], num_samples, generator, progress)), 1).T,)

    (weights,) = in_groups(len(x), group_size, generator, work)
    return weights.T


def _each_row(
    summary: Callable[[Tensor], _Rows],
    model: JointEnergy,
    x: Float[Tensor, "n d"],
    num_samples: int,
    group_size: int | None,
    generator: torch.Generator,
    progress: Progress,
) -> _Rows:
    """A summary of the log-weights of every row."""

    def work(numbers: Tensor, generator: torch.Generator) -> Rows:
        parts = [summary(part) for part in _by_rows(model, x[numbers], num_samples, generator, progress)]
        return tuple(torch.cat(column) for column in zip(*parts, strict=True))

    return _Rows(*in_groups(len(x), group_size, generator, work))


def _by_rows(
    model: JointEnergy, x: Float[Tensor, "n d"], num_samples: int, generator: torch.Generator, progress: Progress
) -> Iterator[Float[Tensor, "k m"]]:
    """The log-weights of some rows after the other, with all draws of each."""
    require(model, JointEnergy, Recognition, by="a variational bound")
    check_width(x, x.shape[-1])  # the model knows its width; here it is the two axes and at least one row
    if num_samples < 1:
        raise BadInput(f"A bound needs at least one draw, not {num_samples}.")
    assert isinstance(model, Recognition)
    draws = min(num_samples, MAX_ROWS)
    rows_at_once = max(1, MAX_ROWS // draws)
    for first in progress(range(0, len(x), rows_at_once), "draws of q"):
        rows = x[first : first + rows_at_once]
        recognise, parts = _recogniser(model, rows, generator), []
        for begin in range(0, num_samples, draws):
            num = min(draws, num_samples - begin)
            z, log_q = recognise(num)
            weight = -model.energy(rows.repeat(num, 1), z).double() - log_q.double()
            parts.append(weight.view(num, len(rows)))
        yield torch.cat(parts)


def _recogniser(
    model: Recognition, rows: Tensor, generator: torch.Generator
) -> Callable[[int], tuple[Latents, Tensor]]:
    """What draws so many codes of every row, with their log-density."""
    if not isinstance(model, Encoder):
        return lambda num: model.recognise(rows.repeat(num, 1), generator=generator)
    code = model.encode(rows)

    def draw(num: int) -> tuple[Latents, Tensor]:
        # The network runs once a row, not once a draw.
        repeated = code.repeat(num)
        z = repeated.draw(generator)
        return z, repeated.log_prob(z)

    return draw


class _Rows(NamedTuple):
    """What is kept of each row."""

    value: Float[Tensor, " n"]
    variance: Float[Tensor, " n"]
    """Of the value, over the draws; infinite for a single draw."""
    ess: Float[Tensor, " n"]


def _log_mean_exp(log_weight: Float[Tensor, "k n"]) -> _Rows:
    num = len(log_weight)
    value = torch.logsumexp(log_weight, 0) - math.log(num)
    relative = torch.exp(log_weight - log_weight.amax(0))
    ess = relative.sum(0).square() / relative.square().sum(0)
    variance = (1 / ess - 1 / num).clamp_min(0) * num / (num - 1) if num > 1 else torch.full_like(ess, math.inf)
    return _Rows(value, variance, ess)


def _mean_of_means(log_weight: Float[Tensor, "k n"]) -> _Rows:
    num, value = len(log_weight), log_weight.mean(0)
    variance = log_weight.var(0) / num if num > 1 else torch.full_like(value, math.inf)
    return _Rows(value, variance, torch.full_like(value, num))


def _over_rows(rows: _Rows) -> tuple[float, float, float]:
    """Mean value, its standard error, and mean effective sample size; the rows are given, the draws are random."""
    value, variance, ess = rows
    return float(value.mean()), float(variance.sum().sqrt()) / len(value), float(ess.mean())


def _with_log_z(model: JointEnergy, found: Estimate, log_z: Estimate | None) -> Estimate:
    if log_z is None:
        if not isinstance(model, JointDensity):
            raise BadInput(f"{type(model).__name__} is not normalised: give its log_z, as by ais_log_z.")
        return found
    return replace(
        found,
        value=found.value - log_z.value,
        std_error=math.hypot(found.std_error, log_z.std_error),
        # A lower bound minus what is too small may lie on either side.
        bound="none" if log_z.bound in ("lower", "none") else "lower",
        method=f"{found.method}, log Z by {log_z.method}",
    )
