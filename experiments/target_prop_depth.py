"""What target propagation and back-propagation make of depth: 2, 4, 8 and 16 layers, tanh units and discrete ones.

Bengio (2014) hopes that targets reach through many layers and through units without a derivative where gradients do not. Two
measurements, both on the first examples of MNIST and with few updates, one seed: the test error of a classifier of so many
hidden layers (Algorithm 5; back-propagation, straight-through for signs), and the bound of a generative stack of so many
layers (Algorithm 2; back-propagation of the bound, for which binary units have no gradient).

    python -m experiments.target_prop_depth            # all depths
    python -m experiments.target_prop_depth --smoke    # the same code on `digits`, in seconds
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from pathlib import Path

import tyro
from matplotlib.figure import Figure

from experiments.results import FOLDER, Result
from genmodels import Bernoulli, Categorical, plots
from genmodels.data import DataSet, load
from genmodels.data.examples import Examples
from genmodels.data.labelled import all_labelled
from genmodels.fit import Settings, fit
from genmodels.interface import default_generator
from genmodels.labelled_stack import LabelledStack
from genmodels.likelihood import elbo as elbo_estimate
from genmodels.objectives import elbo, target_propagation
from genmodels.objectives.labelled import Steps, back_propagation, supervised_target_propagation
from genmodels.stack_layers import StackLayer
from genmodels.target_prop import AutoEncoderStack
from genmodels.top_priors import StandardGaussian

CLASSIFIERS = (("tanh", "target_prop"), ("tanh", "backprop"), ("sign", "target_prop"), ("sign", "backprop"))
GENERATORS = (("tanh", "target_prop"), ("tanh", "backprop"), ("binary", "target_prop"))


@dataclass(frozen=True)
class Config:
    """Everything that decides the result."""

    data: str = "mnist"
    binary_data: str = "mnist-binarized"
    rows: int = 10_000
    num_test: int = 5_000
    depths: tuple[int, ...] = (2, 4, 8, 16)
    """Hidden layers of the classifiers; layers h_1 ... h_L of the generative stacks."""
    width: int = 64
    top: int = 20
    """Units of the generative stacks' h_L."""
    epochs: int = 5
    batch_size: int = 100
    learning_rate: float = 1e-3
    generative_rate: float = 3e-3
    seed: int = 0


SMOKE = Config(data="digits", binary_data="digits", rows=200, num_test=50, depths=(1, 2), width=5, top=3, epochs=1)


def settings(config: Config, learning_rate: float) -> Settings:
    """How every network is trained."""
    return Settings(
        epochs=config.epochs,
        batch_size=config.batch_size,
        optimizer="Adam",
        optimizer_options={"fused": True},
        learning_rate=learning_rate,
        average=0.99,
        seed=config.seed,
        device="cpu",
        checkpoint_every=config.epochs,
    )


def error(config: Config, kind: str, way: str, depth: int, data: DataSet, out: Path) -> float:
    """Per cent of test examples that a trained classifier misses."""
    train, test = data.train, data.test
    assert train.labels is not None
    assert test.labels is not None
    rows = Examples(train.values[: config.rows], labels=train.labels[: config.rows])
    model = LabelledStack(
        data.num_features,
        [config.width] * depth,
        config.width,
        Categorical(1, 10),
        kind=kind,
        generator=default_generator(config.seed),
    )
    model.initialise_from_data(rows.fixed())
    objective = back_propagation(model) if way == "backprop" else supervised_target_propagation(model, Steps())
    fit(model, objective, all_labelled(rows, 10), settings(config, config.learning_rate), out=out)
    wrong = model.predict(test.fixed()[: config.num_test]).argmax(1) != test.labels[: config.num_test]
    return 100 * wrong.float().mean().item()


def bound(config: Config, kind: str, way: str, depth: int, data: DataSet, out: Path):
    """The variational bound of a trained generative stack on test examples."""
    rows = Examples(data.train.fixed()[: config.rows])
    model = AutoEncoderStack(
        Bernoulli(data.num_features),
        [StackLayer(kind, config.width) for _ in range(depth - 1)],
        StandardGaussian(config.top),
        generator=default_generator(config.seed),
    )
    model.initialise_from_data(rows.fixed())
    objective = elbo(model) if way == "backprop" else target_propagation(model)
    fit(model, objective, rows, settings(config, config.generative_rate), out=out)
    test = data.test.fixed()[: config.num_test]
    return elbo_estimate(
        model.requires_grad_(False), test, num_samples=5, generator=default_generator(1000 + config.seed)
    )


def figure(config: Config, result: Result) -> Figure:
    """Error and bound against depth."""
    drawn = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = drawn.subplots(1, 2)
    for axes, what, ways in ((left, "test_error", CLASSIFIERS), (right, "bound", GENERATORS)):
        for kind, way in ways:
            values = [result.metrics[f"{what}_{kind}_{way}_depth_{depth}"]["value"] for depth in config.depths]
            style = "o-" if way == "target_prop" else "s--"
            axes.plot(config.depths, values, style, label=f"{kind}, {way.replace('_', ' ')}")
        axes.set_xscale("log", base=2)
        axes.set_xticks(config.depths, [str(depth) for depth in config.depths])
        axes.set_xlabel("layers")
        axes.legend(fontsize=8)
    left.set_ylabel("test error, %")
    right.set_ylabel("variational bound, nats")
    return drawn


def main(smoke: bool = False, out: Path = Path("runs/target_prop_depth"), results: Path = FOLDER) -> Path:
    """Train and test every network, then write the result file and the plot.

    Args:
        smoke: run the same code on a tiny problem, in seconds.
        out: folder for the runs; what was cut short is taken up again.
        results: folder for the result file and the plot.
    """
    config = SMOKE if smoke else Config()
    data, binary = load(config.data), load(config.binary_data)
    command = "python -m experiments.target_prop_depth"
    description = f"the first {config.rows} training examples of {config.data} and {config.binary_data}"
    result = Result("target_prop_depth", command, description, (config.seed,), config, {})
    started = time.perf_counter()
    for depth in config.depths:
        for kind, way in CLASSIFIERS:
            name = f"test_error_{kind}_{way}_depth_{depth}"
            value = error(config, kind, way, depth, data, out / name)
            result.add_number(name, value, (value * (100 - value) / config.num_test) ** 0.5)
            print(f"{name}: {value:.2f} %", file=sys.stderr, flush=True)
        for kind, way in GENERATORS:
            name = f"bound_{kind}_{way}_depth_{depth}"
            result.add(name, bound(config, kind, way, depth, binary, out / name))
            print(f"{name}: {result.metrics[name]['value']:.2f}", file=sys.stderr, flush=True)
    result.seconds = time.perf_counter() - started
    plots.save(figure(config, result), results / "target_prop_depth.png")
    return result.write(results)


if __name__ == "__main__":
    print(tyro.cli(main))
