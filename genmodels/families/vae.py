"""Variational auto-encoders on the command line."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from genmodels.data import DataSet
from genmodels.errors import BadInput
from genmodels.families.common import settings_from
from genmodels.families.directed import evaluate, pictures, sample
from genmodels.families.family import Family
from genmodels.flags.vae import TrainVae
from genmodels.layers import visible_layer
from genmodels.run_config import RunConfig
from genmodels.vae import VAE

_LEARNING_RATE = 0.002


def run_config(flags: TrainVae, data: DataSet) -> RunConfig:
    """The run of a VAE on `data` that the flags describe."""
    return RunConfig(
        model="vae",
        model_options={
            "observed": visible_layer(data, flags.visible_units).config(),
            "latent": flags.latent,
            "hidden": [_sizes(text) for text in flags.hidden],
            "activation": flags.activation,
            "pseudo_inputs": flags.pseudo_inputs,
        },
        data=flags.data,
        key=flags.key,
        objective=flags.objective,
        objective_options=_objective_options(flags),
        settings=settings_from(flags, len(data.train), learning_rate=_LEARNING_RATE),
    )


def initialise(model: VAE, x: Tensor) -> None:
    """Start at the mean of the data."""
    model.initialise_from_data(x)


def _objective_options(flags: TrainVae) -> dict[str, Any]:
    if flags.objective == "elbo":
        return {"warm_up": flags.warm_up, "free_bits": flags.free_bits}
    if flags.warm_up or flags.free_bits:
        raise BadInput(f"Only elbo has a warm-up and free bits: leave them out, or the objective {flags.objective}.")
    return {"num_samples": flags.num_samples}


def _sizes(text: str) -> list[int]:
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not all(part.isdecimal() for part in parts):
        raise BadInput(f"Sizes of layers are numbers joined by commas, as in 200,200, not {text!r}.")
    return [int(part) for part in parts]


VAE_FAMILY = Family(
    name="vae",
    model=VAE,
    run_config=run_config,
    initialise=initialise,
    sample=sample,
    evaluate=evaluate,
    pictures=pictures,
)
