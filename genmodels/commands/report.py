"""`genmodels report`: one page on runs."""

from __future__ import annotations

from genmodels.checkpoint import write_atomically
from genmodels.device import choose_device
from genmodels.errors import BadInput
from genmodels.flags import Report
from genmodels.progress import bar
from genmodels.report.page import render
from genmodels.report.summary import summarise


def run(flags: Report) -> None:
    """Write the page and print its path."""
    if flags.out.suffix.lower() not in (".html", ".htm"):
        raise BadInput(f"Cannot write {flags.out}: its name must end in .html.")
    device = choose_device(flags.device)
    runs = [summarise(path, seed=flags.seed, device=device, progress=bar) for path in flags.paths]
    if not runs:
        raise BadInput("Name the folder of at least one run.")
    write_atomically(flags.out, render(runs).encode())
    print(flags.out)
