"""The likelihood of data under a model, exact or as a bracket."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from genmodels.errors import BadInput
from genmodels.interface import check_width, default_generator, require
from genmodels.likelihood.annealed import ais_log_z, raise_log_likelihood, reverse_ais_log_z
from genmodels.likelihood.estimate import Estimate
from genmodels.likelihood.exact import exact_log_z, mean_free_energy, num_enumerated_states
from genmodels.progress import Progress, no_progress
from genmodels.rbm import RBM
from samplers import salakhutdinov_murray_schedule

Method = Literal["auto", "exact", "ais", "raise"]
Schedule = Literal["salakhutdinov-murray", "uniform"]

_AUTO_EXACT_STATES = 1 << 16
_WIDE = 1.0
_FEW = 0.1


@dataclass(frozen=True)
class LikelihoodReport:
    """Mean log-likelihood of a data set, nats per example: the estimate, and the bracket around the truth.

    `lower` and `upper` bound the exact value from both sides, each in expectation; both are None where it is exact.
    """

    log_likelihood: Estimate
    lower: Estimate | None
    upper: Estimate | None
    log_z: Estimate
    num_examples: int
    seconds: float
    diagnostics: dict[str, float] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    @property
    def bracket_width(self) -> float:
        """Upper minus lower, nats; 0 where the value is exact."""
        return 0.0 if self.lower is None or self.upper is None else self.upper.value - self.lower.value

    def rows(self) -> dict[str, Estimate]:
        """The estimates under the names a reader knows them by."""
        named = {"value": self.log_likelihood, "lower side": self.lower, "upper side": self.upper}
        return {name: estimate for name, estimate in named.items() if estimate is not None}

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "num_examples": self.num_examples,
            "log_likelihood": self.log_likelihood.to_dict(),
            "lower": self.lower.to_dict() if self.lower else None,
            "upper": self.upper.to_dict() if self.upper else None,
            "log_z": self.log_z.to_dict(),
            "diagnostics": {**self.diagnostics, "warnings": list(self.warnings)},
            "seconds": self.seconds,
        }


def log_likelihood(
    model: RBM,
    x: Float[Tensor, "n d"],
    *,
    method: Method = "auto",
    base: Float[Tensor, "m d"] | None = None,
    num_chains: int = 100,
    num_temperatures: int = 14_500,
    schedule: Schedule = "salakhutdinov-murray",
    num_steps: int = 1,
    burn_in: int = 1000,
    generator: torch.Generator | None = None,
    progress: Progress = no_progress,
) -> LikelihoodReport:
    """Mean log p(x) over the rows, nats per example, with its error, its kind of bound, and both sides of the bracket.

    "exact" enumerates the smaller side. "ais" brackets log Z between forward AIS and reverse AIS from chains started at
    the rows; "raise" takes RAISE as the lower side. "auto" is exact up to 2^16 states; beyond, "ais", with the RAISE side
    beside it in the diagnostics. The value of an inexact method is forward AIS, an optimistic side: read it with the
    bracket. `base` (default: x) gives the base rates where annealing starts; the estimates stay valid for any.
    """
    require(model, RBM, by="log_likelihood")
    check_width(x, model.visible.size)
    model.visible.check(x)
    started = time.perf_counter()
    generator = default_generator(0, x.device) if generator is None else generator
    if method == "auto":
        states = num_enumerated_states(model)
        method = "exact" if states is not None and states <= _AUTO_EXACT_STATES else "ais"
    mean_free, spread = mean_free_energy(model, x)
    spread_error = spread / len(x) ** 0.5
    if method == "exact":
        log_z = exact_log_z(model, progress=progress)
        value = replace(_from_log_z(mean_free, log_z), diagnostics={})
        return LikelihoodReport(
            value, None, None, log_z, len(x), time.perf_counter() - started, {"example_std_error": spread_error}
        )
    if method not in ("ais", "raise"):
        raise BadInput(f"Unknown method {method!r}; known are auto, exact, ais, raise.")
    if num_temperatures < 3:
        raise BadInput(f"Annealing needs at least 3 temperatures, not {num_temperatures}.")
    if num_chains < 2:
        raise BadInput(f"An error bar needs at least 2 chains, not {num_chains}.")
    betas = _betas(schedule, num_temperatures)
    base_bias = model.visible.bias_from_data(x if base is None else base).detach()
    common = {"num_steps": num_steps, "generator": generator, "progress": progress}
    log_z = ais_log_z(model, base_bias, betas, num_chains=num_chains, **common)
    upper = _from_log_z(mean_free, log_z)
    diagnostics = {"example_std_error": spread_error, **log_z.diagnostics}
    warnings = _few("Forward AIS", log_z)
    if method == "ais":
        rows = torch.randint(len(x), (num_chains,), generator=generator, device=x.device)
        reverse = reverse_ais_log_z(model, x[rows], base_bias, betas, burn_in=burn_in, **common)
        lower = _from_log_z(mean_free, reverse)
        diagnostics |= {"log_z_reverse": reverse.value, "log_z_reverse_std_error": reverse.std_error}
        diagnostics |= {"ess_reverse": reverse.diagnostics["ess"]}
        warnings += _few("Reverse AIS", reverse)
    else:
        chains_each = 4
        examples = max(2, num_chains // chains_each)
        lower = raise_log_likelihood(
            model, x, base_bias, betas, num_examples=examples, num_chains=chains_each, **common
        )
    diagnostics["bracket_width"] = upper.value - lower.value
    if upper.value - lower.value > _WIDE:
        warnings += (
            f"The bracket is {upper.value - lower.value:.2f} nats wide: add temperatures before you trust either side.",
        )
    seconds = time.perf_counter() - started
    return LikelihoodReport(upper, lower, upper, log_z, len(x), seconds, diagnostics, warnings)


def _betas(schedule: Schedule, num_temperatures: int) -> Tensor:
    if schedule == "uniform":
        return torch.linspace(0, 1, num_temperatures + 1, dtype=torch.float64)
    return salakhutdinov_murray_schedule(num_temperatures)


def _from_log_z(mean_free_energy: float, log_z: Estimate) -> Estimate:
    """log p = −F − log Z: what bounds log Z from below bounds the likelihood from above."""
    turned = {"lower": "upper", "upper": "lower", "exact": "exact", "none": "none"}
    return replace(log_z, value=-mean_free_energy - log_z.value, bound=turned[log_z.bound])  # pyright: ignore


def _few(name: str, estimate: Estimate) -> tuple[str, ...]:
    ess = estimate.diagnostics["ess"]
    if ess >= _FEW * estimate.samples:
        return ()
    return (
        f"{name} has an effective sample size of {ess:.1f} of {estimate.samples} chains: its error bar is too small.",
    )
