"""`genmodels sample`: draws of a trained model, as a picture and as numbers."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from genmodels import plots
from genmodels.checkpoint import write_atomically
from genmodels.errors import BadInput
from genmodels.families import FAMILIES
from genmodels.families.common import first_rows
from genmodels.families.family import Drawn, Wanted
from genmodels.flags import Sample
from genmodels.groups import Rows, in_groups
from genmodels.interface import default_generator
from genmodels.processes import launch
from genmodels.run_config import RunConfig
from genmodels.runs import load_model


def run(flags: Sample) -> None:
    """Draw from the model, show the means, and write the numbers if wanted."""
    _check_suffix(flags.out, ".png", ".pdf", ".svg")
    if flags.save is not None:
        _check_suffix(flags.save, ".npz")
    model, config = load_model(flags.path)
    rows = first_rows(flags, config)
    processes = launch(flags.device, "32-true", flags.devices, flags.num_nodes)
    device = processes.fabric.device
    drawn = _drawn(
        replace(flags, group_size=processes.group_size(flags.group_size)),
        model.to(device),
        config,
        None if rows is None else rows.to(device),
        default_generator(flags.seed, device),
    )
    if not processes.is_first:
        return
    plots.save(plots.sample_grid(drawn.means, config.image_shape, title=drawn.title), flags.out)
    print(flags.out)
    if flags.save is not None:
        write_atomically(flags.save, _npz(drawn))
        print(flags.save)


def _drawn(flags: Sample, model: Any, config: RunConfig, rows: Tensor | None, generator: torch.Generator) -> Drawn:
    """All draws, of which each process makes its groups."""
    if flags.num < 1:
        raise BadInput(f"There must be at least one draw, not {flags.num}.")
    titles: list[str] = []

    def work(numbers: Tensor, generator: torch.Generator) -> Rows:
        wanted = Wanted(len(numbers), None if rows is None else rows[numbers], generator)
        states, means, title = FAMILIES[config.model].sample(model, config, flags, wanted)
        titles.append(title)
        return states, means

    states, means = in_groups(flags.num, flags.group_size, generator, work)
    return Drawn(states, means, titles[0] if titles else "")


def _check_suffix(path: Path, *known: str) -> None:
    if path.suffix.lower() not in known:
        raise BadInput(f"Cannot write {path}: its name must end in {' or '.join(known)}.")


def _npz(drawn: Drawn) -> bytes:
    file = io.BytesIO()
    np.savez_compressed(file, states=drawn.states.cpu().numpy(), means=drawn.means.cpu().numpy())
    return file.getvalue()
