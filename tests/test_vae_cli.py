"""The VAE on the command line, from end to end on 30 rows."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from genmodels import VAE
from genmodels.cli import main
from genmodels.data import load
from genmodels.families import directed
from genmodels.interface import default_generator
from genmodels.runs import load_model
from tests.command_line import drawn, evaluated, is_normalised_lower_bound, refused, said

TRAIN = ["--data", "bars-and-stripes", "--epochs", "3", "--device", "cpu"]
PICTURES = ("samples.png", "interpolation.png", "rates.png", "plane.png", "curves.png")


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "vae"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(directed, "PLANE", 3)
        assert main(["train", "vae", "--out", str(out), *TRAIN, "--latent", "2", "--hidden", "5,4"]) == 0
    return out


def test_a_run_holds_its_pictures_and_curves(run: Path) -> None:
    assert {path.name for path in run.iterdir()} >= {"checkpoint.safetensors", *PICTURES}
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert set(records[-1]) >= {"elbo", "rate", "distortion", "valid_elbo"}
    model, _ = load_model(run)
    assert isinstance(model, VAE)
    assert model.config()["hidden"] == [[5, 4]]


@pytest.mark.parametrize("method", ["auto", "elbo", "iwae", "ais"])
def test_evaluate_gives_a_lower_bound(capsys, run: Path, method: str) -> None:
    flags = ["--method", method, "--num-samples", "20", "--num-temperatures", "4", "--num-chains", "3"]
    assert is_normalised_lower_bound(evaluated(capsys, run, *flags, "--num-examples", "10"))


def test_plot_and_resume_take_a_finished_run_up(capsys, run: Path) -> None:
    assert "lower side" not in said(capsys, "evaluate", run, "--num-samples", "5"), "it is the value"
    for command in (("plot", run), ("train", "--resume", run)):
        assert said(capsys, *command).split() == [str(run / name) for name in (*PICTURES, "likelihood.png")]


def test_sample_draws_independently_and_fills_in(capsys, run: Path, tmp_path: Path) -> None:
    expected = load_model(run)[0].sample(6, generator=default_generator(3))[0]
    np.testing.assert_array_equal(drawn(capsys, run, tmp_path, "--seed", "3")["states"], expected)
    for values in drawn(capsys, run, tmp_path, "--seed", "3", "--inpaint", "upper").values():
        np.testing.assert_array_equal(values[:, 8:], load("bars-and-stripes").test.fixed()[:6, 8:])


@pytest.mark.parametrize(
    "flags",
    [
        ["--objective", "iwae", "--num-samples", "3", "--latent", "3", "2", "--hidden", "5", "4,3"],
        ["--objective", "dreg", "--num-samples", "3", "--pseudo-inputs", "4"],
        ["--objective", "rws", "--num-samples", "3", "--visible-units", "gaussian"],
    ],
    ids=["two layers", "pseudo-inputs", "gaussian"],
)
def test_every_objective_and_shape_trains(capsys, tmp_path: Path, flags: list[str]) -> None:
    out = said(capsys, "train", "vae", "--out", tmp_path / "run", *TRAIN, "--hidden", "6", *flags)
    assert str(tmp_path / "run" / "rates.png") in out
    assert "plane.png" not in out


def test_a_straight_line_between_codes_ends_at_the_reconstructions(run: Path) -> None:
    model, _ = load_model(run)
    x = load("bars-and-stripes").test.fixed()[:6]
    between = directed.interpolate(model, x, 5).view(3, 5, 16)
    ends = model.observed_mean((model.encode(x).first.mean,))
    torch.testing.assert_close(between[:, 0], ends[0::2])
    torch.testing.assert_close(between[:, -1], ends[1::2])


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--hidden", "five"], "numbers joined by commas"),
        (["--objective", "iwae", "--warm-up", "3"], "Only elbo has a warm-up"),
        (["--latent", "2", "3"], "one list of hidden sizes"),
    ],
)
def test_bad_flags_are_named(capsys, tmp_path: Path, flags: list[str], words: str) -> None:
    assert words in refused(capsys, "train", "vae", "--out", tmp_path / "run", *TRAIN, *flags)


def test_what_has_no_meaning_is_refused(capsys, run: Path) -> None:
    assert "not exact" in refused(capsys, "evaluate", run, "--method", "exact")
    assert "start nowhere" in refused(capsys, "sample", run, "--from-data", "--num", "6")
