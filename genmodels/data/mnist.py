"""MNIST and Fashion-MNIST: grey, and each binarization under a name of its own.

"Binarized MNIST" is several data sets (fixed, drawn anew at every read, thresholded), and the same model differs by
2 to 17 nats between them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32, UInt8

from genmodels.data import draws
from genmodels.data.bits import SPLITS, read_packed, read_text
from genmodels.data.examples import DataSet, Examples, Support
from genmodels.data.files import DataFile, check_contents, fetch, find
from genmodels.data.idx import read_idx

IMAGE_SHAPE = (28, 28)
NUM_PIXELS = 28 * 28
NUM_TRAIN = 50_000
THRESHOLD = 128
FASHION_SEED = 20170825


@dataclass(frozen=True)
class Family:
    """The four idx files of an MNIST-like set."""

    train_images: DataFile
    train_labels: DataFile
    test_images: DataFile
    test_labels: DataFile

    @property
    def files(self) -> tuple[DataFile, ...]:
        return self.train_images, self.train_labels, self.test_images, self.test_labels


def _idx_file(folder: str, home: str, name: str, *sha256: str) -> DataFile:
    return DataFile(f"{folder}/{name}-ubyte.gz", sha256, f"{home}{name}-ubyte.gz")


def _family(folder: str, home: str, sha256: tuple[tuple[str, ...], ...]) -> Family:
    names = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")
    return Family(*(_idx_file(folder, home, name, *digests) for name, digests in zip(names, sha256, strict=True)))


MNIST = _family(
    "mnist",
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    (
        (
            "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
            # The same images, compressed again: only the time in the gzip header differs.
            "ae46c4f260ac4905871204038b01a6c0a113631ad2d5a23f68961fc8b88747cb",
        ),
        ("3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",),
        ("8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",),
        ("f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",),
    ),
)

FASHION = _family(
    "fashion_mnist",
    "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
    (
        ("3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",),
        ("a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",),
        ("346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",),
        ("67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",),
    ),
)

PACKED = DataFile(
    "binarized_mnist/binarized_mnist_packed.npz",
    ("50de2c8299a5a297789293ab2c30f6fc3cb8c359a15e5e88d5501aa18ebb8fa5",),
)
PACKED_LABELS = DataFile(
    "binarized_mnist/binarized_mnist_labels.npz",
    ("e713799631bc592603d9cf5fe0033298a427b0e8aaf2071a483fd5457a998ade",),
)
AMAT_HOME = "http://www.cs.toronto.edu/~larocheh/public/datasets/"
AMAT_PATHS = tuple(f"binarized_mnist/binarized_mnist_{split}.amat" for split in SPLITS)
AMAT_FILES = tuple(DataFile(path, url=AMAT_HOME + path) for path in AMAT_PATHS)
AMAT_CONTENTS = (
    "43490d4d6ac9002727af4426d8748609fdb7e4094fa65ad8d681ea60082a7a5a",
    "069b4f0beb389b776478c3e872b4df71c95ac4be64d7cbe6d32e24ebac8e6d5e",
    "ca0294c3b8d984c7a1dc891015a8eea6f37bae59a34e35ea0fc8c47110a8dd86",
)

Greys = UInt8[np.ndarray, "n 784"]
Values = UInt8[np.ndarray, "n 784"] | Float32[np.ndarray, "n 784"]


def load_grey(name: str, family: Family) -> DataSet:
    """Grey levels in [0, 1]."""
    return _from_greys(name, family, lambda greys: np.divide(greys, 255, dtype=np.float32), "unit")


def load_dynamic(name: str, family: Family) -> DataSet:
    """Grey levels from which every read draws its pixels."""
    return _from_greys(name, family, lambda greys: greys, "binary", dynamic=True)


def load_dynamic_60k(name: str, family: Family) -> DataSet:
    """As `load_dynamic`, but fitted on all 60,000 images: the valid split is 10,000 of them and so no held-out set."""
    return _from_greys(name, family, lambda greys: greys, "binary", dynamic=True, train_on_valid=True)


def load_threshold(name: str, family: Family) -> DataSet:
    """Pixels that are 1 at grey levels from 128 up (0.5 in [0, 1])."""
    return _from_greys(name, family, lambda greys: (greys >= THRESHOLD).view(np.uint8), "binary")


def load_fashion_binarized(name: str) -> DataSet:
    """One fixed draw x_i ~ Bernoulli(g_i / 255), each image file with the seed 20170825 + its number of images.

    No fixed binarization of Fashion-MNIST was ever published: this one compares models within this library only.
    """
    return _from_greys(name, FASHION, lambda greys: draws.binarize(greys, FASHION_SEED + len(greys)), "binary")


def load_mnist_binarized(name: str) -> DataSet:
    """The fixed binarization of Salakhutdinov and Murray (2008), in the split and row order of Larochelle's files.

    Its rows are not in MNIST's order. Labels are there only with the derived label file, which has no public home.
    """
    rows = _binarized_rows()
    labels = _binarized_labels()
    splits = [_examples(values, labels.get(split)) for split, values in rows.items()]
    return DataSet(name, *splits, image_shape=IMAGE_SHAPE, support="binary")


def _binarized_rows() -> dict[str, Greys]:
    if find(PACKED):
        return read_packed(fetch(PACKED), NUM_PIXELS)
    rows = {}
    for split, file, contents in zip(SPLITS, AMAT_FILES, AMAT_CONTENTS, strict=True):
        path = fetch(file)
        rows[split] = read_text(path, NUM_PIXELS)
        check_contents(rows[split], contents, path)
    return rows


def _binarized_labels() -> dict[str, UInt8[np.ndarray, "_"]]:
    if not find(PACKED_LABELS):
        return {}
    with np.load(fetch(PACKED_LABELS), allow_pickle=False) as labels:
        return {split: labels[f"{split}_label"] for split in SPLITS}


def _from_greys(
    name: str,
    family: Family,
    values_of: Callable[[Greys], Values],
    support: Support,
    *,
    dynamic: bool = False,
    train_on_valid: bool = False,
) -> DataSet:
    values = values_of(_images(fetch(family.train_images)))
    labels = read_idx(fetch(family.train_labels))
    num_train = len(values) if train_on_valid else NUM_TRAIN
    return DataSet(
        name,
        train=_examples(values[:num_train], labels[:num_train], dynamic),
        valid=_examples(values[NUM_TRAIN:], labels[NUM_TRAIN:], dynamic),
        test=_examples(values_of(_images(fetch(family.test_images))), read_idx(fetch(family.test_labels)), dynamic),
        image_shape=IMAGE_SHAPE,
        support=support,
    )


def _images(path: Path) -> Greys:
    return read_idx(path).reshape(-1, NUM_PIXELS)


def _examples(values: Values, labels: UInt8[np.ndarray, "n"] | None, dynamic: bool = False) -> Examples:
    return Examples(torch.from_numpy(values), dynamic, None if labels is None else torch.from_numpy(labels).long())
