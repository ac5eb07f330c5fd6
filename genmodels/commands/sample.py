"""`genmodels sample`: chains of a trained model, as a picture and as numbers."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from genmodels import plots
from genmodels.boltzmann import LayeredBoltzmann
from genmodels.chains import Chains, half_to_fill, independent_start, run_chains, start_at
from genmodels.checkpoint import write_atomically
from genmodels.data import load
from genmodels.device import choose_device
from genmodels.errors import BadInput
from genmodels.flags import Sample
from genmodels.interface import default_generator
from genmodels.progress import bar
from genmodels.runs import RunConfig, load_model


def run(flags: Sample) -> None:
    """Run the chains, draw their last means, and write the numbers if wanted."""
    _check_suffix(flags.out, ".png", ".pdf", ".svg")
    if flags.save is not None:
        _check_suffix(flags.save, ".npz")
    device = choose_device(flags.device)
    model, config = load_model(flags.path)
    chains = _chains(flags, model.to(device), config, device)
    title = f"{flags.num} chains after {flags.num_steps:,} sweeps"
    if flags.inpaint is not None:
        title += f", the {flags.inpaint} half filled in"
    plots.save(plots.sample_grid(chains.means, config.image_shape, title=title), flags.out)
    print(flags.out)
    if flags.save is not None:
        write_atomically(flags.save, _npz(chains))
        print(flags.save)


def _chains(flags: Sample, model: LayeredBoltzmann, config: RunConfig, device: torch.device) -> Chains:
    generator = default_generator(flags.seed, device)
    start, held = independent_start(model, flags.num, generator=generator), None
    if flags.from_data or flags.inpaint is not None:
        x = _rows(flags, config).to(device)
        if flags.inpaint is not None:
            filled = half_to_fill(_image_shape(config), flags.inpaint, device)
            held = ~filled
            x = x if flags.from_data else torch.where(filled, start[0], x)
        start = start_at(model, x)
    return run_chains(model, start, flags.num_steps, generator=generator, held=held, progress=bar)


def _rows(flags: Sample, config: RunConfig) -> Tensor:
    rows = load(config.data, key=config.key).split(flags.split).fixed()
    if flags.num > len(rows):
        raise BadInput(f"The {flags.split} split has {len(rows)} rows to start from: lower --num from {flags.num}.")
    return rows[: flags.num]


def _image_shape(config: RunConfig) -> tuple[int, int]:
    if config.image_shape is None:
        raise BadInput(f"The examples of {config.data} are no images, which alone have halves: leave --inpaint out.")
    return config.image_shape


def _check_suffix(path: Path, *known: str) -> None:
    if path.suffix.lower() not in known:
        raise BadInput(f"Cannot write {path}: its name must end in {' or '.join(known)}.")


def _npz(chains: Chains) -> bytes:
    file = io.BytesIO()
    np.savez_compressed(file, states=chains.states.cpu().numpy(), means=chains.means.cpu().numpy())
    return file.getvalue()
