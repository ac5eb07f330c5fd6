"""Estimates as a table on standard output."""

from __future__ import annotations

from collections.abc import Mapping

from rich.console import Console
from rich.table import Table

from genmodels.likelihood import Estimate

MEANING = {
    "exact": "exact",
    "lower": "at or below the truth, on average",
    "upper": "at or above the truth, on average",
    "none": "no bound",
}
"""On which side of the truth an estimate of each kind of bound lies."""


def print_estimates(title: str, estimates: Mapping[str, Estimate]) -> None:
    """One row an estimate: value, standard error, on which side of the truth it lies, and how it was made."""
    table = Table("", "nats", "std error", "what it is", "method", title=title, title_justify="left")
    for name, estimate in estimates.items():
        value, error = f"{estimate.value:.3f}", f"{estimate.std_error:.3f}"
        table.add_row(name, value, error, MEANING[estimate.bound], estimate.method)
    Console().print(table)
