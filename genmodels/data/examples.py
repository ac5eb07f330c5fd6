"""What a model trains on: the examples of one split, and the three splits of a data set."""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float32, Int16, Int64, UInt8
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
    # One 64-bit draw gives four 16-bit ones, at a tenth of the cost of torch.bernoulli. Of 2¹⁶ values the highest is drawn
    # anew, so a draw from the 65,535 = 255 · 257 others lies below 257 g with probability g / 255, with no rounding.
    lowest, highest = torch.iinfo(torch.int16).min, torch.iinfo(torch.int16).max
    noise = _sixteen_bits(greys.numel(), generator)
    while noise.numel() and noise.max() == highest:
        refused = (noise == highest).nonzero().squeeze(1)
        noise[refused] = _sixteen_bits(len(refused), generator)
    threshold = greys.to(torch.int16).mul_(257).add_(lowest)  # wraps around at 2¹⁵ twice, and ends in range
    drawn = torch.empty(greys.shape, device=greys.device)
    return torch.lt(noise.view(greys.shape).to(greys.device), threshold, out=drawn)


def _sixteen_bits(num: int, generator: torch.Generator) -> Int16[Tensor, "num"]:
    words = torch.empty(num // 4 + 1, dtype=torch.int64, device=generator.device)
    return words.random_(torch.iinfo(torch.int64).min, None, generator=generator).view(torch.int16)[:num]
