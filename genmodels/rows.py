"""What a training reads."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from genmodels.errors import BadInput
from genmodels.interface import BlockGibbs, check_width
from genmodels.units import Unit


@runtime_checkable
class Rows(Protocol):
    """Training data: anything that gives rows by number, drawn anew where the data set says so."""

    def __len__(self) -> int: ...

    def batch(self, index: Tensor, generator: torch.Generator) -> Tensor:
        """The rows with the given numbers, float32, shape (len(index), d)."""
        ...


@runtime_checkable
class Ordered(Rows, Protocol):
    """Training data that say in which order an epoch reads them, because not every order is cheap."""

    def order(self, generator: torch.Generator) -> Tensor:
        """All row numbers, each once."""
        ...


def check_rows(model: nn.Module, data: Rows) -> None:
    """Refuse data that are empty, of another width than the model's observed layer, or outside its support."""
    if len(data) == 0:
        raise BadInput("The training data are empty: give at least one row.")
    unit = model.units[0] if isinstance(model, BlockGibbs) else getattr(model, "observed", None)
    if not isinstance(unit, Unit):
        return
    generator = torch.Generator().manual_seed(0)
    for rows in torch.arange(len(data)).split(8192):
        x = data.batch(rows, generator)
        check_width(x, unit.size, "the training data")
        try:
            unit.check(x)
        except BadInput:
            # Once more from the first row, so that the sentence names the row's number among all.
            unit.check(data.batch(torch.arange(int(rows[-1]) + 1), generator))
