"""What layered Boltzmann machines share: block Gibbs chains, pictures of them, and likelihoods by annealing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from genmodels import plots
from genmodels.boltzmann import LayeredBoltzmann
from genmodels.chains import film, half_to_fill, independent_start, run_chains, start_at
from genmodels.data import DataSet
from genmodels.dbm import DBM
from genmodels.families.common import device_of, image_shape
from genmodels.families.family import Drawn, Wanted
from genmodels.flags import Evaluate, Sample
from genmodels.flags.boltzmann import TrainBoltzmann
from genmodels.interface import default_generator
from genmodels.likelihood import LikelihoodReport, log_likelihood
from genmodels.likelihood.report import Method
from genmodels.progress import Progress, bar
from genmodels.rbm import RBM
from genmodels.run_config import RunConfig

FILM_STEPS = (0, 1, 2, 5, 10, 30, 100, 300, 1000)
FILM_CHAINS = 10
NUM_SAMPLES = 100
NUM_STEPS = 1000


def sample(model: LayeredBoltzmann, config: RunConfig, flags: Sample, wanted: Wanted) -> Drawn:
    """Where block Gibbs chains end, started from the biases or from data, parts of them held if wanted."""
    x, generator = wanted.rows, wanted.generator
    start, held = independent_start(model, wanted.num, generator=generator), None
    title = f"{flags.num} chains after {flags.num_steps:,} sweeps"
    if x is not None:
        if flags.inpaint is not None:
            filled = half_to_fill(image_shape(config), flags.inpaint, x.device)
            held = ~filled
            x = x if flags.from_data else torch.where(filled, start[0], x)
            title += f", the {flags.inpaint} half filled in"
        start = start_at(model, x)
    chains = run_chains(model, start, flags.num_steps, generator=generator, held=held, progress=bar)
    return Drawn(chains.states, chains.means, title)


def annealed(model: RBM | DBM, x: Tensor, data: DataSet, flags: Evaluate, method: Method) -> LikelihoodReport:
    """The report of `log_likelihood`, annealing from the base rates of the training data."""
    device = device_of(model)
    return log_likelihood(
        model,
        x,
        method=method,
        base=data.train.fixed().to(device),
        num_chains=100 if flags.num_chains is None else flags.num_chains,
        num_temperatures=14_500 if flags.num_temperatures is None else flags.num_temperatures,
        schedule=flags.schedule,
        num_steps=flags.num_steps,
        group_size=flags.group_size,
        generator=default_generator(flags.seed, device),
        progress=bar,
    )


def penalty_options(flags: TrainBoltzmann) -> dict[str, Any]:
    """The penalty among the options of an objective, if there is any."""
    if not (flags.l1 or flags.l2 or flags.sparsity_cost):
        return {}
    names = ("l1", "l2", "sparsity_target", "sparsity_cost")
    return {"penalty": {name: getattr(flags, name) for name in names}}


def pictures(
    model: LayeredBoltzmann, config: RunConfig, generator: torch.Generator, progress: Progress
) -> dict[str, Figure]:
    """Samples, the filters of the first layer, and a film strip of chains."""
    start = independent_start(model, NUM_SAMPLES, generator=generator)
    means = run_chains(model, start, NUM_STEPS, generator=generator, progress=progress).means
    title = f"{config.model} on {Path(config.data).name}: {NUM_SAMPLES} chains after {NUM_STEPS:,} sweeps, means"
    figures = {
        "samples.png": plots.sample_grid(means, config.image_shape, title=title),
        "filters.png": plots.filter_grid(model.weights[0], config.image_shape),
    }
    if config.image_shape is not None:
        start = independent_start(model, FILM_CHAINS, generator=generator)
        frames = film(model, start, FILM_STEPS, generator=generator, progress=progress)
        figures["film_strip.png"] = plots.film_strip(frames, FILM_STEPS, config.image_shape)
    return figures
