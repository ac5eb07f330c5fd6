"""A command line from its flags: the inverse of parsing, so that a run can say how to get it again."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import MISSING, fields
from typing import Any


def command_line(verb: Sequence[str], flags: Any, *, positional: str | None = None) -> str:
    """The shell command whose parsing gives `flags`; those at their default are left out.

    >>> from pathlib import Path
    >>> from genmodels.flags import Sample
    >>> command_line(["sample"], Sample(Path("runs/my rbm"), num=5, from_data=True), positional="path")
    "genmodels sample 'runs/my rbm' --num 5 --from-data"
    """
    words = ["genmodels", *verb]
    if positional is not None:
        words.append(str(getattr(flags, positional)))
    for each in fields(flags):
        value = getattr(flags, each.name)
        if each.name != positional and (each.default is MISSING or value != each.default):
            words += _option(each.name.replace("_", "-"), value)
    return shlex.join(words)


def _option(name: str, value: Any) -> list[str]:
    if isinstance(value, bool):
        return [f"--{name}" if value else f"--no-{name}"]
    if isinstance(value, tuple):
        return [f"--{name}", *map(str, value)]
    return [f"--{name}", str(value)]
