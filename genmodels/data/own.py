"""A user's own data, with splits of their own or drawn here."""

from pathlib import Path

import torch
from jaxtyping import Shaped
from torch import Tensor

from genmodels.data import draws
from genmodels.data.checks import as_rows, labels_found, source_of, to_values
from genmodels.data.examples import DataSet, Examples
from genmodels.data.readers import read_arrays
from genmodels.data.sharded import load_sharded
from genmodels.errors import BadInput

Rows = Shaped[Tensor, "_ d"]


def load_own(path: Path, key: str | None = None) -> DataSet:
    """The data set in a user's file or folder.

    An .npz with arrays train, valid and test keeps these splits; with train and test only, a tenth of train becomes
    valid. Anything else is split 80 / 10 / 10 per cent. Both use the fixed permutation of seed 0, so that a file
    always gives the same splits. A folder of .npy files is `load_sharded`'s.
    """
    if "-idx1" in path.name or "-labels-" in path.name:
        raise labels_found(str(path))
    if path.is_dir() and any(path.glob("*.npy")):
        if key is not None:
            raise BadInput(f"{path} holds arrays without names: leave the key {key!r} out.")
        return load_sharded(path)
    arrays = read_arrays(path, key)
    shaped = {split: as_rows(array, source_of(path, split)) for split, array in arrays.items()}
    sizes = {(rows.shape[1], image_shape) for rows, image_shape in shaped.values()}
    if len(sizes) > 1:
        raise BadInput(f"The splits of {path} have examples of different sizes: save them with one shape.")
    (_, image_shape), *_ = sizes
    values, support = to_values({split: rows for split, (rows, _) in shaped.items()}, path)
    splits = [Examples(rows) for rows in _three_splits(values, path)]
    return DataSet(path.name, *splits, image_shape=image_shape, support=support)


def _three_splits(values: dict[str, Rows], path: Path) -> list[Rows]:
    if "all" in values:
        return _divide(values["all"], 2, path)
    if "valid" in values:
        return [values["train"], values["valid"], values["test"]]
    return [*_divide(values["train"], 1, path), values["test"]]


def _divide(rows: Rows, num_held_out: int, path: Path) -> list[Rows]:
    """The larger rest and `num_held_out` tenths of the rows, each of at least one row, in a fixed random order."""
    tenth = max(1, len(rows) // 10)
    num_train = len(rows) - num_held_out * tenth
    if num_train < 1:
        raise BadInput(f"{path} has {len(rows)} rows to split: give at least {num_held_out + 1}, and better many more.")
    shuffled = rows[torch.from_numpy(draws.permutation(len(rows)))]
    return list(shuffled.split([num_train] + [tenth] * num_held_out))
