"""The denoising auto-encoder at all noise levels on the command line, from end to end on 30 rows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from genmodels.cli import main
from genmodels.data import load
from genmodels.families import noise_dae
from genmodels.noise_conditional import NoiseConditionalDAE
from genmodels.runs import load_model
from tests.command_line import drawn, evaluated, is_normalised_lower_bound, refused, said

TRAIN = [
    "--data",
    "bars-and-stripes",
    "--epochs",
    "2",
    "--device",
    "cpu",
    "--levels",
    "2",
    "--width",
    "6",
    "--depth",
    "1",
]
PICTURES = ("samples.png", "film_strip.png", "curves.png")


@pytest.fixture(autouse=True, scope="module")
def few_steps():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(noise_dae, "SOLVER_STEPS", 4)
        patch.setattr(noise_dae, "NUM_SAMPLES", 7)
        patch.setattr(noise_dae, "LEVEL_STEPS", 1)
        yield


@pytest.fixture(scope="module")
def run(tmp_path_factory, few_steps) -> Path:
    out = tmp_path_factory.mktemp("runs") / "noise-dae"
    assert main(["train", "noise-dae", "--out", str(out), *TRAIN]) == 0
    return out


def test_a_run_holds_its_pictures_and_is_taken_up(capsys, run: Path) -> None:
    assert {path.name for path in run.iterdir()} >= {"checkpoint.safetensors", *PICTURES}
    model, _ = load_model(run)
    assert isinstance(model, NoiseConditionalDAE)
    assert (model.levels, model.smallest) == (2, 0.25)
    for command in (("plot", run), ("train", "--resume", run)):
        assert set(said(capsys, *command).split()) >= {str(run / name) for name in PICTURES}


def test_evaluate_bounds_the_probability_of_the_levels(capsys, run: Path) -> None:
    report = evaluated(capsys, run, "--num-examples", 9)
    assert is_normalised_lower_bound(report)
    bits = report["diagnostics"]["bits_per_dimension"]
    assert bits == pytest.approx(-report["lower"]["value"] / 16 / np.log(2))
    assert "density is that of its flow" in refused(capsys, "evaluate", run, "--method", "ais")


def test_sample_draws_levels_and_fills_in(capsys, run: Path, tmp_path: Path) -> None:
    found = drawn(capsys, run, tmp_path)
    assert set(np.unique(found["states"])) <= {0, 1}
    right = np.s_[:, [2, 3, 6, 7, 10, 11, 14, 15]]
    for values in drawn(capsys, run, tmp_path, "--inpaint", "left").values():
        np.testing.assert_array_equal(values[right], load("bars-and-stripes").test.fixed()[:6].numpy()[right])
    assert "leave --from-data out" in refused(capsys, "sample", run, "--from-data", "--num", 3)


def test_real_data_have_no_levels(capsys, tmp_path: Path) -> None:
    np.save(tmp_path / "own.npy", np.random.default_rng(0).normal(3, 2, (60, 7)))
    train = [
        "train",
        "noise-dae",
        "--data",
        tmp_path / "own.npy",
        "--out",
        tmp_path / "run",
        "--epochs",
        "1",
        "--width",
        "4",
    ]
    assert "give --levels 0" in refused(capsys, *train)
    assert "film_strip.png" not in said(capsys, *train, "--levels", "0")
    report = evaluated(capsys, tmp_path / "run")
    assert (report["log_likelihood"]["bound"], report["lower"]) == ("none", None)
