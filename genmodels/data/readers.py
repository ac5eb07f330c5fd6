"""A user's own file as NumPy arrays, one reader a format; nothing is ever unpickled."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from jaxtyping import Shaped, UInt8
from PIL import Image
from scipy.io import loadmat

from genmodels.data.csv_table import read_csv
from genmodels.data.idx import read_idx
from genmodels.errors import BadInput

Array = Shaped[np.ndarray, "..."]

IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".pgm", ".webp"}
FORMATS = "a .npy, .npz, .csv, .mat or idx file or a folder of images or .npy files"


def read_arrays(path: Path, key: str | None = None) -> dict[str, Array]:
    """The arrays to use, by split: train, test and perhaps valid, or one alone under the name "all".

    Args:
        path: the file or folder.
        key: which array of an .npz or .mat file to use.
    """
    named = _named_arrays(path)
    if named is None:
        if key is not None:
            raise BadInput(f"{path} holds one array without a name: leave the key {key!r} out.")
        return {"all": _only_array(path)}
    if key is None and {"train", "test"} <= named.keys():
        return {split: named[split] for split in ("train", "valid", "test") if split in named}
    return {"all": _pick(named, key, path)}


def _named_arrays(path: Path) -> dict[str, Array] | None:
    if path.suffix == ".npz":
        mend = "save it again with numpy.savez from numeric arrays"
        with _explained(path, mend), np.load(path, allow_pickle=False) as arrays:
            return dict(arrays)
    if path.suffix == ".mat":
        with _explained(path, "save it again in MATLAB with the option -v7"):
            return {name: value for name, value in loadmat(path).items() if isinstance(value, np.ndarray)}
    return None


def _pick(named: dict[str, Array], key: str | None, path: Path) -> Array:
    if not named:
        raise BadInput(f"{path} holds no arrays: save at least one in it.")
    keys = ", ".join(sorted(named))
    if key is None and len(named) == 1:
        return next(iter(named.values()))
    if key is None:
        raise BadInput(f"{path} holds several arrays: choose one by its key, of these: {keys}.")
    if key not in named:
        raise BadInput(f"{path} has no array called {key!r}: choose one of these: {keys}.")
    return named[key]


def _only_array(path: Path) -> Array:
    if path.is_dir():
        return _read_folder(path)
    if "-idx" in path.name:
        with _explained(path, "give an idx file of unsigned bytes, as MNIST's are"):
            return read_idx(path)
    if path.suffix == ".npy":
        with _explained(path, "save it again with numpy.save from a numeric array"), path.open("rb") as file:
            return np.lib.format.read_array(file, allow_pickle=False)
    if path.suffix == ".csv":
        return read_csv(path)
    raise BadInput(f"{path} is of no known format: give {FORMATS}.")


def _read_folder(folder: Path) -> UInt8[np.ndarray, "n height width"]:
    """All images directly in the folder, in the order of their names, as 8-bit grey levels."""
    paths = sorted(path for path in folder.iterdir() if _is_image(path))
    if not paths:
        raise BadInput(
            f"The folder {folder} holds no images: put in files of one size ending in .png, .jpg or the like."
        )
    images = [_read_image(path) for path in paths]
    for path, image in zip(paths, images, strict=True):
        if image.shape != images[0].shape:
            raise BadInput(
                f"{path} has {_size(image)} pixels and {paths[0].name} has {_size(images[0])}: "
                "make all images of the folder one size."
            )
    return np.stack(images)


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")


def _read_image(path: Path) -> UInt8[np.ndarray, "height width"]:
    with _explained(path, "remove or replace it"), Image.open(path) as image:
        # Pillow would cut deeper images off at 255 instead of scaling them.
        if image.mode.startswith(("I", "F")):
            raise BadInput(f"{path} has more than 8 bits a pixel: save it as an 8-bit image.")
        return np.asarray(image.convert("L"))


def _size(image: UInt8[np.ndarray, "height width"]) -> str:
    return f"{image.shape[1]}x{image.shape[0]}"


@contextmanager
def _explained(path: Path, mend: str) -> Iterator[None]:
    """Turn whatever a parser raises on a foreign file into one sentence."""
    try:
        yield
    except BadInput:
        raise
    # The parsers document no common error: bad bytes reach the user as anything from zlib.error to IndexError.
    except Exception as error:
        raise BadInput(
            f"{path} cannot be read, being damaged or of another format (pickled objects are never loaded): {mend}."
        ) from error
