"""Effective samples per second of continuous samplers: MALA, HMC and underdamped Langevin against Pyro, blackjax and torchebm.

The headline is the rate after warm-up: bulk ESS a draw (ArviZ; the worst coordinate) by seconds a draw. The rate with warm-up
and compilation stands beside it. With one chain or with a thousand, on one thread, all in float32, the same targets. Rounds
are short, interleaved, and go on with the same chains: seconds are medians over rounds, ESS is that of all draws. Seconds are
those of the processor, all threads counted: on an idle machine they are wall seconds, and on a busy one what others do is not
charged to whoever runs just then.

Ours and torchebm's, which has no warm-up, are tuned by `tune` in continuous_samplers.py, and so is blackjax's HMC; the NUTS
samplers tune themselves. No ratio takes a sampler that is biased, that is, whose mean or variance of some coordinate is
further from the truth than chance explains (`BIASED`). One with fewer effective draws than `SHORT` is marked as well: a bias
would not show, and with many chains its rate counts the independence of their starts and is too high. No ratio of ours takes
such a one; those of the others do.

    python -m experiments.benchmarks.continuous
"""

from __future__ import annotations

import math
import os
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import tyro
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.stats import t as students_t

from experiments.benchmarks.continuous_samplers import SAMPLERS, Draw, Effort, tune
from experiments.benchmarks.targets import TARGETS, Target
from experiments.results import FOLDER, Result
from genmodels import plots

BIASED = 1e-4
"""The rate of false alarms among all coordinates of a sampler."""
SHORT = {"in all": 50, "a chain": 5}
STRETCHES = 20
"""One chain is cut into so many, whose means count as independent."""


@dataclass(frozen=True)
class Config:
    """The work to time."""

    many: int = 1000
    rounds: int = 5
    seconds: float = 0.4
    """A round of one sampler lasts at least so long, times its patience."""
    effort: Effort = field(default_factory=Effort)
    targets: tuple[str, ...] = tuple(TARGETS)
    samplers: tuple[str, ...] = tuple(SAMPLERS)


SMOKE = Config(
    7, 3, 0.0, Effort(20, 30, 20, 5), ("banana",), ("mala", "pyro_nuts", "blackjax_hmc", "torchebm_langevin")
)
Rate = tuple[float, float]
"""A number and its standard error."""


class Measured(NamedTuple):
    """One sampler on one target, with one number of chains."""

    rate: Rate
    """Effective samples a second after warm-up."""
    rate_with_warm_up: float
    warm_up: float
    """Seconds, compilation included."""
    worst_z: float
    """The largest z-score among means and variances against the truth."""
    bound: float
    """What it should stay below."""
    short: bool

    @property
    def note(self) -> str:
        """Why the rate does not count, or not quite."""
        return "short" if self.short else "biased" if self.worst_z > self.bound else ""


class Running:
    """A sampler that has warmed up, and what it drew in how many seconds."""

    def __init__(self, draw: Draw, warm_up: float, patience: float):
        self._draw, self._warm_up, self._patience = draw, warm_up, patience
        self._parts: list[NDArray[np.float32]] = []
        self._rounds: list[float] = []
        self._seconds_a_draw: list[float] = []

    def round(self) -> None:
        """Some more draws, timed."""
        started, parts = processor_seconds(), []
        while not parts or processor_seconds() - started < self._patience:
            parts.append(self._draw())
        self._rounds.append(processor_seconds() - started)
        self._seconds_a_draw.append(self._rounds[-1] / sum(part.shape[1] for part in parts))
        self._parts += parts

    def measured(self, target: Target) -> Measured:
        """What all rounds say."""
        draws = np.concatenate(self._parts, 1)
        ess, seconds = bulk_ess(draws), statistics.median(self._seconds_a_draw)
        thirds = [bulk_ess(third) / third.shape[1] for third in np.array_split(draws, 3, 1)]
        value = ess / draws.shape[1] / seconds
        error = value * math.hypot(relative_error(thirds), relative_error(self._seconds_a_draw))
        with_warm_up = ess / (sum(self._rounds) + self._warm_up)
        short = ess < max(SHORT["in all"], SHORT["a chain"] * len(draws))
        return Measured((value, error), with_warm_up, self._warm_up, *worst_z(draws, target), short)


def relative_error(values: Sequence[float]) -> float:
    """Standard error of the mean, by the mean."""
    return statistics.stdev(values) / len(values) ** 0.5 / statistics.mean(values)


def worst_z(draws: NDArray[np.float32], target: Target) -> tuple[float, float]:
    """The largest z-score of means and variances against the truth, and the bound it exceeds by chance at rate BIASED.

    Errors are those of the means of each chain, or of stretches of the only one.
    """
    groups = draws if len(draws) > 1 else np.array_split(draws[0], STRETCHES)
    centre = target.truth.value[: target.dim]
    means = np.array([np.concatenate([x.mean(0), ((x - centre) ** 2).mean(0)]) for x in groups if len(x)])
    variance = means.var(0, ddof=1) / len(means) + target.truth.std_error**2
    # Chains that never moved are infinitely far from the truth.
    with np.errstate(divide="ignore"):
        z = np.abs(means.mean(0) - target.truth.value) / np.sqrt(variance)
    return float(z.max()), float(students_t.ppf(1 - BIASED / (2 * z.size), len(means) - 1))


def bulk_ess(draws: NDArray[np.float32], most: int = 100) -> float:
    """Bulk ESS of the worst coordinate (Vehtari et al., 2021); from `most` chains where there are more, as all are alike."""
    import arviz

    some = draws[:: math.ceil(len(draws) / most)]
    worst = min(float(arviz.ess(some[..., i], method="bulk")) for i in range(draws.shape[-1]))
    return worst * len(draws) / len(some)


def processor_seconds() -> float:
    """Spent by this process and by the compilers that it started."""
    children = os.times()
    return time.process_time() + children.children_user + children.children_system


def measure(target: Target, config: Config) -> dict[str, Measured]:
    """All samplers on one target, by name and number of chains; their rounds are interleaved."""
    started = processor_seconds()
    tuned = tune(target, config.effort)
    tuning = processor_seconds() - started
    running: dict[str, Running] = {}
    for name, num_chains in product(config.samplers, (1, config.many)):
        entry = SAMPLERS[name]
        if not entry.missing and (entry.batched or num_chains == 1):
            started = processor_seconds()
            draw = entry.start(target, tuned, num_chains)
            draw()  # compiles
            warm_up = processor_seconds() - started + (tuning if entry.uses_tuned else 0.0)
            running[f"{name}_{num_chains}"] = Running(draw, warm_up, config.seconds * entry.patience)
    for _, each in product(range(config.rounds), running.values()):
        each.round()
    return {name: each.measured(target) for name, each in running.items()}


def over(ours: Rate, peers: Iterable[Rate]) -> Rate | None:
    """Our rate over the best of the peers', with its standard error."""
    best = max(peers, default=None)
    if best is None:
        return None
    ratio = ours[0] / best[0]
    return ratio, ratio * math.hypot(ours[1] / ours[0], best[1] / best[0])


def ratios(rates: Mapping[str, Rate], many: int) -> dict[str, Rate]:
    """Ours over the best of the others: one chain against one chain, many against whatever is best, and against each kind."""
    peers = {name: rate for name, rate in rates.items() if is_peer(name)}
    kinds: dict[str, Callable[[str], bool]] = {
        "best": lambda name: True,
        "best_of_one_chain": lambda name: name.endswith("_1"),
        "best_of_many_chains": lambda name: name.endswith(f"_{many}"),
        "best_nuts": lambda name: "nuts" in name,
    }
    found: dict[str, Rate | None] = {}
    for ours in rates.keys() - peers.keys():
        one = ours.endswith("_1")
        for kind, belongs in kinds.items():
            chosen = [rate for name, rate in peers.items() if belongs(name) and (not one or name.endswith("_1"))]
            found[f"{ours}_over_{kind}"] = over(rates[ours], chosen)
    return {name: ratio for name, ratio in sorted(found.items()) if ratio is not None}


def is_peer(name: str) -> bool:
    return SAMPLERS[name.rsplit("_", 1)[0]].needs is not None


def record(result: Result, prefix: str, measured: Mapping[str, Measured], many: int) -> list[str]:
    """Put a target's numbers into the result; rows of the table."""
    rows = []
    for name, each in measured.items():
        rate, error = each.rate
        result.add_number(f"{prefix}_ess_per_second_{name}", rate, error)
        result.add_number(f"{prefix}_ess_per_second_with_warm_up_{name}", each.rate_with_warm_up)
        result.add_number(f"{prefix}_worst_z_{name}", each.worst_z)
        result.add_number(f"{prefix}_biased_{name}", float(each.worst_z > each.bound))
        result.add_number(f"{prefix}_short_{name}", float(each.short))
        rows.append(
            f"| {prefix} | {name} | {rate:,.0f} ± {error:,.0f} | {each.rate_with_warm_up:,.0f} "
            f"| {each.warm_up:.1f} | {each.worst_z:.1f} of {each.bound:.1f} | {each.note} |"
        )
    valid = {n: each.rate for n, each in measured.items() if not each.note or (is_peer(n) and each.note == "short")}
    for name, (ratio, error) in ratios(valid, many).items():
        result.add_number(f"{prefix}_{name}", ratio, error)
    return rows


def summarise(result: Result, targets: Sequence[str]) -> None:
    """Each ratio's smallest value among the targets, under its own name."""
    names = {key.removeprefix(f"{prefix}_") for prefix in targets for key in result.metrics if key.startswith(prefix)}
    for name in sorted(name for name in names if "_over_" in name):
        every = [result.metrics[f"{prefix}_{name}"] for prefix in targets if f"{prefix}_{name}" in result.metrics]
        worst = min(every, key=lambda metric: metric["value"])
        result.add_number(name, worst["value"], worst["std_error"])
        print(f"{name}: {', '.join(format(metric['value'], '.3g') for metric in every)}")


def draw_rates(measured: Mapping[str, Mapping[str, Measured]]) -> Figure:
    """ESS per second of every sampler, logarithmic; one panel a target."""
    figure = Figure(figsize=(3.4 * len(measured) + 1.5, 4.5), layout="constrained")
    panels = figure.subplots(1, len(measured), sharey=True, squeeze=False)[0]
    for axes, (target, samplers) in zip(panels, measured.items(), strict=True):
        for row, (name, each) in enumerate(samplers.items()):
            colour = "#777777" if is_peer(name) else "#0072b2"
            fill = "white" if each.note == "biased" else colour
            axes.barh(row, each.rate[0], color=fill, edgecolor=colour)
            axes.text(each.rate[0], row, f" {each.note}", va="center", fontsize=6)
        axes.set(xscale="log", title=target.replace("_", " "), xlabel="effective samples per second")
        axes.margins(x=0.15)
        axes.set_yticks(range(len(samplers)), [name.replace("_", " ") for name in samplers], fontsize=7)
    panels[0].invert_yaxis()
    return figure


def main(smoke: bool = False, results: Path = FOLDER) -> Path:
    """Time everything and write `bench_continuous.json` and its plot.

    Args:
        smoke: the same code on a tiny problem.
        results: folder for the result file and the plot.
    """
    config, started = SMOKE if smoke else Config(), time.perf_counter()
    torch.set_num_threads(1)
    for name in config.samplers:
        if SAMPLERS[name].missing:
            print(f"Without {name}: {SAMPLERS[name].needs} is not installed.")
    result = Result(
        "bench_continuous", "python -m experiments.benchmarks.continuous", "synthetic targets", [0], config, {}
    )
    measured = {}
    print("| target | sampler | ESS/s | with warm-up | warm-up, s | worst z | |\n|---|---|---|---|---|---|---|")
    for name in config.targets:
        measured[name] = measure(TARGETS[name](), config)
        print("\n".join(record(result, name, measured[name], config.many)), flush=True)
    summarise(result, config.targets)
    plots.save(draw_rates(measured), results / "bench_continuous.png")
    result.seconds = time.perf_counter() - started
    return result.write(results)


if __name__ == "__main__":
    print(tyro.cli(main))
