"""What layered Boltzmann machines share: block Gibbs chains, and pictures of them."""

from __future__ import annotations

from pathlib import Path

import torch
from matplotlib.figure import Figure

from genmodels import plots
from genmodels.boltzmann import LayeredBoltzmann
from genmodels.chains import film, half_to_fill, independent_start, run_chains, start_at
from genmodels.families.common import first_rows, image_shape
from genmodels.families.family import Drawn
from genmodels.flags import Sample
from genmodels.interface import default_generator
from genmodels.progress import Progress, bar
from genmodels.run_config import RunConfig

FILM_STEPS = (0, 1, 2, 5, 10, 30, 100, 300, 1000)
FILM_CHAINS = 10
NUM_SAMPLES = 100
NUM_STEPS = 1000


def sample(model: LayeredBoltzmann, config: RunConfig, flags: Sample) -> Drawn:
    """Where block Gibbs chains end, started from the biases or from data, parts of them held if wanted."""
    device = model.biases[0].device
    generator = default_generator(flags.seed, device)
    start, held = independent_start(model, flags.num, generator=generator), None
    title = f"{flags.num} chains after {flags.num_steps:,} sweeps"
    if flags.from_data or flags.inpaint is not None:
        x = first_rows(flags, config).to(device)
        if flags.inpaint is not None:
            filled = half_to_fill(image_shape(config), flags.inpaint, device)
            held = ~filled
            x = x if flags.from_data else torch.where(filled, start[0], x)
            title += f", the {flags.inpaint} half filled in"
        start = start_at(model, x)
    chains = run_chains(model, start, flags.num_steps, generator=generator, held=held, progress=bar)
    return Drawn(chains.states, chains.means, title)


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
