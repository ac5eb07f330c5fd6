"""A data set in a folder of .npy files, of which the training rows need not fit into memory."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from genmodels.data.blocks import BlockRows, opened
from genmodels.data.checks import as_rows, to_values
from genmodels.data.examples import DataSet, Examples
from genmodels.errors import BadInput

SPLITS = ("train", "valid", "test")
NUM_FIXED = 10_000


# eq=False: comparing tensors elementwise is no comparison of data sets.
@dataclass(frozen=True, eq=False)
class InBlocks(Examples):
    """Training examples that are read in blocks from `rows`; `values`, and so `fixed`, are evenly spread ones of them.

    Args:
        rows: all examples, in files. Satisfies with them `genmodels.rows.Ordered`.
    """

    rows: BlockRows | None = None

    def __len__(self) -> int:
        return len(self._rows)

    def order(self, generator: torch.Generator) -> Int64[Tensor, " n"]:
        """All row numbers, in an order that reads block after block."""
        return self._rows.order(generator)

    def batch(self, index: Int64[Tensor, " b"], generator: torch.Generator) -> Float32[Tensor, "b d"]:
        """The examples at `index`."""
        return self._rows.batch(index, generator)

    @property
    def _rows(self) -> BlockRows:
        assert self.rows is not None
        return self.rows


def load_sharded(folder: Path) -> DataSet:
    """The data set in a folder of .npy files, whose names say of which split they are: train-00.npy, valid.npy, test.npy.

    Rows of train are read in blocks, shuffled among a few blocks at a time; 10,000 of them, evenly spread, stand for all
    where a model is initialised and likelihoods are annealed from base rates. The other two are held in memory. 8-bit integers
    are grey levels, as in any user's file.
    """
    files = {split: sorted(folder.glob(f"{split}*.npy")) for split in SPLITS}
    if missing := ", ".join(split for split, paths in files.items() if not paths):
        raise BadInput(
            f"{folder} holds .npy files, but none for {missing}: let their names begin with train, valid or test."
        )
    rows = BlockRows(files["train"])
    chosen = torch.linspace(0, len(rows) - 1, min(len(rows), NUM_FIXED), dtype=torch.float64).round().long()
    arrays = {split: np.concatenate([opened(path) for path in files[split]]) for split in SPLITS[1:]}
    shaped = {split: as_rows(array, f"{folder} ({split})") for split, array in arrays.items()}
    (_, image_shape) = shaped["test"]
    sizes = {rows.num_features, *(array.shape[1] for array, _ in shaped.values())}
    if len(sizes) > 1:
        raise BadInput(f"The splits of {folder} have examples of different sizes: save them with one shape.")
    sample = rows.batch(chosen, torch.Generator()).numpy().astype(rows.dtype)
    values, support = to_values({"train": sample, **{split: array for split, (array, _) in shaped.items()}}, folder)
    greys = support == "unit" and rows.dtype == np.uint8
    train = InBlocks(values["train"], rows=BlockRows(files["train"], scale=255 if greys else 1))
    valid, test = (Examples(values[split]) for split in SPLITS[1:])
    return DataSet(folder.name, train, valid, test, image_shape, support)
