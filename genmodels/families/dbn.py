"""Deep belief networks on the command line."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float
from matplotlib.figure import Figure
from torch import Tensor

from genmodels import plots
from genmodels.chains import half_to_fill, independent_start, run_chains, start_at
from genmodels.data import DataSet
from genmodels.dbn import DBN
from genmodels.errors import BadInput
from genmodels.families.boltzmann import NUM_SAMPLES, NUM_STEPS, penalty_options
from genmodels.families.common import device_of, image_shape, settings_from
from genmodels.families.family import Drawn, Family, Wanted
from genmodels.flags import Evaluate, Sample
from genmodels.flags.dbn import TrainDbn
from genmodels.interface import Code, Latents, check_width, default_generator
from genmodels.layers import named_layer, visible_layer
from genmodels.likelihood import LikelihoodReport, bound_report
from genmodels.monitor import MonitorOptions
from genmodels.progress import Progress, bar
from genmodels.rbm import RBM
from genmodels.run_config import RunConfig
from samplers import metropolis_within_gibbs, run

_LEARNING_RATE, _LEARNING_RATE_GAUSSIAN = 0.1, 0.005


def run_config(flags: TrainDbn, data: DataSet) -> RunConfig:
    """The run of a DBN on `data` that the flags describe."""
    if len(flags.hidden) < 2:
        raise BadInput("A DBN has at least two hidden layers: give --hidden two numbers, or train an rbm.")
    visible = visible_layer(data, flags.visible_units)
    layers = [visible, *(named_layer(flags.hidden_units, num) for num in flags.hidden)]
    rate = _LEARNING_RATE_GAUSSIAN if visible.num_states is None else _LEARNING_RATE
    settings = settings_from(flags, len(data.train), learning_rate=rate)
    options: dict[str, Any] = {"num_steps": flags.num_steps, "num_chains": flags.num_chains, "centered": flags.centered}
    return RunConfig(
        model="dbn",
        model_options=DBN(layers[:-2], RBM(*layers[-2:])).config(),
        data=flags.data,
        key=flags.key,
        objective="layerwise",
        objective_options=options | penalty_options(flags),
        settings=settings,
        monitor=MonitorOptions(
            ais_every=math.ceil(settings.epochs / 10) if flags.ais_every is None else flags.ais_every,
            tensorboard=flags.tensorboard,
        ),
    )


class UpAndDown:
    """A DBN as what `samplers.metropolis_within_gibbs` draws from: its density up to log Z, and one pass up as the proposal."""

    def __init__(self, model: DBN):
        self._model, self.observed = model, model.units[0]

    def encode(self, x: Float[Tensor, "n d"]) -> Code:
        """q(z | x)."""
        return self._model.encode(x)

    def decode(self, z: Latents) -> Float[Tensor, "n d"]:
        """The field of x given z."""
        return self._model.field_down(0, z[0])

    def log_joint(self, x: Float[Tensor, "n d"], z: Latents) -> Float[Tensor, " n"]:
        """log p(x, z) + log Z."""
        return -self._model.energy(x, z)


def sample(model: DBN, config: RunConfig, flags: Sample, wanted: Wanted) -> Drawn:
    """Chains of the top RBM and one pass down; or missing halves of images, by a chain over them and all layers."""
    rows, generator = wanted.rows, wanted.generator
    if rows is not None and flags.inpaint is not None:
        held = ~half_to_fill(image_shape(config), flags.inpaint, rows.device)
        return _filled(model, rows, held, flags, generator)
    if rows is None:
        start = independent_start(model.top, wanted.num, generator=generator)
    else:
        start = start_at(model.top, model.encode(rows).draw(generator)[-1])
    chains = run_chains(model.top, start, flags.num_steps, generator=generator, progress=bar)
    state = model.pass_down(chains.states, generator)
    title = f"{flags.num} chains after {flags.num_steps:,} sweeps of the top RBM"
    return Drawn(state[0], model.observed_mean(state[1:]), title)


def _filled(model: DBN, rows: Tensor, held: Bool[Tensor, " d"], flags: Sample, generator: torch.Generator) -> Drawn:
    if not flags.from_data:
        unit = model.units[0]
        rows = torch.where(
            held, rows, unit.draw(model.bias_down[0].expand_as(rows), unit.noise(len(rows), rows, generator))
        )
    kernel, start = metropolis_within_gibbs(UpAndDown(model), held), (rows, model.encode(rows).draw(generator))
    x, z = run(kernel, start, flags.num_steps, generator=generator, track=lambda n: bar(n, "Metropolis within Gibbs"))
    title = f"{flags.num} chains after {flags.num_steps:,} steps, the {flags.inpaint} half filled in"
    return Drawn(x, torch.where(held, x, model.observed_mean(z)), title)


def evaluate(model: DBN, x: Tensor, data: DataSet, flags: Evaluate) -> LikelihoodReport:
    """The importance-weighted bound, with "elbo" the variational one, less log Z of the top by annealing or enumeration."""
    check_width(x, model.units[0].size, data.name)
    model.units[0].check(x)
    if flags.method == "raise":
        raise BadInput("A DBN has no RAISE: use --method ais, whose lower side is by reverse annealing, or exact.")
    device = device_of(model)
    return bound_report(
        model,
        x,
        num_samples=1 if flags.method == "elbo" else flags.num_samples,
        method=flags.method if flags.method in ("exact", "ais") else "auto",
        base=data.train.fixed().to(device),
        num_chains=100 if flags.num_chains is None else flags.num_chains,
        num_temperatures=14_500 if flags.num_temperatures is None else flags.num_temperatures,
        schedule=flags.schedule,
        num_steps=flags.num_steps,
        group_size=flags.group_size,
        generator=default_generator(flags.seed, device),
        progress=bar,
    )


@torch.no_grad()
def pictures(model: DBN, config: RunConfig, generator: torch.Generator, progress: Progress) -> dict[str, Figure]:
    """Samples, and the filters of the first layer."""
    start = independent_start(model.top, NUM_SAMPLES, generator=generator)
    chains = run_chains(model.top, start, NUM_STEPS, generator=generator, progress=progress)
    state = model.pass_down(chains.states, generator)
    title = (
        f"{config.model} on {Path(config.data).name}: {NUM_SAMPLES} chains of the top after {NUM_STEPS:,} sweeps, means"
    )
    return {
        "samples.png": plots.sample_grid(model.observed_mean(state[1:]), config.image_shape, title=title),
        "filters.png": plots.filter_grid(model.generative[0], config.image_shape),
    }


DBN_FAMILY = Family(
    name="dbn",
    model=DBN,
    run_config=run_config,
    initialise=DBN.initialise_from_data,
    sample=sample,
    evaluate=evaluate,
    pictures=pictures,
)
