"""What the tests of every family do on the command line."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from genmodels.cli import main


def said(capsys, *arguments: object) -> str:
    """What a command prints; it must succeed, and print no error."""
    capsys.readouterr()
    assert main([str(argument) for argument in arguments]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return out


def refused(capsys, *arguments: object) -> str:
    """The sentence with which a command refuses what the user can mend."""
    capsys.readouterr()
    assert main([str(argument) for argument in arguments]) == 2
    return capsys.readouterr().err


def evaluated(capsys, run: Path, *flags: object) -> dict[str, Any]:
    """The JSON of an evaluation."""
    return json.loads(said(capsys, "evaluate", run, *flags, "--json"))


def is_normalised_lower_bound(report: dict[str, Any]) -> bool:
    """Whether it is the one of a model with log Z = 0: one side, which is the value."""
    sides = report["lower"]["bound"], report["upper"], report["log_z"]["value"]
    one = report["lower"] == report["log_likelihood"]
    return sides == ("lower", None, 0.0) and one and math.isfinite(report["lower"]["value"])


def drawn(capsys, run: Path, folder: Path, *flags: object) -> dict[str, np.ndarray]:
    """The states and means of six draws, by chains of three steps where it takes any."""
    path = folder / "s.npz"
    small = ["--num", 6, "--num-steps", 3, "--out", folder / "s.png", "--save", path]
    said(capsys, "sample", run, *small, *flags)
    with np.load(path) as saved:
        return dict(saved)
