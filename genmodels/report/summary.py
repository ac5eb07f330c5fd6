"""What a run's folder tells, and how it is said."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from genmodels.checkpoint import load_checkpoint
from genmodels.errors import BadInput
from genmodels.fit import CHECKPOINT, DIVERGED, METRICS
from genmodels.metrics import MetricsFile, Record
from genmodels.pictures import write_pictures
from genmodels.progress import Progress
from genmodels.report.chains import check_chains
from genmodels.report.evaluation import Evaluation, read_evaluation
from genmodels.report.figures import Picture, read_pictures
from genmodels.run_config import RunConfig
from genmodels.runs import COMMAND, LIKELIHOOD, PICTURES, build_model


@dataclass(frozen=True)
class Summary:
    """One run, ready to be shown."""

    name: str
    path: str
    config: RunConfig
    state: str
    """Whether it finished, stopped or diverged, in a sentence."""
    finished: bool
    step: int
    epoch: int
    num_parameters: int
    seconds: float | None
    """Of training, all epochs in the metrics file."""
    device: str
    versions: Mapping[str, str]
    command: str | None
    last: Record
    """The latest value of each metric."""
    evaluation: Evaluation | None
    chains: Mapping[str, Any] | None
    pictures: tuple[Picture, ...]
    beware: tuple[str, ...]
    """What went wrong while the page was made."""


def summarise(out: Path, *, seed: int, device: torch.device, progress: Progress) -> Summary:
    """Read the run in `out`; pictures and chain diagnostics that are missing, or older than the checkpoint, are made first."""
    if not out.is_dir():
        raise BadInput(f"There is no run in {out}: give the folder that `genmodels train` made.")
    checkpoint = load_checkpoint(out / CHECKPOINT)
    config, meta = RunConfig.from_dict(checkpoint.meta["run"]["config"]), checkpoint.meta
    records = MetricsFile(out / METRICS).read()
    beware = _draw(out, seed, device, progress)
    last = {name: value for record in records for name, value in record.items()}
    finished = meta["epoch"] >= config.settings.epochs
    try:
        chains = check_chains(out, seed=seed, device=device, progress=progress)
    except ValueError as error:
        chains, beware = None, (*beware, f"The chains could not be checked: {error}")
    return Summary(
        name=out.resolve().name,
        path=str(out),
        config=config,
        state=_state(out, config, meta, finished),
        finished=finished,
        step=meta["step"],
        epoch=meta["epoch"],
        num_parameters=sum(parameter.numel() for parameter in build_model(config).parameters()),
        seconds=sum(record["seconds"] for record in records) if records else None,
        device=meta["run"]["device"],
        versions=checkpoint.versions,
        command=(out / COMMAND).read_text().strip() if (out / COMMAND).exists() else None,
        last={name: value for name, value in last.items() if name not in ("epoch", "step", "seconds")},
        evaluation=read_evaluation(out, meta["step"]),
        chains=chains,
        pictures=read_pictures(out, config, records),
        beware=beware,
    )


def _state(out: Path, config: RunConfig, meta: Mapping[str, Any], finished: bool) -> str:
    wanted, done = config.settings.epochs, f"{meta['epoch']} of {config.settings.epochs} epochs, {meta['step']:,} steps"
    if (out / DIVERGED).exists():
        step = json.loads((out / DIVERGED).read_text())["step"]
        return (
            f"Diverged at step {step:,}, in epoch {_epoch_of(step, meta, config)} of {wanted}: a loss or a parameter was no "
            f"finite number any more. What is shown is the last good checkpoint ({done})."
        )
    return f"Finished: {done}." if finished else f"Not finished: {done}. What is shown is its last checkpoint."


def _epoch_of(step: int, meta: Mapping[str, Any], config: RunConfig) -> int:
    return step // math.ceil(meta["run"]["num_rows"] / config.settings.batch_size) + 1


def _draw(out: Path, seed: int, device: torch.device, progress: Progress) -> tuple[str, ...]:
    """Draw the pictures anew if need be; what went wrong, if anything."""
    drawn = [(out / name).stat().st_mtime for name in PICTURES if (out / name).exists()]
    # An evaluation comes after training, so its picture is the one that is missing most often.
    sources = [(out / name).stat().st_mtime for name in (CHECKPOINT, LIKELIHOOD) if (out / name).exists()]
    if drawn and min(drawn) >= max(sources):
        return ()
    try:
        write_pictures(out, seed=seed, device=device, progress=progress)
    except ValueError as error:
        return (f"The pictures could not be drawn anew: {error}",)
    return ()
