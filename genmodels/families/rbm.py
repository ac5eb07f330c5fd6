"""Restricted Boltzmann machines on the command line."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from genmodels.data import DataSet
from genmodels.errors import BadInput
from genmodels.families.boltzmann import annealed, penalty_options, pictures, sample
from genmodels.families.common import settings_from
from genmodels.families.family import Family
from genmodels.flags import Evaluate
from genmodels.flags.rbm import TrainRbm
from genmodels.interface import check_width
from genmodels.layers import named_layer, visible_layer
from genmodels.likelihood import LikelihoodReport
from genmodels.monitor import MonitorOptions
from genmodels.rbm import RBM
from genmodels.run_config import RunConfig

_LEARNING_RATE, _LEARNING_RATE_GAUSSIAN = 0.2, 0.005


def run_config(flags: TrainRbm, data: DataSet) -> RunConfig:
    """The run of an RBM on `data` that the flags describe."""
    visible = visible_layer(data, flags.visible_units)
    hidden = named_layer(flags.hidden_units, flags.hidden)
    rate = _LEARNING_RATE_GAUSSIAN if visible.num_states is None else _LEARNING_RATE
    settings = settings_from(flags, len(data.train), learning_rate=rate)
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


def evaluate(model: RBM, x: Tensor, data: DataSet, flags: Evaluate) -> LikelihoodReport:
    """The exact value, or the bracket by annealing."""
    check_width(x, model.visible.size, data.name)
    if flags.method in ("elbo", "iwae"):
        raise BadInput(f"An RBM's latents are summed out: use --method auto, exact, ais or raise, not {flags.method}.")
    return annealed(model, x, data, flags, flags.method)


def _objective_options(flags: TrainRbm) -> dict[str, Any]:
    options: dict[str, Any] = {"num_steps": flags.num_steps, "centered": flags.centered}
    if flags.num_chains is not None:
        if flags.objective == "cd":
            raise BadInput(
                "The chains of cd are the rows of the batch: leave --num-chains out, or use pcd, fpcd or ptt."
            )
        options["num_chains"] = flags.num_chains
    return options | penalty_options(flags)


RBM_FAMILY = Family(
    name="rbm",
    model=RBM,
    run_config=run_config,
    initialise=RBM.initialise_from_data,
    sample=sample,
    evaluate=evaluate,
    pictures=pictures,
)
