"""`genmodels list`: what there is."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from types import ModuleType
from typing import Any, get_type_hints

import samplers
from genmodels import data, likelihood, objectives
from genmodels.families import FAMILIES
from genmodels.flags import List
from genmodels.interface import capabilities
from genmodels.likelihood import Estimate, LikelihoodReport


def run(flags: List) -> None:
    """Print everything by kind, read from the code itself."""
    here = {True: "here", False: "not here"}
    _show("Models", {name: ", ".join(capabilities(family.model)) for name, family in FAMILIES.items()})
    _show("Objectives", dict(_returning(objectives, objectives.Objective)))
    _show("Samplers", dict(_returning(samplers, samplers.Kernel)))
    _show("Estimators", dict(_returning(likelihood, Estimate, LikelihoodReport)))
    _show("Data sets", {name: f"{here[data.is_available(name)]:10}{data.describe(name)}" for name in data.names()})


def _returning(module: ModuleType, *kinds: type) -> Iterator[tuple[str, str]]:
    """The exported functions of a module that return one of `kinds`, with the first line of their docstrings."""
    for name in module.__all__:
        member: Any = getattr(module, name)
        if inspect.isfunction(member) and get_type_hints(member).get("return") in kinds:
            yield name, (member.__doc__ or "").partition("\n")[0]


def _show(title: str, lines: dict[str, str]) -> None:
    print(title)
    for name, text in lines.items():
        print(f"  {name:26}{text}")
    print()
