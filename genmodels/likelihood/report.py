"""The likelihood of data under a model, exact or as a bracket."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from genmodels.dbm import DBM
from genmodels.dbn import DBN
from genmodels.errors import BadInput
from genmodels.interface import check_width, default_generator
from genmodels.likelihood.annealed import ais_log_z, raise_log_likelihood, reverse_ais_log_z
from genmodels.likelihood.estimate import Bound, Estimate
from genmodels.likelihood.exact import exact_log_z, mean_free_energy, num_enumerated_states
from genmodels.likelihood.variational import importance_bound
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
        first = {"upper side": self.upper} if self.upper is not None else {"value": self.log_likelihood}
        return first if self.lower in (None, *first.values()) else {**first, "lower side": self.lower}

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
    model: RBM | DBM,
    x: Float[Tensor, "n d"],
    *,
    method: Method = "auto",
    base: Float[Tensor, "m d"] | None = None,
    num_chains: int = 100,
    num_temperatures: int = 14_500,
    schedule: Schedule = "salakhutdinov-murray",
    num_steps: int = 1,
    burn_in: int = 1000,
    group_size: int | None = None,
    precision: Precision = "auto",
    generator: torch.Generator | None = None,
    progress: Progress = no_progress,
) -> LikelihoodReport:
    """Mean log p(x) over the rows, nats per example, with its error, its kind of bound, and both sides of the bracket.

    "exact" enumerates the smaller side. The other methods give forward AIS as the value, an optimistic side, and below it
    the reverse AIS of chains started at the rows ("ais"), RAISE ("raise"), or both of them with RAISE as the lower side.
    "auto" is exact up to 2^16 states and all three beyond. For a DBM with several hidden layers the bound of its mean field
    stands in for log p: what would be the value or its upper side then bounds from below (log Z exact) or not at all (by
    forward AIS), and is labelled so. `base` (default: x) gives the base rates where annealing starts; the estimates stay
    valid for any. `precision` "float32" forgoes the fast paths of `samplers.fused`. With `group_size` the chains are shared by
    all processes of torch.distributed, and the report does not depend on their number.
    """
    if not isinstance(model, (RBM, DBM)):
        raise BadInput(
            f"log_likelihood takes an RBM or a DBM, not {type(model).__name__}: use elbo or importance_bound."
        )
    check_width(x, model.units[0].size)
    model.units[0].check(x)
    _check_arguments(method, schedule, num_chains, num_temperatures)
    started = time.perf_counter()
    generator = default_generator(0, x.device) if generator is None else generator
    states = num_enumerated_states(model)
    mean_free, spread = mean_free_energy(model, x)
    if method == "exact" or (method == "auto" and states is not None and states <= _AUTO_EXACT_STATES):
        log_z = exact_log_z(model, progress=progress)
        report = LikelihoodReport(_value(model, mean_free, log_z), None, None, log_z, len(x), 0.0)
    else:
        annealing = _Annealing(
            model=model,
            x=x,
            base_bias=model.units[0].bias_from_data(x if base is None else base).detach(),
            betas=_betas(schedule, num_temperatures),
            num_chains=num_chains,
            common={
                "num_steps": num_steps,
                "group_size": group_size,
                "precision": precision,
                "generator": generator,
                "progress": progress,
            },
        )
        report = annealing.bracket(method, mean_free, burn_in)
    diagnostics = {"example_std_error": spread / len(x) ** 0.5, **report.diagnostics}
    return replace(report, seconds=time.perf_counter() - started, diagnostics=diagnostics)


def importance_weighted(
    report: LikelihoodReport,
    model: DBM,
    x: Float[Tensor, "n d"],
    *,
    num_samples: int,
    group_size: int | None = None,
    generator: torch.Generator,
    progress: Progress = no_progress,
) -> LikelihoodReport:
    """The report of `log_likelihood` by "exact" or "ais", its variational bound tightened by K draws of the mean field.

    The tightening is `importance_bound` less the bound in closed form, which no log Z enters: in expectation the result
    keeps each number's kind of bound. Burda, Grosse and Salakhutdinov (2016), with the mean field as the proposal. With
    `group_size` all processes share the rows, as in `importance_bound`.
    """
    started = time.perf_counter()
    free = Estimate(0.0, 0.0, "exact", "none", 0)
    common = {"group_size": group_size, "generator": generator, "progress": progress}
    tight = importance_bound(model, x, num_samples=num_samples, log_z=free, **common)
    gain = tight.value + mean_free_energy(model, x)[0]

    def lifted(estimate: Estimate) -> Estimate:
        error = math.hypot(estimate.std_error, tight.std_error)
        method = estimate.method.replace("variational bound", f"importance-weighted bound (K = {num_samples})")
        return replace(estimate, value=estimate.value + gain, std_error=error, method=method)

    return replace(
        report,
        log_likelihood=lifted(report.log_likelihood),
        lower=None if report.lower is None else lifted(report.lower),
        seconds=report.seconds + time.perf_counter() - started,
        diagnostics={**report.diagnostics, "importance_gain": gain, "importance_ess": tight.diagnostics["ess"]},
    )


def bound_report(
    model: DBN,
    x: Float[Tensor, "n d"],
    *,
    num_samples: int,
    base: Float[Tensor, "m d"] | None = None,
    group_size: int | None = None,
    generator: torch.Generator | None = None,
    progress: Progress = no_progress,
    **annealing: Any,
) -> LikelihoodReport:
    """Importance-weighted bound on the mean log p(x) of a DBN by K passes up, nats per example; K = 1 is the ELBO.

    log Z is that of its top RBM, by `log_likelihood`, which takes `annealing`, of the layer that a pass up from x draws: by
    forward AIS the number bounds nothing, by reverse AIS or exactly it is a lower bound. Salakhutdinov and Murray (2008)
    for K = 1; Burda, Grosse and Salakhutdinov (2016) for more. With `group_size` all processes share chains and rows.
    """
    started = time.perf_counter()
    generator = default_generator(0, x.device) if generator is None else generator
    with torch.no_grad():
        h, base_h = (model.encode(rows).draw(generator)[-1] for rows in (x, x if base is None else base))
    options: dict[str, Any] = {"method": "ais", **annealing}
    common = {"group_size": group_size, "generator": generator, "progress": progress}
    report = log_likelihood(model.top, h, base=base_h, **common, **options)
    free = Estimate(0.0, 0.0, "exact", "none", 0)
    tight = importance_bound(model, x, num_samples=num_samples, log_z=free, **common)
    shift = tight.value + mean_free_energy(model.top, h)[0]

    def moved(estimate: Estimate) -> Estimate:
        bound: Bound = "none" if estimate.bound in ("upper", "none") else "lower"
        error = math.hypot(estimate.std_error, tight.std_error)
        method = f"importance-weighted bound, K = {num_samples}, log Z by {report.log_z.method}"
        return Estimate(estimate.value + shift, error, bound, method, num_samples)

    return replace(
        report,
        log_likelihood=moved(report.log_likelihood),
        lower=None if report.lower is None else replace(moved(report.lower), method=report.lower.method),
        upper=None,
        seconds=time.perf_counter() - started,
        diagnostics={**report.diagnostics, "importance_ess": tight.diagnostics["ess"]},
    )


@dataclass(frozen=True)
class _Annealing:
    """What the annealed estimators share."""

    model: RBM | DBM
    x: Tensor
    base_bias: Tensor
    betas: Tensor
    num_chains: int
    common: dict[str, Any]

    def bracket(self, method: Method, mean_free: float, burn_in: int) -> LikelihoodReport:
        log_z = ais_log_z(self.model, self.base_bias, self.betas, num_chains=self.num_chains, **self.common)
        value = _value(self.model, mean_free, log_z)
        diagnostics, warnings = dict(log_z.diagnostics), _few("Forward AIS", log_z)
        sides: list[Estimate] = []
        if method != "raise":
            reverse = self._reverse(burn_in)
            sides.append(_value(self.model, mean_free, reverse))
            diagnostics |= {f"reverse_{name}": value for name, value in reverse.diagnostics.items()}
            diagnostics |= {"reverse_log_z": reverse.value, "reverse_log_z_std_error": reverse.std_error}
            warnings += _few("Reverse AIS", reverse)
        if method != "ais":
            sides.append(self._raise())
        lower = sides[-1]
        width = value.value - lower.value
        diagnostics["bracket_width"] = width
        if width > _WIDE:
            warnings += (f"The bracket is {width:.2f} nats wide: add temperatures before you trust either side.",)
        upper = value if value.bound == "upper" else None
        return LikelihoodReport(value, lower, upper, log_z, len(self.x), 0.0, diagnostics, warnings)

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


def _value(model: RBM | DBM, mean_free_energy: float, log_z: Estimate) -> Estimate:
    """log p or its variational bound: an upper bound on a lower one is none."""
    value = from_log_z(mean_free_energy, log_z)
    if model.exact_posterior:
        return value
    bound: Bound = "none" if value.bound in ("upper", "none") else "lower"
    return replace(value, bound=bound, method=f"variational bound with log Z by {log_z.method}")


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
