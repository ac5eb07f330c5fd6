"""Predictive sparse decomposition on the command line."""

from __future__ import annotations

import torch
from matplotlib.figure import Figure
from torch import Tensor

from genmodels import plots
from genmodels.code_encoders import CodeEncoder, GainTanh, Lista
from genmodels.data import DataSet
from genmodels.families import directed, sparse_coding
from genmodels.families.common import settings_from
from genmodels.families.family import Drawn, Family, Wanted
from genmodels.flags import Evaluate, Sample
from genmodels.flags.psd import TrainPsd
from genmodels.likelihood import LikelihoodReport
from genmodels.monitor import MonitorOptions
from genmodels.priors import ExponentialPrior, LaplacePrior
from genmodels.progress import Progress
from genmodels.psd import PSD
from genmodels.run_config import RunConfig
from genmodels.sparse_coding import SparseCoding
from genmodels.units import Gaussian

_LEARNING_RATE = 0.002


def run_config(flags: TrainPsd, data: DataSet) -> RunConfig:
    """The run of PSD on `data` that the flags describe."""
    kind = ExponentialPrior if flags.prior == "exponential" else LaplacePrior
    observed = Gaussian(data.num_features, variance=flags.noise**2)
    generative = SparseCoding(observed, kind(flags.codes, scale=flags.scale), learn_noise=False)
    model = PSD(generative, _encoder(flags, data.num_features), closeness=flags.closeness)
    return RunConfig(
        model="psd",
        model_options=model.config(),
        data=flags.data,
        key=flags.key,
        objective=flags.objective,
        settings=settings_from(flags, len(data.train), learning_rate=_LEARNING_RATE),
        monitor=MonitorOptions(ais_every=0, tensorboard=flags.tensorboard),
    )


def sample(model: PSD, config: RunConfig, flags: Sample, wanted: Wanted) -> Drawn:
    """Independent draws of the generative part."""
    return directed.sample(model.generative, config, flags, wanted)


def evaluate(model: PSD, x: Tensor, data: DataSet, flags: Evaluate) -> LikelihoodReport:
    """A bound on the log-likelihood of the generative part."""
    return sparse_coding.evaluate(model.generative, x, data, flags)


def pictures(model: PSD, config: RunConfig, generator: torch.Generator, progress: Progress) -> dict[str, Figure]:
    """What sparse coding shows, and the encoder's filters."""
    filters = model.encoder.get_parameter("filters")
    filters = filters[0] if filters.ndim == 3 else filters  # LISTA's first layer
    figures = sparse_coding.pictures(model.generative, config, generator, progress)
    return {**figures, "encoder.png": plots.filter_grid(filters, config.image_shape, num=filters.shape[1])}


def _encoder(flags: TrainPsd, size: int) -> CodeEncoder:
    if flags.encoder == "tanh":
        return GainTanh(size, flags.codes)
    non_negative = flags.prior == "exponential"
    return Lista(size, flags.codes, layers=flags.layers, tied=flags.tied, non_negative=non_negative)


PSD_FAMILY = Family(
    name="psd",
    model=PSD,
    run_config=run_config,
    initialise=PSD.initialise_from_data,
    sample=sample,
    evaluate=evaluate,
    pictures=pictures,
)
