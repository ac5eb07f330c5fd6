"""A DBM that learns to fill in, against one that learns the density: classes and missing pixels of MNIST by the mean field.

After Goodfellow, Mirza, Courville and Bengio (2013), "Multi-prediction deep Boltzmann machines": machines over pixels and label
with two hidden layers, trained without a greedy start, by multi-prediction and by variational PCD with the centered gradient,
equally many updates each. Both then do the same: ten iterations of mean field with something left out. Measured on the test
images: the share of labels missed, all pixels given; and what the missing pixels cost, nats an image, −log q(missing | held)
with every other pixel missing at random, and with the lower half missing, the label too.

Here: 50,000 training images, pixels drawn anew from the grey levels at every read, a few epochs; the paper fine-tunes afterwards
and reaches 0.88 %, which this does not try. One seed.

    python -m experiments.multi_prediction
    python -m experiments.multi_prediction --smoke    # the same code on `digits`, in seconds
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro
from torch import Tensor

from experiments.results import FOLDER, Result
from genmodels import DBM, Bernoulli, Categorical, plots
from genmodels.chains import half_to_fill
from genmodels.data import DataSet, load
from genmodels.fit import Settings, fit
from genmodels.interface import default_generator
from genmodels.joined import Joined
from genmodels.labels import WithClasses, error_rate, inferred_class_log_probs
from genmodels.objectives import multi_prediction, variational_pcd
from genmodels.progress import training_bar

CLASSES, PICTURED = 10, 15
WAYS = ("multi_prediction", "variational_pcd")


@dataclass(frozen=True)
class Config:
    """Everything that decides the result."""

    data: str = "mnist-dynamic"
    hidden: tuple[int, ...] = (500, 500)
    epochs: int = 5
    batch_size: int = 100
    learning_rate: float = 1e-3
    """Of Adam, for multi-prediction."""
    pcd_learning_rate: float = 0.1
    """Of plain steps, for PCD."""
    num_iterations: int = 10
    num_steps: int = 4
    """Sweeps of PCD's chains an update."""
    average: float = 0.999
    seed: int = 0


SMOKE = Config(data="digits", hidden=(12, 7), epochs=1)


def train(config: Config, way: str, data: DataSet, out: Path) -> tuple[DBM, float]:
    """One machine and the seconds of its epochs; a run that was cut short is taken up."""
    generator, iterations = default_generator(config.seed), config.num_iterations
    visible = Joined(Bernoulli(data.num_features), Categorical(1, CLASSES))
    model = DBM(visible, *(Bernoulli(size) for size in config.hidden), generator=generator)
    rows = WithClasses(data.train, CLASSES)
    model.initialise_from_data(rows.batch(torch.arange(min(len(rows), 10_000)), generator))
    if way == "multi_prediction":
        objective = multi_prediction(model, num_iterations=iterations)
        optimizer, rate = "Adam", config.learning_rate
    else:
        objective = variational_pcd(model, num_steps=config.num_steps, num_iterations=iterations)
        optimizer, rate = "SGD", config.pcd_learning_rate
    settings = Settings(
        epochs=config.epochs,
        batch_size=config.batch_size,
        optimizer=optimizer,
        learning_rate=rate,
        average=config.average,
        seed=config.seed,
        checkpoint_every=1,
    )
    with training_bar(way) as progress:
        records = fit(model, objective, rows, settings, out=out / way, config=model.config(), progress=progress)
    return model.requires_grad_(False), sum(record["seconds"] for record in records)


def missing_nats(config: Config, model: DBM, x: Tensor, held: Tensor) -> tuple[float, float]:
    """−log q of the pixels that are not held, the label missing too: mean over the images and its standard error."""
    parts, pixels = zip(x.split(1000), held.split(1000), strict=True), Bernoulli(x.shape[1])
    values = torch.cat([-pixels.log_prob(pixel_fields(config, model, rows, mask), rows) for rows, mask in parts])
    return float(values.mean()), float(values.std()) / len(values) ** 0.5


def pixel_fields(config: Config, model: DBM, x: Tensor, held: Tensor) -> Tensor:
    """The fields of the pixels where the held ones are given, and not the label."""
    rows = torch.cat([x, x.new_zeros(len(x), CLASSES)], 1)
    mask = torch.cat([held, held.new_zeros(len(held), CLASSES)], 1)
    return model.fill_in(rows, mask, num_iterations=config.num_iterations, tolerance=0.0)[0][:, : x.shape[1]]


@torch.no_grad()
def measure(config: Config, way: str, model: DBM, data: DataSet, result: Result) -> None:
    """The errors of the labels and the costs of missing pixels."""
    x, labels = data.test.fixed(), data.test.labels
    assert labels is not None
    assert data.image_shape is not None

    def scores(rows: Tensor) -> Tensor:
        return inferred_class_log_probs(model, rows, num_iterations=config.num_iterations)

    share = error_rate(scores, x, labels)
    result.add_number(f"{way}_test_error", 100 * share, 100 * (share * (1 - share) / len(x)) ** 0.5)
    generator = default_generator(1000 + config.seed)
    masks = {
        "random_half": torch.rand(x.shape, generator=generator) < 0.5,
        "lower_half": (~half_to_fill(data.image_shape, "lower")).expand(len(x), -1),
    }
    for name, held in masks.items():
        result.add_number(f"{way}_{name}_nats", *missing_nats(config, model, x, held))
    for name, content in result.metrics.items():
        if name.startswith(way):
            print(f"{name}: {content['value']:.3f}", file=sys.stderr)


def main(smoke: bool = False, out: Path = Path("runs/multi_prediction"), results: Path = FOLDER) -> Path:
    """Train both machines, measure both, and write the result file and the picture of completed digits.

    Args:
        smoke: run the same code on a tiny problem, in seconds.
        out: folder for the runs; one that was cut short is taken up again.
        results: folder for the result file and the picture.
    """
    config = SMOKE if smoke else Config()
    data = load(config.data)
    words = f"pixels and labels of {config.data}; errors in per cent, costs in nats an image"
    result = Result("multi_prediction", "python -m experiments.multi_prediction", words, (config.seed,), config, {})
    started = time.perf_counter()
    assert data.image_shape is not None
    digits = data.test.fixed()[:PICTURED]
    held = (~half_to_fill(data.image_shape, "lower")).expand(PICTURED, -1)
    pictures = [digits, torch.where(held, digits, torch.full((), 0.5))]
    for way in WAYS:
        model, seconds = train(config, way, data, out)
        result.add_number(f"{way}_training_seconds", seconds)
        measure(config, way, model, data, result)
        pictures.append(torch.sigmoid(pixel_fields(config, model, digits, held)))
    grid = plots.sample_grid(torch.cat(pictures), data.image_shape, columns=PICTURED)
    plots.save(grid, results / "multi_prediction.png")
    result.seconds = time.perf_counter() - started
    return result.write(results)


if __name__ == "__main__":
    print(tyro.cli(main))
