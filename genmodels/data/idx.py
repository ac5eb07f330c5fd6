"""The idx format of the MNIST family (LeCun, Cortes and Burges)."""

import gzip
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

UNSIGNED_BYTE = 0x08


def read_idx(path: Path) -> UInt8[np.ndarray, "..."]:
    """The bytes of an idx file, gzipped or not: a 4-byte magic number, the big-endian sizes, the values."""
    content = path.read_bytes()
    if path.suffix == ".gz":
        content = gzip.decompress(content)
    if len(content) < 4 or content[:3] != bytes([0, 0, UNSIGNED_BYTE]):
        raise ValueError("not an idx file of unsigned bytes")
    num_axes = content[3]
    shape = np.frombuffer(content, ">u4", count=num_axes, offset=4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * num_axes).reshape(shape).copy()
