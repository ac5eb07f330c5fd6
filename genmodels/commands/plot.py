"""`genmodels plot`: the pictures of a run."""

from __future__ import annotations

from genmodels.device import choose_device
from genmodels.flags import Plot
from genmodels.pictures import write_pictures
from genmodels.progress import bar


def run(flags: Plot) -> None:
    """Draw the pictures and print their paths."""
    for path in write_pictures(flags.path, seed=flags.seed, device=choose_device(flags.device), progress=bar):
        print(path)
