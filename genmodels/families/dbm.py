"""Deep Boltzmann machines on the command line."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from genmodels.data import DataSet
from genmodels.dbm import DBM
from genmodels.errors import BadInput
from genmodels.families.boltzmann import annealed, penalty_options, pictures, sample
from genmodels.families.common import device_of, settings_from
from genmodels.families.family import Family
from genmodels.flags import Evaluate
from genmodels.flags.dbm import TrainDbm
from genmodels.interface import check_width, default_generator
from genmodels.layers import named_layer, visible_layer
from genmodels.likelihood import LikelihoodReport, importance_weighted
from genmodels.monitor import MonitorOptions
from genmodels.progress import bar
from genmodels.run_config import RunConfig

_LEARNING_RATE, _LEARNING_RATE_GAUSSIAN = 0.1, 0.005


def run_config(flags: TrainDbm, data: DataSet) -> RunConfig:
    """The run of a DBM on `data` that the flags describe."""
    visible = visible_layer(data, flags.visible_units)
    layers = [visible, *(named_layer(flags.hidden_units, num) for num in flags.hidden)]
    DBM(*layers)  # so that impossible layers are refused before anything is written
    rate = _LEARNING_RATE_GAUSSIAN if visible.num_states is None else _LEARNING_RATE
    settings = settings_from(flags, len(data.train), learning_rate=rate)
    options: dict[str, Any] = {
        "num_steps": flags.num_steps,
        "num_iterations": flags.num_iterations,
        "num_chains": flags.num_chains,
        "centered": flags.centered,
    }
    return RunConfig(
        model="dbm",
        model_options={"layers": [layer.config() for layer in layers]},
        data=flags.data,
        key=flags.key,
        objective="variational_pcd",
        objective_options=options | penalty_options(flags),
        settings=settings,
        monitor=MonitorOptions(
            ais_every=math.ceil(settings.epochs / 10) if flags.ais_every is None else flags.ais_every,
            tensorboard=flags.tensorboard,
        ),
    )


def evaluate(model: DBM, x: Tensor, data: DataSet, flags: Evaluate) -> LikelihoodReport:
    """The variational bound, or with "iwae" its importance-weighted tightening, less log Z by annealing or enumeration."""
    check_width(x, model.units[0].size, data.name)
    if flags.method == "elbo":
        raise BadInput(
            "A DBM's variational bound is the value of --method auto, exact, ais and raise: use one of these."
        )
    if flags.method != "iwae":
        return annealed(model, x, data, flags, flags.method)
    report = annealed(model, x, data, flags, "ais")
    generator = default_generator(flags.seed, device_of(model))
    return importance_weighted(
        report,
        model,
        x,
        num_samples=flags.num_samples,
        group_size=flags.group_size,
        generator=generator,
        progress=bar,
    )


DBM_FAMILY = Family(
    name="dbm",
    model=DBM,
    run_config=run_config,
    initialise=DBM.initialise_from_data,
    sample=sample,
    evaluate=evaluate,
    pictures=pictures,
)
