"""The page: HTML with its style, its script and its pictures inside."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from pprint import pformat
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from genmodels.checkpoint import current_versions
from genmodels.report.evaluation import KIND, Row
from genmodels.report.summary import Summary
from genmodels.tables import MEANING


@dataclass(frozen=True)
class Group:
    """Rows of the table that may be ranked against each other: the same data and split, and one kind of bound."""

    data: str
    split: str
    bound: str
    rows: tuple[tuple[Summary, Row], ...]

    @property
    def title(self) -> str:
        meaning = "" if self.bound in ("exact", "none") else f" ({MEANING[self.bound]})"
        return f"{self.data}, {self.split} split: {KIND[self.bound]}{meaning}"


def render(runs: Sequence[Summary]) -> str:
    """The page on these runs."""
    runs = _told_apart(runs)
    environment = Environment(
        loader=PackageLoader("genmodels.report", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters.update(number=_number, words=_words)
    return environment.get_template("page.html").render(
        runs=runs,
        groups=_groups(runs),
        left=[run for run in runs if run.evaluation is None],
        versions=current_versions(),
        script=_text("sort.js"),
        style=_text("page.css"),
        python=_python,
        settings=_settings,
    )


def _groups(runs: Sequence[Summary]) -> list[Group]:
    """All estimates, those that are comparable together: exact values first, what bounds nothing last."""
    found: dict[tuple[str, str, str], list[tuple[Summary, Row]]] = {}
    for run in runs:
        for row in run.evaluation.rows if run.evaluation else ():
            assert run.evaluation is not None
            found.setdefault((run.evaluation.data, run.evaluation.split, row.bound), []).append((run, row))
    order = list(KIND)
    keys = sorted(found, key=lambda key: (key[0], key[1], order.index(key[2])))
    return [Group(*key, tuple(found[key])) for key in keys]


def _told_apart(runs: Sequence[Summary]) -> list[Summary]:
    """Runs whose folders have the same name are called by their paths."""
    often = Counter(run.name for run in runs)
    return [replace(run, name=run.path) if often[run.name] > 1 else run for run in runs]


def _python(run: Summary) -> str:
    """A program that makes the run again, for those that no command made."""
    config = pformat(run.config.to_dict(), width=88, sort_dicts=False)
    return (
        "from pathlib import Path\n\nfrom genmodels.run_config import RunConfig\nfrom genmodels.runs import start\n\n"
        f"config = {config}\nstart(RunConfig.from_dict(config), Path({'again/' + Path(run.path).name!r}))"
    )


def _settings(run: Summary) -> dict[str, str]:
    """The configuration, flat: what a reader looks for first comes first."""
    config = asdict(run.config)
    flat: dict[str, Any] = {}
    for name in ("model", "data", "key", "objective", "model_options", "objective_options", "settings", "monitor"):
        value = config[name]
        flat |= {f"{name}: {key}": inner for key, inner in value.items()} if isinstance(value, dict) else {name: value}
    return {_words(name): str(value) for name, value in flat.items() if value not in (None, {})}


def _number(value: float | int | None, decimals: int | None = None) -> str:
    """A number to read: a true minus, thousands apart, a dash for none.

    >>> _number(-12345.678, 1), _number(0.00123456), _number(None), _number(60000)
    ('−12,345.7', '0.00123', '—', '60,000')
    """
    if value is None:
        return "—"
    if not math.isfinite(value):
        return str(value)
    if decimals is None:
        text = f"{value:,.0f}" if abs(value) >= 1000 or value == int(value) else f"{value:.3g}"
    else:
        text = f"{value:,.{decimals}f}"
    return text.replace("-", "−")


_ACRONYMS: Mapping[str, str] = {"ess": "ESS", "ais": "AIS", "rhat": "R-hat", "elbo": "ELBO", "mcse": "MCSE"}


def _words(name: str) -> str:
    """A key as words.

    >>> _words("reverse_ess")
    'reverse ESS'
    """
    return " ".join(_ACRONYMS.get(word, word) for word in name.replace("_", " ").split(" "))


def _text(name: str) -> str:
    return (Path(__file__).parent / name).read_text()
