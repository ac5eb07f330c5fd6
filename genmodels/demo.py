"""`python -m genmodels.demo`: train a small RBM on handwritten digits, look at it, and check its likelihood three ways.

With 20 hidden units its log Z can be enumerated, so the exact value stands beside what the estimators say.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import tyro

from genmodels.checkpoint import write_atomically
from genmodels.cli import exit_status
from genmodels.data import load
from genmodels.interface import default_generator
from genmodels.likelihood import Estimate, ais_log_z, exact_log_z, raise_log_likelihood, reverse_ais_log_z
from genmodels.likelihood.exact import mean_free_energy
from genmodels.likelihood.report import from_log_z
from genmodels.monitor import MonitorOptions
from genmodels.pictures import write_estimates, write_pictures
from genmodels.progress import bar, training_bar
from genmodels.rbm import RBM
from genmodels.run_config import RunConfig
from genmodels.runs import RUN_FILES, load_model, refuse_occupied, start
from genmodels.settings import Settings
from genmodels.tables import print_estimates
from genmodels.units import Bernoulli
from samplers import salakhutdinov_murray_schedule

CONFIG = RunConfig(
    model="rbm",
    model_options=RBM(Bernoulli(64), Bernoulli(20)).config(),
    data="digits",
    objective="pcd",
    objective_options={"num_steps": 2},
    settings=Settings(epochs=300, batch_size=100, learning_rate=0.5, device="cpu", checkpoint_every=20),
    monitor=MonitorOptions(ais_every=30),
)
NUM_CHAINS = 100
NUM_TEMPERATURES = 2000
BURN_IN = 1000
MARK = "made_by_the_demo.txt"


def estimate(model: RBM) -> dict[str, Estimate]:
    """The mean test log-likelihood: exact, and by forward AIS, reverse AIS and RAISE."""
    data, generator = load(CONFIG.data), default_generator(1)
    train, test = data.train.fixed(), data.test.fixed()
    base, betas = model.visible.bias_from_data(train), salakhutdinov_murray_schedule(NUM_TEMPERATURES)
    rows = train[torch.randperm(len(train), generator=generator)[:NUM_CHAINS]]
    log_z = {
        "exact": exact_log_z(model, progress=bar),
        "forward AIS": ais_log_z(model, base, betas, num_chains=NUM_CHAINS, generator=generator, progress=bar),
        "reverse AIS": reverse_ais_log_z(model, rows, base, betas, burn_in=BURN_IN, generator=generator, progress=bar),
    }
    free_energy, _ = mean_free_energy(model, test)
    likelihoods = {name: from_log_z(free_energy, value) for name, value in log_z.items()}
    likelihoods["RAISE"] = raise_log_likelihood(model, test, base, betas, generator=generator, progress=bar)
    return likelihoods


def main(out: Path = Path("runs/demo")) -> None:
    """Train an RBM on digits and leave its samples, filters, training curves, chains and likelihoods in a folder.

    Args:
        out: folder for the run; that of an earlier demo is replaced.
    """
    # The products here are too small to share between cores.
    torch.set_num_threads(1)
    _make_room(out)
    with training_bar("training") as progress:
        start(CONFIG, out, progress=progress)
    model, _ = load_model(out)
    likelihoods = estimate(model)
    data = {"model": CONFIG.model, "data": CONFIG.data, "split": "test"}
    report = write_estimates(out, likelihoods, data)
    paths = write_pictures(out, progress=bar)
    print_estimates("Mean log-likelihood of the 300 test digits, nats per example", likelihoods)
    for path in (*paths, report):
        print(path)


def _make_room(out: Path) -> None:
    """Remove what an earlier demo left; anything else stays, and is in the way."""
    if (out / MARK).exists():
        for name in RUN_FILES:
            (out / name).unlink(missing_ok=True)
    refuse_occupied(out)
    write_atomically(out / MARK, b"The next demo replaces the run in this folder.\n")


if __name__ == "__main__":
    sys.exit(exit_status(lambda: tyro.cli(main)))
