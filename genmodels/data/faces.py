"""Face images: Frey's video and the AT&T (Olivetti) portraits."""

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from scipy.io import loadmat

from genmodels.data.examples import DataSet, Examples
from genmodels.data.files import DataFile, altered, check_contents, fetch, find

FREY = DataFile("frey_faces/freyfaces.npz", ("1c58fcb13050c85ee5d82af2775551de2559542826981e3dc5f535c3a7ca910a",))
FREY_PUBLIC = DataFile("frey_faces/frey_rawface.mat", url="https://cs.nyu.edu/~roweis/data/frey_rawface.mat")
FREY_CONTENTS = "2438ba4f0d2a6bd8bac43de756141eaa33c8d248dd613d464bdb1210d9b7af78"
FREY_SPLITS = (1565, 1765)

# Copies of this file differ in their bytes (number type, compression) and not in the images they hold.
OLIVETTI = DataFile("olivetti_faces/olivettifaces.mat", url="https://cs.nyu.edu/~roweis/data/olivettifaces.mat")
OLIVETTI_CONTENTS = "b119468c2f13775df12d3950e7c96644811647a6e10d30617777f245bf9b2f8b"
PHOTOS_EACH = 10
OLIVETTI_SPLITS = (30 * PHOTOS_EACH, 35 * PHOTOS_EACH)


def load_frey(name: str) -> DataSet:
    """1,965 frames of 28x20 in [0, 1], in video order: the first 1,565 train, the next 200 valid, the last 200 test.

    Neighbouring frames are near-duplicates, so a random split would test on frames that were all but seen in
    training; contiguous blocks do not.
    """
    return _data_set(name, _frey_greys(), None, FREY_SPLITS, (28, 20))


def load_olivetti(name: str) -> DataSet:
    """400 portraits of 64x64 in [0, 1], ten a person, who is the label: 30 persons train, 5 valid and 5 test."""
    columns = _read_mat(fetch(OLIVETTI), "faces", OLIVETTI_CONTENTS)
    # MATLAB stores an image column by column.
    greys = columns.reshape(-1, 64, 64).transpose(0, 2, 1).reshape(-1, 64 * 64)
    return _data_set(name, greys, np.arange(len(greys)) // PHOTOS_EACH, OLIVETTI_SPLITS, (64, 64))


def _frey_greys() -> UInt8[np.ndarray, "n 560"]:
    if find(FREY):
        with np.load(fetch(FREY), allow_pickle=False) as arrays:
            return arrays["faces"]
    return _read_mat(fetch(FREY_PUBLIC), "ff", FREY_CONTENTS)


def _read_mat(path: Path, key: str, contents: str) -> UInt8[np.ndarray, "n d"]:
    """The columns of a MATLAB matrix as rows, checked against the digest of those rows."""
    try:
        greys = loadmat(path)[key].T.astype(np.uint8)
    # loadmat documents no common error: damaged bytes surface as anything from zlib.error to KeyError.
    except Exception as error:
        raise altered(path) from error
    check_contents(greys, contents, path)
    return greys


def _data_set(
    name: str,
    greys: UInt8[np.ndarray, "n d"],
    labels: Int64[np.ndarray, "n"] | None,
    ends: tuple[int, int],
    image_shape: tuple[int, int],
) -> DataSet:
    values = torch.from_numpy(np.divide(greys, 255, dtype=np.float32))
    blocks = (slice(0, ends[0]), slice(ends[0], ends[1]), slice(ends[1], None))
    splits = [
        Examples(values[block], labels=None if labels is None else torch.from_numpy(labels[block])) for block in blocks
    ]
    return DataSet(name, *splits, image_shape=image_shape, support="unit")
