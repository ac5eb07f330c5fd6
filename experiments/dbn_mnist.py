"""DBN with 500 and 2,000 hidden units on binarized MNIST, against the published estimate and this project's RBM.

Reproduced: Salakhutdinov and Murray (2008), "On the quantitative analysis of deep belief networks": a 500-2000 network
trained greedily has an estimated test log-likelihood of −84.55 nats, and a variational bound of −85.57 (their values as
quoted in later papers), log Z of its top RBM by AIS.

Here: an RBM-500 by the method of `experiments.rbm_mnist`; then an RBM-2000 on draws of its hidden layer, which starts as the
RBM below turned over, so with its distribution of that layer, and learns by persistent contrastive divergence with the
centered gradient. Training images: all 60,000 of MNIST, pixels drawn anew from the grey levels at every read. Test images:
the 10,000 of the fixed binarization. The numbers: the variational bound and its importance-weighted tightening, each with log Z
of the top by forward AIS, which bounds nothing, and by reverse AIS, a lower bound if its chains are at equilibrium.

    python -m experiments.dbn_mnist
    python -m experiments.dbn_mnist --smoke    # the same code on `digits`, in seconds
"""

from __future__ import annotations

import sys
import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch
import tyro

from experiments import rbm_mnist
from experiments.classes import Classes
from experiments.results import FOLDER, Published, Result
from genmodels import DBN, RBM, plots
from genmodels.chains import independent_start, run_chains, start_at
from genmodels.data import DataSet, load
from genmodels.fit import Settings, fit
from genmodels.greedy import HiddenRows, next_rbm
from genmodels.interface import default_generator
from genmodels.likelihood import Estimate, bound_report, elbo
from genmodels.objectives import pcd
from genmodels.progress import bar, training_bar

PUBLISHED = {
    "importance_weighted": Published(-84.55, "Salakhutdinov and Murray (2008), 500-2000, estimate by AIS"),
    "variational_bound": Published(-85.57, "Salakhutdinov and Murray (2008), 500-2000, bound with log Z by AIS"),
}


@dataclass(frozen=True)
class Config:
    """Everything that decides the result."""

    bottom: rbm_mnist.Config = field(default_factory=lambda: replace(rbm_mnist.Config(), seeds=(0,)))
    test_data: str = "mnist-binarized"
    top_hidden: int = 2000
    num_steps: int = 3
    batch_size: int = 200
    learning_rate: float = 0.05
    epochs: int = 30
    average: float = 0.9995


@dataclass(frozen=True)
class Evaluation:
    """How the trained network is measured."""

    ais_chains: int = 300
    temperatures: int = 5000
    burn_in: int = 1000
    draws: int = 10
    """Passes up per example."""
    sample_sweeps: int = 500


SMOKE = Config(
    bottom=replace(rbm_mnist.SMOKE, seeds=(0,), hidden=12), test_data="digits", top_hidden=70, batch_size=50, epochs=1
)
SMOKE_EVALUATION = Evaluation(ais_chains=10, temperatures=20, burn_in=5, draws=5, sample_sweeps=5)


def train_top(config: Config, bottom: RBM, data: DataSet, out: Path) -> tuple[RBM, float]:
    """The second RBM, on the hidden states of the first, from which it starts; and the seconds of its epochs."""
    generator = default_generator(1)
    top = next_rbm(bottom, config.top_hidden, generator=generator)
    rows = HiddenRows(data.train, bottom)
    start = rows.batch(torch.randperm(len(rows), generator=generator)[: config.batch_size], generator)
    settings = Settings(
        epochs=config.epochs,
        batch_size=config.batch_size,
        learning_rate=config.learning_rate,
        average=config.average,
        checkpoint_every=5,
        seed=1,
    )
    objective = pcd(top, num_steps=config.num_steps, start=start)
    with training_bar("top") as progress:
        records = fit(top, objective, rows, settings, out=out, config=asdict(config), progress=progress)
    return top.requires_grad_(False), sum(record["seconds"] for record in records)


def evaluate(how: Evaluation, model: DBN, data: DataSet, test: torch.Tensor, result: Result) -> None:
    """The tightened bound and the variational one, each with log Z from both sides."""
    report = bound_report(
        model,
        test,
        num_samples=how.draws,
        base=data.train.fixed(0),
        num_chains=how.ais_chains,
        num_temperatures=how.temperatures,
        burn_in=how.burn_in,
        generator=default_generator(1000),
        progress=bar,
    )
    assert report.lower is not None
    found = report.diagnostics
    reverse = Estimate(found["reverse_log_z"], found["reverse_log_z_std_error"], "upper", "reverse AIS", how.ais_chains)
    plain, plain_reverse = (
        elbo(model, test, num_samples=2, log_z=log_z, generator=default_generator(2000), progress=bar)
        for log_z in (report.log_z, reverse)
    )
    estimates = {
        "importance_weighted": report.log_likelihood,
        "importance_weighted_reverse": report.lower,
        "variational_bound": plain,
        "variational_bound_reverse": plain_reverse,
        "log_z": report.log_z,
    }
    for name, estimate in estimates.items():
        result.add(name, estimate)
        print(f"{name}: {estimate}", file=sys.stderr)
    for name in ("bracket_width", "importance_ess", "example_std_error"):
        result.add_number(name, found[name])


def draw_pictures(how: Evaluation, model: DBN, data: DataSet, test: torch.Tensor, result: Result, folder: Path) -> None:
    """Samples: long chains of the top RBM, from independent units and from test digits, a pass down, and their classes."""
    classes = Classes(data)
    generator = default_generator(0)
    chosen = test[torch.randperm(len(test), generator=generator)[:100]]
    starts = {"samples": independent_start(model.top, 100, generator=generator)}
    starts["samples_from_digits"] = start_at(model.top, model.encode(chosen).draw(generator)[-1])
    for name, start in starts.items():
        chains = run_chains(model.top, start, how.sample_sweeps, generator=generator, progress=bar)
        state = model.pass_down(chains.states, generator)
        means = model.observed_mean(state[1:])
        classes.count(means, name, result)
        plots.save(plots.sample_grid(means, data.image_shape), folder / f"dbn_mnist_{name}.png")


def main(smoke: bool = False, out: Path = Path("runs/dbn_mnist"), results: Path = FOLDER) -> Path:
    """Train the two RBMs, evaluate the network, and write the result file and the pictures.

    Args:
        smoke: run the same code on a tiny problem, in seconds.
        out: folder for the runs; one that was cut short is taken up again.
        results: folder for the result file and the pictures.
    """
    config, how = (SMOKE, SMOKE_EVALUATION) if smoke else (Config(), Evaluation())
    data, test = load(config.bottom.train_data), load(config.test_data).test.fixed()
    words = f"trained on {config.bottom.train_data}, tested on {config.test_data}"
    described = {**asdict(config), "evaluation": asdict(how)}
    result = Result("dbn_mnist", "python -m experiments.dbn_mnist", words, (0,), described, PUBLISHED)
    started = time.perf_counter()
    bottom, seconds = rbm_mnist.train(config.bottom, 0, data, out / "bottom")
    top, top_seconds = train_top(config, bottom, data, out / "top")
    result.add_number("training_seconds_bottom", seconds)
    result.add_number("training_seconds_top", top_seconds)
    model = DBN.from_stack([bottom, top]).requires_grad_(False)
    evaluate(how, model, data, test, result)
    draw_pictures(how, model, data, test, result, results)
    result.seconds = time.perf_counter() - started
    return result.write(results)


if __name__ == "__main__":
    print(tyro.cli(main))
