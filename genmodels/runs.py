"""Runs: a configuration, a folder that holds everything a training leaves behind, and how to take one up.

A run folder holds `checkpoint.safetensors` (everything that is needed, the configuration too), `metrics.jsonl`,
`config.json` (the configuration again, for people) and pictures.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from genmodels import data as data_sets
from genmodels.checkpoint import load_checkpoint, write_atomically
from genmodels.data import DataSet
from genmodels.errors import BadInput
from genmodels.fit import CHECKPOINT, METRICS, ShowProgress, fit
from genmodels.monitor import MonitorOptions, monitor, tensorboard
from genmodels.objectives import Objective, Penalty, cd, fpcd, pcd, ptt
from genmodels.rbm import RBM
from genmodels.settings import Settings
from genmodels.training_state import part

CONFIG = "config.json"
LIKELIHOOD = "likelihood.json"
PICTURES = ("samples.png", "filters.png", "curves.png", "film_strip.png", "likelihood.png")
RUN_FILES = (CHECKPOINT, CONFIG, METRICS, LIKELIHOOD, *PICTURES)


class ModelKind(NamedTuple):
    """A model that runs can be made of."""

    build: type[Any]
    """The class; its `from_config` builds it."""
    initialise: Callable[[Any, Tensor], None]
    """initialise(model, x): what is set from the training data before the first step."""


MODELS: dict[str, ModelKind] = {"rbm": ModelKind(RBM, RBM.initialise_from_data)}
OBJECTIVES: dict[str, Callable[..., Objective]] = {"cd": cd, "pcd": pcd, "fpcd": fpcd, "ptt": ptt}


@dataclass(frozen=True)
class RunConfig:
    """Everything that decides a run: on a CPU, the same configuration gives the same bits."""

    model: str
    """A name in MODELS."""
    model_options: dict[str, Any]
    """What the model's `from_config` takes."""
    data: str
    """A named data set, or the path of a user's own."""
    key: str | None = None
    """Which array of an .npz or .mat file to use."""
    objective: str = "pcd"
    """A name in OBJECTIVES."""
    objective_options: dict[str, Any] = field(default_factory=dict)
    settings: Settings = field(default_factory=Settings)
    monitor: MonitorOptions = field(default_factory=MonitorOptions)
    image_shape: tuple[int, int] | None = None
    """Height and width of an example; `start` takes it from the data."""

    def __post_init__(self) -> None:
        for name, known in ((self.model, MODELS), (self.objective, OBJECTIVES)):
            if name not in known:
                raise BadInput(f"There is nothing called {name!r} here: choose one of {', '.join(known)}.")

    def to_dict(self) -> dict[str, Any]:
        """As JSON gives it back."""
        return json.loads(json.dumps(asdict(self)))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> RunConfig:
        """Undo `to_dict`."""
        try:
            shape = values["image_shape"]
            parts = {
                "settings": Settings(**values["settings"]),
                "monitor": MonitorOptions(**values["monitor"]),
                "image_shape": None if shape is None else (shape[0], shape[1]),
            }
            return cls(**{**values, **parts})
        except (TypeError, KeyError) as error:
            raise BadInput(
                f"This is no configuration of a run ({error}): give a run that `genmodels train` made."
            ) from error


def start(
    config: RunConfig, out: Path, *, data: DataSet | None = None, progress: ShowProgress | None = None
) -> nn.Module:
    """Train what `config` describes in the new folder `out` and return the model; `data` saves loading them again."""
    refuse_occupied(out)
    data = data_sets.load(config.data, key=config.key) if data is None else data
    config = replace(config, data=_lasting_name(config.data), image_shape=data.image_shape)
    write_atomically(out / CONFIG, (json.dumps(config.to_dict(), indent=2) + "\n").encode())
    try:
        return _train(config, data, out, progress)
    finally:
        # What failed before its first checkpoint is no run, and must not keep the next one out.
        if not (out / CHECKPOINT).exists():
            (out / CONFIG).unlink(missing_ok=True)


def resume(out: Path, *, progress: ShowProgress | None = None) -> nn.Module:
    """Go on with the run in `out` from its last checkpoint and return the model; a finished run is only loaded."""
    config = stored_config(out)
    return _train(config, data_sets.load(config.data, key=config.key), out, progress)


def load_model(path: Path) -> tuple[Any, RunConfig]:
    """The model of a run (its folder, or the checkpoint file) on the CPU, and the run's configuration.

    The weights are the averaged ones where the run kept an average.
    """
    tensors, meta, _ = load_checkpoint(path / CHECKPOINT if path.is_dir() else path)
    config = RunConfig.from_dict(meta["run"]["config"])
    model = build_model(config)
    model.load_state_dict(part("average", tensors) or part("model", tensors))
    return model.requires_grad_(False), config


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
        return MODELS[config.model].build.from_config(config.model_options)


def build_objective(config: RunConfig, model: nn.Module) -> Objective:
    """The run's objective for its model."""
    options = dict(config.objective_options)
    if "penalty" in options:
        options["penalty"] = Penalty(**options["penalty"])
    return OBJECTIVES[config.objective](model, **options)


def _train(config: RunConfig, data: DataSet, out: Path, progress: ShowProgress | None) -> nn.Module:
    settings = config.settings
    model = build_model(config)
    if not (out / CHECKPOINT).exists():
        MODELS[config.model].initialise(model, data.train.fixed(settings.seed))
    callbacks = [monitor(data, epochs=settings.epochs, seed=settings.seed, options=config.monitor)]
    if config.monitor.tensorboard:
        callbacks.append(tensorboard(out / "tensorboard"))
    fit(
        model,
        build_objective(config, model),
        data.train,
        settings,
        out=out,
        callbacks=callbacks,
        config=config.to_dict(),
        progress=progress,
    )
    return model


def _lasting_name(name_or_path: str) -> str:
    """The name, or the path such that it holds from any working directory."""
    return name_or_path if name_or_path in data_sets.names() else str(Path(name_or_path).expanduser().resolve())
