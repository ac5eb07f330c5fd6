"""Classes next to examples: data with labels, p(y | x) of an RBM over both, and networks read as classifiers."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn.functional import one_hot

from genmodels.boltzmann import LayeredBoltzmann
from genmodels.data import Examples
from genmodels.dbm import DBM
from genmodels.errors import BadInput
from genmodels.interface import check_width
from genmodels.joined import Joined
from genmodels.rbm import RBM
from genmodels.units import Categorical, Unit


class WithClasses:
    """The rows of a split with their classes one-hot behind them: what a layer `Joined(x, Categorical(1, k))` observes."""

    def __init__(self, data: Examples, num_classes: int):
        if data.labels is None:
            raise BadInput("These examples have no labels to learn from: choose a data set that has classes.")
        largest = int(data.labels.max())
        if largest >= num_classes:
            raise BadInput(f"There is a class {largest}, counted from 0, which {num_classes} classes have no room for.")
        self._data, self._classes, self._num_classes = data, data.labels, num_classes

    def __len__(self) -> int:
        return len(self._data)

    def batch(self, index: Int64[Tensor, " b"], generator: torch.Generator) -> Float[Tensor, "b d"]:
        """The rows at `index`, features first."""
        x = self._data.batch(index, generator)
        return torch.cat([x, one_hot(self._classes[index], self._num_classes).to(x)], 1)


def label_unit(model: LayeredBoltzmann) -> Categorical:
    """The label of a machine over examples and classes: the last part of its visible layer."""
    visible = model.units[0]
    label = visible.parts[-1] if isinstance(visible, Joined) else None
    if not isinstance(label, Categorical) or label.groups != 1:
        raise BadInput(
            "Classes need a machine that sees them: give it the visible layer Joined(x, Categorical(1, classes))."
        )
    return label


def label_sites(model: LayeredBoltzmann) -> Bool[Tensor, " d"]:
    """The label's columns among the visible ones: what chains hold that are to show one class."""
    label, size = label_unit(model), model.units[0].size
    return torch.arange(size, device=model.biases[0].device) >= size - label.size


def class_log_probs(model: RBM, x: Float[Tensor, "n d"]) -> Float[Tensor, "n k"]:
    """log p(y | x) of every class, nats: exact, by the free energies of x next to each label.

    F(x, y) shares x's part of the hidden fields between the classes, so that it costs one product as a network's forward pass
    (Larochelle and Bengio, 2008, eq. 2). Differentiable in the parameters. Any real x in the place of binary pixels is taken
    as it is.
    """
    label = label_unit(model)
    size = model.visible.size - label.size
    check_width(x, size)
    field = model.hidden_bias + _statistic(model.visible, x) @ model.weight[:size]
    hidden = model.hidden.log_partition(field[:, None] + model.weight[size:])
    return torch.log_softmax(model.visible_bias[size:] + hidden, -1)


@torch.no_grad()
def inferred_class_log_probs(model: DBM, x: Float[Tensor, "n d"], *, num_iterations: int = 10) -> Float[Tensor, "n k"]:
    """log q(y | x) of every class, nats: by the mean field of a DBM over examples and classes, the label left out.

    An approximation of log p(y | x) on neither side of it; what `multi_prediction` with as many iterations trains.
    """
    label, held = label_unit(model), ~label_sites(model)
    rows = torch.cat([x, x.new_zeros(len(x), label.size)], 1)
    fields = model.fill_in(rows, held, num_iterations=num_iterations, tolerance=0.0)
    return torch.log_softmax(fields[0][:, -label.size :], -1)


@torch.no_grad()
def error_rate(
    scores: Callable[[Tensor], Tensor], x: Float[Tensor, "n d"], classes: Int64[Tensor, " n"], *, chunk: int = 1000
) -> float:
    """The share of rows whose class has not the highest of its `scores(x)`, shape (rows, classes)."""
    found = torch.cat([scores(rows).argmax(1) for rows in x.split(chunk)])
    return float((found != classes).double().mean())


def _statistic(visible: Unit, x: Tensor) -> Tensor:
    """The statistics of all parts of the visible layer but the label."""
    assert isinstance(visible, Joined)
    parts = visible.parts[:-1]
    own = zip(parts, x.split([part.size for part in parts], -1), strict=True)
    return torch.cat([part.statistic(states) for part, states in own], -1)
