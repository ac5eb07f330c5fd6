"""Kill a worker of a training under torchrun with SIGKILL: the run ends, and learns what an unharmed one learns.

    python -m experiments.benchmarks.kill_workers

Two processes train an RBM whose likelihood can be enumerated. One of them is killed at a random moment after the first
epoch; torchrun starts both again, and the same command takes the run up from its last checkpoint.
"""

from __future__ import annotations

import math
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import tyro

from experiments.results import Result
from genmodels.data import load
from genmodels.fit import METRICS
from genmodels.likelihood import log_likelihood
from genmodels.metrics import MetricsFile
from genmodels.runs import load_model, stored_step

ENVIRONMENT = {"OMP_NUM_THREADS": "1", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}


@dataclass(frozen=True)
class Config:
    """The training, and when a worker is killed."""

    epochs: int = 150
    hidden: int = 12
    processes: int = 2
    kill_within: float = 1.0
    """Seconds after the first epoch within which the worker is killed."""
    seeds: tuple[int, ...] = (0,)


def main(config: Config, folder: Path | None = None) -> None:
    """Train with and without a kill, and write both exact likelihoods."""
    with tempfile.TemporaryDirectory() as made:
        root = Path(made) if folder is None else folder
        result = Result(
            name="kill_workers",
            command="python -m experiments.benchmarks.kill_workers",
            data="digits",
            seeds=config.seeds,
            config=config,
            published={},
        )
        started = time.perf_counter()
        for seed in config.seeds:
            whole, harmed = root / f"whole-{seed}", root / f"harmed-{seed}"
            _finish(_torchrun(whole, config, seed))
            result.add_number(f"killed_{seed}_at_checkpoint_of_step", _harm(harmed, config, seed))
            _add(result, seed, whole, harmed)
        result.seconds = time.perf_counter() - started
        print(result.write() if folder is None else result.write(folder))


def _add(result: Result, seed: int, whole: Path, harmed: Path) -> None:
    test = load("digits").test.fixed()
    for name, out in (("unharmed", whole), ("killed", harmed)):
        found = log_likelihood(load_model(out)[0], test)
        result.add(f"{name}_{seed}", found.log_likelihood)
        result.add_number(f"{name}_{seed}_example_std_error", found.diagnostics["example_std_error"])
        result.add_number(f"{name}_{seed}_steps", stored_step(out))
        print(f"{name}: {found.log_likelihood}, {stored_step(out)} steps")


def _torchrun(out: Path, config: Config, seed: int) -> subprocess.Popen[bytes]:
    flags = f"--data digits --hidden {config.hidden} --epochs {config.epochs} --ais-every 0 --device cpu --seed {seed}"
    launcher = f"-m torch.distributed.run --standalone --nproc-per-node {config.processes} --max-restarts 2"
    command = [sys.executable, *launcher.split(), "-m", "genmodels", "train", "rbm", *flags.split(), "--out", str(out)]
    return subprocess.Popen(command, env=os.environ | ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _finish(launcher: subprocess.Popen[bytes]) -> None:
    if status := launcher.wait():
        raise RuntimeError(f"torchrun ended with status {status}.")


def _harm(out: Path, config: Config, seed: int) -> int:
    """Kill a worker on the way; the step of the checkpoint from which the others and its successor go on."""
    launcher = _torchrun(out, config, seed)
    while not MetricsFile(out / METRICS).read():
        time.sleep(0.05)
    time.sleep(random.Random(seed).uniform(0, config.kill_within))
    saved, workers = stored_step(out), Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split()
    last = config.epochs * math.ceil(len(load("digits").train) / 100)
    if launcher.poll() is not None or saved >= last or len(workers) < config.processes:
        raise RuntimeError("The training ended before its worker was killed: raise epochs.")
    os.kill(int(workers[-1]), signal.SIGKILL)
    _finish(launcher)
    print(f"killed after the checkpoint of step {saved} of {last}")
    return saved


if __name__ == "__main__":
    tyro.cli(main)
