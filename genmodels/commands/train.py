"""`genmodels train`: a new run, or the rest of one."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from genmodels import runs
from genmodels.data import DataSet, load
from genmodels.errors import BadInput
from genmodels.fit import CHECKPOINT, ShowProgress
from genmodels.flags import StoredModel, Train, TrainRbm
from genmodels.layers import named_layer, visible_layer
from genmodels.monitor import MonitorOptions
from genmodels.pictures import write_pictures
from genmodels.progress import bar, training_bar
from genmodels.runs import RunConfig
from genmodels.settings import Settings

# The defaults reach a good model on small data sets too, where an epoch is few updates.
_EPOCHS, _UPDATES = 60, 6000
_LEARNING_RATE, _LEARNING_RATE_GAUSSIAN = 0.2, 0.005


def run(flags: Train) -> None:
    """Start the run that the flags describe, or go on with one; then draw its pictures."""
    if flags.resume is None:
        if isinstance(flags.model, StoredModel):
            raise BadInput("Name a model to train, as in `genmodels train rbm --data digits --out runs/rbm`.")
        _start(flags.model)
        return
    if not isinstance(flags.model, StoredModel):
        raise BadInput("A run is taken up as it is: leave the model out after --resume, or start a new run.")
    out = flags.resume
    _train(out, lambda progress: runs.resume(out, progress=progress))


def rbm_config(flags: TrainRbm, data: DataSet) -> RunConfig:
    """The run of an RBM on `data` that the flags describe."""
    visible = visible_layer(data, flags.visible_units)
    hidden = named_layer(flags.hidden_units, flags.hidden)
    settings = _settings(flags, len(data.train), is_continuous=visible.num_states is None)
    ais_every = math.ceil(settings.epochs / 10) if flags.ais_every is None else flags.ais_every
    return RunConfig(
        model="rbm",
        model_options={"visible": visible.config(), "hidden": hidden.config()},
        data=flags.data,
        key=flags.key,
        objective=flags.objective,
        objective_options=_objective_options(flags),
        settings=settings,
        monitor=MonitorOptions(ais_every=ais_every, tensorboard=flags.tensorboard),
    )


def _start(flags: TrainRbm) -> None:
    runs.refuse_occupied(flags.out)
    data = load(flags.data, key=flags.key)
    config = rbm_config(flags, data)
    _train(flags.out, lambda progress: runs.start(config, flags.out, data=data, progress=progress))


def _settings(flags: TrainRbm, num_rows: int, *, is_continuous: bool) -> Settings:
    rate = _LEARNING_RATE_GAUSSIAN if is_continuous else _LEARNING_RATE
    enough = max(_EPOCHS, math.ceil(_UPDATES * flags.batch_size / max(num_rows, flags.batch_size, 1)))
    epochs = enough if flags.epochs is None else flags.epochs
    return Settings(
        epochs=epochs,
        batch_size=flags.batch_size,
        optimizer=flags.optimizer,
        learning_rate=rate if flags.learning_rate is None else flags.learning_rate,
        optimizer_options={"momentum": flags.momentum} if flags.momentum else {},
        schedule=flags.schedule,
        average=flags.average,
        seed=flags.seed,
        device=flags.device,
        precision=flags.precision,
        snapshots=flags.snapshots,
        checkpoint_every=math.ceil(epochs / 100) if flags.checkpoint_every is None else flags.checkpoint_every,
    )


def _objective_options(flags: TrainRbm) -> dict[str, Any]:
    options: dict[str, Any] = {"num_steps": flags.num_steps, "centered": flags.centered}
    if flags.num_chains is not None:
        if flags.objective == "cd":
            raise BadInput("The chains of cd are the rows of the batch: leave --num-chains out, or use pcd, fpcd or ptt.")
        options["num_chains"] = flags.num_chains
    if flags.l1 or flags.l2 or flags.sparsity_cost:
        options["penalty"] = {
            "l1": flags.l1,
            "l2": flags.l2,
            "sparsity_target": flags.sparsity_target,
            "sparsity_cost": flags.sparsity_cost,
        }
    return options


def _train(out: Path, work: Callable[[ShowProgress], nn.Module]) -> None:
    """Do the training with a bar, then draw the pictures; after Ctrl-C, say how to go on."""
    try:
        with training_bar(out.name) as progress:
            work(progress)
    except KeyboardInterrupt as stop:
        if (out / CHECKPOINT).exists():
            raise KeyboardInterrupt(f"Stopped and saved: go on with `genmodels train --resume {out}`.") from stop
        raise
    for path in write_pictures(out, progress=bar):
        print(path)
