"""Models that are walk-back chains on the command line, from end to end on 30 rows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from genmodels import DAE, GSN
from genmodels.cli import main
from genmodels.data import load
from genmodels.families import dae
from genmodels.runs import load_model
from tests.command_line import drawn, evaluated, is_normalised_lower_bound, refused, said

TRAIN = ["--data", "bars-and-stripes", "--epochs", "3", "--device", "cpu"]
PICTURES = ("samples.png", "filters.png", "film_strip.png", "curves.png")


@pytest.fixture(autouse=True, scope="module")
def short_chains():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dae, "NUM_STEPS", 5)
        patch.setattr(dae, "BURN_IN", 3)
        patch.setattr(dae, "FILM_STEPS", (0, 1, 3))
        yield


KINDS = {
    "dae": (DAE, ["--hidden-noise", "0.3"]),
    "gsn": (GSN, ["--noise", "0.3", "--noise-after", "0.2", "--clean-first", "--walk-back", "3"]),
}


@pytest.fixture(scope="module", params=KINDS)
def run(tmp_path_factory, short_chains, request) -> Path:
    out = tmp_path_factory.mktemp("runs") / request.param
    flags = [*TRAIN, "--hidden", "5", "4", *KINDS[request.param][1]]
    assert main(["train", request.param, "--out", str(out), *flags]) == 0
    return out


def test_a_run_holds_its_pictures(run: Path) -> None:
    assert {path.name for path in run.iterdir()} >= {"checkpoint.safetensors", *PICTURES}
    model, config = load_model(run)
    assert isinstance(model, KINDS[config.model][0])
    assert config.objective_options["walk_back"] == 3


def test_evaluate_gives_the_conservative_estimate(capsys, run: Path) -> None:
    report = evaluated(capsys, run, "--num-samples", "60", "--num-chains", "20")
    assert is_normalised_lower_bound(report)
    assert report["lower"]["method"] == "CSL, 20 chains × 3 states"
    assert "no density but its own" in refused(capsys, "evaluate", run, "--method", "ais")


def test_plot_and_resume_take_a_finished_run_up(capsys, run: Path) -> None:
    for command in (("plot", run), ("train", "--resume", run)):
        assert set(said(capsys, *command).split()) >= {str(run / name) for name in PICTURES}


@pytest.mark.parametrize("start", [[], ["--from-data"]])
def test_sample_runs_chains_and_fills_in(capsys, run: Path, tmp_path: Path, start: list[str]) -> None:
    found = drawn(capsys, run, tmp_path, *start)
    assert set(np.unique(found["states"])) <= {0, 1}
    assert ((found["means"] > 0) & (found["means"] < 1)).all()
    right = np.s_[:, [2, 3, 6, 7, 10, 11, 14, 15]]
    for values in drawn(capsys, run, tmp_path, *start, "--inpaint", "left").values():
        np.testing.assert_array_equal(values[right], load("bars-and-stripes").test.fixed()[:6].numpy()[right])


def test_real_data_are_reconstructed_by_normals(capsys, tmp_path: Path) -> None:
    np.save(tmp_path / "own.npy", np.random.default_rng(0).normal(3, 2, (60, 7)))
    flags = ["--corruption", "gaussian", "--corruption-level", "0.5", "--hidden", "4", "--walk-back", "1"]
    out = said(
        capsys, "train", "dae", "--data", tmp_path / "own.npy", "--out", tmp_path / "run", "--epochs", "2", *flags
    )
    assert "film_strip.png" not in out
    model, _ = load_model(tmp_path / "run")
    assert (model.observed.config()["type"], model.corruption.config()["std"]) == ("Gaussian", 0.5)
