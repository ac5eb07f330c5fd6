"""A stored evaluation, and what its bounds mean in words."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genmodels.errors import BadInput
from genmodels.runs import LIKELIHOOD
from genmodels.tables import MEANING

SIGN = {"exact": "=", "lower": "≥", "upper": "≤", "none": "≈"}
"""How the true mean log-likelihood lies to the number, in expectation."""
KIND = {"exact": "exact", "lower": "lower bound", "upper": "upper bound", "none": "no bound"}


@dataclass(frozen=True)
class Row:
    """One estimate."""

    name: str
    value: float
    std_error: float
    bound: str
    method: str

    @property
    def number(self) -> str:
        """The value with its error and with how the truth lies to it, nats per example.

        >>> Row("lower side", -84.286, 0.031, "lower", "reverse AIS").number
        '≥ −84.29 ± 0.03'
        """
        error = "" if self.bound == "exact" else f" ± {self.std_error:.2f}"
        return f"{SIGN[self.bound]} {_signed(self.value)}{error}"

    @property
    def content(self) -> tuple[float, float, str, str]:
        """All but the name: a number may go by two."""
        return self.value, self.std_error, self.bound, self.method

    @property
    def kind(self) -> str:
        return KIND[self.bound]

    @property
    def meaning(self) -> str:
        return MEANING[self.bound]


@dataclass(frozen=True)
class Evaluation:
    """What `genmodels evaluate` left in a run's folder."""

    data: str
    split: str
    num_examples: int | None
    rows: tuple[Row, ...]
    log_z: Row | None
    diagnostics: Mapping[str, float]
    warnings: tuple[str, ...]
    seconds: float | None
    command: str | None
    older: bool
    """Whether training went on after it."""

    @property
    def words(self) -> str:
        """What the numbers say of the truth."""
        sides = {row.bound: row for row in self.rows}
        if "exact" in sides:
            return f"The mean log-likelihood is exactly {_signed(sides['exact'].value)} nats per example."
        lower, upper = sides.get("lower"), sides.get("upper")
        if lower and upper:
            return _bracket(lower, upper)
        if lower:
            return f"The truth is {_signed(lower.value)} nats per example or more, in expectation; nothing bounds it from above."
        if upper:
            return f"The truth is {_signed(upper.value)} nats per example or less, in expectation; nothing bounds it from below."
        return "These numbers bound the truth from no side."


def _bracket(lower: Row, upper: Row) -> str:
    width, error = upper.value - lower.value, math.hypot(lower.std_error, upper.std_error)
    if width >= 0:
        return (
            f"The truth lies between {_signed(lower.value)} and {_signed(upper.value)} nats per example, {width:.2f} apart, "
            "as far as both sides hold in expectation."
        )
    crossed = f"The two sides of the bracket cross by {-width:.2f} ± {error:.2f} nats"
    if -width <= 3 * error:
        return f"{crossed}, which their errors explain: the truth lies near {_signed((lower.value + upper.value) / 2)}."
    return f"{crossed}, more than their errors explain: trust neither."


def _signed(value: float) -> str:
    return f"{value:.2f}".replace("-", "−")


def read_evaluation(out: Path, step: int) -> Evaluation | None:
    """What is stored in the folder of a run whose checkpoint is at `step`; None where nothing is."""
    if not (out / LIKELIHOOD).exists():
        return None
    try:
        held = json.loads((out / LIKELIHOOD).read_text())
        diagnostics = dict(held.get("diagnostics", {}))
        warnings = diagnostics.pop("warnings", [])
        rows = [_row(name, values) for name, values in held["estimates"].items()]
        return Evaluation(
            data=held["data"],
            split=held["split"],
            num_examples=held.get("num_examples"),
            rows=tuple(row for i, row in enumerate(rows) if row.content not in [seen.content for seen in rows[:i]]),
            log_z=_row("log Z", held["log_z"]) if "log_z" in held else None,
            diagnostics=diagnostics,
            warnings=tuple(warnings),
            seconds=held.get("seconds"),
            command=held.get("command"),
            older="step" in held and held["step"] != step,
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BadInput(f"{out / LIKELIHOOD} holds no likelihoods: run `genmodels evaluate {out}` again.") from error


def _row(name: str, values: Mapping[str, Any]) -> Row:
    row = Row(name, float(values["value"]), float(values["std_error"]), values["bound"], values["method"])
    if row.bound not in KIND:
        raise ValueError(f"unknown bound {row.bound}")
    return row
