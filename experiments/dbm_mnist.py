"""DBM with 500 and 1,000 hidden units on binarized MNIST, three ways in, against the published bound and this project's RBM.

Reproduced: Salakhutdinov and Hinton (2009), "Deep Boltzmann machines": a 500-1000 machine, its RBMs trained one after the
other and then all layers jointly, reaches a variational bound of −84.62 nats on the test images, log Z by AIS.

Here, all by variational PCD with the centered gradient, a learning rate that falls linearly to zero, and averaged weights:

- greedy: an RBM-500 is trained first, by the method of `experiments.rbm_mnist`, but for the end of its schedule; the machine
  starts as that RBM with 1,000 units above it, all but uncoupled, and has its likelihood. All layers then learn jointly while
  the learning rate falls to zero from about where it stood: a higher one forgets the RBM.
- doubled: the pre-training of the paper, with doubled weights. A first RBM sees the pixels twice, a second one, on its hidden
  units, has its own hidden layer twice; the second begins as the first turned over. Each outer layer then stands once.
- joint: all layers learn from the beginning (Montavon and Müller, 2012).

`--short` compares the ways on 10,000 of the images with equally many passes each.

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
from experiments.classes import Classes
from experiments.results import FOLDER, Published, Result
from genmodels import DBM, RBM, Bernoulli, plots
from genmodels.chains import half_to_fill, independent_start, run_chains, start_at
from genmodels.data import DataSet, Examples, load
from genmodels.fit import Settings, fit
from genmodels.greedy import Copied, HiddenRows, deepened, next_rbm, stacked
from genmodels.interface import default_generator
from genmodels.likelihood import LikelihoodReport, importance_weighted, log_likelihood
from genmodels.objectives import Objective, pcd, variational_pcd
from genmodels.progress import bar, training_bar
from genmodels.rows import Rows
from genmodels.units import Binomial

PUBLISHED = {
    "greedy_variational_bound": Published(-84.62, "Salakhutdinov and Hinton (2009), 500-1000, AIS"),
}
Way = Literal["greedy", "doubled", "joint"]


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
class Doubled:
    """Pre-training of two RBMs with doubled weights, each for `epochs`."""

    epochs: int = 40
    learning_rate: float = 0.1
    num_steps: int = 3
    batch_size: int = 200
    average: float = 0.9995


@dataclass(frozen=True)
class Config:
    """Everything that decides the result."""

    bottom: rbm_mnist.Config = field(default_factory=lambda: replace(rbm_mnist.Config(), seeds=(0,)))
    bottom_epochs: int | None = 180
    """Of the schedule of the bottom RBM, whose learning rate joint training then takes over; None for all."""
    top_hidden: int = 1000
    top_scale: float = 0.003
    """Of the first weights above the bottom RBM: so small for what they cost the bound (`deepened`)."""
    greedy: Joint = field(default_factory=lambda: Joint(epochs=24, learning_rate=0.06, num_steps=3, num_iterations=2))
    joint: Joint = field(default_factory=Joint)
    doubled: Doubled = field(default_factory=Doubled)
    after_doubled: Joint = field(default_factory=Joint)
    num_train: int | None = None
    """Use only the first so many training images."""
    seed: int = 0
    ais_chains: int = 100
    temperatures: int = 5000
    burn_in: int = 1000
    importance_samples: int = 50
    importance_examples: int = 300
    """Test rows for the importance weights; all rows have the bound of the mean field."""
    sample_sweeps: int = 5000
    inpainting_sweeps: int = 100


SHORT = Config(
    bottom=replace(rbm_mnist.Config(), epochs=60, seeds=(0,), num_steps=3),
    bottom_epochs=None,
    greedy=Joint(epochs=60),
    doubled=Doubled(epochs=30),
    after_doubled=Joint(epochs=60),
    joint=Joint(epochs=120),
    num_train=10_000,
    temperatures=1000,
    burn_in=200,
)
SMOKE = Config(
    bottom=replace(rbm_mnist.SMOKE, seeds=(0,)),
    bottom_epochs=1,
    top_hidden=70,
    greedy=Joint(epochs=1, batch_size=50),
    joint=Joint(epochs=1, batch_size=50),
    doubled=Doubled(epochs=1, batch_size=50),
    after_doubled=Joint(epochs=1, batch_size=50),
    ais_chains=10,
    temperatures=20,
    burn_in=5,
    importance_samples=5,
    importance_examples=20,
    sample_sweeps=5,
    inpainting_sweeps=2,
)


def train(config: Config, way: Way, data: DataSet, out: Path) -> tuple[DBM, RBM | None, float]:
    """The model of one way in, the RBM that it began as if any, and the seconds of all epochs; runs are taken up."""
    generator = default_generator(config.seed + 1)
    how = {"greedy": config.greedy, "doubled": config.after_doubled, "joint": config.joint}[way]
    seconds, bottom, start = 0.0, None, None
    if way == "greedy":
        bottom, seconds = rbm_mnist.train(config.bottom, config.seed, data, out / "bottom", until=config.bottom_epochs)
        x = data.train.fixed(config.seed)
        mean = bottom.units[1].mean(bottom.field(1, (x, x))).mean(0)
        model = deepened(bottom, config.top_hidden, scale=config.top_scale, mean=mean, generator=generator)
    elif way == "doubled":
        model, seconds = pretrain(config, data, out)
    else:
        hidden = Bernoulli(config.bottom.hidden), Bernoulli(config.top_hidden)
        model = DBM(Bernoulli(data.num_features), *hidden, generator=generator)
        model.initialise_from_data(data.train.fixed(config.seed))
    if way != "joint":
        start = data.train.batch(torch.randperm(len(data.train), generator=generator)[: how.batch_size], generator)
    objective = variational_pcd(model, num_steps=how.num_steps, num_iterations=how.num_iterations, start=start)
    return model, bottom, seconds + learn(model, objective, data.train, how, config, out / way)


def pretrain(config: Config, data: DataSet, out: Path) -> tuple[DBM, float]:
    """The DBM of two RBMs with doubled weights, and the seconds of their epochs."""
    how, generator = config.doubled, default_generator(config.seed)
    rows: Rows = Copied(data.train)
    bottom = RBM(Binomial(data.num_features), Bernoulli(config.bottom.hidden), generator=generator)
    bottom.initialise_from_data(2 * data.train.fixed(config.seed))
    seconds = learn(bottom, pcd(bottom, num_steps=how.num_steps), rows, how, config, out / "doubled_bottom")
    rows = HiddenRows(rows, bottom)
    top = next_rbm(bottom, config.top_hidden, generator=generator)
    start = rows.batch(torch.randperm(len(rows), generator=generator)[: how.batch_size], generator)
    objective = pcd(top, num_steps=how.num_steps, start=start)
    seconds += learn(top, objective, rows, how, config, out / "doubled_top")
    return stacked(bottom, top), seconds


def learn(model: RBM | DBM, objective: Objective, rows: Rows, how: Joint | Doubled, config: Config, out: Path) -> float:
    """Train, or take the training up; the seconds of its epochs."""
    settings = Settings(
        epochs=how.epochs,
        batch_size=how.batch_size,
        learning_rate=how.learning_rate,
        average=how.average,
        seed=config.seed,
    )
    with training_bar(out.name) as progress:
        records = fit(model, objective, rows, settings, out=out, config=asdict(how), progress=progress)
    model.requires_grad_(False)
    return sum(record["seconds"] for record in records)


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


def draw_pictures(
    config: Config, way: Way, model: DBM, data: DataSet, test: torch.Tensor, result: Result, folder: Path
) -> None:
    """Samples from long chains that start at independent units, their classes, and upper halves of test images filled in."""
    generator = default_generator(0)
    start = independent_start(model, 100, generator=generator)
    chains = run_chains(model, start, config.sample_sweeps, generator=generator, progress=bar)
    plots.save(plots.sample_grid(chains.means, data.image_shape), folder / f"dbm_mnist_{way}_samples.png")
    Classes(data).count(chains.means, f"{way}_samples", result)
    assert data.image_shape is not None
    # The test set is sorted by class.
    rows = test[len(test) // 20 :: len(test) // 10][:10].repeat_interleave(10, 0)
    held = ~half_to_fill(data.image_shape, "upper")
    blank = torch.where(held, rows, torch.rand(rows.shape, generator=generator).round())
    filled = run_chains(
        model, start_at(model, blank), config.inpainting_sweeps, generator=generator, held=held, progress=bar
    )
    plots.save(plots.sample_grid(filled.means, data.image_shape), folder / f"dbm_mnist_{way}_inpainting.png")


def main(
    smoke: bool = False,
    short: bool = False,
    out: Path = Path("runs/dbm_mnist"),
    results: Path = FOLDER,
    ways: Sequence[Way] = ("greedy", "doubled", "joint"),
) -> Path:
    """Train and evaluate each way in, then write the result file and the pictures.

    Args:
        smoke: run the same code on a tiny problem, in seconds.
        short: compare the ways on 10,000 images; writes dbm_ways.json, and no pictures.
        out: folder for the runs; one that was cut short is taken up again.
        results: folder for the result file and the pictures.
        ways: only these ways in.
    """
    config = SMOKE if smoke else SHORT if short else Config()
    data, test = load(config.bottom.train_data), load(config.bottom.test_data).test.fixed()
    data = replace(data, train=first(data.train, config.num_train))
    words = f"trained on {config.bottom.train_data}, tested on {config.bottom.test_data}"
    command = f"python -m experiments.dbm_mnist {'--short ' if short else ''}--ways {' '.join(ways)}"
    name = "dbm_ways" if short else "dbm_mnist"
    result = Result(name, command, words, (config.seed,), config, {} if short else PUBLISHED)
    started = time.perf_counter()
    for way in ways:
        model, bottom, seconds = train(config, way, data, out)
        result.add_number(f"{way}_training_seconds", seconds)
        if bottom is not None:
            add(result, "bottom_log_likelihood", evaluate(config, bottom, data, test))
        report = evaluate(config, model, data, test)
        add(result, f"{way}_variational_bound", report)
        add(result, f"{way}_importance_weighted", tighten(config, report, model, test))
        if not short:
            draw_pictures(config, way, model, data, test, result, results)
    result.seconds = time.perf_counter() - started
    return result.write(results)


def first(rows: Examples, num: int | None) -> Examples:
    """The first examples."""
    return replace(rows, values=rows.values[:num], labels=None if rows.labels is None else rows.labels[:num])


if __name__ == "__main__":
    print(tyro.cli(main))
