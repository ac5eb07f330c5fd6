"""`genmodels sample`: draws of a trained model, as a picture and as numbers."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np

from genmodels import plots
from genmodels.checkpoint import write_atomically
from genmodels.device import choose_device
from genmodels.errors import BadInput
from genmodels.families import FAMILIES, Drawn
from genmodels.flags import Sample
from genmodels.runs import load_model


def run(flags: Sample) -> None:
    """Draw from the model, show the means, and write the numbers if wanted."""
    _check_suffix(flags.out, ".png", ".pdf", ".svg")
    if flags.save is not None:
        _check_suffix(flags.save, ".npz")
    device = choose_device(flags.device)
    model, config = load_model(flags.path)
    drawn = FAMILIES[config.model].sample(model.to(device), config, flags)
    plots.save(plots.sample_grid(drawn.means, config.image_shape, title=drawn.title), flags.out)
    print(flags.out)
    if flags.save is not None:
        write_atomically(flags.save, _npz(drawn))
        print(flags.save)


def _check_suffix(path: Path, *known: str) -> None:
    if path.suffix.lower() not in known:
        raise BadInput(f"Cannot write {path}: its name must end in {' or '.join(known)}.")


def _npz(drawn: Drawn) -> bytes:
    file = io.BytesIO()
    np.savez_compressed(file, states=drawn.states.cpu().numpy(), means=drawn.means.cpu().numpy())
    return file.getvalue()
