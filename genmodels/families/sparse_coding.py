"""Sparse coding on the command line."""

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
from genmodels.flags.sparse_coding import TrainSparseCoding
from genmodels.interface import check_width
from genmodels.likelihood import Estimate, LikelihoodReport
from genmodels.monitor import MonitorOptions
from genmodels.priors import ExponentialPrior, GaussianPrior, LaplacePrior, Prior, StudentTPrior
from genmodels.progress import Progress
from genmodels.run_config import RunConfig
from genmodels.sparse_coding import SparseCoding
from genmodels.sparse_plots import code_histogram
from genmodels.units import Gaussian

NUM_PICTURED = 16


def run_config(flags: TrainSparseCoding, data: DataSet) -> RunConfig:
    """The run of sparse coding on `data` that the flags describe."""
    learns_all = flags.objective != "dictionary"
    observed = Gaussian(data.num_features, variance=flags.noise**2)
    model = SparseCoding(observed, named_prior(flags), learn_noise=learns_all)
    settings = settings_from(flags, len(data.train), learning_rate=0.01 if learns_all else 1.0)
    return RunConfig(
        model="sparse-coding",
        model_options=model.config(),
        data=flags.data,
        key=flags.key,
        objective=flags.objective,
        objective_options={"num_samples": flags.num_samples} if flags.objective == "iwae" else {},
        settings=settings,
        monitor=MonitorOptions(ais_every=0, tensorboard=flags.tensorboard),
    )


def named_prior(flags: TrainSparseCoding) -> Prior:
    """The prior of the codes."""
    if flags.prior in ("student", "cauchy"):
        return StudentTPrior(flags.codes, scale=flags.scale, dof=1.0 if flags.prior == "cauchy" else flags.dof)
    kinds = {"laplace": LaplacePrior, "exponential": ExponentialPrior, "gaussian": GaussianPrior}
    return kinds[flags.prior](flags.codes, scale=flags.scale)


def evaluate(model: SparseCoding, x: Tensor, data: DataSet, flags: Evaluate) -> LikelihoodReport:
    """Exact for a Gaussian prior unless a bound is asked for, else a bound."""
    if not (isinstance(model.factors, GaussianPrior) and flags.method in ("auto", "exact")):
        return directed.evaluate(model, x, data, flags)
    check_width(x, model.observed.size, data.name)
    started = time.perf_counter()
    value = Estimate(float(model.log_evidence(x).double().mean()), 0.0, "exact", "closed form", 0)
    log_z = Estimate(0.0, 0.0, "exact", "normalised by its making", 1)
    return LikelihoodReport(value, None, None, log_z, len(x), time.perf_counter() - started)


def pictures(
    model: SparseCoding, config: RunConfig, generator: torch.Generator, progress: Progress
) -> dict[str, Figure]:
    """Samples, the dictionary, reconstructions, and a histogram of codes."""
    title = f"{config.model} on {Path(config.data).name}: independent draws, means"
    means = model.observed_mean(model.sample(100, generator=generator)[1:])
    x = load(config.data, key=config.key).test.fixed()[:1000].to(device_of(model))
    (code,) = model.infer(x).z
    return {
        "samples.png": plots.sample_grid(means, config.image_shape, title=title),
        "filters.png": plots.filter_grid(model.dictionary, config.image_shape, num=model.factors.size),
        "reconstructions.png": plots.sample_grid(
            torch.cat([x[:NUM_PICTURED], model.observed_mean((code[:NUM_PICTURED],))]),
            config.image_shape,
            title="test examples, and below them their reconstructions from the most probable codes",
            columns=NUM_PICTURED,
        ),
        "codes.png": code_histogram(code, model.factors),
    }


SPARSE_CODING_FAMILY = Family(
    name="sparse-coding",
    model=SparseCoding,
    run_config=run_config,
    initialise=SparseCoding.initialise_from_data,
    sample=directed.sample,
    evaluate=evaluate,
    pictures=pictures,
)
