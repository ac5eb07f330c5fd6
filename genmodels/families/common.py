"""What the families share."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from genmodels.data import DataSet, load
from genmodels.errors import BadInput
from genmodels.flags import Evaluate, Sample
from genmodels.flags.common import TrainModel
from genmodels.interface import default_generator
from genmodels.run_config import RunConfig
from genmodels.settings import Settings

# The defaults reach a good model on small data sets too, where an epoch is few updates.
_EPOCHS, _UPDATES = 60, 6000


def settings_from(flags: TrainModel, num_rows: int, *, learning_rate: float) -> Settings:
    """The settings of `fit` that the flags ask for; `learning_rate` where they leave it open."""
    enough = max(_EPOCHS, math.ceil(_UPDATES * flags.batch_size / max(num_rows, flags.batch_size, 1)))
    epochs = enough if flags.epochs is None else flags.epochs
    return Settings(
        epochs=epochs,
        batch_size=flags.batch_size,
        optimizer=flags.optimizer,
        learning_rate=learning_rate if flags.learning_rate is None else flags.learning_rate,
        optimizer_options={"momentum": flags.momentum} if flags.momentum else {},
        schedule=flags.schedule,
        average=flags.average,
        seed=flags.seed,
        device=flags.device,
        precision=flags.precision,
        accumulate=flags.accumulate,
        snapshots=flags.snapshots,
        keep_last=flags.keep_last,
        best_by=flags.best_by,
        checkpoint_every=math.ceil(epochs / 100) if flags.checkpoint_every is None else flags.checkpoint_every,
    )


def device_of(model: nn.Module) -> torch.device:
    """Where the model's parameters are."""
    return next(model.parameters()).device


def first_rows(flags: Sample, config: RunConfig) -> Tensor | None:
    """The first `flags.num` rows of the wanted split, where draws start at them or fill them in."""
    if not flags.from_data and flags.inpaint is None:
        return None
    rows = load(config.data, key=config.key).split(flags.split).fixed()
    if flags.num > len(rows):
        raise BadInput(f"The {flags.split} split has {len(rows)} rows to start from: lower --num from {flags.num}.")
    return rows[: flags.num]


def scored_rows(data: DataSet, flags: Evaluate) -> Tensor:
    """The numbers of the rows that an evaluation takes."""
    num = len(data.split(flags.split))
    # Some published files are sorted by class, so a part of the rows must be a random one.
    return torch.randperm(num, generator=default_generator(0))[: flags.num_examples]


def image_shape(config: RunConfig) -> tuple[int, int]:
    """Height and width of an example, which must be an image."""
    if config.image_shape is None:
        raise BadInput(f"The examples of {config.data} are no images, which alone have halves: leave --inpaint out.")
    return config.image_shape
