"""Generative stochastic networks on the command line."""

from __future__ import annotations

from genmodels.data import DataSet
from genmodels.families.common import settings_from
from genmodels.families.dae import corruption_of, evaluate, pictures, sample
from genmodels.families.family import Family
from genmodels.flags.gsn import TrainGsn
from genmodels.gsn import GSN
from genmodels.layers import visible_layer
from genmodels.run_config import RunConfig

_LEARNING_RATE = 0.002


def run_config(flags: TrainGsn, data: DataSet) -> RunConfig:
    """The run of a GSN on `data` that the flags describe."""
    return RunConfig(
        model="gsn",
        model_options={
            "observed": visible_layer(data, flags.visible_units).config(),
            "corruption": corruption_of(flags),
            "hidden": flags.hidden,
            "noise": flags.noise,
            "noise_after": flags.noise_after,
            "clean_first": flags.clean_first,
            "activation": flags.activation,
        },
        data=flags.data,
        key=flags.key,
        objective="denoising",
        objective_options={"walk_back": 2 * len(flags.hidden) if flags.walk_back is None else flags.walk_back},
        settings=settings_from(flags, len(data.train), learning_rate=_LEARNING_RATE),
    )


GSN_FAMILY = Family(
    name="gsn",
    model=GSN,
    run_config=run_config,
    initialise=GSN.initialise_from_data,
    sample=sample,
    evaluate=evaluate,
    pictures=pictures,
)
