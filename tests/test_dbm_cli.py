"""The command line's verbs for a DBM, and a run that is stopped and taken up again."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from genmodels import DBM
from genmodels.cli import main
from genmodels.families import boltzmann
from genmodels.fit import CHECKPOINT
from genmodels.monitor import MonitorOptions
from genmodels.runs import load_model, resume, start

FLAGS = ["--data", "bars-and-stripes", "--hidden", "5", "3", "--epochs", "3", "--batch-size", "5", "--ais-every", "3"]


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "dbm"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(boltzmann, "NUM_STEPS", 5)
        patch.setattr(boltzmann, "FILM_STEPS", (0, 1, 3))
        assert main(["train", "dbm", *FLAGS, "--device", "cpu", "--out", str(out)]) == 0
    return out


def test_train_and_plot(run: Path) -> None:
    model, config = load_model(run)
    assert isinstance(model, DBM)
    assert [unit.size for unit in model.units] == [16, 5, 3]
    assert config.objective == "variational_pcd"
    assert (run / "samples.png").exists()
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert "variational_bound" in records[2]
    assert "variational_bound" not in records[0]


def test_sample_and_fill_in(run: Path, tmp_path: Path) -> None:
    for more in ([], ["--inpaint", "upper"]):
        out = tmp_path / f"{len(more)}.png"
        assert main(["sample", str(run), "--num", "3", "--num-steps", "5", "--out", str(out), *more]) == 0
        assert out.exists()


def test_evaluate_says_what_its_numbers_bound(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    common = ["evaluate", str(run), "--json", "--num-chains", "10", "--num-temperatures", "20", "--num-samples", "50"]
    reports = {}
    for method in ("exact", "raise", "iwae"):
        capsys.readouterr()
        assert main([*common, "--method", method]) == 0
        reports[method] = json.loads(capsys.readouterr().out)
    assert reports["exact"]["log_likelihood"]["bound"] == "lower"
    assert reports["raise"]["log_likelihood"]["bound"] == "none"
    assert reports["iwae"]["lower"]["bound"] == "lower"
    assert "importance-weighted bound (K = 50)" in reports["iwae"]["log_likelihood"]["method"]
    assert reports["iwae"]["diagnostics"]["importance_gain"] > -0.1
    assert main([*common, "--method", "elbo"]) == 2
    assert "use one of these." in capsys.readouterr().err


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
