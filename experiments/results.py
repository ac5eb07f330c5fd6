"""The file that every experiment writes: numbers with their errors, what was published, and how to get them again."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, is_dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import stdev
from typing import Any

import torch

from genmodels.checkpoint import write_atomically
from genmodels.likelihood import Estimate

FOLDER = Path(__file__).parent / "results"
BETWEEN_SEEDS = "std_error_between_seeds"
"""Of a mean over seeds: the standard error that their spread gives, which holds what training differs by."""


@dataclass(frozen=True)
class Published:
    """A number from elsewhere and where it stands."""

    value: float
    source: str


@dataclass
class Result:
    """One experiment's outcome, written to `results/NAME.json`."""

    name: str
    command: str
    data: str
    seeds: Sequence[int]
    config: Any
    published: Mapping[str, Published]
    metrics: dict[str, dict[str, Any]] = field(default_factory=dict)
    seconds: float = 0.0

    def add(self, metric: str, estimate: Estimate) -> None:
        """Record an estimate with its error and its kind of bound, and of a mean over seeds the error between these."""
        between = {name: estimate.diagnostics[name] for name in (BETWEEN_SEEDS,) if name in estimate.diagnostics}
        self.metrics[metric] = estimate.to_dict() | between

    def add_number(self, metric: str, value: float, std_error: float | None = None) -> None:
        """Record a measured number that is no likelihood."""
        self.metrics[metric] = {"value": value, "std_error": std_error, "bound": "none"}

    def write(self, folder: Path = FOLDER) -> Path:
        """Write the file and return its path."""
        content = {
            "name": self.name,
            "command": self.command,
            "data": self.data,
            "metrics": self.metrics,
            "published": {key: asdict(number) for key, number in self.published.items()},
            "seeds": list(self.seeds),
            "seconds": self.seconds,
            "device": device_name(),
            "versions": {
                "python": platform.python_version(),
                **{p: version(p) for p in ("genmodels", "torch", "numpy")},
            },
            "config": asdict(self.config) if is_dataclass(self.config) else self.config,  # pyright: ignore
        }
        path = folder / f"{self.name}.json"
        write_atomically(path, (json.dumps(content, indent=2) + "\n").encode())
        return path


def mean_of(estimates: Sequence[Estimate]) -> Estimate:
    """The mean over seeds of estimates of one kind of bound; mixing kinds is an error.

    Its standard error is that of the estimators alone; that between the seeds stands in the diagnostics.
    """
    kinds = {estimate.bound for estimate in estimates}
    if len(kinds) != 1:
        raise ValueError(f"Estimates of different bounds are not averaged: {sorted(kinds)}.")
    n = len(estimates)
    error = sum(estimate.std_error**2 for estimate in estimates) ** 0.5 / n
    method = f"mean over {n} seeds of {estimates[0].method}"
    values = [estimate.value for estimate in estimates]
    between = {BETWEEN_SEEDS: error_between(values)} if n > 1 else {}
    samples = sum(estimate.samples for estimate in estimates)
    return Estimate(sum(values) / n, error, estimates[0].bound, method, samples, between)


def error_between(values: Sequence[float]) -> float:
    """The standard error of the mean of at least two independent numbers, from their spread."""
    return stdev(values) / len(values) ** 0.5


def device_name() -> str:
    """The processor in words."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    cpuinfo = Path("/proc/cpuinfo")
    names = (
        [line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        if cpuinfo.exists()
        else []
    )
    return f"{names[0] if names else platform.processor()}, {torch.get_num_threads()} threads"
