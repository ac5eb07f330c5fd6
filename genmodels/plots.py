"""Pictures of samples, filters, chains, training and likelihoods.

Each returns a matplotlib `Figure` and touches no global state (no pyplot): good headless, in threads, in notebooks.
"""

import math
import secrets
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import Colormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from torch import Tensor

from genmodels.errors import BadInput

Array = NDArray[np.float32]
Pair = tuple[float, float]
Shape = tuple[int, int]
_DPI, _GAP = 150, 3  # the gap between images is in device pixels
_SMALL, _NORMAL, _LARGE = 7.5, 8.5, 10.5  # font sizes in points
_GREY = "#5f5f5f"
_INK = colormaps["gray"].with_extremes(bad="white")
_SIGNED = colormaps["RdBu_r"].with_extremes(bad="#c4c4c4")
_SPLITS = {"train": "#0072b2", "valid": "#d55e00", "test": "#009e73"}
_CYCLE = ("#333333", "#cc79a7", "#56b4e9", "#e69f00")
_FAMILIES = ("log_likelihood", "pseudo_likelihood", "free_energy_gap")
_NATS = (*_FAMILIES, "elbo", "iwae", "kl", "free_energy")
_BOUNDS = {  # marker, colour, fill, meaning: a triangle points to where the truth lies
    "exact": ("D", "#111111", "#111111", "exact"),
    "lower": (">", "#0072b2", "#0072b2", "lower bound: truth to the right"),
    "upper": ("<", "#d55e00", "#d55e00", "upper bound: truth to the left"),
    "none": ("o", "#777777", "white", "no bound: truth on either side"),
}


@runtime_checkable
class EstimateLike(Protocol):
    """What `likelihood_bars` reads: a value in nats per example, its error, and what it means."""

    @property
    def value(self) -> float: ...
    @property
    def std_error(self) -> float: ...
    @property
    def bound(self) -> str: ...
    @property
    def method(self) -> str: ...


def sample_grid(
    x: Float[Tensor, "n d"], image_shape: Shape | None, *, title: str | None = None, columns: int | None = None
) -> Figure:
    """Draw n row-major images as a near-square grid, or n rows of a table (no image shape) as one heat map.

    All share one value range: 0 (black) to 1 (white) for data in [0, 1], else symmetric around 0 and cut at the 99.5 %
    quantile of the absolute values, which a caption states. `columns` is the number of images in a row.
    """
    values = _array(x, "samples")
    limits, caption = _value_range(values)
    if image_shape is None:
        return _heat_map(values, limits, "feature", "example", title or "")
    return _board(_fold(_images(values, image_shape), columns), limits, caption, title=title or "")


def filter_grid(weight: Float[Tensor, "d h"], image_shape: Shape | None, *, num: int = 100) -> Figure:
    """Draw the `num` columns of `weight` with the largest norm, largest first.

    Each image is scaled to its own largest absolute weight (blue negative, red positive): compare shapes, not
    sizes. Without an image shape it is one heat map, features by filters, on one scale.
    """
    if num < 1:
        raise BadInput(f"num must be at least 1, not {num}.")
    filters = _array(weight, "weights").T
    chosen = filters[np.argsort(-np.linalg.norm(filters, axis=1), kind="stable")[:num]]
    peak = np.abs(chosen).max(axis=1, keepdims=True)
    if image_shape is None:
        limit = float(peak.max()) or 1.0
        return _heat_map(chosen.T, (-limit, limit), "filter, largest norm first", "feature")
    images = _images(np.divide(chosen, peak, out=np.zeros_like(chosen), where=peak > 0), image_shape)
    caption = f"{len(chosen)} of {len(filters)} filters, largest norm first. Blue is negative, red positive; "
    caption += "each filter is scaled to its own largest absolute weight."
    return _board(_fold(images), (-1.0, 1.0), caption, cmap=_SIGNED)


def film_strip(frames: Float[Tensor, "t n d"], steps: Sequence[int], image_shape: Shape) -> Figure:
    """Draw n chains at t times as in `sample_grid`: one row a chain, one column a time under its step number."""
    values = _array(frames, "frames")
    if len(steps) != len(values):
        raise BadInput(f"There are {len(steps)} step numbers but {len(values)} frames.")
    limits, caption = _value_range(values)
    figure = _board(_images(values, image_shape).swapaxes(0, 1), limits, caption, start=(48, 36))
    header = [f"{step:,}" for step in steps]
    axes, longest = figure.axes[0], max(map(len, header))
    side, size = axes.transAxes, min(_NORMAL, 100 * figure.get_figwidth() / (len(header) * longest))
    for column, text in enumerate(header):
        axes.text((column + 0.5) / len(header), 1, text, transform=side, ha="center", va="bottom", fontsize=size)
    axes.text(0, 1, "step ", transform=side, ha="right", va="bottom", fontsize=size, color=_GREY)
    return figure


def training_curves(records: Sequence[Mapping[str, float | int]]) -> Figure:
    """Draw every logged metric but "step" against "epoch", one panel per quantity; a record may lack some metrics.

    `train_`, `valid_` and `test_` versions share a panel, and so do all keys that start with `log_likelihood`,
    `pseudo_likelihood` or `free_energy_gap`. `<metric>_std_error` becomes error bars of 2 standard errors, and a
    log-likelihood that has them is labelled as AIS. The unit of a loss depends on its objective, so none is shown.
    """
    panels = _panels(records)
    columns = {1: 1, 2: 2, 4: 2}.get(len(panels)) or min((3, 4), key=lambda num: -len(panels) % num)
    rows = math.ceil(len(panels) / columns)
    figure = Figure(figsize=(3.4 * columns, 2.6 * rows), dpi=_DPI, layout="constrained")
    for place, (panel, keys) in enumerate(panels.items(), start=1):
        axes = figure.add_subplot(rows, columns, place, sharex=figure.axes[0] if figure.axes else None)
        _draw_panel(axes, records, panel, keys)
    return figure


def likelihood_bars(estimates: Mapping[str, EstimateLike]) -> Figure:
    """Draw named log-likelihood estimates, in nats per example, as dots with whiskers of 2 standard errors.

    Shape and colour of a mark show the kind of bound; a triangle points to where the truth lies. Rows keep
    the order given: numbers of different bound have no common order. The axis is zoomed to the data.
    """
    if not estimates:
        raise BadInput("There are no estimates to draw.")
    figure = Figure(figsize=(8.2, 1.1 + 0.42 * len(estimates)), dpi=_DPI, layout="constrained")
    axes = figure.add_subplot()
    for row, (name, estimate) in enumerate(estimates.items()):
        _draw_estimate(axes, row, name, estimate)
    axes.set(ylim=(len(estimates) - 0.5, -0.5), yticks=[], xmargin=0.06)
    _label(axes, "log-likelihood, nats per example (whiskers: ± 2 standard errors)")
    axes.spines[["left", "top", "right"]].set_visible(False)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=5))
    marks = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    figure.legend(marks.values(), marks, loc="outside lower center", ncols=4, fontsize=_SMALL, frameon=False)
    return figure


def save(figure: Figure, path: str | Path) -> Path:
    """Write a figure, whole or not at all, at 150 dots per inch in the format of the path's suffix."""
    path = Path(path)
    suffix = path.suffix.lower().lstrip(".")
    if suffix not in ("png", "pdf", "svg"):
        raise BadInput(f"Cannot save {path.name!r}: the suffix must be .png, .pdf or .svg.")
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        figure.savefig(partial, format=suffix, dpi=_DPI)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return path


def _array(values: Tensor, name: str) -> Array:
    array = values.detach().float().cpu().numpy()
    if array.size == 0 or not np.isfinite(array).all():
        raise BadInput(f"The {name}, of shape {array.shape}, must be finite numbers, and at least one.")
    return array


def _images(values: Array, image_shape: Shape) -> Array:
    """Cut the last axis, (..., d), into images, (..., height, width)."""
    if (needed := math.prod(image_shape)) != values.shape[-1]:
        raise BadInput(f"Images of shape {image_shape} need {needed} values, not {values.shape[-1]}.")
    return values.reshape(*values.shape[:-1], *image_shape)


def _fold(images: Array, columns: int | None = None) -> Array:
    """Lay (n, height, width) out as (rows, columns, height, width) in reading order; empty places are NaN."""
    num, height, width = images.shape
    per_row = columns or min(num, math.ceil(math.sqrt(num * height / width)))
    blank = np.full((-num % per_row, height, width), np.nan, dtype=np.float32)
    return np.concatenate([images, blank]).reshape(-1, per_row, height, width)


def _value_range(values: Array) -> tuple[Pair, str]:
    """The value range that all examples share, and a caption where it is not [0, 1]."""
    if values.min() >= -1e-3 and values.max() <= 1 + 1e-3:
        return (0.0, 1.0), ""
    limit = float(np.quantile(np.abs(values), 0.995)) or float(np.abs(values).max())
    return (-limit, limit), f"Black is \N{MINUS SIGN}{limit:.3g} and below, white {limit:.3g} and above."


def _mosaic(cells: Array) -> Array:
    """Join (rows, columns, height, width) into one picture in device pixels, NaN in the gaps."""
    rows, columns, height, width = cells.shape
    zoom = max(1, min(900 // (rows * height), 1500 // (columns * width), 150 // max(height, width)))
    cells = cells.repeat(zoom, axis=2).repeat(zoom, axis=3)
    cells = np.pad(cells, ((0, 0), (0, 0), (_GAP, 0), (_GAP, 0)), constant_values=np.nan)
    joined = cells.swapaxes(1, 2).reshape(rows * cells.shape[2], columns * cells.shape[3])
    return np.pad(joined, ((0, _GAP), (0, _GAP)), constant_values=np.nan)


def _board(
    cells: Array, limits: Pair, caption: str, *, title: str = "", cmap: Colormap = _INK, start: Shape = (12, 12)
) -> Figure:
    """A page that fits its (rows, columns, height, width) images to the device pixel, so they stay sharp."""
    mosaic = _mosaic(cells)
    high, wide = mosaic.shape
    inner = max(wide, 400 if title or caption else 0)
    title, caption = textwrap.fill(title, inner // 12), textwrap.fill(caption, inner // 8)
    above = start[1] + 28 * title.count("\n") + 40 * bool(title)
    below = 12 + 21 * caption.count("\n") + 30 * bool(caption)
    # A hundredth of a pixel more, because older versions of matplotlib round the page down to whole pixels.
    page_wide, page_high = start[0] + inner + 12.01, above + high + below + 0.01
    figure = Figure(figsize=(page_wide / _DPI, page_high / _DPI), dpi=_DPI)
    left = start[0] / page_wide
    axes = figure.add_axes((left, below / page_high, wide / page_wide, high / page_high))
    axes.set_axis_off()
    axes.imshow(mosaic, cmap, vmin=limits[0], vmax=limits[1], interpolation="nearest", aspect="auto")
    figure.text(left, 1 - 12 / page_high, title, va="top", fontsize=_LARGE)
    figure.text(left, 12 / page_high, caption, va="bottom", fontsize=_SMALL, color=_GREY)
    return figure


def _heat_map(values: Array, limits: Pair, xlabel: str, ylabel: str, title: str = "") -> Figure:
    figure = Figure(figsize=(6, 4), dpi=_DPI, layout="constrained")
    axes = figure.add_subplot()
    cmap = "RdBu_r" if limits[0] < 0 else "viridis"
    image = axes.imshow(values, cmap, vmin=limits[0], vmax=limits[1], interpolation="nearest", aspect="auto")
    _label(axes, xlabel, ylabel, title)
    axes.locator_params(integer=True, steps=[1, 2, 5, 10])
    figure.colorbar(image, ax=axes, pad=0.02, aspect=30).ax.tick_params(labelsize=_SMALL)
    return figure


def _label(axes: Axes, xlabel: str, ylabel: str = "", title: str = "") -> None:
    axes.set_xlabel(xlabel, fontsize=_NORMAL)
    axes.set_ylabel(ylabel, fontsize=_NORMAL)
    axes.set_title(title, fontsize=_LARGE)
    axes.tick_params(labelsize=_SMALL)


def _panels(records: Sequence[Mapping[str, float | int]]) -> dict[str, list[str]]:
    """Check the records, and group their metrics by the panel that shows them, likelihoods first."""
    panels: dict[str, list[str]] = {family: [] for family in _FAMILIES}
    for record in records:
        if "epoch" not in record:
            raise BadInput(f"A record has no epoch, only {', '.join(record) or 'nothing'}.")
        if broken := [key for key, value in record.items() if not math.isfinite(value)]:
            raise BadInput(f"The metric {broken[0]} is {record[broken[0]]} at epoch {record['epoch']}.")
    for key in dict.fromkeys(key for record in records for key in record):
        if key not in ("epoch", "step") and not key.endswith("_std_error"):
            head, _, rest = key.partition("_")
            base = rest if head in _SPLITS else key
            panel = next((family for family in _FAMILIES if base.startswith(family)), base)
            panels.setdefault(panel, []).append(key)
    if not any(panels.values()):
        raise BadInput(f"The {len(records)} records hold no metric to draw.")
    return {panel: keys for panel, keys in panels.items() if keys}


def _draw_panel(axes: Axes, records: Sequence[Mapping[str, float | int]], panel: str, keys: Sequence[str]) -> None:
    note = ""
    for index, key in enumerate(keys):
        kept = [record for record in records if key in record]
        has_errors = any(f"{key}_std_error" in record for record in kept)
        errors = [2 * record.get(f"{key}_std_error", math.nan) for record in kept] if has_errors else None
        label = key.removesuffix(f"_{panel}").replace("_", " ")
        if has_errors and panel == "log_likelihood" and key.endswith(panel):
            label, note = f"{label} (AIS)", "AIS, an upper bound in expectation\nbars: ± 2 standard errors"
        elif has_errors:
            note = note or "bars: ± 2 standard errors"
        colour = _SPLITS.get(key.partition("_")[0], _CYCLE[index % len(_CYCLE)])
        marker = "o" if len(kept) <= 30 else ""
        x, y = [record["epoch"] for record in kept], [record[key] for record in kept]
        axes.errorbar(x, y, errors, label=label, color=colour, marker=marker, markersize=3, capsize=2, lw=1.2)
    if note or len(keys) > 1:
        axes.legend(title=note, alignment="left", fontsize=_SMALL, title_fontsize=_SMALL, edgecolor="none")
    _label(axes, "epoch", "nats per example" if panel.startswith(_NATS) else "", panel.replace("_", " "))
    axes.locator_params(axis="x", nbins=7, integer=True, steps=[1, 2, 5, 10])
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25, linewidth=0.6)


def _draw_estimate(axes: Axes, row: int, name: str, estimate: EstimateLike) -> None:
    value, error, method = estimate.value, estimate.std_error, estimate.method
    if estimate.bound not in _BOUNDS:
        raise BadInput(f"The bound of {name!r} is {estimate.bound!r}, not one of {', '.join(_BOUNDS)}.")
    if not (math.isfinite(value) and 0 <= error < math.inf):
        raise BadInput(f"The estimate {name!r} is not a finite number with its error: {value} ± {error}.")
    marker, colour, fill, meaning = _BOUNDS[estimate.bound]
    axes.axhline(row, color="#e6e6e6", linewidth=0.7, zorder=0)
    axes.errorbar(value, row, xerr=2 * error, fmt="none", ecolor=colour, capsize=3)
    axes.plot(value, row, marker, color=colour, markerfacecolor=fill, markersize=6.5, label=meaning)
    decimals = min(6, max(0, 1 - math.floor(math.log10(error)))) if error > 0 else 2
    label = f"{value:.{decimals}f} ± {error:.{decimals}f} ({estimate.bound})".replace("-", "\N{MINUS SIGN}")
    side = axes.get_yaxis_transform()
    axes.text(-0.01, row - 0.04, name, transform=side, ha="right", va="bottom", fontsize=_NORMAL)
    axes.text(-0.01, row + 0.04, method, transform=side, ha="right", va="top", fontsize=_SMALL, color=_GREY)
    axes.text(1.01, row, label, transform=side, va="center", fontsize=_NORMAL, color=colour)
