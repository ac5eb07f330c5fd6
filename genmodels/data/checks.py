"""What a user's array must be before a model may see it."""

import math
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32, Shaped
from torch import Tensor

from genmodels.data.examples import Support
from genmodels.errors import BadInput

Array = Shaped[np.ndarray, "..."]
Rows = Shaped[np.ndarray, "n d"]
Shape = tuple[int, int]


def as_rows(array: Array, source: str) -> tuple[Rows, Shape | None]:
    """The array as (N, d) rows, and the image shape where there is one; BadInput says what else it is.

    Images are (N, H, W), or have one channel before or behind; rows whose d is a square number count as square images.
    """
    if array.dtype.kind not in "biuf":
        raise BadInput(f"{source} holds values of the type {array.dtype}, not numbers: save a plain numeric array.")
    if array.size == 0:
        raise BadInput(f"{source} is empty (its shape is {array.shape}): give at least three examples.")
    array = _without_channel(array)
    if array.ndim == 1 or (array.ndim == 2 and array.shape[1] == 1 and _is_whole(array)):
        raise labels_found(source)
    if array.ndim not in (2, 3):
        raise BadInput(f"{source} has the shape {array.shape}: give one of shape (N, d) or grey images (N, H, W).")
    rows = array.reshape(len(array), -1)
    return rows, (array.shape[1], array.shape[2]) if array.ndim == 3 else _square(rows.shape[1])


def source_of(path: Path, split: str) -> str:
    """What a sentence calls the array: the file, and the split where the file has several."""
    return str(path) if split == "all" else f"{path} ({split})"


def labels_found(source: str) -> BadInput:
    return BadInput(
        f"{source} holds labels, one number an example, where examples are expected: "
        "give the file or array of the examples, of shape (N, d) or (N, H, W)."
    )


def to_values(splits: dict[str, Rows], path: Path) -> tuple[dict[str, Tensor], Support]:
    """The rows as tensors and their common support.

    8-bit integers are grey levels and are divided by 255, unless all are 0 or 1. Then all values in {0, 1} are
    "binary" and kept as uint8, all values in [0, 1] are "unit" and others "real", both float32.
    """
    are_greys = all(rows.dtype == np.uint8 for rows in splits.values()) and not _all_binary(splits)
    scale = np.float32(255 if are_greys else 1)
    with np.errstate(over="ignore"):
        values = {split: rows.astype(np.float32) / scale for split, rows in splits.items()}
    for split, rows in values.items():
        _check_finite(rows, source_of(path, split))
    if _all_binary(values):
        return {split: torch.from_numpy(rows.astype(np.uint8)) for split, rows in values.items()}, "binary"
    inside = all(rows.min() >= 0 and rows.max() <= 1 for rows in values.values())
    return {split: torch.from_numpy(rows) for split, rows in values.items()}, "unit" if inside else "real"


def _check_finite(rows: Float32[np.ndarray, "n d"], source: str) -> None:
    finite = np.isfinite(rows)
    if not finite.all():
        row, column = np.argwhere(~finite)[0] + 1
        raise BadInput(
            f"{source} has a value that is not finite as a 32-bit float ({rows[row - 1, column - 1]}) in row {row}, "
            f"column {column} (counted from 1): remove or replace such values."
        )


def _all_binary(splits: dict[str, Rows]) -> bool:
    return all(bool(((rows == 0) | (rows == 1)).all()) for rows in splits.values())


def _without_channel(array: Array) -> Array:
    if array.ndim == 4 and 1 in (array.shape[1], array.shape[3]):
        return array.squeeze(1 if array.shape[1] == 1 else 3)
    return array


def _is_whole(array: Array) -> bool:
    return bool((array == np.floor(array)).all())


def _square(num_features: int) -> Shape | None:
    side = math.isqrt(num_features)
    return (side, side) if side > 1 and side * side == num_features else None
