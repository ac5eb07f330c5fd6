"""The named data sets, and the one door to them and to a user's own files."""

from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from genmodels.data import faces, generated, mnist, patches, tables
from genmodels.data.examples import DataSet
from genmodels.data.files import FOLDER_VARIABLE, DataFile, find
from genmodels.data.own import load_own
from genmodels.data.readers import FORMATS
from genmodels.errors import BadInput


@dataclass(frozen=True)
class Named:
    """A data set known by name.

    Args:
        description: one line for a listing.
        build: makes the data set, given its name.
        files: alternatives; all files of any one of them suffice.
    """

    description: str
    build: Callable[[str], DataSet]
    files: tuple[tuple[DataFile, ...], ...] = ((),)


def _idx(description: str, build: Callable[[str, mnist.Family], DataSet], family: mnist.Family) -> Named:
    return Named(description, lambda name: build(name, family), (family.files,))


def _table(description: str, table: tables.Table) -> Named:
    return Named(description, lambda _: tables.load_table(table), ((table.packed,), table.public))


_TABLE_DESCRIPTIONS = {
    "adult": "census records as 123 binary columns; 5,000 / 1,414 / 26,147",
    "mushrooms": "mushroom descriptions as 112 binary columns; 2,000 / 500 / 5,624",
    "nltcs": "16 disabilities of elderly people (National Long Term Care Survey); 16,181 / 2,157 / 3,236",
    "plants": "69 regions in which a plant grows or not; 17,412 / 2,321 / 3,482",
    "jester": "100 jokes liked or not; 9,000 / 1,000 / 4,116",
}

CATALOGUE: dict[str, Named] = {
    "digits": Named("8x8 digits, binarized at half grey; 1,297 / 200 / 300", generated.load_digits),
    "bars-and-stripes": Named("all 30 bars and stripes of 4x4, as every split", generated.load_bars_and_stripes),
    "mnist": _idx("28x28 digits, grey in [0, 1]; 50,000 / 10,000 / 10,000", mnist.load_grey, mnist.MNIST),
    "mnist-binarized": Named(
        "MNIST, the one fixed binarization of Salakhutdinov and Murray; 50,000 / 10,000 / 10,000",
        mnist.load_mnist_binarized,
        ((mnist.PACKED,), mnist.AMAT_FILES),
    ),
    "mnist-dynamic": _idx(
        "MNIST, pixels drawn from the greys anew at every read; 50,000 / 10,000 / 10,000",
        mnist.load_dynamic,
        mnist.MNIST,
    ),
    "mnist-dynamic-60k": _idx(
        "mnist-dynamic fitted on all 60,000, so that its valid split is SEEN in training; 60,000 / 10,000 / 10,000",
        mnist.load_dynamic_60k,
        mnist.MNIST,
    ),
    "mnist-threshold": _idx(
        "MNIST, binarized at grey 128 of 255; 50,000 / 10,000 / 10,000", mnist.load_threshold, mnist.MNIST
    ),
    "fashion-mnist": _idx("28x28 clothes, grey in [0, 1]; 50,000 / 10,000 / 10,000", mnist.load_grey, mnist.FASHION),
    "fashion-mnist-binarized": Named(
        "Fashion-MNIST, one fixed binarization drawn by this library; 50,000 / 10,000 / 10,000",
        mnist.load_fashion_binarized,
        (mnist.FASHION.files,),
    ),
    "fashion-mnist-dynamic": _idx(
        "Fashion-MNIST, pixels drawn from the greys anew at every read; 50,000 / 10,000 / 10,000",
        mnist.load_dynamic,
        mnist.FASHION,
    ),
    "fashion-mnist-threshold": _idx(
        "Fashion-MNIST, binarized at grey 128 of 255; 50,000 / 10,000 / 10,000",
        mnist.load_threshold,
        mnist.FASHION,
    ),
    "frey": Named(
        "28x20 frames of one face, grey in [0, 1], split in video order; 1,565 / 200 / 200",
        faces.load_frey,
        ((faces.FREY,), (faces.FREY_PUBLIC,)),
    ),
    "olivetti": Named(
        "64x64 portraits, grey in [0, 1], split by person; 300 / 50 / 50",
        faces.load_olivetti,
        ((faces.OLIVETTI,),),
    ),
    "natural-patches": Named(
        "12x12 whitened patches of photographs, real; 100,000 / 10,000 / 10,000",
        patches.load_natural_patches,
        ((patches.IMAGES,),),
    ),
    **{table.name: _table(_TABLE_DESCRIPTIONS[table.name], table) for table in tables.TABLES},
}


def names() -> tuple[str, ...]:
    """The names that `load` knows."""
    return tuple(CATALOGUE)


def describe(name: str) -> str:
    """One line: what the named set holds and the sizes of train / valid / test."""
    return _named(name).description


def is_available(name: str) -> bool:
    """Whether the named set can be loaded without a network; looks for its files and neither reads nor fetches them."""
    return any(all(find(file) for file in files) for files in _named(name).files)


def load(name_or_path: str, *, key: str | None = None) -> DataSet:
    """A named data set, or a user's own file or folder.

    Args:
        name_or_path: one of `names()`; or a .npy, .npz, .csv, .mat or idx file, or a folder of grey images of one size, or one
            of .npy files named by their split (train-00.npy, ..., valid.npy, test.npy), read in blocks.
            A name goes before a file of the same name. Files of named sets are looked for in the folder that the
            environment variable GENMODELS_DATA names, then in the download cache, then at their public home, and
            are refused unless their sha256 is right.
        key: which array of an .npz or .mat file to use.

    Returns:
        The data set. Of a user's file, an .npz with train, valid and test keeps these splits; anything else is split
        80 / 10 / 10 by a fixed permutation. Its support is "binary" where all values are 0 or 1, "unit" for 8-bit
        integers (divided by 255) and for values in [0, 1], else "real".

    >>> data = load("bars-and-stripes")
    >>> len(data.train), data.num_features, data.image_shape, data.support
    (30, 16, (4, 4), 'binary')
    """
    if name_or_path in CATALOGUE:
        if key is not None:
            raise BadInput(
                f"{name_or_path!r} is a named data set, which has no arrays to choose from: leave the key out."
            )
        return CATALOGUE[name_or_path].build(name_or_path)
    path = Path(name_or_path).expanduser()
    if not path.exists():
        raise _unknown(name_or_path)
    _refuse_file_of_named_set(path)
    return load_own(path, key)


def _named(name: str) -> Named:
    if name not in CATALOGUE:
        raise _unknown(name)
    return CATALOGUE[name]


def _unknown(name: str) -> BadInput:
    if "/" in name or Path(name).suffix:
        return BadInput(
            f"There is no file or folder {name}: give the path of {FORMATS}, or one of {', '.join(CATALOGUE)}."
        )
    near = get_close_matches(name, CATALOGUE, n=1, cutoff=0)[0]
    return BadInput(
        f"There is no data set {name!r}: the nearest name is {near!r}, all names are {', '.join(CATALOGUE)}, "
        f"and the path of {FORMATS} works too."
    )


def _refuse_file_of_named_set(path: Path) -> None:
    # These files are packed, transposed or in video order: read as any user's file they would give wrong examples
    # without a word. The idx files of the MNIST family are plain images and may be read by path.
    place = path.resolve()
    for name, named in CATALOGUE.items():
        for file in (file for files in named.files for file in files if not file.path.endswith("ubyte.gz")):
            if place.parts[-2:] == Path(file.path).parts:
                raise BadInput(
                    f"{path} is a file of the data set {name!r}: load it by that name, with the environment variable "
                    f"{FOLDER_VARIABLE} set to {place.parent.parent}."
                )
