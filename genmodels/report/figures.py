"""The pictures of a run, inlined, with words for who cannot see them."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from genmodels.metrics import Record
from genmodels.pictures import read_estimates
from genmodels.run_config import RunConfig
from genmodels.runs import LIKELIHOOD, PICTURES

TITLES = {
    "samples.png": "Samples",
    "filters.png": "Filters",
    "film_strip.png": "Film strip",
    "interpolation.png": "Interpolation",
    "rates.png": "Rates of the code",
    "plane.png": "Plane of the code",
    "reconstructions.png": "Reconstructions",
    "codes.png": "Codes",
    "encoder.png": "Encoder",
    "curves.png": "Training curves",
    "likelihood.png": "Likelihood",
}
ALTS = {
    "samples.png": "Samples, each shown by the means of its pixels",
    "filters.png": "Weights of the units, one picture a unit: blue is negative, red positive",
    "film_strip.png": "Gibbs chains, one a row, after as many sweeps as stand above the columns",
    "interpolation.png": "Decoded points on the lines between the codes of pairs of examples",
    "rates.png": "Mean rate of each latent in nats, largest first",
    "plane.png": "Decoded grid over the plane of the code",
    "reconstructions.png": "Test examples and their reconstructions",
    "codes.png": "Histogram of the codes beside their prior",
    "encoder.png": "Filters of the encoder, one picture a code",
}
DICTIONARIES = frozenset({"sparse-coding", "psd", "s3c"})
"""Models whose weights go by that name."""
WIDE = frozenset(
    {"curves.png", "likelihood.png", "rates.png", "film_strip.png", "interpolation.png", "reconstructions.png"}
)
"""Those whose lettering or images get too small on a phone: there they scroll."""


@dataclass(frozen=True)
class Picture:
    """A picture as a data URI."""

    title: str
    alt: str
    uri: str
    wide: bool


def read_pictures(out: Path, config: RunConfig, records: Sequence[Record]) -> tuple[Picture, ...]:
    """The pictures that the folder holds."""
    titles = TITLES | {"filters.png": "Dictionary"} if config.model in DICTIONARIES else TITLES
    what = f"{config.model} trained on {Path(config.data).name}"
    alts = {name: f"{text} ({what})." for name, text in ALTS.items()}
    alts |= {"curves.png": _curves(records), "likelihood.png": _likelihood(out)}
    held = [name for name in PICTURES if (out / name).exists()]
    return tuple(Picture(titles[name], alts[name], _uri(out / name), name in WIDE) for name in held)


def _curves(records: Sequence[Record]) -> str:
    """The first and the last value of each metric."""
    names = dict.fromkeys(name for record in records for name in record)
    parts = []
    for name in (
        name for name in names if name not in ("epoch", "step", "seconds") and not name.endswith("_std_error")
    ):
        values = [record[name] for record in records if name in record]
        parts.append(f"{name.replace('_', ' ')} from {values[0]:.4g} to {values[-1]:.4g}")
    return f"Training curves over {len(records)} epochs: {'; '.join(parts)}."


def _likelihood(out: Path) -> str:
    rows = read_estimates(out / LIKELIHOOD).items() if (out / LIKELIHOOD).exists() else ()
    return "Likelihoods with their errors: " + "; ".join(f"{name} {e.value:.2f}, {e.bound}" for name, e in rows) + "."


def _uri(path: Path) -> str:
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()
