"""The data room: every named set, every reader, every sentence of refusal."""

import functools
import gzip
import hashlib
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pooch
import pytest
import scipy.io
import torch
from PIL import Image
from scipy.stats import chi2

from genmodels.data import DataSet, Examples, describe, draws, files, is_available, load, mnist, names, tables
from genmodels.data.bits import read_text
from genmodels.data.files import DataFile
from genmodels.errors import BadInput

needs_files = pytest.mark.skipif(
    not os.environ.get("GENMODELS_DATA"), reason="needs the data files: set GENMODELS_DATA to their folder"
)
REAL_FOLDER = Path(os.environ.get("GENMODELS_DATA", "."))
named = functools.cache(load)

MNIST_SIZES = (50_000, 10_000, 10_000)
EXPECTED = {
    "digits": ((1297, 200, 300), 64, (8, 8), "binary"),
    "bars-and-stripes": ((30, 30, 30), 16, (4, 4), "binary"),
    "mnist": (MNIST_SIZES, 784, (28, 28), "unit"),
    "mnist-binarized": (MNIST_SIZES, 784, (28, 28), "binary"),
    "mnist-dynamic": (MNIST_SIZES, 784, (28, 28), "binary"),
    "mnist-dynamic-60k": ((60_000, 10_000, 10_000), 784, (28, 28), "binary"),
    "mnist-threshold": (MNIST_SIZES, 784, (28, 28), "binary"),
    "fashion-mnist": (MNIST_SIZES, 784, (28, 28), "unit"),
    "fashion-mnist-binarized": (MNIST_SIZES, 784, (28, 28), "binary"),
    "fashion-mnist-dynamic": (MNIST_SIZES, 784, (28, 28), "binary"),
    "fashion-mnist-threshold": (MNIST_SIZES, 784, (28, 28), "binary"),
    "frey": ((1565, 200, 200), 560, (28, 20), "unit"),
    "olivetti": ((300, 50, 50), 4096, (64, 64), "unit"),
    "natural-patches": ((100_000, 10_000, 10_000), 144, (12, 12), "real"),
    "adult": ((5000, 1414, 26_147), 123, None, "binary"),
    "mushrooms": ((2000, 500, 5624), 112, None, "binary"),
    "nltcs": ((16_181, 2157, 3236), 16, None, "binary"),
    "plants": ((17_412, 2321, 3482), 69, None, "binary"),
    "jester": ((9000, 1000, 4116), 100, None, "binary"),
}
GENERATED = ("digits", "bars-and-stripes")


def splits_of(data: DataSet) -> list[Examples]:
    return [data.split(name) for name in ("train", "valid", "test")]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def refusal(name_or_path: Path | str, key: str | None = None) -> str:
    """The one sentence with which the input is refused."""
    with pytest.raises(BadInput) as caught:
        load(str(name_or_path), key=key)
    sentence = str(caught.value)
    assert sentence.endswith(".")
    assert "\n" not in sentence
    return sentence


@pytest.fixture
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data folder with nothing in it, and an empty download cache."""
    monkeypatch.setenv("GENMODELS_DATA", str(tmp_path / "data"))
    monkeypatch.setattr(pooch, "os_cache", lambda project: tmp_path / "cache" / project)
    return tmp_path / "data"


def put(folder: Path, path: str, content: bytes) -> Path:
    target = folder / path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(content)
    return target


# Named sets


def test_every_name_is_expected_and_described():
    assert names() == tuple(EXPECTED)
    assert all("\n" not in describe(name) and len(describe(name)) > 10 for name in names())


@pytest.mark.parametrize("name", [pytest.param(n, marks=() if n in GENERATED else needs_files) for n in EXPECTED])
def test_named_set_has_its_shape(name: str):
    sizes, num_features, image_shape, support = EXPECTED[name]
    assert is_available(name)
    data = named(name)
    assert (data.name, data.num_features, data.image_shape, data.support) == (name, num_features, image_shape, support)
    assert tuple(map(len, splits_of(data))) == sizes
    for examples in splits_of(data):
        assert examples.dynamic == ("dynamic" in name)
        assert examples.values.dtype == (torch.uint8 if support == "binary" else torch.float32)
        assert examples.labels is None or len(examples.labels) == len(examples)
        few = examples.batch(torch.tensor([2, 0, 5]), generator())
        assert few.shape == (3, num_features)
        assert few.dtype == torch.float32
        if support == "unit":
            assert examples.values.min() >= 0
            assert examples.values.max() <= 1
        if support == "binary":
            assert set(few.unique().tolist()) <= {0.0, 1.0}


def test_digits_are_a_permutation_of_all():
    data = named("digits")
    labels = torch.cat([examples.labels for examples in splits_of(data) if examples.labels is not None])
    assert labels.bincount().tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    assert sum(int(examples.values.sum()) for examples in splits_of(data)) == 37_151


def test_bars_and_stripes_are_all_patterns_once():
    patterns = named("bars-and-stripes").train.fixed().reshape(30, 4, 4)
    assert len(patterns.unique(dim=0)) == 30
    bars = (patterns == patterns[:, :1, :]).all(dim=(1, 2))
    stripes = (patterns == patterns[:, :, :1]).all(dim=(1, 2))
    assert (int(bars.sum()), int(stripes.sum()), int((bars & stripes).sum())) == (16, 16, 2)


@needs_files
def test_mnist_is_mnist():
    data = named("mnist")
    assert data.train.labels is not None
    assert data.test.labels is not None
    assert data.train.labels[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    assert data.test.labels[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]
    mean = (data.train.values.double().sum() + data.valid.values.double().sum()) / (60_000 * 784)
    assert mean.item() == pytest.approx(0.1307, abs=5e-5)


@needs_files
def test_variants_of_mnist_share_their_greys():
    greys, sixty = named("mnist-dynamic"), named("mnist-dynamic-60k")
    assert torch.equal(named("mnist").test.values, greys.test.values.float() / 255)
    assert torch.equal(named("mnist-threshold").test.values, (greys.test.values >= 128).byte())
    assert torch.equal(sixty.train.values[:50_000], greys.train.values)
    assert torch.equal(sixty.train.values[50_000:], sixty.valid.values)


@needs_files
def test_mnist_binarized_has_the_published_rows():
    data = named("mnist-binarized")
    assert [int(examples.values.sum()) for examples in splits_of(data)] == [5_118_041, 1_028_036, 1_038_896]
    assert data.train.values[:5].sum(1).tolist() == [123, 80, 159, 269, 117]
    assert data.test.values[:5].sum(1).tolist() == [147, 116, 116, 213, 140]
    contents = [hashlib.sha256(examples.values.numpy().tobytes()).hexdigest() for examples in splits_of(data)]
    assert tuple(contents) == mnist.AMAT_CONTENTS


@needs_files
def test_mnist_binarized_labels_fit_their_rows():
    test = named("mnist-binarized").test
    assert test.labels is not None
    means = torch.stack([test.fixed()[test.labels == digit].mean(0) for digit in range(10)])
    nearest = torch.cdist(test.fixed(), means).argmin(1)
    assert (nearest == test.labels).float().mean() > 0.75
    assert (nearest == test.labels.roll(1000)).float().mean() < 0.5


@needs_files
def test_fashion_binarized_never_changes():
    values = named("fashion-mnist-binarized").test.values.numpy()
    digest = hashlib.sha256(values.tobytes()).hexdigest()
    assert digest == "0f65d81ba2c556db67939aab7041067b763f6ba60bd9295816654b13fba92625"


@needs_files
@pytest.mark.parametrize(("name", "smallest_norm"), [("mnist-dynamic", 0), ("frey", 0), ("natural-patches", 0.05)])
def test_splits_share_no_example(name: str, smallest_norm: float):
    """Flat patches, of saturated sky, are the exception: they are all alike."""
    values = [examples.values.numpy() for examples in splits_of(named(name))]
    norms = [np.linalg.norm(rows.astype(np.float32), axis=1) for rows in values]
    rows = [set(map(bytes, rows[norm > smallest_norm])) for rows, norm in zip(values, norms, strict=True)]
    assert all(len(kept) > 0.9 * len(all_rows) for kept, all_rows in zip(rows, values, strict=True))
    assert not rows[0] & rows[1]
    assert not rows[0] & rows[2]
    assert not rows[1] & rows[2]


@needs_files
def test_olivetti_persons_are_in_one_split_and_upright():
    data = named("olivetti")
    persons = [set(examples.labels.tolist()) for examples in splits_of(data) if examples.labels is not None]
    assert list(map(len, persons)) == [30, 5, 5]
    assert len(set.union(*persons)) == 40
    face = data.train.values.reshape(-1, 64, 64).mean(0)
    left_to_right, up_to_down = ((face - face.flip(axis)).abs().mean() for axis in (1, 0))
    assert left_to_right < 0.5 * up_to_down


@needs_files
def test_natural_patches_are_white():
    rows = named("natural-patches").train.values.double()
    assert rows.mean(0).abs().max() < 1e-3
    scale = torch.linalg.eigvalsh(rows.T.cov())
    assert scale[0].abs() < 1e-6
    assert (scale[1:] - 1).abs().max() < 0.01


# Drawing


def test_dynamic_pixels_are_bernoulli():
    """Chi-squared over the grey levels 1..254; false-alarm rate 1e-6. Dividing by 256 instead must be rejected."""
    num_rows = 20_000
    greys = torch.arange(256, dtype=torch.uint8).expand(num_rows, 256).contiguous()
    drawn = Examples(greys, dynamic=True).batch(torch.arange(num_rows), generator(1))
    assert not drawn[:, 0].any()
    assert drawn[:, 255].all()
    wrong = (torch.rand(greys.shape, generator=generator(2)) * 256 < greys).float()
    limit = chi2.isf(1e-6, 254)
    assert chi_squared_of_greys(drawn.numpy()) < limit < chi_squared_of_greys(wrong.numpy())


def test_numpy_binarization_is_bernoulli():
    """As above, for the fixed binarization; false-alarm rate 1e-6."""
    greys = np.tile(np.arange(256, dtype=np.uint8), (20_000, 1))
    drawn = draws.binarize(greys, seed=3)
    assert not drawn[:, 0].any()
    assert drawn[:, 255].all()
    assert chi_squared_of_greys(drawn) < chi2.isf(1e-6, 254)


def chi_squared_of_greys(drawn: np.ndarray) -> float:
    prob = np.arange(1, 255) / 255
    error = drawn[:, 1:255].mean(0, dtype=np.float64) - prob
    return float((error**2 / (prob * (1 - prob))).sum() * len(drawn))


@needs_files
def test_mnist_dynamic_draws_match_the_greys():
    """z-test of the number of lit pixels in one draw of the test split; false-alarm rate 6e-7 (5 standard errors)."""
    test = named("mnist-dynamic").test
    prob = test.values.double() / 255
    lit = test.batch(torch.arange(len(test)), generator(4)).double().sum()
    assert (lit - prob.sum()).abs() < 5 * (prob * (1 - prob)).sum().sqrt()


def test_reads_are_drawn_anew_and_evaluation_is_not():
    greys = torch.full((7, 11), 100, dtype=torch.uint8)
    examples, index, source = Examples(greys, dynamic=True), torch.tensor([3, 3, 5]), generator(5)
    first, second = examples.batch(index, source), examples.batch(index, source)
    assert not torch.equal(first, second)
    assert not torch.equal(first[0], first[1])
    assert torch.equal(first, examples.batch(index, generator(5)))
    torch.manual_seed(1)
    fixed = examples.fixed(13)
    torch.manual_seed(2)
    assert torch.equal(fixed, examples.fixed(13))
    assert not torch.equal(fixed, examples.fixed(17))


def test_static_examples_are_read_as_they_are():
    values = torch.tensor([[0, 1, 1], [1, 0, 1]], dtype=torch.uint8)
    examples = Examples(values)
    assert torch.equal(examples.fixed(), values.float())
    assert torch.equal(examples.batch(torch.tensor([1]), generator()), values[1:].float())


def test_fixed_numbers_are_the_same_everywhere():
    assert draws.raw(2, seed=0).tolist() == [11749869230777074271, 4976686463289251617]
    assert draws.permutation(7).tolist() == [3, 2, 1, 6, 0, 4, 5]
    assert sorted(draws.permutation(101, seed=3).tolist()) == list(range(101))


def test_unknown_split_is_refused():
    with pytest.raises(BadInput, match="choose train, valid or test"):
        named("bars-and-stripes").split("dev")


# A user's own data


def save_npy(path: Path, array: np.ndarray) -> Path:
    np.save(path, array)
    return path


@pytest.mark.parametrize("seed_shape", [(50, 7), (50, 5, 3), (50, 1, 5, 3), (50, 5, 3, 1)])
def test_npy_is_split_80_10_10(tmp_path: Path, seed_shape: tuple[int, ...]):
    array = np.random.default_rng(0).normal(size=seed_shape)
    data = load(str(save_npy(tmp_path / "mine.npy", array)))
    assert tuple(map(len, splits_of(data))) == (40, 5, 5)
    assert (data.name, data.support) == ("mine.npy", "real")
    assert data.image_shape == (None if len(seed_shape) == 2 else (5, 3))
    everything = np.concatenate([examples.values.numpy() for examples in splits_of(data)])
    expected = array.reshape(50, -1).astype(np.float32)[draws.permutation(50)]
    np.testing.assert_array_equal(everything, expected)


@pytest.mark.parametrize(
    ("array", "support", "largest"),
    [
        (np.eye(9, dtype=np.int64), "binary", 1),
        (np.eye(9, dtype=bool), "binary", 1),
        (np.eye(9, dtype=np.uint8) * 255, "binary", 1),
        (np.eye(9, dtype=np.uint8) * 51, "unit", 0.2),
        (np.eye(9, dtype=">f8") * 0.5, "unit", 0.5),
        (np.eye(9) * 1.5, "real", 1.5),
        (np.eye(9) - 0.5, "real", 0.5),
    ],
)
def test_support_is_detected(tmp_path: Path, array: np.ndarray, support: str, largest: float):
    data = load(str(save_npy(tmp_path / "mine.npy", array)))
    assert data.support == support
    assert data.train.values.max().item() == pytest.approx(largest)
    assert data.image_shape == (3, 3)
    assert data.train.values.dtype == (torch.uint8 if support == "binary" else torch.float32)


def test_npz_keeps_its_splits(tmp_path: Path):
    rows = np.arange(60, dtype=np.float64).reshape(20, 3) / 60
    np.savez(tmp_path / "three.npz", train=rows[:11], valid=rows[11:13], test=rows[13:], note=np.zeros(2))
    three = load(str(tmp_path / "three.npz"))
    np.testing.assert_array_equal(three.valid.values, rows[11:13].astype(np.float32))
    assert tuple(map(len, splits_of(three))) == (11, 2, 7)
    np.savez(tmp_path / "two.npz", train=rows[:13], test=rows[13:])
    two = load(str(tmp_path / "two.npz"))
    assert tuple(map(len, splits_of(two))) == (12, 1, 7)
    np.testing.assert_array_equal(two.test.values, three.test.values)
    assert tuple(map(len, splits_of(load(str(tmp_path / "two.npz"), key="train")))) == (11, 1, 1)


def test_mat_and_csv_are_read(tmp_path: Path):
    rows = np.arange(20.0).reshape(10, 2)
    scipy.io.savemat(tmp_path / "mine.mat", {"rows": rows, "other": np.zeros(3)})
    from_mat = load(str(tmp_path / "mine.mat"), key="rows")
    (tmp_path / "mine.csv").write_text("left,right\n" + "\n".join(f"{a},{b}" for a, b in rows) + "\n")
    from_csv = load(str(tmp_path / "mine.csv"))
    (tmp_path / "bare.csv").write_text("\n".join(f'"{a}", {b}' for a, b in rows))
    bare = load(str(tmp_path / "bare.csv"))
    assert torch.equal(from_mat.train.values, from_csv.train.values)
    assert torch.equal(from_mat.train.values, bare.train.values)
    assert (len(from_csv.train), from_csv.num_features, from_csv.support) == (8, 2, "real")


def test_idx_and_image_folder_are_read(tmp_path: Path):
    greys = np.random.default_rng(0).integers(0, 256, size=(10, 5, 3), dtype=np.uint8)
    header = bytes([0, 0, 8, 3]) + np.array(greys.shape, dtype=">u4").tobytes()
    (tmp_path / "own-images-idx3-ubyte.gz").write_bytes(gzip.compress(header + greys.tobytes()))
    from_idx = load(str(tmp_path / "own-images-idx3-ubyte.gz"))
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "notes.txt").write_text("not an image")
    for number, grey in enumerate(greys):
        Image.fromarray(grey).save(tmp_path / "folder" / f"{number:02d}.png")
    from_folder = load(str(tmp_path / "folder"))
    assert torch.equal(from_idx.train.values, from_folder.train.values)
    assert (from_folder.image_shape, from_folder.support, len(from_folder.train)) == ((5, 3), "unit", 8)


# Refusals of a user's own data


def npy(array: np.ndarray) -> Callable[[Path], Path]:
    return lambda folder: save_npy(folder / "mine.npy", array)


def text(content: str, name: str = "mine.csv") -> Callable[[Path], Path]:
    return lambda folder: put(folder, name, content.encode())


def npz(**arrays: np.ndarray) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        np.savez(folder / "mine.npz", allow_pickle=True, **arrays)
        return folder / "mine.npz"

    return make


def mat(**arrays: np.ndarray) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        scipy.io.savemat(folder / "mine.mat", arrays)
        return folder / "mine.mat"

    return make


def images(*sizes: tuple[int, int], mode: str = "L") -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        for number, size in enumerate(sizes):
            Image.new(mode, size).save(folder / f"{number}.png")
        return folder

    return make


def with_hole(value: float) -> np.ndarray:
    array = np.zeros((5, 3))
    array[3, 1] = array[4, 0] = value
    return array


ROWS = np.arange(12.0).reshape(4, 3)
REFUSED = {
    "nan": (npy(with_hole(np.nan)), ("row 4", "column 2", "nan")),
    "infinite": (npy(with_hole(-np.inf)), ("row 4", "column 2", "inf")),
    "too large for float32": (npy(with_hole(1e60)), ("row 4", "column 2", "32-bit")),
    "nan in a split": (npz(train=ROWS, valid=ROWS, test=with_hole(np.nan)), ("(test)", "row 4", "column 2")),
    "nan in csv": (text("a,b\n1,2\n3,nan\n5,6"), ("row 2", "column 2")),
    "empty": (npy(np.zeros((0, 5))), ("empty",)),
    "empty csv": (text(""), ("empty",)),
    "header only": (text("a,b\n"), ("empty",)),
    "too few rows": (npy(ROWS[:2]), ("2 rows", "at least 3")),
    "one-dimensional": (npy(np.arange(9)), ("labels", "(N, d)")),
    "one integer column": (npy(np.arange(9)[:, None]), ("labels",)),
    "one integer column in csv": (text("label\n1\n2\n3\n"), ("labels",)),
    "labels by name": (lambda folder: save_npy(folder / "own-labels-1.npy", ROWS), ("labels",)),
    "scalar": (npy(np.array(3.0)), ("shape",)),
    "five axes": (npy(np.zeros((2, 2, 2, 2, 2))), ("shape", "(N, H, W)")),
    "colour images": (npy(np.zeros((4, 5, 5, 3))), ("shape", "grey")),
    "strings": (npy(np.array([["a", "b"]])), ("not numbers",)),
    "complex": (npy(np.ones((3, 2), dtype=complex)), ("complex128", "not numbers")),
    "pickled objects": (npy(np.array([[{}]], dtype=object)), ("pickled", "numpy.save")),
    "pickled objects in npz": (npz(rows=np.array([[{}]], dtype=object)), ("pickled", "numpy.savez")),
    "npy that is none": (text("hello", "mine.npy"), ("damaged",)),
    "npz that is none": (text("hello", "mine.npz"), ("damaged",)),
    "mat that is none": (text("hello", "mine.mat"), ("damaged",)),
    "idx that is none": (text("hello", "own-images-idx3-ubyte"), ("damaged", "idx")),
    "csv that is binary": (lambda folder: put(folder, "mine.csv", b"\xff\xfe\x00"), ("UTF-8",)),
    "unknown format": (text("1,2", "mine.parquet"), ("no known format", ".npy", ".csv")),
    "word in csv": (text("1,2\n3,x\n5,6"), ("'x'", "row 2", "column 2")),
    "word in the first row": (text("1,x\n3,4\n5,6"), ("'x'", "row 1", "column 2")),
    "gap in csv": (text("a,b\n1,2\n3,\n5,6"), ("''", "row 2", "column 2")),
    "ragged csv": (text("1,2\n3,4\n5,6,7"), ("3 cells", "row 3")),
    "wrong delimiter": (text("1;2\n3;4\n5;6"), ("comma",)),
    "several arrays in npz": (npz(left=ROWS, right=ROWS), ("key", "left, right")),
    "several arrays in mat": (mat(left=ROWS, right=ROWS), ("key", "left, right")),
    "no arrays in npz": (npz(), ("no arrays",)),
    "splits that differ": (npz(train=ROWS, test=ROWS[:, :2]), ("different sizes",)),
    "folder without images": (images(), ("no images",)),
    "images of two sizes": (images((3, 5), (5, 3)), ("1.png has 5x3", "0.png has 3x5", "one size")),
    "16-bit images": (images((3, 5), mode="I;16"), ("8-bit",)),
    "image that is none": (lambda folder: put(folder, "0.png", b"hello").parent, ("0.png", "replace")),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_file_is_refused_in_one_sentence(case: str, tmp_path: Path):
    make, fragments = REFUSED[case]
    path = make(tmp_path)
    sentence = refusal(path)
    assert str(path) in sentence
    assert all(fragment in sentence for fragment in fragments), sentence


def test_idx_labels_are_refused(tmp_path: Path):
    content = bytes([0, 0, 8, 1]) + np.array([4], dtype=">u4").tobytes() + bytes(4)
    assert "labels" in refusal(put(tmp_path, "train-labels-idx1-ubyte", content))
    assert "labels" in refusal(put(tmp_path, "renamed-idx-file", content))


def test_wrong_key_is_refused(tmp_path: Path):
    np.savez(tmp_path / "mine.npz", left=ROWS)
    assert "choose one of these: left" in refusal(tmp_path / "mine.npz", key="right")
    assert "leave the key" in refusal(save_npy(tmp_path / "mine.npy", ROWS), key="rows")
    assert "leave the key" in refusal("digits", key="rows")


def test_unknown_name_is_answered_with_the_nearest():
    sentence = refusal("mnist-binarised")
    assert "nearest name is 'mnist-binarized'" in sentence
    assert "path" in sentence
    assert "no file or folder" in refusal("nowhere/mine.npy")
    for question in (describe, is_available):
        with pytest.raises(BadInput, match="'olivetti'"):
            question("olivety")


# Files of the named sets


def test_without_network_and_file_the_sentence_names_both(alone: Path, monkeypatch: pytest.MonkeyPatch):
    def no_network(*_: object, **__: object) -> str:
        raise ConnectionError

    monkeypatch.setattr(pooch, "retrieve", no_network)
    assert not is_available("mnist")
    assert is_available("digits")
    for name, file in (
        ("mnist", "mnist/train-images-idx3-ubyte.gz"),
        ("mnist-binarized", "binarized_mnist/binarized_mnist_train.amat"),
        ("frey", "frey_faces/frey_rawface.mat"),
        ("natural-patches", "natural_images/BSD_Train400.zip"),
        ("nltcs", "binary_tables/nltcs.train.data"),
    ):
        sentence = refusal(name)
        assert file in sentence
        assert "GENMODELS_DATA" in sentence
        assert str(alone) in sentence


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("mnist", "mnist/train-images-idx3-ubyte.gz"),
        ("mnist-binarized", "binarized_mnist/binarized_mnist_packed.npz"),
        ("olivetti", "olivetti_faces/olivettifaces.mat"),
        ("nltcs", "binary_tables/nltcs.npz"),
        ("nltcs", "binary_tables/nltcs.train.data"),
    ],
)
def test_wrong_bytes_are_refused(alone: Path, name: str, file: str):
    path = put(alone, file, b"0,1\n" * 40)
    if file.endswith("train.data"):
        put(alone, "binary_tables/nltcs.valid.data", b"0,1\n" * 40)
    sentence = refusal(name)
    assert str(path) in sentence
    assert "altered or truncated" in sentence
    assert "delete it" in sentence


@needs_files
@pytest.mark.parametrize("damage", ["flip", "truncate"])
def test_tampered_copy_is_refused(alone: Path, damage: str):
    content = bytearray((REAL_FOLDER / "binary_tables/plants.npz").read_bytes())
    path = put(alone, "binary_tables/plants.npz", bytes(content))
    assert len(load("plants").train) == 17_412
    content[len(content) // 2] ^= 1
    path.write_bytes(content if damage == "flip" else content[:-1])
    os.utime(path, ns=(1, 1))
    assert "altered or truncated" in refusal("plants")


@needs_files
def test_file_of_a_named_set_is_not_read_as_a_users_own():
    for name, file in (("nltcs", "binary_tables/nltcs.npz"), ("olivetti", "olivetti_faces/olivettifaces.mat")):
        assert f"{name!r}: load it by that name" in refusal(REAL_FOLDER / file)


@needs_files
def test_public_formats_give_the_same_data(alone: Path):
    table = named("nltcs")
    for split, examples in zip(("train", "valid", "test"), splits_of(table), strict=True):
        rows = examples.values.numpy()[::-1]
        put(alone, f"binary_tables/nltcs.{split}.data", "\n".join(",".join(map(str, row)) for row in rows).encode())
    np.testing.assert_array_equal(load("nltcs").test.values.numpy()[::-1], table.test.values.numpy())
    greys = torch.cat([examples.values for examples in splits_of(named("frey"))]).mul(255).round().byte()
    put(alone, "frey_faces/frey_rawface.mat", b"")
    scipy.io.savemat(alone / "frey_faces/frey_rawface.mat", {"ff": greys.numpy().T})
    assert torch.equal(load("frey").test.values, named("frey").test.values)


def test_amat_text_is_read(tmp_path: Path):
    path = put(tmp_path, "rows.amat", b"0 1 1\n1 0 0\n")
    assert read_text(path, 3).tolist() == [[0, 1, 1], [1, 0, 0]]
    with pytest.raises(BadInput, match="truncated"):
        read_text(path, 4)


@needs_files
@pytest.mark.parametrize("table", tables.TABLES, ids=lambda table: table.name)
def test_digests_of_public_tables_are_those_of_the_rows(table: tables.Table):
    for examples, contents in zip(splits_of(named(table.name)), table.contents, strict=True):
        rows = sorted(row.tobytes() for row in examples.values.numpy())
        assert hashlib.sha256(b"".join(rows)).hexdigest() == contents


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """The address of a web server for the folder tmp_path / "public"."""
    (tmp_path / "public").mkdir()
    handler = functools.partial(SimpleHTTPRequestHandler, directory=str(tmp_path / "public"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


def test_download_is_checked_and_kept(alone: Path, server: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    put(alone.parent, "public/rows.txt", b"right")
    digest = hashlib.sha256(b"right").hexdigest()
    file = DataFile("some/rows.txt", (digest,), f"{server}/rows.txt")
    assert files.find(file) is None
    path = files.fetch(file)
    assert path == alone.parent / "cache/genmodels/some/rows.txt"
    assert path.read_bytes() == b"right"
    shutil.rmtree(alone.parent / "public")
    assert files.fetch(file) == path
    path.write_bytes(b"wrong")
    with pytest.raises(BadInput, match=r"rows\.txt is altered"):
        files.fetch(file)
    path.unlink()
    with pytest.raises(BadInput, match="could not be downloaded"):
        files.fetch(file)


def test_wrong_download_is_not_kept(alone: Path, server: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    put(alone.parent, "public/rows.txt", b"a login page")
    file = DataFile("some/rows.txt", ("0" * 64,), f"{server}/rows.txt")
    with pytest.raises(BadInput, match="the sha256 differs"):
        files.fetch(file)
    assert files.find(file) is None
