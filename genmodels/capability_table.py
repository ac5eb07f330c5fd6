"""The README's table of what each model can be asked, made from the class headers: `python -m genmodels.capability_table`."""

from __future__ import annotations

import inspect

from genmodels import interface
from genmodels.families import FAMILIES


def all_capabilities() -> list[str]:
    """Names of the contracts in `interface`, in the order they stand there."""
    classes = vars(interface).values()
    return [
        c.__name__
        for c in classes
        if inspect.isclass(c) and issubclass(c, interface.Capability) and c is not interface.Capability
    ]


def capability_table() -> str:
    """A Markdown table: one row a model that has a capability, one column a capability that some model has."""
    has = {family.model.__name__: interface.capabilities(family.model) for family in FAMILIES.values()}
    columns = [c for c in all_capabilities() if any(c in names for names in has.values())]
    lines = [f"| model | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    for name, names in has.items():
        if not names:
            continue
        marks = ("yes" if column in names else "" for column in columns)
        lines.append(f"| {name} | {' | '.join(marks)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(capability_table())
