"""The command line's verbs for a DBN, and a run that is stopped and taken up again."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from genmodels import DBN
from genmodels.cli import main
from genmodels.families import dbn
from genmodels.fit import CHECKPOINT
from genmodels.monitor import MonitorOptions
from genmodels.runs import load_model, resume, start

FLAGS = ["--data", "bars-and-stripes", "--hidden", "5", "3", "--epochs", "3", "--batch-size", "5", "--ais-every", "3"]


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "dbn"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dbn, "NUM_STEPS", 5)
        assert main(["train", "dbn", *FLAGS, "--device", "cpu", "--out", str(out)]) == 0
    return out


def test_train_and_plot(run: Path) -> None:
    model, config = load_model(run)
    assert isinstance(model, DBN)
    assert [unit.size for unit in (*model.units, model.top.hidden)] == [16, 5, 3]
    assert config.objective == "layerwise"
    assert (run / "samples.png").exists()
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert "variational_bound" in records[2]
    assert "variational_bound" not in records[0]


def test_sample_and_fill_in(run: Path, tmp_path: Path) -> None:
    for i, more in enumerate(([], ["--from-data"], ["--inpaint", "upper"], ["--inpaint", "upper", "--from-data"])):
        out = tmp_path / f"{i}.png"
        assert main(["sample", str(run), "--num", "3", "--num-steps", "5", "--out", str(out), *more]) == 0
        assert out.exists()


def test_evaluate_says_what_its_numbers_bound(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    common = ["evaluate", str(run), "--json", "--num-chains", "10", "--num-temperatures", "20", "--num-samples", "5"]
    reports = {}
    for method in ("exact", "ais", "elbo"):
        capsys.readouterr()
        assert main([*common, "--method", method]) == 0
        reports[method] = json.loads(capsys.readouterr().out)
    assert reports["exact"]["log_likelihood"]["bound"] == "lower"
    assert reports["ais"]["log_likelihood"]["bound"] == "none"
    assert reports["ais"]["lower"]["bound"] == "lower"
    assert "K = 5" in reports["ais"]["log_likelihood"]["method"]
    assert "K = 1" in reports["elbo"]["log_likelihood"]["method"]
    assert main([*common, "--method", "raise"]) == 2
    assert "A DBN has no RAISE" in capsys.readouterr().err


def test_one_hidden_layer_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "dbn", "--data", "bars-and-stripes", "--hidden", "5", "--out", str(tmp_path / "one")]) == 2
    assert "at least two hidden layers" in capsys.readouterr().err


def test_stopped_and_taken_up_it_ends_with_the_same_bytes(run: Path, tmp_path: Path) -> None:
    config = replace(load_model(run)[1], monitor=MonitorOptions(ais_every=0))
    start(config, tmp_path / "whole")

    def stop(step: int, of: int, record: object) -> None:
        if len(seen) == 1:
            os.kill(os.getpid(), signal.SIGINT)
        seen.append(step)

    seen: list[int] = []
    with pytest.raises(KeyboardInterrupt):
        start(config, tmp_path / "stopped", progress=stop)
    assert (tmp_path / "stopped" / CHECKPOINT).read_bytes() != (tmp_path / "whole" / CHECKPOINT).read_bytes()
    resume(tmp_path / "stopped")
    assert (tmp_path / "stopped" / CHECKPOINT).read_bytes() == (tmp_path / "whole" / CHECKPOINT).read_bytes()
