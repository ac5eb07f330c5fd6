"""The reproduction table, `experiments/README.md`, made from the result files: `python -m experiments.table`.

Every number in it is read from `experiments/results/*.json`; a test makes it anew and compares.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experiments.results import BETWEEN_SEEDS, FOLDER, error_between

PAGE = Path(__file__).parent / "README.md"
HEAD = """# What was measured

Made by `python -m experiments.table` from the files in `results/`; do not edit. Log-likelihoods are in nats per example.
"upper" and "lower" say on which side of the truth a number lies in expectation; "none" is an estimate that bounds nothing,
or no likelihood at all. Minutes are those of training all seeds, where they were kept apart, and of the last call of the
command, which takes finished training up. A ± is the standard error of the estimators alone; "between seeds" is that of the
mean over the seeds from their spread, which holds what training differs by, where results of single seeds were kept.

## Published numbers, and ours
"""
OTHERS = "\n## Everything else\n"
COLUMNS = (
    "experiment: metric",
    "published",
    "source",
    "here",
    "between seeds",
    "bound",
    "other side",
    "seeds",
    "minutes",
    "machine",
)


def table(folder: Path = FOLDER) -> str:
    """The page, as Markdown."""
    results = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    rows = [
        _published_row(result, metric, number)
        for result in results
        for metric, number in result["published"].items()
        if metric in result["metrics"]
    ]
    return HEAD + "\n" + _markdown(COLUMNS, rows) + OTHERS + "".join(_section(result) for result in results)


def _published_row(result: Mapping[str, Any], metric: str, published: Mapping[str, Any]) -> tuple[str, ...]:
    found = result["metrics"][metric]
    return (
        f"`{result['name']}`: {metric}",
        f"{published['value']:g}",
        published["source"],
        _number(found),
        _between_seeds(result["metrics"], metric),
        found["bound"],
        _other_side(result["metrics"], metric),
        str(len(result["seeds"])),
        _minutes(result),
        result["device"],
    )


def _between_seeds(metrics: Mapping[str, Any], metric: str) -> str:
    """The error of the mean over the seeds, from their spread."""
    seeds = [found["value"] for name, found in metrics.items() if re.fullmatch(rf"{re.escape(metric)}_seed_\d+", name)]
    error = metrics[metric].get(BETWEEN_SEEDS, error_between(seeds) if len(seeds) > 1 else None)
    return "—" if error is None else f"± {error:.2g}"


def _other_side(metrics: Mapping[str, Any], metric: str) -> str:
    """The conservative sides that stand beside a metric under its name."""
    names = [f"{metric}_{end}" for end in ("reverse", "lower") if f"{metric}_{end}" in metrics]
    return "; ".join(f"{_number(metrics[name])} ({metrics[name]['bound']})" for name in names) or "—"


def _section(result: Mapping[str, Any]) -> str:
    """One experiment's numbers, without those of single seeds."""
    rows = [
        (name, _with_seeds(result["metrics"], name), metric["bound"])
        for name, metric in result["metrics"].items()
        if not re.search(r"_seed_\d+$", name)
    ]
    lead = f"`{result['command']}` · {result['data']} · {_minutes(result)} minutes · {result['device']}"
    return f"\n### {result['name']}\n\n{lead}\n\n" + _markdown(("metric", "value", "bound"), rows)


def _number(metric: Mapping[str, Any]) -> str:
    """The value to the digits that its error leaves; five significant ones without an error."""
    value, error = metric["value"], metric["std_error"]
    if not error:
        return f"{value:.5g}"
    decimals = max(0, 1 - int(f"{error:e}".split("e")[1]))
    return f"{value:.{decimals}f} ± {error:.{decimals}f}"


def _with_seeds(metrics: Mapping[str, Any], metric: str) -> str:
    """The value, with both errors where there are two."""
    between = _between_seeds(metrics, metric)
    return _number(metrics[metric]) + ("" if between == "—" else f" ({between} between seeds)")


def _minutes(result: Mapping[str, Any]) -> str:
    training = sum(metric["value"] for name, metric in result["metrics"].items() if "training_seconds" in name)
    last = f"{result['seconds'] / 60:.1f}"
    return f"{training / 60:.0f} + {last}" if training else last


def _markdown(columns: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [columns, ("---",) * len(columns), *rows]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)


if __name__ == "__main__":
    PAGE.write_text(table())
    print(PAGE)
