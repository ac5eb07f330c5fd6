"""The pictures of a run."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from genmodels import plots
from genmodels.checkpoint import write_atomically
from genmodels.errors import BadInput
from genmodels.families import FAMILIES
from genmodels.fit import METRICS
from genmodels.interface import default_generator
from genmodels.likelihood import Estimate
from genmodels.metrics import MetricsFile, Record
from genmodels.progress import Progress, no_progress
from genmodels.runs import LIKELIHOOD, load_model


def write_pictures(
    out: Path, *, seed: int = 0, device: torch.device | None = None, progress: Progress = no_progress
) -> list[Path]:
    """Write what the model's family shows, training curves, and the stored likelihoods; return the paths."""
    model, config = load_model(out)
    model.to(device)
    generator = default_generator(seed, device or "cpu")
    figures = FAMILIES[config.model].pictures(model, config, generator, progress)
    if records := MetricsFile(out / METRICS).read():
        figures["curves.png"] = plots.training_curves([_without_counters(record) for record in records])
    if (out / LIKELIHOOD).exists():
        figures["likelihood.png"] = plots.likelihood_bars(read_estimates(out / LIKELIHOOD))
    return [plots.save(figure, out / name) for name, figure in figures.items()]


def write_estimates(folder: Path, estimates: Mapping[str, Estimate], rest: Mapping[str, Any]) -> Path:
    """Keep named estimates, and the rest of their report, in a run's folder."""
    content = {**rest, "estimates": {name: estimate.to_dict() for name, estimate in estimates.items()}}
    write_atomically(folder / LIKELIHOOD, (json.dumps(content, indent=2) + "\n").encode())
    return folder / LIKELIHOOD


def read_estimates(path: Path) -> dict[str, Estimate]:
    """The estimates in a stored likelihood report, by the name of their row."""
    try:
        stored = json.loads(path.read_text())["estimates"]
        return {name: _estimate(values) for name, values in stored.items()}
    except (KeyError, TypeError, ValueError) as error:
        raise BadInput(f"{path} holds no likelihoods: run `genmodels evaluate {path.parent}` again.") from error


def _estimate(values: Mapping[str, Any]) -> Estimate:
    # Folded, because one long line beside the bars would take their room.
    method = textwrap.fill(values["method"], 56)
    return Estimate(values["value"], values["std_error"], values["bound"], method, samples=0)


def _without_counters(record: Record) -> Record:
    return {name: value for name, value in record.items() if name not in ("step", "seconds")}
