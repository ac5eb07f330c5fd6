"""Unit types by name, and the one that suits a data set."""

from __future__ import annotations

import torch

from genmodels.data import DataSet
from genmodels.errors import BadInput
from genmodels.units import Bernoulli, Categorical, Gaussian, Unit

KINDS = "bernoulli, gaussian, gaussian:VARIANCE or categorical:LEVELS"
_SMALLEST_VARIANCE = 1e-4


def visible_layer(data: DataSet, kind: str = "auto") -> Unit:
    """The layer for the examples of `data`: of the given kind, or Bernoulli for binary data and Gaussian for others.

    The variance of a Gaussian layer starts at the mean variance of the training columns: all of it is noise to a model
    that has learned nothing.
    """
    if kind == "auto":
        kind = "bernoulli" if data.support == "binary" else "gaussian"
    levels = _levels(kind)
    if levels is None:
        return named_layer(kind, data.num_features, variance=mean_variance(data) if kind == "gaussian" else 1.0)
    if data.num_features % levels:
        raise BadInput(f"The {data.num_features} columns of {data.name} are no groups of {levels}: give other LEVELS.")
    return named_layer(kind, data.num_features // levels)


def named_layer(kind: str, num: int, *, variance: float = 1.0) -> Unit:
    """A layer of `num` sites: bernoulli, gaussian, gaussian:VARIANCE, which is then kept, or categorical:LEVELS.

    >>> named_layer("categorical:3", 5).size
    15
    """
    levels = _levels(kind)
    if levels is not None:
        return Categorical(num, levels)
    name, _, kept = kind.partition(":")
    if name == "gaussian" and kept:
        return Gaussian(num, variance=_number(kept), learned=False)
    if kind not in ("bernoulli", "gaussian"):
        raise BadInput(f"There are no units called {kind!r}: choose {KINDS}.")
    return Bernoulli(num) if kind == "bernoulli" else Gaussian(num, variance=variance)


def mean_variance(data: DataSet) -> float:
    """The variance of a training column about its mean, averaged over the columns; a little above 0 at least."""
    rows = data.train.batch(torch.arange(min(len(data.train), 10_000)), torch.Generator().manual_seed(0))
    return max(float(rows.double().var(0, correction=0).mean()), _SMALLEST_VARIANCE)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise BadInput(f"A variance is a number, as in gaussian:0.1, not {text!r}.") from None


def _levels(kind: str) -> int | None:
    """LEVELS of "categorical:LEVELS"; None for other kinds."""
    name, _, levels = kind.partition(":")
    if name != "categorical":
        return None
    if not levels.isdecimal():
        raise BadInput(f"Units of the kind {kind!r} need their number of levels: write categorical:4, for example.")
    return int(levels)
