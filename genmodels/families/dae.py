"""Denoising auto-encoders on the command line, and what every model that is a walk-back chain does there."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from genmodels import plots
from genmodels.chains import half_to_fill
from genmodels.dae import DAE
from genmodels.data import DataSet, load
from genmodels.errors import BadInput
from genmodels.families.common import device_of, image_shape, settings_from
from genmodels.families.family import Drawn, Family, Wanted
from genmodels.flags import Evaluate, Sample
from genmodels.flags.dae import TrainDae
from genmodels.flags.gsn import TrainGsn
from genmodels.gsn import GSN
from genmodels.interface import check_width, default_generator
from genmodels.layers import visible_layer
from genmodels.likelihood import Estimate, LikelihoodReport, chain_fields, csl
from genmodels.progress import Progress, bar
from genmodels.run_config import RunConfig
from samplers import run, walk_back

_LEARNING_RATE = 0.002
NUM_SAMPLES, NUM_STEPS = 100, 500
FILM_STEPS, FILM_CHAINS = (0, 1, 2, 5, 10, 30, 100, 300), 10
CHAINS, BURN_IN = 100, 200


def run_config(flags: TrainDae, data: DataSet) -> RunConfig:
    """The run of a DAE on `data` that the flags describe."""
    return RunConfig(
        model="dae",
        model_options={
            "observed": visible_layer(data, flags.visible_units).config(),
            "corruption": corruption_of(flags),
            "hidden": flags.hidden,
            "hidden_noise": flags.hidden_noise,
            "tied": flags.tied,
            "activation": flags.activation,
        },
        data=flags.data,
        key=flags.key,
        objective="denoising",
        objective_options={
            "walk_back": flags.walk_back,
            "contraction": flags.contraction,
            "num_probes": flags.num_probes,
            "sparsity": flags.sparsity,
        },
        settings=settings_from(flags, len(data.train), learning_rate=_LEARNING_RATE),
    )


def corruption_of(flags: TrainDae | TrainGsn) -> dict[str, Any]:
    """The configuration of the corruption that the flags describe."""
    amount = "std" if flags.corruption == "gaussian" else "prob"
    return {"type": flags.corruption, amount: flags.corruption_level}


def starts(model: DAE | GSN, num: int, generator: torch.Generator) -> Tensor:
    """Sites drawn from the decoder's bias alone: a start that knows no data."""
    field = model.observed_bias.expand(num, -1)
    return model.observed.draw(field, model.observed.noise(num, field, generator))


@torch.no_grad()
def sample(model: DAE | GSN, config: RunConfig, flags: Sample, wanted: Wanted) -> Drawn:
    """Where walk-back chains end, started from noise or from data, parts of them held if wanted."""
    generator, rows = wanted.generator, wanted.rows
    x, held = starts(model, wanted.num, generator), None
    title = f"{flags.num} chains after {flags.num_steps:,} walk-back steps"
    if rows is not None:
        if flags.inpaint is not None:
            held = ~half_to_fill(image_shape(config), flags.inpaint, rows.device)
            title += f", the {flags.inpaint} half filled in"
        x = rows if flags.from_data or held is None else torch.where(held, rows, x)
    state = run(
        walk_back(model, clamp=None if held is None else model.clamp(held)),
        model.start(x),
        flags.num_steps - 1,
        generator=generator,
        track=lambda n: bar(n, "walk-back"),
    )
    # The last step apart, because its mean is wanted too.
    field = next_field(model, state, generator)
    states, means = model.observed.draw(field, model.reconstruction_noise(x, generator)), model.observed.mean(field)
    if held is not None:
        states, means = (torch.where(held, x, drawn) for drawn in (states, means))
    return Drawn(states, means, title)


def next_field(model: DAE | GSN, state: Tensor, generator: torch.Generator) -> Tensor:
    """The field of x in a chain's next step."""
    return model.apart(model.reconstruct(model.corrupt(state, model.corruption_noise(state, generator))))[0]


def evaluate(model: DAE | GSN, x: Tensor, data: DataSet, flags: Evaluate) -> LikelihoodReport:
    """The conservative estimate of the chain's likelihood; its chains start at rows of the training data."""
    check_width(x, model.observed.size, data.name)
    if flags.method != "auto":
        raise BadInput(f"A walk-back chain has no density but its own: use --method auto, not {flags.method}.")
    started = time.perf_counter()
    device = device_of(model)
    generator = default_generator(flags.seed, device)
    chains = CHAINS if flags.num_chains is None else flags.num_chains
    rows = data.train.fixed().to(device)
    start = rows[torch.randint(len(rows), (chains,), generator=generator, device=device)]
    steps = max(1, flags.num_samples // chains)
    shared: dict[str, Any] = {"group_size": flags.group_size, "progress": bar}
    fields = chain_fields(model, start, steps, burn_in=BURN_IN, generator=generator, **shared)
    found = csl(model.observed, x, fields, **shared)
    normalised = Estimate(0.0, 0.0, "exact", "normalised by its making", 1)
    few = found.diagnostics["ess"] < 10
    warnings = ("Few states of the chain explain a row: CSL is far below the truth; add --num-samples.",) if few else ()
    seconds = time.perf_counter() - started
    return LikelihoodReport(found, found, None, normalised, len(x), seconds, dict(found.diagnostics), warnings)


@torch.no_grad()
def pictures(model: DAE | GSN, config: RunConfig, generator: torch.Generator, progress: Progress) -> dict[str, Figure]:
    """Where chains from noise end, the filters of the first layer, and a film strip of chains."""
    means: list[Tensor] = []

    def keep(step: int, state: Tensor) -> None:
        if step in FILM_STEPS:
            field = next_field(model, state, generator)
            means.append(model.apart(state)[0] if step == 0 else model.observed.mean(field))

    state = model.start(starts(model, NUM_SAMPLES, generator))
    state = run(walk_back(model), state, NUM_STEPS, generator=generator, track=lambda n: progress(n, "walk-back"))
    field = next_field(model, state, generator)
    title = (
        f"{config.model} on {Path(config.data).name}: {NUM_SAMPLES} chains after {NUM_STEPS:,} walk-back steps, means"
    )
    figures = {"samples.png": plots.sample_grid(model.observed.mean(field), config.image_shape, title=title)}
    figures["filters.png"] = plots.filter_grid(model.filters.T, config.image_shape)
    if config.image_shape is not None:
        start = load(config.data, key=config.key).test.fixed()[:FILM_CHAINS].to(state)
        run(walk_back(model), model.start(start), max(FILM_STEPS), generator=generator, observe=keep)
        figures["film_strip.png"] = plots.film_strip(torch.stack(means), FILM_STEPS, config.image_shape)
    return figures


DAE_FAMILY = Family(
    name="dae",
    model=DAE,
    run_config=run_config,
    initialise=DAE.initialise_from_data,
    sample=sample,
    evaluate=evaluate,
    pictures=pictures,
)
