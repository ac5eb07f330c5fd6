"""Stacks of auto-encoders on the command line, from end to end on 30 rows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from genmodels import AutoEncoderStack
from genmodels.cli import main
from genmodels.families import target_prop
from genmodels.runs import load_model
from tests.command_line import drawn, evaluated, is_normalised_lower_bound, refused, said

TRAIN = ["--data", "bars-and-stripes", "--epochs", "3", "--device", "cpu", "--sizes", "5", "4", "3"]
PICTURES = ("samples.png", "film_strip.png", "rates.png", "curves.png")


def train(out: Path, *flags: str) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(target_prop, "FILM_STEPS", (1, 3))
        assert main(["train", "target-prop", "--out", str(out), *TRAIN, *flags]) == 0
    return out


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    return train(tmp_path_factory.mktemp("runs") / "stack", "--inner", "6", "0", "7")


def test_a_run_holds_its_pictures_and_curves(run: Path) -> None:
    assert {path.name for path in run.iterdir()} >= {"checkpoint.safetensors", *PICTURES}
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert set(records[-1]) >= {"bound", "noise_1", "error_2"}
    model, _ = load_model(run)
    assert isinstance(model, AutoEncoderStack)
    assert model.config()["inner"] == [6, 0, 7]


@pytest.mark.parametrize("method", ["auto", "elbo", "ais"])
def test_evaluate_gives_a_lower_bound(capsys, run: Path, method: str) -> None:
    flags = ["--method", method, "--num-samples", "20", "--num-temperatures", "4", "--num-chains", "3"]
    assert is_normalised_lower_bound(evaluated(capsys, run, *flags, "--num-examples", "10"))


@pytest.mark.parametrize("flags", [[], ["--from-data"], ["--inpaint", "upper"]])
def test_sample_draws_runs_chains_and_fills_in(capsys, run: Path, tmp_path: Path, flags: list[str]) -> None:
    assert [values.shape for values in drawn(capsys, run, tmp_path, *flags).values()] == [(6, 16)] * 2


def test_plot_takes_a_finished_run_up(capsys, run: Path) -> None:
    said(capsys, "evaluate", run, "--num-samples", "5")
    assert said(capsys, "plot", run).split() == [str(run / name) for name in (*PICTURES, "likelihood.png")]


@pytest.mark.parametrize(
    "flags",
    [
        ["--kinds", "binary", "--prior", "factorial-bernoulli"],
        ["--objective", "algorithm1"],
        ["--passes", "2", "--trace", "0.5"],
        ["--pairs", "optimised", "--epochs", "1"],
        ["--pairs", "orthogonal", "--sizes", "4", "4", "4", "--kinds", "tanh"],
    ],
)
def test_other_ways_run(capsys, tmp_path: Path, flags: list[str]) -> None:
    out = train(tmp_path / "run", *flags)
    assert is_normalised_lower_bound(evaluated(capsys, out, "--num-samples", "20", "--num-examples", "5"))
    if "binary" in flags or "optimised" in flags:
        assert "derivatives of all encoders" in refused(capsys, "evaluate", out, "--method", "ais")


@pytest.mark.parametrize(
    ("flags", "mend"),
    [
        (["--kinds", "tanh", "tanh", "tanh"], "below the top"),
        (["--objective", "backprop", "--match", "0.5"], "leave them out"),
        (["--alpha", "2"], "Only algorithm1"),
        (["--objective", "backprop", "--kinds", "binary"], "discrete units"),
        (["--difference"], "reach top"),
        (["--trace", "0.5"], "several passes"),
        (["--pairs", "triangular"], "layers of one size"),
        (["--pairs", "optimised", "--objective", "backprop"], "through a search"),
        (["--pairs", "optimised", "--strategy", "fsdp"], "keep step"),
        (["--objective", "algorithm1", "--passes", "2"], "leave them out"),
        (["--kinds", "spiking"], "one-hot:LEVELS"),
    ],
)
def test_what_cannot_be_is_refused_in_one_sentence(capsys, tmp_path: Path, flags: list[str], mend: str) -> None:
    assert mend in refused(capsys, "train", "target-prop", "--out", tmp_path / "run", *TRAIN, *flags)
    assert not (tmp_path / "run" / "checkpoint.safetensors").exists()
