"""Which classes images belong to, as a small network reads them."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Int64
from sklearn.neural_network import MLPClassifier
from torch import Tensor

from experiments.results import Result
from genmodels.data import DataSet


class Classes:
    """Class counts of images by a small network, trained on the labelled images."""

    def __init__(self, data: DataSet):
        labels = data.train.labels
        assert labels is not None
        self._network = MLPClassifier((256,), max_iter=8, random_state=0, early_stopping=False)
        with np.errstate(all="ignore"):
            self._network.fit(data.train.fixed().numpy(), labels.numpy())  # pyright: ignore
        self.accuracy = float(self._network.score(data.test.fixed().numpy(), data.test.labels.numpy()))  # pyright: ignore

    def read(self, means: Float[Tensor, "n d"]) -> tuple[Int64[Tensor, " n"], Float[Tensor, " n"]]:
        """The most probable class of each image, and its probability."""
        p, found = torch.from_numpy(self._network.predict_proba(means.numpy())).max(1)
        return found, p

    def counts(self, means: Tensor) -> np.ndarray:
        """How many images fall into each class."""
        return torch.bincount(self.read(means)[0], minlength=10).numpy()

    def count(self, means: Tensor, name: str, result: Result) -> None:
        """Add how many images fall into each class, and how many classes have any."""
        found = self.counts(means)
        result.add_number("classifier_accuracy", self.accuracy)
        for digit, num in enumerate(found):
            result.add_number(f"{name}_of_{digit}", int(num))
        result.add_number(f"{name}_classes", int((found > 0).sum()))
