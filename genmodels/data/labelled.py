"""Examples with labels for some: rows of x, a one-hot label, and a mask."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn.functional import one_hot

from genmodels.data.examples import Examples
from genmodels.errors import BadInput


@dataclass(frozen=True, eq=False)
class LabelledRows:
    """Training data of n × (d + k + 1): x, its class of k as a one-hot row or zeros, and the mask, 1 where it has a class.

    Args:
        examples: with labels.
        classes: k.
        shown: numbers of the examples that show their label.
        hidden: numbers of those that do not; an example may be in both.
        copies: how often an epoch reads each shown one, beside each hidden one once.
    """

    examples: Examples
    classes: int
    shown: Int64[Tensor, " s"]
    hidden: Int64[Tensor, " u"]
    copies: int = 1

    def __len__(self) -> int:
        return len(self.shown) * self.copies + len(self.hidden)

    def batch(self, index: Int64[Tensor, " b"], generator: torch.Generator) -> Float[Tensor, "b r"]:
        """The rows with the given numbers, the shown ones first."""
        labels, masked = self.examples.labels, index >= len(self.shown) * self.copies
        if labels is None:
            raise BadInput("These examples have no labels: choose data with classes.")
        rows = index.clone()
        rows[~masked] = self.shown[index[~masked] % max(1, len(self.shown))]
        rows[masked] = self.hidden[index[masked] - len(self.shown) * self.copies]
        mask = (~masked).float()[:, None]
        return torch.cat([self.examples.batch(rows, generator), mask * one_hot(labels[rows], self.classes), mask], 1)


def all_labelled(examples: Examples, classes: int) -> LabelledRows:
    """All examples, each with its label."""
    return LabelledRows(examples, classes, torch.arange(len(examples)), torch.arange(0))


def few_labelled(
    examples: Examples, classes: int, num: int, seed: int, *, unlabelled: bool, steps_rows: int
) -> LabelledRows:
    """`num` labels, equally many of each class, drawn by `seed`, each read so often that an epoch has `steps_rows` of them;
    with all examples once without a label beside them, or with none."""
    if examples.labels is None or num % classes:
        raise BadInput(f"{num} labels do not fall equally on {classes} classes: choose a multiple.")
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(examples), generator=generator)
    found = [order[examples.labels[order] == label][: num // classes] for label in range(classes)]
    hidden = torch.arange(len(examples) if unlabelled else 0)
    return LabelledRows(examples, classes, torch.cat(found), hidden, max(1, steps_rows // num))
