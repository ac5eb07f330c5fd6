"""Kill a training at random moments and resume it: does it end bit-identical to one that was left alone?

    python -m experiments.benchmarks.kill_and_resume

Every trial starts the same small training in a process of its own, kills it with SIGKILL at a random moment, resumes it,
kills the rest once more, and lets it end. The exit status is 0 if all ends are the same bytes.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import random
import sys
import tempfile
import time
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch
import tyro

from genmodels.fit import CHECKPOINT
from genmodels.monitor import MonitorOptions
from genmodels.rbm import RBM
from genmodels.run_config import RunConfig
from genmodels.runs import CONFIG, resume, start
from genmodels.settings import Settings
from genmodels.units import Bernoulli

RUN = RunConfig(
    model="rbm",
    model_options=RBM(Bernoulli(16), Bernoulli(5)).config(),
    data="bars-and-stripes",
    settings=Settings(epochs=60, batch_size=4, optimizer="Adam", learning_rate=0.01, device="cpu"),
    monitor=MonitorOptions(ais_every=20, ais_chains=10, ais_temperatures=20),
)


@dataclass(frozen=True)
class Trial:
    """When a run was killed, counted from the start of each attempt, and what it ended as."""

    kills: tuple[float, ...]
    digest: str


def attempt(out: Path) -> None:
    """Begin the run, or go on with it: what a process does until it is killed."""
    torch.set_num_threads(1)
    if (out / CHECKPOINT).exists() or (out / CONFIG).exists():
        resume(out)
    else:
        start(RUN, out)


def run_to_end(out: Path) -> tuple[str, float]:
    """The digest of the final checkpoint, and the seconds that the training took."""
    started = time.perf_counter()
    process = _launch(out)
    process.join()
    if process.exitcode != 0:
        raise RuntimeError(f"The training in {out} ended with exit status {process.exitcode}.")
    return hashlib.sha256((out / CHECKPOINT).read_bytes()).hexdigest(), time.perf_counter() - started


def run_with_kills(out: Path, kills: tuple[float, ...]) -> Trial:
    """Kill the run after each of these seconds, resuming it in between, then let it end."""
    for seconds in kills:
        process = _launch(out)
        process.join(seconds)
        process.kill()
        process.join()
    return Trial(kills, run_to_end(out)[0])


def _launch(out: Path) -> BaseProcess:
    # A server that has imported torch once forks the processes: each starts in milliseconds and is killed for real.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["genmodels.runs", __name__])
    process = context.Process(target=attempt, args=(out,))
    process.start()
    return process


def main(trials: int = 10, seed: int = 0) -> int:
    """Kill and resume at `trials` random moments and compare the ends; the exit status is the number that differ."""
    generator = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        # The first process pays for the imports of the server, so the second tells how long a training takes.
        run_to_end(Path(folder) / "first")
        whole, seconds = run_to_end(Path(folder) / "whole")
        print(f"uninterrupted: {seconds:.2f} s, checkpoint {whole[:16]}")
        differing = 0
        for number in range(trials):
            kills = (generator.uniform(0, seconds), generator.uniform(0, seconds / 2))
            trial = run_with_kills(Path(folder) / str(number), kills)
            differing += trial.digest != whole
            verdict = "identical" if trial.digest == whole else "DIFFERENT"
            print(f"killed after {' and '.join(f'{k:.3f} s' for k in kills)}: {verdict} ({trial.digest[:16]})")
    return differing


if __name__ == "__main__":
    sys.exit(tyro.cli(main))
