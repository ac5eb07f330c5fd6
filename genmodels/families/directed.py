"""What models with a decoder and an encoder share: independent draws, bounds on the likelihood, pictures of the code."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from matplotlib.figure import Figure
from torch import Tensor

from genmodels import code_plots, plots
from genmodels.chains import half_to_fill
from genmodels.data import DataSet, load
from genmodels.errors import BadInput
from genmodels.families.common import device_of, image_shape
from genmodels.families.family import Drawn, Wanted
from genmodels.flags import Evaluate, Sample
from genmodels.interface import check_width, default_generator
from genmodels.likelihood import Annealing, Estimate, LikelihoodReport, elbo, importance_bound, latent_ais
from genmodels.progress import Progress, bar
from genmodels.run_config import RunConfig
from genmodels.vae import VAE
from samplers import metropolis_within_gibbs, run

NUM_SAMPLES = 100
NUM_PAIRS, NUM_BETWEEN = 8, 11
PLANE = 20
RATE_ROWS = 1000
_CHAINS, _TEMPERATURES = 16, 1000


def sample(model: Any, config: RunConfig, flags: Sample, wanted: Wanted) -> Drawn:
    """Independent draws; or the missing halves of images, by a chain over them and the code."""
    if flags.inpaint is not None:
        assert wanted.rows is not None
        held = ~half_to_fill(image_shape(config), flags.inpaint, wanted.rows.device)
        noise = model.sample(wanted.num, generator=wanted.generator)[0]
        start = torch.where(held, wanted.rows, wanted.rows if flags.from_data else noise)
        return _filled(model, start, held, flags, wanted.generator)
    if flags.from_data:
        raise BadInput("Draws of this model are independent and start nowhere: --from-data goes with --inpaint.")
    states, *z = model.sample(wanted.num, generator=wanted.generator)
    return Drawn(states, model.observed_mean(tuple(z)), f"{flags.num} independent draws")


def _filled(model: Any, x: Tensor, held: Tensor, flags: Sample, generator: torch.Generator) -> Drawn:
    kernel = metropolis_within_gibbs(model, held)
    start = (x, model.encode(x).draw(generator))
    state, z = run(
        kernel, start, flags.num_steps, generator=generator, track=lambda n: bar(n, "Metropolis within Gibbs")
    )
    title = f"{flags.num} chains after {flags.num_steps:,} steps, the {flags.inpaint} half filled in"
    return Drawn(state, torch.where(held, state, model.observed_mean(z)), title)


def evaluate(model: Any, x: Tensor, data: DataSet, flags: Evaluate) -> LikelihoodReport:
    """A lower bound in expectation: the ELBO, the importance-weighted bound, or annealing over the latents."""
    check_width(x, model.observed.size, data.name)
    model.observed.check(x)
    started = time.perf_counter()
    generator = default_generator(flags.seed, device_of(model))
    found = _estimate(model, x, flags, generator)
    log_z = Estimate(0.0, 0.0, "exact", "normalised by its making", 1)
    return LikelihoodReport(
        found, found, None, log_z, len(x), time.perf_counter() - started, dict(found.diagnostics), _few(found)
    )


def _estimate(model: Any, x: Tensor, flags: Evaluate, generator: torch.Generator) -> Estimate:
    common: dict[str, Any] = {"group_size": flags.group_size, "generator": generator, "progress": bar}
    if flags.method == "elbo":
        return elbo(model, x, num_samples=flags.num_samples, **common)
    if flags.method in ("auto", "iwae"):
        return importance_bound(model, x, num_samples=flags.num_samples, **common)
    if flags.method == "ais":
        temperatures = _TEMPERATURES if flags.num_temperatures is None else flags.num_temperatures
        chains = _CHAINS if flags.num_chains is None else flags.num_chains
        tuning: dict[str, Any] = {"generator": generator, "progress": bar}
        annealing = Annealing.tune(model, x, model.encode, num_temperatures=temperatures, **tuning)
        return latent_ais(model, x, model.encode, annealing, num_chains=chains, **common)
    raise BadInput(f"This model's latents are not enumerated: use --method elbo, iwae or ais, not {flags.method}.")


def _few(found: Estimate) -> tuple[str, ...]:
    ess = found.diagnostics.get("ess", math.inf)
    if ess >= min(10, 0.1 * found.samples):
        return ()
    return (f"The effective sample size is {ess:.1f} of {found.samples} draws a row: its error bar is too small.",)


@torch.no_grad()
def pictures(model: VAE, config: RunConfig, generator: torch.Generator, progress: Progress) -> dict[str, Figure]:
    """Samples, paths between examples through the code, the rates of its dimensions, and the plane of a 2-d code."""
    shape, data = config.image_shape, load(config.data, key=config.key)
    x = data.test.fixed().to(device_of(model))
    _, *z = model.sample(NUM_SAMPLES, generator=generator)
    figures = {"samples.png": samples_figure(model, tuple(z), config, data)}
    between = shown(interpolate(model, x[: 2 * NUM_PAIRS], NUM_BETWEEN), data)
    title = "From one example to another, evenly through the lowest code"
    figures["interpolation.png"] = plots.sample_grid(between, shape, title=title, columns=NUM_BETWEEN)
    figures["rates.png"] = rates_figure(model, x, generator)
    if len(z) == 1 and z[0].shape[1] == 2 and shape is not None:
        title = "The plane of the code: at even quantiles of a standard normal"
        figures["plane.png"] = plots.sample_grid(shown(plane(model, PLANE), data), shape, title=title, columns=PLANE)
    return figures


def shown(mean: Tensor, data: DataSet) -> Tensor:
    """Means as pictures: that of a Gaussian pixel may lie a little outside of what the data can be."""
    return mean if data.support == "real" else mean.clamp(0, 1)


def samples_figure(model: Any, z: tuple[Tensor, ...], config: RunConfig, data: DataSet) -> Figure:
    """The means of x at independent draws z of the latents."""
    title = f"{config.model} on {Path(config.data).name}: {len(z[0])} independent draws, means"
    return plots.sample_grid(shown(model.observed_mean(z), data), config.image_shape, title=title)


def rates_figure(model: Any, x: Tensor, generator: torch.Generator) -> Figure:
    """The mean rate of every latent over the first rows of x."""
    rates = model.rate_distortion(x[:RATE_ROWS], generator)[1]
    return code_plots.rate_bars([rate.mean(0) for rate in rates])


def interpolate(model: VAE, x: Float[Tensor, "m d"], num: int) -> Float[Tensor, "n d"]:
    """Means of x at `num` codes on the lines between those of the rows 0 and 1, 2 and 3, and so on: line after line."""
    centre = model.encode(x).first.mean[: len(x) // 2 * 2]
    weight = torch.linspace(0, 1, num, dtype=x.dtype, device=x.device)[:, None]
    lines = torch.lerp(centre[0::2, None], centre[1::2, None], weight)
    return model.observed.mean(model.decode((lines.flatten(0, 1),)))


def plane(model: VAE, side: int) -> Float[Tensor, "n d"]:
    """Means of x on a grid of `side`² codes, even quantiles of a standard normal (Kingma and Welling, 2014, appendix A)."""
    like = next(model.parameters())
    quantiles = (torch.arange(side, dtype=like.dtype, device=like.device) + 0.5) / side
    points = torch.special.ndtri(quantiles)
    return model.observed.mean(model.decode((torch.cartesian_prod(points.flip(0), points).flip(1),)))
