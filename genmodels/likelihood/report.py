"""The likelihood of data under a model, exact or as a bracket."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from genmodels.errors import BadInput
from genmodels.interface import check_width, default_generator, require
from genmodels.likelihood.annealed import ais_log_z, raise_log_likelihood, reverse_ais_log_z
from genmodels.likelihood.estimate import Bound, Estimate
from genmodels.likelihood.exact import exact_log_z, mean_free_energy, num_enumerated_states
from genmodels.progress import Progress, no_progress
from genmodels.rbm import RBM
from samplers import salakhutdinov_murray_schedule
from samplers.fused import Precision

Method = Literal["auto", "exact", "ais", "raise"]
Schedule = Literal["salakhutdinov-murray", "uniform"]

_AUTO_EXACT_STATES = 1 << 16
_WIDE = 1.0
_FEW = 0.1
RAISE_CHAINS = 4


@dataclass(frozen=True)
class LikelihoodReport:
    """Mean log-likelihood of a data set, nats per example: the estimate, and the bracket around the truth.

    `lower` and `upper` bound the exact value from both sides, each in expectation; both are None where it is exact, one
    is None where nothing bounds the value from that side.
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
        """Upper minus lower, nats; 0 where the value is exact or has one side only."""
        return 0.0 if self.lower is None or self.upper is None else self.upper.value - self.lower.value

    def rows(self) -> dict[str, Estimate]:
        """The estimates under the names a reader knows them by: the value, or the sides of the bracket that there are."""
        sides = {"upper side": self.upper, "lower side": self.lower}
        known = {name: side for name, side in sides.items() if side is not None}
        return known or {"value": self.log_likelihood}

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
    precision: Precision = "auto",
    generator: torch.Generator | None = None,
    progress: Progress = no_progress,
) -> LikelihoodReport:
    """Mean log p(x) over the rows, nats per example, with its error, its kind of bound, and both sides of the bracket.

    "exact" enumerates the smaller side. The other methods give forward AIS as the value, an optimistic side, and below it
    the reverse AIS of chains started at the rows ("ais"), RAISE ("raise"), or both of them with RAISE as the lower side.
    "auto" is exact up to 2^16 states and all three beyond. `base` (default: x) gives the base rates where annealing
    starts; the estimates stay valid for any. `precision` "float32" forgoes the fast paths of `samplers.fused`.
    """
    require(model, RBM, by="log_likelihood")
    check_width(x, model.visible.size)
    model.visible.check(x)
    _check_arguments(method, schedule, num_chains, num_temperatures)
    started = time.perf_counter()
    generator = default_generator(0, x.device) if generator is None else generator
    states = num_enumerated_states(model)
    mean_free, spread = mean_free_energy(model, x)
    if method == "exact" or (method == "auto" and states is not None and states <= _AUTO_EXACT_STATES):
        log_z = exact_log_z(model, progress=progress)
        report = LikelihoodReport(from_log_z(mean_free, log_z), None, None, log_z, len(x), 0.0)
    else:
        annealing = _Annealing(
            model=model,
            x=x,
            base_bias=model.visible.bias_from_data(x if base is None else base).detach(),
            betas=_betas(schedule, num_temperatures),
            num_chains=num_chains,
            common={"num_steps": num_steps, "precision": precision, "generator": generator, "progress": progress},
        )
        report = annealing.bracket(method, mean_free, burn_in)
    diagnostics = {"example_std_error": spread / len(x) ** 0.5, **report.diagnostics}
    return replace(report, seconds=time.perf_counter() - started, diagnostics=diagnostics)


@dataclass(frozen=True)
class _Annealing:
    """What the annealed estimators share."""

    model: RBM
    x: Tensor
    base_bias: Tensor
    betas: Tensor
    num_chains: int
    common: dict[str, Any]

    def bracket(self, method: Method, mean_free: float, burn_in: int) -> LikelihoodReport:
        log_z = ais_log_z(self.model, self.base_bias, self.betas, num_chains=self.num_chains, **self.common)
        upper = from_log_z(mean_free, log_z)
        diagnostics, warnings = dict(log_z.diagnostics), _few("Forward AIS", log_z)
        sides: list[Estimate] = []
        if method != "raise":
            reverse = self._reverse(burn_in)
            sides.append(from_log_z(mean_free, reverse))
            diagnostics |= {f"reverse_{name}": value for name, value in reverse.diagnostics.items()}
            diagnostics |= {"reverse_log_z": reverse.value, "reverse_log_z_std_error": reverse.std_error}
            warnings += _few("Reverse AIS", reverse)
        if method != "ais":
            sides.append(self._raise())
        lower = sides[-1]
        width = upper.value - lower.value
        diagnostics["bracket_width"] = width
        if width > _WIDE:
            warnings += (f"The bracket is {width:.2f} nats wide: add temperatures before you trust either side.",)
        return LikelihoodReport(upper, lower, upper, log_z, len(self.x), 0.0, diagnostics, warnings)

    def _reverse(self, burn_in: int) -> Estimate:
        rows = torch.randint(len(self.x), (self.num_chains,), generator=self.common["generator"], device=self.x.device)
        return reverse_ais_log_z(self.model, self.x[rows], self.base_bias, self.betas, burn_in=burn_in, **self.common)

    def _raise(self) -> Estimate:
        examples = min(len(self.x), max(2, self.num_chains // RAISE_CHAINS))
        return raise_log_likelihood(
            self.model,
            self.x,
            self.base_bias,
            self.betas,
            num_examples=examples,
            num_chains=RAISE_CHAINS,
            **self.common,
        )


def from_log_z(mean_free_energy: float, log_z: Estimate) -> Estimate:
    """log p = −F − log Z: what bounds log Z from below bounds the likelihood from above."""
    turned: dict[Bound, Bound] = {"lower": "upper", "upper": "lower", "exact": "exact", "none": "none"}
    return replace(log_z, value=-mean_free_energy - log_z.value, bound=turned[log_z.bound])


def _check_arguments(method: str, schedule: str, num_chains: int, num_temperatures: int) -> None:
    for name, chosen, known in (("method", method, get_args(Method)), ("schedule", schedule, get_args(Schedule))):
        if chosen not in known:
            raise BadInput(f"Unknown {name} {chosen!r}; known are {', '.join(known)}.")
    if num_temperatures < 3:
        raise BadInput(f"Annealing needs at least 3 temperatures, not {num_temperatures}.")
    if num_chains < 2:
        raise BadInput(f"An error bar needs at least 2 chains, not {num_chains}.")


def _betas(schedule: Schedule, num_temperatures: int) -> Tensor:
    if schedule == "uniform":
        return torch.linspace(0, 1, num_temperatures + 1, dtype=torch.float64)
    return salakhutdinov_murray_schedule(num_temperatures)


def _few(name: str, estimate: Estimate) -> tuple[str, ...]:
    ess = estimate.diagnostics["ess"]
    if ess >= _FEW * estimate.samples:
        return ()
    return (
        f"{name} has an effective sample size of {ess:.1f} of {estimate.samples} chains: its error bar is too small.",
    )
