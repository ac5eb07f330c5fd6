"""Spike-and-slab sparse coding on the command line."""

from __future__ import annotations

import time
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor

from genmodels import plots
from genmodels.data import DataSet, load
from genmodels.families import directed
from genmodels.families.common import device_of, settings_from
from genmodels.families.family import Family
from genmodels.flags import Evaluate
from genmodels.flags.s3c import TrainS3c
from genmodels.interface import check_width, default_generator
from genmodels.likelihood import Estimate, LikelihoodReport, spike_slab_ais
from genmodels.monitor import MonitorOptions
from genmodels.progress import Progress, bar
from genmodels.run_config import RunConfig
from genmodels.s3c import S3C
from genmodels.units import Gaussian

NUM_PICTURED = 16
_CHAINS, _TEMPERATURES = 16, 500


def run_config(flags: TrainS3c, data: DataSet) -> RunConfig:
    """The run of S3C on `data` that the flags describe."""
    observed = Gaussian(data.num_features, variance=flags.noise**2)
    model = S3C(observed, flags.codes, active=flags.active, slab_variance=flags.slab**2)
    return RunConfig(
        model="s3c",
        model_options=model.config(),
        data=flags.data,
        key=flags.key,
        objective="variational_em",
        objective_options={"forgetting": flags.forgetting},
        settings=settings_from(flags, len(data.train), learning_rate=1.0),
        monitor=MonitorOptions(ais_every=0, tensorboard=flags.tensorboard),
    )


def evaluate(model: S3C, x: Tensor, data: DataSet, flags: Evaluate) -> LikelihoodReport:
    """Exact by enumeration where that is asked for, annealing by Gibbs sweeps, or a variational bound."""
    if flags.method not in ("exact", "ais"):
        return directed.evaluate(model, x, data, flags)
    check_width(x, model.observed.size, data.name)
    model.observed.check(x)
    started = time.perf_counter()
    if flags.method == "exact":
        value = Estimate(float(model.log_evidence(x).double().mean()), 0.0, "exact", "enumeration of the spikes", 0)
        lower = None
    else:
        value = lower = spike_slab_ais(
            model,
            x,
            num_temperatures=_TEMPERATURES if flags.num_temperatures is None else flags.num_temperatures,
            num_chains=_CHAINS if flags.num_chains is None else flags.num_chains,
            group_size=flags.group_size,
            generator=default_generator(flags.seed, device_of(model)),
            progress=bar,
        )
    log_z = Estimate(0.0, 0.0, "exact", "normalised by its making", 1)
    seconds = time.perf_counter() - started
    return LikelihoodReport(value, lower, None, log_z, len(x), seconds, dict(value.diagnostics))


@torch.no_grad()
def pictures(model: S3C, config: RunConfig, generator: torch.Generator, progress: Progress) -> dict[str, Figure]:
    """Samples, the dictionary, and reconstructions."""
    title = f"{config.model} on {Path(config.data).name}: independent draws, means"
    means = model.observed_mean(model.sample(100, generator=generator)[1:])
    x = load(config.data, key=config.key).test.fixed()[:NUM_PICTURED].to(device_of(model))
    mean = model.encode(x).mean
    return {
        "samples.png": plots.sample_grid(means, config.image_shape, title=title),
        "filters.png": plots.filter_grid(model.dictionary, config.image_shape, num=model.codes),
        "reconstructions.png": plots.sample_grid(
            torch.cat([x, model.observed_mean((torch.ones_like(mean), mean))]),
            config.image_shape,
            title="test examples, and below them their reconstructions from the mean codes",
            columns=NUM_PICTURED,
        ),
    }


S3C_FAMILY = Family(
    name="s3c",
    model=S3C,
    run_config=run_config,
    initialise=S3C.initialise_from_data,
    sample=directed.sample,
    evaluate=evaluate,
    pictures=pictures,
)
