"""Denoising auto-encoders at all noise levels on the command line."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from genmodels import plots
from genmodels.chains import half_to_fill
from genmodels.data import DataSet
from genmodels.dequantisation import bits_per_dimension, dequantised, log_probability
from genmodels.errors import BadInput
from genmodels.families.common import device_of, image_shape, settings_from
from genmodels.families.family import Drawn, Family, Wanted
from genmodels.flags import Evaluate, Sample
from genmodels.flags.noise_dae import TrainNoiseDae
from genmodels.interface import check_width, default_generator
from genmodels.layers import mean_variance
from genmodels.likelihood import Estimate, LikelihoodReport, flow_draws, probability_flow
from genmodels.noise_conditional import NoiseConditionalDAE
from genmodels.progress import Progress, bar
from genmodels.run_config import RunConfig
from samplers import annealed_langevin, best_step_size, geometric_noise_levels

_LEARNING_RATE = 0.001
SOLVER_STEPS = 60
EXACT_SITES, PROBES = 64, 4
"""Up to so many sites the divergence is exact; for more, random probes."""
NUM_SAMPLES, FILM_CHAINS, FRAMES = 100, 10, 9
LEVEL_STEPS = 5
"""Langevin steps at each noise level."""


def run_config(flags: TrainNoiseDae, data: DataSet) -> RunConfig:
    """The run that the flags describe."""
    if flags.levels and data.support == "real":
        raise BadInput(f"The values of {data.name} are no grey levels from 0 to 1: give --levels 0.")
    deviation = mean_variance(data) ** 0.5
    smallest = 0.5 / flags.levels if flags.levels else deviation / 50
    return RunConfig(
        model="noise-dae",
        model_options={
            "size": data.num_features,
            "width": flags.width,
            "depth": flags.depth,
            "smallest": smallest if flags.smallest is None else flags.smallest,
            "largest": deviation * data.num_features**0.5 if flags.largest is None else flags.largest,
            "atoms": list(flags.atoms),
            "levels": flags.levels,
            "activation": flags.activation,
        },
        data=flags.data,
        key=flags.key,
        objective="noise_levels",
        settings=settings_from(flags, len(data.train), learning_rate=_LEARNING_RATE),
    )


@torch.no_grad()
def sample(model: NoiseConditionalDAE, config: RunConfig, flags: Sample, wanted: Wanted) -> Drawn:
    """Independent draws by the flow; or missing halves of images, by annealed Langevin with the other half held."""
    generator, rows = wanted.generator, wanted.rows
    if flags.inpaint is None:
        if flags.from_data:
            raise BadInput("Draws of this model are independent and start nowhere: leave --from-data out.")
        x = flow_draws(model.score, model.widest(wanted.num, generator), **_solver(model))
        return _drawn(model, x, f"{flags.num} independent draws by the probability flow")
    assert rows is not None
    if flags.from_data:
        raise BadInput("Filling in starts from noise: leave --from-data out.")
    held = ~half_to_fill(image_shape(config), flags.inpaint, rows.device)
    values = dequantised(rows, model.levels, generator) if model.levels else rows
    num_levels = max(2, flags.num_steps // LEVEL_STEPS)
    start = model.widest(wanted.num, generator)
    x, _ = langevin(model, start, num_levels, generator, clamp=(held, values), progress=bar)
    title = f"{flags.num} chains of annealed Langevin, {num_levels * LEVEL_STEPS:,} steps, the {flags.inpaint} half filled in"
    states, means, _ = _drawn(model, x, title)
    return Drawn(torch.where(held, rows, states), torch.where(held, rows, means), title)


def langevin(
    model: NoiseConditionalDAE,
    x: Tensor,
    num_levels: int,
    generator: torch.Generator,
    *,
    clamp: tuple[Tensor, Tensor] | None = None,
    progress: Progress,
) -> tuple[Tensor, list[Tensor]]:
    """Chains of annealed Langevin from the largest noise to the smallest, and what they would denoise to after each level."""
    sigmas = geometric_noise_levels(model.largest, model.smallest, num_levels)
    frames: list[Tensor] = []

    def keep(level: int, x: Tensor) -> None:
        frames.append(model.reconstruct(x, float(sigmas[max(level - 1, 0)])))

    x = annealed_langevin(
        model.score,
        x,
        sigmas,
        step_size=best_step_size(float(sigmas[0] / sigmas[1]), LEVEL_STEPS),
        num_steps=LEVEL_STEPS,
        generator=generator,
        clamp=clamp,
        observe=keep,
        track=lambda n: progress(n, "annealed Langevin"),
    )
    return x, frames


def _drawn(model: NoiseConditionalDAE, x: Tensor, title: str) -> Drawn:
    means = model.reconstruct(x, model.smallest)
    if not model.levels:
        return Drawn(x, means, title)
    states = (x * model.levels).floor().clamp(0, model.levels - 1) / (model.levels - 1)
    return Drawn(states, means.clamp(0, 1), title)


def _solver(model: NoiseConditionalDAE) -> dict[str, Any]:
    return {"smallest": model.smallest, "largest": model.largest, "num_steps": SOLVER_STEPS}


def evaluate(model: NoiseConditionalDAE, x: Tensor, data: DataSet, flags: Evaluate) -> LikelihoodReport:
    """The log-density by the probability flow; for grey levels, what it says of their log-probability at least."""
    check_width(x, model.size, data.name)
    if flags.method != "auto":
        raise BadInput(f"This model's density is that of its flow: use --method auto, not {flags.method}.")
    started = time.perf_counter()
    generator = default_generator(flags.seed, device_of(model))
    rows = dequantised(x, model.levels, generator) if model.levels else x
    found = probability_flow(
        model.score,
        rows,
        model.base,
        **_solver(model),
        num_probes=0 if model.size <= EXACT_SITES else PROBES,
        group_size=flags.group_size,
        generator=generator,
        progress=bar,
    )
    diagnostics, lower = dict(found.diagnostics), None
    if model.levels:
        diagnostics["bits_per_dimension"] = bits_per_dimension(found, model.size, model.levels).value
        found = lower = log_probability(found, model.size, model.levels)
    log_z = Estimate(0.0, 0.0, "exact", "normalised by its making", 1)
    rough = abs(diagnostics["discretisation"]) > max(0.1, found.std_error)
    warnings = ("The steps of the solver leave an error of over 0.1 nats: `discretisation` is it.",) if rough else ()
    seconds = time.perf_counter() - started
    return LikelihoodReport(found, lower, None, log_z, len(x), seconds, diagnostics, warnings)


@torch.no_grad()
def pictures(
    model: NoiseConditionalDAE, config: RunConfig, generator: torch.Generator, progress: Progress
) -> dict[str, Figure]:
    """Independent draws, and a film strip of annealed Langevin: what its chains would denoise to along the falling noise."""
    x = flow_draws(model.score, model.widest(NUM_SAMPLES, generator), **_solver(model), progress=progress)
    title = f"{config.model} on {Path(config.data).name}: {NUM_SAMPLES} draws by the probability flow"
    means = _drawn(model, x, title).means
    figures = {"samples.png": plots.sample_grid(means, config.image_shape, title=title)}
    if config.image_shape is not None:
        levels = FRAMES * 5
        _, frames = langevin(model, model.widest(FILM_CHAINS, generator), levels, generator, progress=progress)
        steps = range(0, levels + 1, levels // FRAMES)
        shown = torch.stack([frames[step].clamp(0, 1) if model.levels else frames[step] for step in steps])
        figures["film_strip.png"] = plots.film_strip(shown, [step * LEVEL_STEPS for step in steps], config.image_shape)
    return figures


NOISE_DAE_FAMILY = Family(
    name="noise-dae",
    model=NoiseConditionalDAE,
    run_config=run_config,
    initialise=NoiseConditionalDAE.initialise_from_data,
    sample=sample,
    evaluate=evaluate,
    pictures=pictures,
)
