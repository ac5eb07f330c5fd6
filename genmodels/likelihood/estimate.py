"""A number that carries its meaning."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

Bound = Literal["exact", "lower", "upper", "none"]

_WORDS = {
    "exact": "exact",
    "lower": "lower bound in expectation",
    "upper": "upper bound in expectation",
    "none": "no bound",
}


@dataclass(frozen=True)
class Estimate:
    """An estimated quantity in nats.

    `bound` says how the estimate's expectation lies to the true value ("lower": at or below it). `std_error` is the
    standard error of the estimator itself (its Monte Carlo error), 0 for exact numbers; it does not include the choice
    of test examples. `samples` counts the independent chains or draws behind it.
    """

    value: float
    std_error: float
    bound: Bound
    method: str
    samples: int
    diagnostics: Mapping[str, float] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.value:.3f} ± {self.std_error:.3f} nats ({_WORDS[self.bound]}; {self.method})"

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready: value, std_error, bound and method."""
        return {"value": self.value, "std_error": self.std_error, "bound": self.bound, "method": self.method}


def log_mean_exp(log_weight: Tensor) -> float:
    """log of the mean of exp(log_weight) over all entries, in float64."""
    weights = log_weight.double()
    return float(torch.logsumexp(weights.flatten(), 0)) - math.log(weights.numel())


def log_mean_exp_error(log_weight: Tensor) -> float:
    """Standard error of `log_mean_exp` by the delta method: std(w) / (mean(w) √n).

    Asymptotic in n; too small where a few weights dominate, which the effective sample size shows.
    """
    weights = torch.exp(log_weight.double() - log_weight.max())
    if len(weights) < 2:
        return math.inf
    return float(weights.std() / weights.mean() / math.sqrt(len(weights)))


def effective_sample_size(log_weight: Tensor) -> float:
    """(Σ w)² / Σ w² (Kong, 1992), between 1 and n."""
    weights = torch.exp(log_weight.double() - log_weight.max())
    return float(weights.sum().square() / weights.square().sum())
