"""Whitened patches of natural images, the usual food of sparse coding."""

import io
import zipfile
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32, Float64, UInt8
from PIL import Image

from genmodels.data import draws
from genmodels.data.examples import DataSet, Examples
from genmodels.data.files import DataFile, fetch

IMAGES = DataFile(
    "natural_images/BSD_Train400.zip", ("bdf311a477af112e1540d44a77f13a8d2777038ffeeb3909d65b2c73f7defe8d",)
)
SIDE = 12
NUM_PATCHES = {"train": 100_000, "valid": 10_000, "test": 10_000}
LAST_IMAGE = {"train": 320, "valid": 360, "test": 400}
RIDGE = 1e-4


def load_natural_patches(name: str) -> DataSet:
    """12x12 patches of 400 photographs, from disjoint images (320 / 40 / 40), centred and ZCA-whitened.

    Each patch loses its own mean. Then x = W (p - m) with W = U diag((s + r)^-1/2) U^T, where m, s and U are the mean,
    the eigenvalues and the eigenvectors of the train patches' covariance, and r = 1e-4 mean(s) keeps the constant
    patch, which has no variance left, from being divided by zero (Hyvarinen, Hurri and Hoyer 2009, chapter 5).

    The covariance on train is U diag(s / (s + r)) U^T: the identity to within 1 per cent on the 143 directions other
    than the constant patch, and zero on that one. So x has no density in 144 dimensions: a likelihood compares only
    models that share a noise level. About 0.4 per cent of the patches are flat (saturated sky) and all but zero.
    """
    images = natural_images()
    patches = {
        split: _centred_patches(images[split], NUM_PATCHES[split], seed)
        for seed, split in enumerate(LAST_IMAGE, start=1)
    }
    mean, whitener = _whitening(patches["train"])
    splits = [Examples(torch.from_numpy((rows - mean) @ whitener)) for rows in patches.values()]
    return DataSet(name, *splits, image_shape=(SIDE, SIDE), support="real")


def natural_images() -> dict[str, UInt8[np.ndarray, "n height width"]]:
    """The 400 grey photographs of 180 x 180 pixels, by split (320 / 40 / 40)."""
    images = _read_images(fetch(IMAGES))
    images = images[draws.permutation(len(images))]
    ends = list(LAST_IMAGE.values())
    parts = zip(LAST_IMAGE, [0, *ends], ends, strict=False)
    return {split: images[first:last] for split, first, last in parts}


def _read_images(path: Path) -> UInt8[np.ndarray, "n height width"]:
    with zipfile.ZipFile(path) as archive:
        names = sorted(name for name in archive.namelist() if name.endswith(".png"))
        return np.stack([np.asarray(Image.open(io.BytesIO(archive.read(name)))) for name in names])


def _centred_patches(
    images: UInt8[np.ndarray, "n height width"], count: int, seed: int
) -> Float32[np.ndarray, "count d"]:
    """Patches at uniform places of uniform images, drawn with replacement, in [0, 1] less the patch's mean."""
    windows = np.lib.stride_tricks.sliding_window_view(images, (SIDE, SIDE), axis=(1, 2))
    place = draws.raw(3 * count, seed).reshape(3, count)
    picked = windows[tuple(axis % size for axis, size in zip(place, windows.shape, strict=False))]
    patches = picked.reshape(count, SIDE * SIDE).astype(np.float32) / np.float32(255)
    return patches - patches.mean(axis=1, keepdims=True)


def _whitening(
    patches: Float32[np.ndarray, "n d"],
) -> tuple[Float32[np.ndarray, "d"], Float32[np.ndarray, "d d"]]:
    rows = patches.astype(np.float64)
    mean = rows.mean(axis=0)
    covariance: Float64[np.ndarray, "d d"] = (rows - mean).T @ (rows - mean) / len(rows)
    scale, directions = np.linalg.eigh(covariance)
    inverse_root = (scale.clip(0) + RIDGE * scale.mean()) ** -0.5
    return mean.astype(np.float32), (directions * inverse_root @ directions.T).astype(np.float32)
