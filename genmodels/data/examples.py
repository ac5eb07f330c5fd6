"""What a model trains on: the examples of one split, and the three splits of a data set."""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float32, Int64, UInt8
from torch import Tensor

from genmodels.errors import BadInput

Support = Literal["binary", "unit", "real"]


# eq=False: comparing tensors elementwise is no comparison of data sets.
@dataclass(frozen=True, eq=False)
class Examples:
    """The N examples of one split, stored compactly and turned into float32 when they are read.

    Args:
        values: (N, d); uint8 in {0, 1} for binary data, uint8 grey levels 0..255 for `dynamic` data, else float32.
        dynamic: the values are grey levels g, and every read draws each pixel anew, x_i ~ Bernoulli(g_i / 255)
            (the stochastic binarization of Burda et al. 2016).
        labels: (N,) class of each example, where the data set has classes.
    """

    values: UInt8[Tensor, "n d"] | Float32[Tensor, "n d"]
    dynamic: bool = False
    labels: Int64[Tensor, "n"] | None = None

    def __len__(self) -> int:
        return self.values.shape[0]

    def batch(self, index: Int64[Tensor, "b"], generator: torch.Generator) -> Float32[Tensor, "b d"]:
        """The examples at `index`; dynamic ones are drawn from `generator`, exactly Bernoulli(g / 255)."""
        rows = self.values.index_select(0, index)
        return _bernoulli(rows, generator) if self.dynamic else rows.float()

    def fixed(self, seed: int = 0) -> Float32[Tensor, "n d"]:
        """All examples, the same at every call: what evaluation uses.

        Dynamic examples are drawn once, from a CPU generator seeded with `seed`; nothing else enters the draw, so
        that two models are scored on the same pixels.
        """
        generator = torch.Generator().manual_seed(seed)
        return _bernoulli(self.values, generator) if self.dynamic else self.values.float()


@dataclass(frozen=True, eq=False)
class DataSet:
    """Three splits of one source.

    Args:
        name: the name or file it was loaded from; for the named sets it says which binarization this is.
        train: for fitting.
        valid: for choices made during fitting.
        test: for the reported number only.
        image_shape: (height, width) with height * width = d and rows first, or None where examples are no images.
        support: "binary" for {0, 1}, "unit" for [0, 1], "real" otherwise.
    """

    name: str
    train: Examples
    valid: Examples
    test: Examples
    image_shape: tuple[int, int] | None
    support: Support

    @property
    def num_features(self) -> int:
        return self.train.values.shape[1]

    def split(self, name: str) -> Examples:
        """The split called "train", "valid" or "test"."""
        splits = {"train": self.train, "valid": self.valid, "test": self.test}
        if name not in splits:
            raise BadInput(f"There is no split {name!r}: choose train, valid or test.")
        return splits[name]


def _bernoulli(greys: UInt8[Tensor, "b d"], generator: torch.Generator) -> Float32[Tensor, "b d"]:
    # A uniform draw from the 255 values 0..254 lies below g with probability g / 255, with no rounding, and costs a
    # quarter of torch.bernoulli on a CPU.
    noise = torch.empty(greys.shape, dtype=torch.uint8, device=generator.device)
    noise.random_(0, 255, generator=generator)
    return (noise.to(greys.device) < greys).float()
