"""What the command line must know of a family of models."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from matplotlib.figure import Figure
from torch import Tensor

from genmodels.data import DataSet
from genmodels.flags import Evaluate, Sample
from genmodels.likelihood import LikelihoodReport
from genmodels.progress import Progress
from genmodels.rows import Rows
from genmodels.run_config import RunConfig


class Drawn(NamedTuple):
    """Draws from a model, to write and to look at."""

    states: Float[Tensor, "n d"]
    """The observed layer as it was drawn."""
    means: Float[Tensor, "n d"]
    """The mean of the distribution that each was drawn from, given the latents."""
    title: str


class Wanted(NamedTuple):
    """Some of the draws that a command asks for, and what they start from."""

    num: int
    rows: Float[Tensor, "n d"] | None
    """The rows of the data that these draws start at or fill in, where the command asks for it."""
    generator: torch.Generator


def _all_examples(config: RunConfig, data: DataSet) -> Rows:
    return data.train


@dataclass(frozen=True)
class Family:
    """A model and what its verbs do: train, sample, evaluate and plot."""

    name: str
    """As on the command line."""
    model: type[Any]
    """The class; its `from_config` builds it."""
    run_config: Callable[[Any, DataSet], RunConfig]
    """run_config(flags, data): the run that the flags of its training describe."""
    initialise: Callable[[Any, Tensor], None]
    """initialise(model, x): what is set from the training data before the first step."""
    sample: Callable[[Any, RunConfig, Sample, Wanted], Drawn]
    """sample(model, config, flags, wanted): draws, on the model's device."""
    evaluate: Callable[[Any, Tensor, DataSet, Evaluate], LikelihoodReport]
    """evaluate(model, x, data, flags): the mean log-likelihood of the rows x of the data set."""
    pictures: Callable[[Any, RunConfig, torch.Generator, Progress], dict[str, Figure]]
    """pictures(model, config, generator, progress): figures by file name."""
    rows: Callable[[RunConfig, DataSet], Rows] = _all_examples
    """rows(config, data): what the training reads, by default the examples as they are."""
