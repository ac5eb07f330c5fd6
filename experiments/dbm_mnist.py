"""DBM with 500 and 1,000 hidden units on binarized MNIST, two ways in, against the published bound and this project's RBM.

Reproduced: Salakhutdinov and Hinton (2009), "Deep Boltzmann machines": a 500-1000 machine, its RBMs trained one after the
other and then all layers jointly, reaches a variational bound of −84.62 nats on the test images, log Z by AIS.

Here, both by variational PCD with the centered gradient, a learning rate that falls linearly to zero, and averaged weights:

- greedy: an RBM-500 is trained first, by the method of `experiments.rbm_mnist`; the machine starts as that RBM with 1,000
  units above it, all but uncoupled, and all layers then learn jointly. Not the doubled and halved weights of the paper:
  this start has the RBM's likelihood from the first step.
- joint: all layers learn from the beginning (Montavon and Müller, 2012).

Training images: all 60,000 of MNIST, pixels drawn anew from the grey levels at every read. Test images: the 10,000 of the fixed
binarization. The numbers: the variational bound with log Z by forward AIS, as published, which bounds nothing (a lower bound
minus a lower bound on log Z); with log Z by reverse AIS, a lower bound if its chains are at equilibrium; both tightened by
importance weights from the mean field; and the same estimators for the RBM of the greedy way before its second layer.

    python -m experiments.dbm_mnist
    python -m experiments.dbm_mnist --smoke    # the same code on `digits`, in seconds
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Literal

import torch
import tyro

from experiments import rbm_mnist
from experiments.results import FOLDER, Published, Result
from genmodels import DBM, RBM, Bernoulli, plots
from genmodels.chains import half_to_fill, independent_start, run_chains, start_at
from genmodels.data import DataSet, load
from genmodels.fit import Settings, fit
from genmodels.greedy import deepened
from genmodels.interface import default_generator
from genmodels.likelihood import LikelihoodReport, importance_weighted, log_likelihood
from genmodels.objectives import variational_pcd
from genmodels.progress import bar, training_bar

PUBLISHED = {
    "greedy_variational_bound": Published(-84.62, "Salakhutdinov and Hinton (2009), 500-1000, AIS"),
}
Way = Literal["greedy", "joint"]


@dataclass(frozen=True)
class Joint:
    """Joint training of all layers."""

    epochs: int = 40
    learning_rate: float = 0.15
    num_steps: int = 4
    num_iterations: int = 3
    batch_size: int = 200
    average: float = 0.9995


@dataclass(frozen=True)
class Config:
    """Everything that decides the result."""

    bottom: rbm_mnist.Config = field(default_factory=lambda: replace(rbm_mnist.Config(), epochs=100, seeds=(0,)))
    top_hidden: int = 1000
    greedy: Joint = field(default_factory=Joint)
    joint: Joint = field(default_factory=Joint)
    seed: int = 0
    ais_chains: int = 100
    temperatures: int = 5000
    burn_in: int = 1000
    importance_samples: int = 50
    importance_examples: int = 300
    """Test rows for the importance weights; all rows have the bound of the mean field."""
    sample_sweeps: int = 500


SMOKE = Config(
    bottom=replace(rbm_mnist.SMOKE, seeds=(0,)),
    top_hidden=7,
    greedy=Joint(epochs=1, batch_size=50),
    joint=Joint(epochs=1, batch_size=50),
    ais_chains=10,
    temperatures=20,
    burn_in=5,
    importance_samples=5,
    importance_examples=20,
    sample_sweeps=5,
)


def train(config: Config, way: Way, data: DataSet, out: Path) -> tuple[DBM, RBM | None, float]:
    """The model of one way in, the RBM that it began as if any, and the seconds of all epochs; runs are taken up."""
    generator = default_generator(config.seed + 1)
    seconds, start, bottom, how = 0.0, None, None, config.joint if way == "joint" else config.greedy
    if way == "greedy":
        bottom, seconds = rbm_mnist.train(config.bottom, config.seed, data, out / "bottom")
        model = deepened(bottom, config.top_hidden, generator=generator)
        start = data.train.batch(torch.randperm(len(data.train), generator=generator)[: how.batch_size], generator)
    else:
        hidden = Bernoulli(config.bottom.hidden), Bernoulli(config.top_hidden)
        model = DBM(Bernoulli(data.num_features), *hidden, generator=generator)
        model.initialise_from_data(data.train.fixed(config.seed))
    settings = Settings(
        epochs=how.epochs,
        batch_size=how.batch_size,
        learning_rate=how.learning_rate,
        average=how.average,
        seed=config.seed,
    )
    objective = variational_pcd(model, num_steps=how.num_steps, num_iterations=how.num_iterations, start=start)
    with training_bar(way) as progress:
        records = fit(model, objective, data.train, settings, out=out / way, config=asdict(how), progress=progress)
    return model.requires_grad_(False), bottom, seconds + sum(record["seconds"] for record in records)


def evaluate(config: Config, model: RBM | DBM, data: DataSet, test: torch.Tensor) -> LikelihoodReport:
    """log p of the test rows, or its variational bound: log Z by forward AIS, and by reverse AIS from training rows."""
    return log_likelihood(
        model,
        test,
        method="ais",
        base=data.train.fixed(config.seed),
        num_chains=config.ais_chains,
        num_temperatures=config.temperatures,
        burn_in=config.burn_in,
        generator=default_generator(1000 + config.seed),
        progress=bar,
    )


def tighten(config: Config, report: LikelihoodReport, model: DBM, test: torch.Tensor) -> LikelihoodReport:
    """The report with importance weights; what they gain is measured on some of the rows."""
    rows = test[torch.randperm(len(test), generator=default_generator(0))[: config.importance_examples]]
    generator = default_generator(2000 + config.seed)
    return importance_weighted(
        report, model, rows, num_samples=config.importance_samples, generator=generator, progress=bar
    )


def add(result: Result, name: str, report: LikelihoodReport) -> None:
    """Both sides of a report and what lies between them."""
    assert report.lower is not None
    result.add(name, report.log_likelihood)
    result.add(f"{name}_reverse", report.lower)
    result.add_number(f"{name}_bracket_width", report.log_likelihood.value - report.lower.value)
    print(f"{name}: {report.log_likelihood}; {report.lower}", file=sys.stderr)


def draw_pictures(config: Config, way: Way, model: DBM, data: DataSet, test: torch.Tensor, folder: Path) -> None:
    """Samples from long chains that start at independent units, and upper halves of test images filled in."""
    generator = default_generator(0)
    start = independent_start(model, 100, generator=generator)
    chains = run_chains(model, start, config.sample_sweeps, generator=generator, progress=bar)
    plots.save(plots.sample_grid(chains.means, data.image_shape), folder / f"dbm_mnist_{way}_samples.png")
    assert data.image_shape is not None
    rows = test[:10].repeat_interleave(10, 0)
    held = ~half_to_fill(data.image_shape, "upper")
    blank = torch.where(held, rows, torch.rand(rows.shape, generator=generator).round())
    filled = run_chains(
        model, start_at(model, blank), config.sample_sweeps // 5, generator=generator, held=held, progress=bar
    )
    plots.save(plots.sample_grid(filled.means, data.image_shape), folder / f"dbm_mnist_{way}_inpainting.png")


def main(
    smoke: bool = False,
    out: Path = Path("runs/dbm_mnist"),
    results: Path = FOLDER,
    ways: Sequence[Way] = ("greedy", "joint"),
) -> Path:
    """Train and evaluate each way in, then write the result file and the pictures.

    Args:
        smoke: run the same code on a tiny problem, in seconds.
        out: folder for the runs; one that was cut short is taken up again.
        results: folder for the result file and the pictures.
        ways: only these ways in.
    """
    config = SMOKE if smoke else Config()
    data, test = load(config.bottom.train_data), load(config.bottom.test_data).test.fixed()
    words = f"trained on {config.bottom.train_data}, tested on {config.bottom.test_data}"
    command = f"python -m experiments.dbm_mnist --ways {' '.join(ways)}"
    result = Result("dbm_mnist", command, words, (config.seed,), config, PUBLISHED)
    started = time.perf_counter()
    for way in ways:
        model, bottom, seconds = train(config, way, data, out)
        result.add_number(f"{way}_training_seconds", seconds)
        if bottom is not None:
            add(result, "bottom_log_likelihood", evaluate(config, bottom, data, test))
        report = evaluate(config, model, data, test)
        add(result, f"{way}_variational_bound", report)
        add(result, f"{way}_importance_weighted", tighten(config, report, model, test))
        draw_pictures(config, way, model, data, test, results)
    result.seconds = time.perf_counter() - started
    return result.write(results)


if __name__ == "__main__":
    print(tyro.cli(main))
