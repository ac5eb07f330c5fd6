"""Labelled stacks on the command line, from end to end."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from genmodels.cli import main
from genmodels.data import load
from genmodels.run_config import RunConfig
from genmodels.runs import load_model
from genmodels.training_state import as_described_now
from tests.command_line import evaluated, refused, said

TRAIN = ["--data", "digits", "--epochs", "4", "--device", "cpu", "--hidden", "9", "9", "--within", "11", "--seed", "1"]
PICTURES = ("filters.png", "curves.png")


def train(out: Path, *flags: str) -> Path:
    assert main(["train", "labelled-stack", "--out", str(out), *TRAIN, *flags]) == 0
    return out


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    return train(tmp_path_factory.mktemp("runs") / "stack", "--learning-rate", "0.02", "--average", "0.9")


def test_a_run_learns_the_classes(capsys, run: Path) -> None:
    assert {path.name for path in run.iterdir()} >= {"checkpoint.safetensors", *PICTURES}
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert records[-1]["error"] < records[0]["error"]
    report = evaluated(capsys, run)
    model, _ = load_model(run)
    test = load("digits").test
    wrong = 100 * (model.predict(test.fixed()).argmax(1) != test.labels).float().mean().item()
    assert report["diagnostics"]["error_percent"] == pytest.approx(wrong, abs=1e-6)
    assert report["diagnostics"]["error_percent"] < 60
    assert report["log_likelihood"]["bound"] == "exact"
    part = evaluated(capsys, run, "--num-examples", "50")
    assert part["num_examples"] == 50
    assert part["log_likelihood"]["value"] == pytest.approx(report["log_likelihood"]["value"], rel=0.5)


def test_plot_and_resume_take_a_finished_run_up(capsys, run: Path) -> None:
    assert "% of the labels are missed" in re.sub(r"[\s│]+", " ", said(capsys, "evaluate", run))
    said(capsys, "train", "--resume", run)
    assert said(capsys, "plot", run).split() == [str(run / name) for name in (*PICTURES, "likelihood.png")]
    assert "draws none" in refused(capsys, "sample", run)


@pytest.mark.parametrize(
    "flags",
    [
        ["--labels", "20", "--unlabelled", "--sure", "0.9"],
        ["--labels", "20"],
        ["--kind", "sign", "--tied"],
        ["--maps", "orthogonal", "--alpha", "0.5"],
        ["--objective", "backprop", "--input-noise", "0.1"],
    ],
)
def test_other_ways_run(capsys, tmp_path: Path, flags: list[str]) -> None:
    report = evaluated(capsys, train(tmp_path / "run", "--epochs", "1", *flags))
    assert 0 <= report["diagnostics"]["error_percent"] <= 100


@pytest.mark.parametrize(
    ("flags", "mend"),
    [
        (["--data", "bars-and-stripes"], "no labels"),
        (["--labels", "25"], "equally"),
        (["--unlabelled"], "how many do"),
        (["--objective", "backprop", "--alpha", "1"], "leave them out"),
        (["--kind", "sign", "--maps", "triangular"], "layers of one size"),
        (["--step", "0"], "positive"),
    ],
)
def test_what_cannot_be_is_refused_in_one_sentence(capsys, tmp_path: Path, flags: list[str], mend: str) -> None:
    assert mend in refused(capsys, "train", "labelled-stack", "--out", tmp_path / "run", *TRAIN, *flags)
    assert not (tmp_path / "run" / "checkpoint.safetensors").exists()


def test_runs_from_before_rows_had_options_are_taken_up() -> None:
    now = RunConfig(model="rbm", model_options={}, data="digits").to_dict()
    before = {name: value for name, value in now.items() if name != "row_options"}
    assert as_described_now({"config": before})["config"] == now
