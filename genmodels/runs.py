"""Runs: folders that hold everything a training leaves behind, and how to take one up.

A run folder holds `checkpoint.safetensors` (everything that is needed, the configuration too), `metrics.jsonl`,
`config.json` (the configuration again, for people) and pictures.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from genmodels import data as data_sets
from genmodels.checkpoint import load_checkpoint, write_atomically
from genmodels.data import DataSet
from genmodels.errors import BadInput
from genmodels.families import FAMILIES
from genmodels.fit import BEST, CHECKPOINT, DIVERGED, METRICS, ShowProgress, fit
from genmodels.monitor import monitor, tensorboard
from genmodels.objectives import (
    Objective,
    Penalty,
    algorithm1,
    amortised_map,
    back_propagation,
    cd,
    denoising,
    dictionary_learning,
    dreg,
    elbo,
    fpcd,
    iwae,
    layerwise,
    noise_levels,
    pcd,
    posterior_sampling,
    psd,
    ptt,
    reweighted_wake_sleep,
    supervised_target_propagation,
    target_propagation,
    variational_em,
    variational_pcd,
)
from genmodels.objectives.labelled import Steps
from genmodels.processes import Processes, one_process
from genmodels.run_config import RunConfig
from genmodels.training_state import part

CONFIG = "config.json"
COMMAND = "command.txt"
LIKELIHOOD = "likelihood.json"
CHAINS = "chains.json"
PICTURES = (
    "samples.png",
    "filters.png",
    "film_strip.png",
    "interpolation.png",
    "rates.png",
    "plane.png",
    "reconstructions.png",
    "codes.png",
    "encoder.png",
    "curves.png",
    "likelihood.png",
)
RUN_FILES = (CHECKPOINT, BEST, CONFIG, COMMAND, METRICS, DIVERGED, LIKELIHOOD, CHAINS, *PICTURES)

OBJECTIVES: dict[str, Callable[..., Objective]] = {
    "cd": cd,
    "pcd": pcd,
    "fpcd": fpcd,
    "ptt": ptt,
    "variational_pcd": variational_pcd,
    "layerwise": layerwise,
    "elbo": elbo,
    "denoising": denoising,
    "noise_levels": noise_levels,
    "iwae": iwae,
    "dreg": dreg,
    "rws": reweighted_wake_sleep,
    "dictionary": dictionary_learning,
    "posterior": posterior_sampling,
    "psd": psd,
    "amortised": amortised_map,
    "target_propagation": target_propagation,
    "variational_em": variational_em,
    "algorithm1": algorithm1,
    "supervised_target_propagation": supervised_target_propagation,
    "back_propagation": back_propagation,
}


def start(
    config: RunConfig,
    out: Path,
    *,
    data: DataSet | None = None,
    command: str | None = None,
    progress: ShowProgress | None = None,
    processes: Processes | None = None,
) -> nn.Module:
    """Train what `config` describes in the new folder `out` and return the model.

    `data` saves loading them again; `command` is kept beside the configuration, for whoever wants the run once more. Several
    `processes` call it together, and share the training.
    """
    settings = config.settings
    processes = one_process(settings.device, settings.precision) if processes is None else processes
    data = data_sets.load(config.data, key=config.key) if data is None else data
    config = replace(config, data=lasting_name(config.data), image_shape=data.image_shape)
    processes.on_first(lambda: refuse_occupied(out))
    try:
        processes.on_first(lambda: _write_down(out, config, command))
        return _train(config, data, out, progress, processes)
    finally:
        # What failed before its first checkpoint is no run, and must not keep the next one out.
        if processes.is_first and not (out / CHECKPOINT).exists():
            for name in (CONFIG, COMMAND):
                (out / name).unlink(missing_ok=True)


def _write_down(out: Path, config: RunConfig, command: str | None) -> None:
    write_atomically(out / CONFIG, (json.dumps(config.to_dict(), indent=2) + "\n").encode())
    if command is not None:
        write_atomically(out / COMMAND, (command + "\n").encode())


def resume(out: Path, *, progress: ShowProgress | None = None, processes: Processes | None = None) -> nn.Module:
    """Go on with the run in `out` from its last checkpoint and return the model; a finished run is only loaded.

    The number of `processes` may be another than it was: chains are dealt out anew.
    """
    config = stored_config(out)
    settings = config.settings
    processes = one_process(settings.device, settings.precision) if processes is None else processes
    return _train(config, data_sets.load(config.data, key=config.key), out, progress, processes)


def load_model(path: Path) -> tuple[Any, RunConfig]:
    """The model of a run (its folder, or the checkpoint file) on the CPU, and the run's configuration.

    The weights are the averaged ones where the run kept an average.
    """
    tensors, meta, _ = load_checkpoint(path / CHECKPOINT if path.is_dir() else path)
    config = RunConfig.from_dict(meta["run"]["config"])
    model = build_model(config)
    model.load_state_dict(part("average", tensors) or part("model", tensors))
    return model.requires_grad_(False), config


def stored_step(path: Path) -> int:
    """After how many steps the checkpoint of a run was written."""
    return load_checkpoint(path / CHECKPOINT if path.is_dir() else path).meta["step"]


def stored_config(out: Path) -> RunConfig:
    """The configuration of the run in `out`."""
    if (out / CHECKPOINT).exists():
        return RunConfig.from_dict(load_checkpoint(out / CHECKPOINT).meta["run"]["config"])
    try:
        return RunConfig.from_dict(json.loads((out / CONFIG).read_text()))
    except (OSError, json.JSONDecodeError) as error:
        raise BadInput(f"There is no run in {out}: start one with `genmodels train MODEL --out {out}`.") from error


def refuse_occupied(out: Path) -> None:
    """Refuse a folder in which a new run would overwrite anything."""
    if (out / CHECKPOINT).exists():
        raise BadInput(f"{out} already holds a run: go on with it by --resume {out}, or choose another --out.")
    if held := ", ".join(name for name in RUN_FILES if (out / name).exists()):
        raise BadInput(f"{out} already holds {held}: choose another --out, or go on by --resume {out} if it is a run.")


def build_model(config: RunConfig) -> Any:
    """The model as the run's seed initialises it; the global random numbers stay as they are."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.settings.seed)
        return FAMILIES[_known(config.model, FAMILIES)].model.from_config(config.model_options)


def build_objective(config: RunConfig, model: nn.Module) -> Objective:
    """The run's objective for its model."""
    options = dict(config.objective_options)
    if "penalty" in options:
        options["penalty"] = Penalty(**options["penalty"])
    if "steps" in options:
        options["steps"] = Steps(**options["steps"])
    return OBJECTIVES[_known(config.objective, OBJECTIVES)](model, **options)


def _train(
    config: RunConfig, data: DataSet, out: Path, progress: ShowProgress | None, processes: Processes
) -> nn.Module:
    settings = config.settings
    model = build_model(config)
    if not (out / CHECKPOINT).exists():
        FAMILIES[config.model].initialise(model, data.train.fixed(settings.seed))
    callbacks = [monitor(data, epochs=settings.epochs, seed=settings.seed, options=config.monitor)]
    if config.monitor.tensorboard:
        callbacks.append(tensorboard(out / "tensorboard"))
    fit(
        model,
        build_objective(config, model),
        FAMILIES[config.model].rows(config, data),
        settings,
        out=out,
        callbacks=callbacks,
        config=config.to_dict(),
        progress=progress,
        processes=processes,
    )
    return model


def lasting_name(name_or_path: str) -> str:
    """The name, or the path such that it holds from any working directory."""
    return name_or_path if name_or_path in data_sets.names() else str(Path(name_or_path).expanduser().resolve())


def _known(name: str, names: Iterable[str]) -> str:
    """The name, if it is one of `names`."""
    if name not in names:
        raise BadInput(f"There is nothing called {name!r} here: choose one of {', '.join(names)}.")
    return name
