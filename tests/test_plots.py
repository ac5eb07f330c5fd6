"""What the pictures show is what the numbers say: pixels, order, labels, and refusals in one sentence."""

import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib import rcParams
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.image import imread
from matplotlib.text import Text

from genmodels import plots
from genmodels.errors import BadInput

GAP = 3


@dataclass(frozen=True)
class Number:
    """The least that `likelihood_bars` asks of an estimate."""

    value: float
    std_error: float
    bound: str
    method: str = "some method"


def drawn(figure: Figure) -> np.ndarray:
    """The array of the figure's one image, NaN where it is masked."""
    (image,) = figure.axes[0].images
    array = image.get_array()
    assert array is not None
    return np.ma.filled(np.ma.masked_invalid(array), np.nan)


def cut(mosaic: np.ndarray, rows: int, columns: int, shape: tuple[int, int]) -> np.ndarray:
    """Undo the mosaic: (rows, columns, height, width), after checking that each pixel is a block of one value."""
    height, width = (mosaic.shape[0] - GAP) // rows - GAP, (mosaic.shape[1] - GAP) // columns - GAP
    zoom = height // shape[0]
    assert (height, width) == (shape[0] * zoom, shape[1] * zoom)
    cells = np.full((rows, columns, height, width), np.nan, dtype=mosaic.dtype)
    for row in range(rows):
        for column in range(columns):
            top, left = GAP + row * (height + GAP), GAP + column * (width + GAP)
            cells[row, column] = mosaic[top : top + height, left : left + width]
    small = cells[:, :, ::zoom, ::zoom]
    np.testing.assert_array_equal(small.repeat(zoom, axis=2).repeat(zoom, axis=3), cells)
    return small


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.findobj(Text) if text.get_text()]


def test_samples_are_drawn_row_major_in_reading_order():
    x = torch.rand(7, 15, generator=torch.Generator().manual_seed(0))
    cells = cut(drawn(plots.sample_grid(x, (5, 3), columns=4)), 2, 4, (5, 3))
    for index in range(7):
        row, column = divmod(index, 4)
        for i in range(5):
            for j in range(3):
                assert cells[row, column, i, j] == x[index, 3 * i + j].item()
    assert np.isnan(cells[1, 3]).all()


def test_gaps_separate_all_images_and_surround_the_grid():
    mosaic = drawn(plots.sample_grid(torch.rand(6, 15), (5, 3), columns=3))
    empty_rows = np.asarray(np.isnan(mosaic).all(axis=1))
    empty_columns = np.asarray(np.isnan(mosaic).all(axis=0))
    assert empty_rows.sum() == 3 * GAP
    assert empty_columns.sum() == 4 * GAP
    for empty in (empty_rows, empty_columns):
        assert [*empty[:GAP], *empty[-GAP:], empty[GAP]] == [True] * 2 * GAP + [False]
    assert np.isnan(mosaic).sum() == mosaic.size - (~empty_rows).sum() * (~empty_columns).sum()


def test_saved_pixels_are_the_images_to_the_device_pixel(tmp_path: Path):
    x = torch.zeros(1, 15)
    x[0, 4] = 1.0  # second row, second column
    figure = plots.sample_grid(x, (5, 3))
    zoom = (drawn(figure).shape[0] - 2 * GAP) // 5
    page = imread(plots.save(figure, tmp_path / "one.png"))[..., :3].mean(axis=2)
    ink = page[12 + GAP : -12 - GAP, 12 + GAP : -12 - GAP]
    expected = np.kron(x.reshape(5, 3).numpy(), np.ones((zoom, zoom)))
    np.testing.assert_allclose(ink, expected, atol=0.01)


@pytest.mark.parametrize(
    ("num", "shape", "rows", "columns"), [(100, (28, 28), 10, 10), (12, (5, 3), 3, 5), (1, (5, 3), 1, 1)]
)
def test_grid_is_near_square(num: int, shape: tuple[int, int], rows: int, columns: int):
    x = torch.rand(num, math.prod(shape))
    assert cut(drawn(plots.sample_grid(x, shape)), rows, columns, shape).shape == (rows, columns, *shape)


def test_value_range_is_shared_and_symmetric_for_real_values():
    x = torch.rand(7, 15)
    assert plots.sample_grid(x, (5, 3)).axes[0].images[0].get_clim() == (0.0, 1.0)
    real = torch.linspace(-3, 1, 2000 * 15).reshape(2000, 15)
    real[0, 0] = -1e6
    for shape in [(5, 3), None]:
        low, high = plots.sample_grid(real, shape).axes[0].images[0].get_clim()
        assert low == -high
        assert 2.9 < high < 3.0


def test_table_is_one_labelled_heat_map():
    x = torch.randn(11, 5)
    figure = plots.sample_grid(x, None, title="a table")
    np.testing.assert_array_equal(drawn(figure), x.numpy())
    axes = figure.axes[0]
    assert (axes.get_xlabel(), axes.get_ylabel(), axes.get_title()) == ("feature", "example", "a table")


def test_filters_are_sorted_by_norm_and_scaled_each_to_its_peak():
    weight = torch.randn(15, 7, generator=torch.Generator().manual_seed(1))
    weight *= torch.tensor([2.0, 0.5, 11.0, 3.0, 0.0, 7.0, 5.0]) / weight.norm(dim=0)
    figure = plots.filter_grid(weight, (5, 3), num=5)
    cells = cut(drawn(figure), 2, 3, (5, 3)).reshape(6, 15)
    expected = weight[:, [2, 5, 6, 3, 0]].T
    np.testing.assert_allclose(cells[:5], expected / expected.abs().amax(1, keepdim=True), rtol=1e-6)
    assert figure.axes[0].images[0].get_clim() == (-1.0, 1.0)
    assert any("its own largest absolute weight" in " ".join(text.split()) for text in texts(figure))
    assert cut(drawn(plots.filter_grid(weight, (5, 3))), 2, 4, (5, 3))[1, 2].max() == 0  # the dead filter


def test_filters_without_image_shape_are_one_heat_map_of_weights():
    weight = torch.tensor([[0.1, -2.0, 1.0], [0.2, 3.0, 1.0]])
    figure = plots.filter_grid(weight, None, num=2)
    np.testing.assert_array_equal(drawn(figure), weight[:, [1, 2]].numpy())
    assert figure.axes[0].images[0].get_clim() == (-3.0, 3.0)


def test_film_strip_puts_chains_in_rows_and_times_in_columns():
    frames = torch.rand(4, 2, 15, generator=torch.Generator().manual_seed(2))
    figure = plots.film_strip(frames, [0, 1, 10, 1000], (5, 3))
    cells = cut(drawn(figure), 2, 4, (5, 3))
    np.testing.assert_array_equal(cells, frames.transpose(0, 1).reshape(2, 4, 5, 3).numpy())
    headers = figure.axes[0].texts[:4]
    assert [text.get_text() for text in headers] == ["0", "1", "10", "1,000"]
    places = [text.get_position()[0] for text in headers]
    np.testing.assert_allclose(places, [1 / 8, 3 / 8, 5 / 8, 7 / 8])


@pytest.mark.parametrize("steps", [[0, 1], [10**7 + step for step in range(24)]])
def test_step_numbers_do_not_overlap(steps: list[int]):
    figure = plots.film_strip(torch.rand(len(steps), 2, 784), steps, (28, 28))
    figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in figure.axes[0].texts]
    assert all(not a.overlaps(b) for k, a in enumerate(boxes) for b in boxes[:k])


def first_bars(axes: Axes) -> LineCollection:
    container = axes.containers[0]
    assert isinstance(container, ErrorbarContainer)
    return container.lines[2][0]


def curves(figure: Figure) -> Iterator[tuple[str, str, list[tuple[float, float]]]]:
    """(panel, label, points) of every curve drawn."""
    for axes in figure.axes:
        for container in axes.containers:
            assert isinstance(container, ErrorbarContainer)
            x, y = (np.asarray(values).tolist() for values in container.lines[0].get_data())
            yield axes.get_title(), str(container.get_label()), list(zip(x, y, strict=True))


def test_curves_skip_missing_values_and_pair_the_splits():
    records = [
        {"epoch": 0, "step": 600, "train_loss": 3.0, "accept_prob": 0.7},
        {"epoch": 1, "train_loss": 2.0, "valid_loss": 2.5},
        {"epoch": 2, "valid_loss": 2.2, "accept_prob": 0.6, "pseudo_likelihood": -11.0},
    ]
    figure = plots.training_curves(records)
    assert sorted(curves(figure)) == [
        ("accept prob", "accept prob", [(0, 0.7), (2, 0.6)]),
        ("loss", "train", [(0, 3.0), (1, 2.0)]),
        ("loss", "valid", [(1, 2.5), (2, 2.2)]),
        ("pseudo likelihood", "pseudo likelihood", [(2, -11.0)]),
    ]
    assert {axes.get_title(): axes.get_ylabel() for axes in figure.axes} == {
        "pseudo likelihood": "nats per example",
        "loss": "",
        "accept prob": "",
    }


def test_log_likelihood_with_an_error_is_labelled_as_ais_and_has_bars():
    records = [{"epoch": 1, "log_likelihood": -86.0, "log_likelihood_std_error": 0.5}, {"epoch": 2, "loss": 1.0}]
    figure = plots.training_curves(records)
    np.testing.assert_allclose(first_bars(figure.axes[0]).get_segments(), [[[1, -87.0], [1, -85.0]]])
    assert any("AIS, an upper bound in expectation" in text for text in texts(figure))
    exact = plots.training_curves([{"epoch": 1, "log_likelihood": -86.0}])
    assert not any("AIS" in text for text in texts(exact))


ESTIMATES = {
    "rbm": Number(-86.34, 0.21, "upper", "AIS"),
    "vae": Number(-89.9134, 0.0123, "lower", "IWAE"),
    "tiny": Number(-7.5, 0.0, "exact", "enumeration"),
    "dae": Number(-93.25, 1.9, "none", "Parzen window"),
}


def test_likelihood_labels_say_value_error_and_bound():
    found = texts(plots.likelihood_bars(ESTIMATES))
    for label in ["−86.34 ± 0.21 (upper)", "−89.913 ± 0.012 (lower)", "−7.50 ± 0.00 (exact)", "−93.2 ± 1.9 (none)"]:
        assert label in found
    assert {"rbm", "AIS", "vae", "IWAE", "tiny", "enumeration", "dae", "Parzen window"} <= set(found)


def test_likelihood_marks_differ_by_bound_and_whiskers_span_two_errors():
    axes = plots.likelihood_bars(ESTIMATES).axes[0]
    marks = [line for line in axes.lines if "bound" in str(line.get_label()) or line.get_label() == "exact"]
    assert [(np.asarray(line.get_xdata()).item(), line.get_marker()) for line in marks] == [
        (-86.34, "<"),
        (-89.9134, ">"),
        (-7.5, "D"),
        (-93.25, "o"),
    ]
    assert len({line.get_color() for line in marks}) == 4
    (whisker,) = first_bars(axes).get_segments()
    np.testing.assert_allclose(whisker[:, 0], [-86.76, -85.92])
    low, high = axes.get_xlim()
    assert -105 < low < -97.05
    assert -7.5 < high < 0


def test_likelihood_texts_do_not_overlap():
    figure = plots.likelihood_bars({"a rather long name of a model " * 2: ESTIMATES["rbm"], **ESTIMATES})
    figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in figure.axes[0].texts]
    assert all(not a.overlaps(b) for k, a in enumerate(boxes) for b in boxes[:k])
    assert all(figure.bbox.containsx(box.x0) and figure.bbox.containsx(box.x1) for box in boxes)


@pytest.mark.parametrize("suffix", ["png", "pdf", "svg"])
def test_save_makes_folders_and_leaves_one_file(tmp_path: Path, suffix: str):
    path = plots.save(plots.sample_grid(torch.rand(2, 15), (5, 3)), tmp_path / "a" / f"grid.{suffix}")
    assert path.stat().st_size > 0
    assert list(path.parent.iterdir()) == [path]


def test_failed_save_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "grid.png"
    path.write_text("old")
    figure = Figure()

    def half_write(target: Path, **_: object) -> None:
        target.write_text("half")
        raise OSError("disk full")

    monkeypatch.setattr(figure, "savefig", half_write)
    with pytest.raises(OSError, match="disk full"):
        plots.save(figure, path)
    assert [p.read_text() for p in tmp_path.iterdir()] == ["old"]


def test_bad_input_is_refused_in_one_sentence(tmp_path: Path):
    x, nan = torch.rand(7, 14), torch.full((7, 15), math.nan)
    refusals = [
        (lambda: plots.sample_grid(x, (5, 3)), "15 values, not 14"),
        (lambda: plots.filter_grid(x.T, (5, 3)), "15 values, not 14"),
        (lambda: plots.film_strip(x[None], [0], (5, 3)), "15 values, not 14"),
        (lambda: plots.film_strip(x[None], [0, 1], (7, 2)), "2 step numbers but 1 frames"),
        (lambda: plots.sample_grid(torch.empty(0, 15), (5, 3)), r"samples, of shape \(0, 15\)"),
        (lambda: plots.sample_grid(nan, None), "must be finite"),
        (lambda: plots.filter_grid(nan, None), "must be finite"),
        (lambda: plots.filter_grid(x, None, num=0), "at least 1, not 0"),
        (lambda: plots.training_curves([]), "0 records hold no metric"),
        (lambda: plots.training_curves([{"epoch": 1.0}]), "1 records hold no metric"),
        (lambda: plots.training_curves([{"loss": 1.0}]), "no epoch, only loss"),
        (lambda: plots.training_curves([{"epoch": 3, "loss": math.nan}]), "loss is nan at epoch 3"),
        (lambda: plots.likelihood_bars({}), "no estimates"),
        (lambda: plots.likelihood_bars({"m": Number(math.inf, 1.0, "lower")}), "'m' is not a finite number"),
        (
            lambda: plots.likelihood_bars({"m": Number(1.0, 1.0, "about")}),
            "'about', not one of exact, lower, upper, none",
        ),
        (lambda: plots.save(Figure(), tmp_path / "a.jpg"), r"\.png, \.pdf or \.svg"),
    ]
    for call, message in refusals:
        with pytest.raises(BadInput, match=message):
            call()


def test_pyplot_and_settings_are_left_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)  # an import of it now fails
    names = set(rcParams) - {"backend"}  # to look this one up imports pyplot
    before = {name: rcParams[name] for name in names}
    for figure in (
        plots.sample_grid(torch.randn(7, 15), (5, 3), title="samples"),
        plots.filter_grid(torch.randn(15, 7), None),
        plots.film_strip(torch.rand(2, 3, 15), [0, 1], (5, 3)),
        plots.training_curves([{"epoch": 1, "loss": 1.0}]),
        plots.likelihood_bars(ESTIMATES),
    ):
        plots.save(figure, tmp_path / "figure.png")
    assert {name: rcParams[name] for name in names} == before
    assert not any(getattr(value, "__name__", "") == "matplotlib.pyplot" for value in vars(plots).values())
