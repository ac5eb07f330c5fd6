"""Binary matrices on disk: bits packed eight to a byte, or the text files in which such sets are published."""

from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from genmodels.data.files import altered

SPLITS = ("train", "valid", "test")


def read_packed(path: Path, num_columns: int) -> dict[str, UInt8[np.ndarray, "_ d"]]:
    """The three splits of an .npz whose rows are packed bits (`numpy.packbits(..., axis=1)`)."""
    with np.load(path, allow_pickle=False) as packed:
        return {split: np.unpackbits(packed[split], axis=1, count=num_columns) for split in SPLITS}


def read_text(path: Path, num_columns: int) -> UInt8[np.ndarray, "n d"]:
    """The rows of a text file of 0 and 1, whatever stands between them (the .amat and .data formats)."""
    characters = np.frombuffer(path.read_bytes(), dtype=np.uint8)
    bits = characters[(characters == ord("0")) | (characters == ord("1"))] - ord("0")
    if bits.size % num_columns:
        raise altered(path)
    return bits.reshape(-1, num_columns)
