"""Fixed random numbers for splits and binarizations, the same on every machine and with every NumPy version.

NumPy promises a stable stream only for the raw 64-bit output of a bit generator, not for the methods of `Generator`
(numpy.random compatibility policy, NEP 19); so everything here is built from the raw output of PCG64.
"""

import numpy as np
from jaxtyping import Int64, UInt8, UInt64


def raw(count: int, seed: int) -> UInt64[np.ndarray, "count"]:
    """`count` uniform 64-bit integers: the stream of `numpy.random.PCG64(seed)`."""
    return np.random.PCG64(seed).random_raw(count)


def permutation(count: int, seed: int = 0) -> Int64[np.ndarray, "count"]:
    """A random order of 0 .. count - 1: the ranks of `count` raw draws."""
    return np.argsort(raw(count, seed), kind="stable")


def binarize(greys: UInt8[np.ndarray, "n d"], seed: int) -> UInt8[np.ndarray, "n d"]:
    """One fixed draw of pixels with P(1) = g / 255, to within 2^-16 and exactly at g = 0 and g = 255.

    Each raw draw, least significant 16 bits first, serves four pixels in row order; a pixel is 1 where its 16-bit
    number u satisfies 255 u < 65536 g.
    """
    numbers = raw(-(-greys.size // 4), seed).astype("<u8").view("<u2")[: greys.size].reshape(greys.shape)
    grey = np.arange(256, dtype=np.uint32)
    last = ((grey * 65536 + 254) // 255).clip(1) - 1
    below = numbers <= last.astype(np.uint16)[greys]
    return (below & (greys > 0)).view(np.uint8)
