"""Data larger than memory: .npy files, read in blocks and shuffled among a few of them at a time."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from genmodels.errors import BadInput

BLOCK_BYTES = 8 << 20
WINDOW = 8


class BlockRows:
    """The rows of one .npy file or of several, each of shape (n, ...), as a training reads them.

    A block is consecutive rows of one file, about `block_bytes` of them. An epoch goes through the blocks in a random order,
    `window` of them at a time, and through the rows of these in a random order: memory holds that many blocks, whatever
    the size of the files, and 8 bytes a row. Values are divided by `scale`: 255 for grey levels of 8 bits. A folder stands for
    its .npy files in the order of their names. Satisfies `genmodels.rows.Ordered`.
    """

    def __init__(
        self,
        paths: Path | Sequence[Path],
        *,
        scale: float = 1.0,
        block_bytes: int = BLOCK_BYTES,
        window: int = WINDOW,
    ):
        self._paths = _files(paths)
        maps = [opened(path) for path in self._paths]
        shapes = {(array.shape[1:], array.dtype.str) for array in maps}
        if len(shapes) > 1:
            raise BadInput(f"The files from {self._paths[0]} on hold rows of several shapes or types: save them alike.")
        self.num_features, self.dtype = int(np.prod(maps[0].shape[1:])), maps[0].dtype
        self._scale, self._window = scale, max(1, window)
        self._rows = max(1, block_bytes // max(1, maps[0][:1].nbytes))
        starts = [(i, at) for i, array in enumerate(maps) for at in range(0, len(array), self._rows)]
        ends = [min(at + self._rows, len(maps[i])) for i, at in starts]
        self._blocks = [(i, at, end) for (i, at), end in zip(starts, ends, strict=True)]
        lengths = [end - at for _, at, end in self._blocks]
        self._first = torch.tensor([0, *lengths]).cumsum(0)
        """The number of each block's first row among all, and last that of all rows."""
        self._held: OrderedDict[int, Tensor] = OrderedDict()

    def __len__(self) -> int:
        return int(self._first[-1])

    def order(self, generator: torch.Generator) -> Int64[Tensor, " n"]:
        """All row numbers: blocks in a random order, rows shuffled among `window` consecutive ones of these."""
        order, done = torch.empty(len(self), dtype=torch.int64), 0
        for blocks in torch.randperm(len(self._blocks), generator=generator).split(self._window):
            rows = torch.cat([torch.arange(int(self._first[b]), int(self._first[b + 1])) for b in blocks.tolist()])
            order[done : done + len(rows)] = rows[torch.randperm(len(rows), generator=generator)]
            done += len(rows)
        return order

    def batch(self, index: Int64[Tensor, " b"], generator: torch.Generator) -> Float32[Tensor, "b d"]:
        """The rows with these numbers."""
        found = torch.empty(len(index), self.num_features)
        blocks = torch.searchsorted(self._first, index, right=True) - 1
        wanted = blocks.unique().tolist()
        # Rows from everywhere: whole blocks would be read for one row each.
        scattered = len(wanted) > 2 * self._window
        for block in wanted:
            here = blocks == block
            rows = index[here] - self._first[block]
            found[here] = self._read(block, rows) if scattered else self._block(block)[rows].float()
        return found.div_(self._scale)

    def _block(self, block: int) -> Tensor:
        """A block, kept until `window` others have been asked for."""
        if block not in self._held:
            if len(self._held) >= self._window:
                self._held.popitem(last=False)
            file, start, end = self._blocks[block]
            self._held[block] = _copied(opened(self._paths[file])[start:end])
        self._held.move_to_end(block)
        return self._held[block]

    def _read(self, block: int, rows: Tensor) -> Tensor:
        file, start, _ = self._blocks[block]
        return _copied(opened(self._paths[file])[start + rows.numpy()]).float()


def _files(paths: Path | Sequence[Path]) -> list[Path]:
    if isinstance(paths, Path):
        paths = sorted(paths.glob("*.npy")) if paths.is_dir() else [paths]
    files = list(paths)
    if not files:
        raise BadInput("There are no .npy files here: save the rows there by numpy.save.")
    return files


def opened(path: Path) -> Any:
    """The file's array as a memory map, which ends with the last view of it."""
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise BadInput(f"{path} cannot be read as a plain .npy file: save it again by numpy.save.") from error
    if array.ndim < 2 or array.size == 0 or array.dtype.kind not in "biuf":
        raise BadInput(
            f"{path} holds an array of shape {array.shape} and type {array.dtype}: give rows of numbers, at least one."
        )
    return array


def _copied(rows: Any) -> Tensor:
    return torch.from_numpy(np.array(rows).reshape(len(rows), -1))
