"""Runs that are killed or stopped end with the same bytes as one that was left alone."""

import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from experiments.benchmarks.kill_and_resume import RUN, run_to_end, run_with_kills
from genmodels import BadInput
from genmodels.checkpoint import load_checkpoint
from genmodels.cli import main
from genmodels.fit import CHECKPOINT, METRICS
from genmodels.metrics import MetricsFile
from genmodels.run_config import RunConfig
from genmodels.runs import CONFIG, load_model, resume, start

FLAGS = "--data bars-and-stripes --hidden 5 --epochs 150 --batch-size 5 --ais-every 0 --device cpu"
TRAIN = ["train", "rbm", *FLAGS.split()]


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> tuple[str, float]:
    """The end of a run that nobody disturbs, and about how long it takes."""
    run_to_end(tmp_path_factory.mktemp("first") / "run")
    return run_to_end(tmp_path_factory.mktemp("whole") / "run")


@pytest.mark.parametrize("seed", range(4))
def test_killed_at_random_moments_it_ends_the_same(whole: tuple[str, float], tmp_path: Path, seed: int) -> None:
    digest, seconds = whole
    generator = random.Random(seed)
    trial = run_with_kills(tmp_path / "run", (generator.uniform(0, seconds), generator.uniform(0, seconds / 2)))
    assert trial.digest == digest, f"killed after {trial.kills} s"
    records = MetricsFile(tmp_path / "run" / METRICS).read()
    assert [record["epoch"] for record in records] == list(range(1, RUN.settings.epochs + 1))
    assert [path.name for path in (tmp_path / "run").glob(".*")] == []


def test_killed_before_its_first_checkpoint_it_begins_again(tmp_path: Path) -> None:
    short = replace(RUN, settings=replace(RUN.settings, epochs=2))
    (tmp_path / CONFIG).write_text(json.dumps(short.to_dict()))
    with pytest.raises(BadInput, match="--resume"):
        start(short, tmp_path)
    resume(tmp_path)
    model, config = load_model(tmp_path)
    assert config == short
    assert model.weight.shape == (16, 5)


def wait_for(condition: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.many_steps
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stop_saves_says_how_to_go_on_and_ends_the_same(
    tmp_path: Path, monkeypatch, number: int, status: int
) -> None:
    monkeypatch.setattr("genmodels.commands.train.write_pictures", lambda out, progress: [])
    out = tmp_path / "stopped"
    command = [sys.executable, "-m", "genmodels", *TRAIN, "--out", str(out)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait_for(lambda: (out / METRICS).exists())
    process.send_signal(number)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == status, stderr
    assert (stdout, stderr) == ("", f"Stopped and saved: go on with `genmodels train --resume {out}`.\n")
    assert load_checkpoint(out / CHECKPOINT).meta["epoch"] < 150
    assert main(["train", "--resume", str(out)]) == 0
    assert main([*TRAIN, "--out", str(tmp_path / "whole")]) == 0
    assert (out / CHECKPOINT).read_bytes() == (tmp_path / "whole" / CHECKPOINT).read_bytes()


def test_the_configuration_survives_its_json() -> None:
    assert RunConfig.from_dict(RUN.to_dict()) == RUN
