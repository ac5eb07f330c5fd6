"""Numeric tables as comma-separated text."""

import csv
from pathlib import Path

import numpy as np
from jaxtyping import Float64

from genmodels.errors import BadInput


def read_csv(path: Path) -> Float64[np.ndarray, "n d"]:
    """The numbers of a comma-separated file, one example a line; a first line without any number is a header."""
    try:
        lines = [line for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{path} is no readable text: save the table as comma-separated UTF-8 text.") from error
    has_header = bool(lines) and not any(map(_is_number, next(csv.reader(lines[:1]))))
    rows = lines[has_header:]
    if not rows:
        raise BadInput(f"{path} is empty: give at least three rows of numbers.")
    try:
        return np.loadtxt(rows, delimiter=",", quotechar='"', comments=None, ndmin=2)
    except ValueError as error:
        raise _first_fault(path, rows) from error


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _first_fault(path: Path, lines: list[str]) -> BadInput:
    width = None
    for row, cells in enumerate(csv.reader(lines), start=1):
        width = width or len(cells)
        if len(cells) != width:
            return BadInput(f"{path} has {len(cells)} cells in row {row} and {width} above: give every row as many.")
        for column, cell in enumerate(cells, start=1):
            if not _is_number(cell):
                return BadInput(
                    f"{path} holds {cell!r} in row {row}, column {column} (counted from 1, without the header), "
                    "which is no number: correct the cell, or put commas between the cells."
                )
    return BadInput(f"{path} is no table of numbers: save it as comma-separated text with a point for decimals.")
