"""The pictures of a run."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure

from genmodels import plots
from genmodels.chains import film, independent_start, run_chains
from genmodels.checkpoint import write_atomically
from genmodels.errors import BadInput
from genmodels.fit import METRICS
from genmodels.interface import default_generator
from genmodels.likelihood import Estimate
from genmodels.metrics import MetricsFile, Record
from genmodels.progress import Progress, no_progress
from genmodels.runs import LIKELIHOOD, load_model

FILM_STEPS = (0, 1, 2, 5, 10, 30, 100, 300, 1000)
FILM_CHAINS = 10
NUM_SAMPLES = 100
NUM_STEPS = 1000


def write_pictures(
    out: Path, *, seed: int = 0, device: torch.device | None = None, progress: Progress = no_progress
) -> list[Path]:
    """Write samples, filters, training curves, a film strip of chains, and the stored likelihoods; return the paths."""
    model, config = load_model(out)
    model.to(device)
    generator = default_generator(seed, device or "cpu")
    figures: dict[str, Figure] = {}
    start = independent_start(model, NUM_SAMPLES, generator=generator)
    means = run_chains(model, start, NUM_STEPS, generator=generator, progress=progress).means
    title = f"{config.model} on {Path(config.data).name}: {NUM_SAMPLES} chains after {NUM_STEPS:,} sweeps, means"
    figures["samples.png"] = plots.sample_grid(means, config.image_shape, title=title)
    figures["filters.png"] = plots.filter_grid(model.weights[0], config.image_shape)
    if records := MetricsFile(out / METRICS).read():
        figures["curves.png"] = plots.training_curves([_without_counters(record) for record in records])
    if config.image_shape is not None:
        start = independent_start(model, FILM_CHAINS, generator=generator)
        frames = film(model, start, FILM_STEPS, generator=generator, progress=progress)
        figures["film_strip.png"] = plots.film_strip(frames, FILM_STEPS, config.image_shape)
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
