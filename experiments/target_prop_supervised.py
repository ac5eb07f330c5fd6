"""MNIST's classes by target propagation: no gradient crosses a layer.

Bengio (2014), "How auto-encoders could provide credit assignment in deep networks via target propagation", Algorithm 5 with the
prediction of Algorithm 4: three hidden layers of tanh units, or of signs, under an auto-encoder of the highest one and its label.
The target at the top is the difference between its reconstructions of h with the label and without (Eq. 18); targets go down
through decoders that are trained to be inverses, with the difference correction of Lee et al. (2015).

Beside it, on the same network, back-propagation (straight-through for signs). With the first examples and few epochs
("short"), all that the target is made of: the derivative of the top layer alone as the direction at the top; the
reconstruction without the label from a missing one, as the paper has it, instead of from the inferred one; decoders of their
own at the top; joint and hybrid targets (Eq. 19); targets without the difference correction; square layers whose decoders are
their exact inverses (section 6); and encoders that are left as they started. Then 100 and 1,000 labels, with the other
examples unlabelled and without them: unlabelled ones take the class of which the network is sure as theirs, or train each
layer's own auto-encoder alone.

    python -m experiments.target_prop_supervised            # all networks
    python -m experiments.target_prop_supervised --smoke    # the same code on `digits`, in seconds
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import tyro

from experiments.results import FOLDER, Published, Result
from genmodels import Categorical
from genmodels.data import DataSet, load
from genmodels.data.examples import Examples
from genmodels.data.labelled import LabelledRows, all_labelled, few_labelled
from genmodels.fit import Settings, fit
from genmodels.interface import default_generator
from genmodels.labelled_stack import LabelledStack
from genmodels.objectives.labelled import Steps, back_propagation, supervised_target_propagation
from genmodels.progress import training_bar

CLASSES = 10
PUBLISHED = {
    "test_error": Published(1.94, "Lee, Zhang, Fischer and Bengio (2015), difference target propagation, 7 x 240 tanh"),
}


@dataclass(frozen=True)
class Net:
    """One network, and how it learns."""

    kind: str = "tanh"
    backprop: bool = False
    options: dict[str, Any] = field(default_factory=dict)
    """Of `Steps`, instead of the configuration's."""
    tied: bool = False
    maps: str = "affine"
    """Between hidden layers; the others are inverted exactly."""
    trained_encoders: bool = True
    learning_rate: float | None = None
    """Instead of the configuration's."""
    short: bool = False
    """On the first examples alone, for few epochs."""
    labels: int | None = None
    """Shown ones; by default all."""
    unlabelled: bool = False


FASTER = 2e-3
SIGN: dict[str, Any] = {"kind": "sign", "tied": True, "options": {"reconstruction": 0.1}, "learning_rate": FASTER}
"""Signs learn under a tied top, and faster."""
SHORT: dict[str, Net] = {
    "target_prop": Net(),
    "backprop": Net(backprop=True),
    "gradient_top": Net(options={"top": "gradient"}),
    "masked": Net(options={"missing": "masked"}),
    "tied": Net(tied=True),
    "masked_tied": Net(options={"missing": "masked"}, tied=True),
    "alpha_half": Net(options={"alpha": 0.5}),
    "alpha_one": Net(options={"alpha": 1.0}),
    "no_difference": Net(options={"difference": False}),
    "triangular": Net(maps="triangular"),
    "orthogonal": Net(maps="orthogonal"),
    "orthogonal_backprop": Net(maps="orthogonal", backprop=True),
    "untrained_encoders": Net(trained_encoders=False),
    "sign": Net(**SIGN),
    "sign_backprop": Net(**SIGN, backprop=True),
    "sign_gradient_top": Net(**{**SIGN, "options": {"top": "gradient"}}),
    "sign_untrained_encoders": Net(**SIGN, trained_encoders=False),
}
NETS: dict[str, Net] = {
    "": Net(),
    "backprop": Net(backprop=True, tied=True),
    "gradient_top": Net(options={"top": "gradient"}, learning_rate=FASTER),
    "sign": Net(**SIGN),
    "sign_backprop": Net(**SIGN, backprop=True),
    **{f"short_{name}": replace(net, short=True, learning_rate=FASTER) for name, net in SHORT.items()},
    "labels_100": Net(learning_rate=FASTER, labels=100),
    "labels_100_unlabelled": Net(learning_rate=FASTER, labels=100, unlabelled=True, options={"sure": 0.9}),
    "labels_100_reconstructed": Net(learning_rate=FASTER, labels=100, unlabelled=True, options={"unsupervised": 0.1}),
    "labels_1000": Net(learning_rate=FASTER, labels=1000),
    "labels_1000_unlabelled": Net(learning_rate=FASTER, labels=1000, unlabelled=True, options={"sure": 0.9}),
}


@dataclass(frozen=True)
class Config:
    """Everything that decides the result."""

    data: str = "mnist"
    hidden: tuple[int, ...] = (240, 240, 240)
    within: int = 240
    """Units of the top auto-encoder's h_L."""
    steps: Steps = field(default_factory=lambda: Steps(reconstruction=0.01, input_noise=0.2))
    epochs: int = 20
    short_rows: int = 10_000
    short_epochs: int = 5
    few_epochs: int = 3
    """Of networks with few labels."""
    shown: int = 25_000
    """Labelled rows in an epoch of those networks."""
    batch_size: int = 100
    learning_rate: float = 1e-3
    seeds: tuple[int, ...] = (0,)


SMOKE = Config(
    data="digits", hidden=(7, 7, 7), within=8, epochs=1, short_rows=200, short_epochs=1, few_epochs=1, shown=200
)


def rows_for(config: Config, net: Net, data: DataSet, seed: int) -> LabelledRows:
    """What the network is trained on."""
    train = data.train
    if net.short:
        assert train.labels is not None
        train = Examples(train.values[: config.short_rows], labels=train.labels[: config.short_rows])
    if net.labels is None:
        return all_labelled(train, CLASSES)
    return few_labelled(train, CLASSES, net.labels, seed, unlabelled=net.unlabelled, steps_rows=config.shown)


def train(config: Config, net: Net, data: DataSet, seed: int, out: Path) -> tuple[LabelledStack, float]:
    """One trained network and the seconds of its epochs; a finished one is taken up."""
    model = LabelledStack(
        data.num_features,
        config.hidden,
        config.within,
        Categorical(1, CLASSES),
        kind=net.kind,
        maps=net.maps,
        tied=net.tied,
        generator=default_generator(seed),
    )
    model.initialise_from_data(data.train.fixed())
    model.encoders.requires_grad_(net.trained_encoders)
    steps = replace(config.steps, **net.options)
    noise = config.steps.input_noise
    objective = (
        back_propagation(model, input_noise=noise) if net.backprop else supervised_target_propagation(model, steps)
    )
    epochs = config.few_epochs if net.labels else config.short_epochs if net.short else config.epochs
    settings = Settings(
        epochs=epochs,
        batch_size=config.batch_size,
        optimizer="Adam",
        optimizer_options={"fused": True},
        learning_rate=net.learning_rate or config.learning_rate,
        average=0.998,
        seed=seed,
        device="cpu",
    )
    with training_bar(out.name) as progress:
        records = fit(model, objective, rows_for(config, net, data, seed), settings, out=out, progress=progress)
    return model.requires_grad_(False), sum(record["seconds"] for record in records)


def error(model: LabelledStack, data: DataSet) -> float:
    """Per cent of test examples whose class Algorithm 4 misses."""
    assert data.test.labels is not None
    return 100 * (model.predict(data.test.fixed()).argmax(1) != data.test.labels).float().mean().item()


def with_error(errors: Sequence[float], num_test: int) -> tuple[float, float]:
    """The mean, and its standard error: over seeds, or of one proportion of the test examples."""
    value = mean(errors)
    if len(errors) > 1:
        return value, stdev(errors) / len(errors) ** 0.5
    return value, (value * (100 - value) / num_test) ** 0.5


def main(
    smoke: bool = False,
    out: Path = Path("runs/target_prop_supervised"),
    results: Path = FOLDER,
    only: tuple[str, ...] | None = None,
) -> Path:
    """Train and test every network, then write the result file.

    Args:
        smoke: run the same code on a tiny problem, in seconds.
        out: folder for the runs; what was cut short is taken up again.
        results: folder for the result file.
        only: these networks of `NETS` instead of all, "main" for the first.
    """
    config = SMOKE if smoke else Config()
    data = load(config.data)
    command = "python -m experiments.target_prop_supervised"
    description = f"{config.data}: {len(data.train):,} training examples, error on {len(data.test):,} test examples"
    chosen = {name: net for name, net in NETS.items() if only is None or (name or "main") in only}
    result = Result("target_prop_supervised", command, description, config.seeds, config, PUBLISHED)
    started = time.perf_counter()
    for name, net in chosen.items():
        errors = []
        for seed in config.seeds:
            model, seconds = train(config, net, data, seed, out / f"{name or 'main'}_seed{seed}")
            result.add_number(f"training_seconds_{name or 'main'}_seed_{seed}", seconds)
            errors.append(error(model, data))
            print(f"{name or 'main'} seed {seed}: {errors[-1]:.2f} %", file=sys.stderr, flush=True)
        value, deviation = with_error(errors, len(data.test))
        result.add_number("_".join(filter(None, ("test_error", name))), value, deviation)
        result.seconds = time.perf_counter() - started
        path = result.write(results)
    return path  # pyright: ignore[reportPossiblyUnboundVariable]


if __name__ == "__main__":
    print(tyro.cli(main))
