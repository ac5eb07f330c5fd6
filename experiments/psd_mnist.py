"""Features of PSD for telling MNIST's digits apart: its encoder's codes beside exact ones, and a second layer on top.

After Kavukcuoglu, Ranzato and LeCun (2008), "Fast inference in sparse coding algorithms with applications to object
recognition", where features of the encoder serve a linear classifier as well as exact codes do. Here: 8 × 8 patches of
handwritten digits, a dictionary learned online and then together with the encoder, codes rectified and pooled
(`CodedPatches`), and scikit-learn's logistic regression, whose penalty is chosen on the validation images. Exact codes are
those of the same dictionary, to a gap of 1e-6. The second layer is PSD too, on the pooled codes of the first; its classifier
sees both layers. Raw pixels are the control. Errors are shares of the 10,000 test images in per cent; the standard error of a
difference is that of the images on which one classifier alone is right.

    python -m experiments.psd_mnist            # minutes on one core
    python -m experiments.psd_mnist --smoke    # the same code on `digits`, in seconds
"""

from __future__ import annotations

import sys
import time
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import tyro
from jaxtyping import Bool
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from experiments.results import FOLDER, Result
from genmodels import plots
from genmodels.code_encoders import Lista
from genmodels.coded_patches import CodedPatches, CodeStack, patches
from genmodels.data import Examples, load
from genmodels.fit import Settings, fit
from genmodels.interface import default_generator
from genmodels.lasso import solve
from genmodels.objectives import dictionary_learning, psd
from genmodels.priors import LaplacePrior
from genmodels.progress import training_bar
from genmodels.psd import PSD
from genmodels.sparse_coding import SparseCoding
from genmodels.units import Gaussian


@dataclass(frozen=True)
class Layer:
    """One layer of PSD and how it learns."""

    codes: int
    penalty: float
    """λ = σ² / s, in the units of the layer's input, with σ² = `variance`."""
    variance: float
    side: int
    stride: int = 1
    pool: int = 1
    dictionary_epochs: int = 1
    psd_epochs: int = 2


@dataclass(frozen=True)
class Config:
    """Everything that decides the result."""

    data: str = "mnist"
    train: int = 50_000
    test: int = 10_000
    patches: int = 100_000
    """Of each layer's input, to learn from, drawn anew for every layer."""
    first: Layer = Layer(codes=64, penalty=0.1, variance=0.02, side=8, stride=4, pool=2)
    second: Layer = Layer(codes=256, penalty=0.2, variance=0.2, side=3)
    batch_size: int = 500
    strengths: tuple[float, ...] = (0.03, 0.3)
    """Inverse penalties of the logistic regression, from which validation chooses."""
    max_iter: int = 60
    seed: int = 0


SMOKE = Config(
    data="digits",
    train=200,
    test=100,
    patches=1000,
    first=Layer(codes=11, penalty=0.1, variance=0.02, side=4, stride=2, pool=1),
    second=Layer(codes=13, penalty=0.2, variance=0.2, side=2, pool=2),
    strengths=(0.1,),
    max_iter=20,
)


class Rows(NamedTuple):
    """The images of the three splits, or their features."""

    train: Tensor
    valid: Tensor
    test: Tensor


def learn(layer: Layer, rows: Tensor, config: Config, out: Path) -> PSD:
    """A dictionary learned online from `rows`, then together with a soft-threshold encoder."""
    size = rows.shape[1]
    generative = SparseCoding(
        Gaussian(size, variance=layer.variance),
        LaplacePrior(layer.codes, scale=layer.variance / layer.penalty),
        learn_noise=False,
        generator=default_generator(config.seed),
    )
    generative.initialise_from_data(rows[: 20 * layer.codes])
    same: dict[str, Any] = {"batch_size": config.batch_size, "average": 0.0, "seed": config.seed, "device": "cpu"}
    online = Settings(epochs=layer.dictionary_epochs, optimizer="SGD", learning_rate=1.0, schedule="constant", **same)
    together = Settings(epochs=layer.psd_epochs, optimizer="Adam", learning_rate=0.002, **same)
    with training_bar(f"{out.name}, dictionary") as progress:
        options: dict[str, Any] = {"out": out / "dictionary", "config": asdict(config), "progress": progress}
        fit(generative, dictionary_learning(generative), Examples(rows), online, **options)
    encoder = Lista(size, layer.codes)
    encoder.start_from(generative.dictionary, generative.noise_variance, generative.factors.scale)
    model = PSD(generative, encoder, closeness=1 / layer.variance)
    with training_bar(f"{out.name}, encoder") as progress:
        options |= {"out": out / "psd", "progress": progress}
        fit(model, psd(model), Examples(rows), together, **options)
    return model.requires_grad_(False)


def some_patches(x: Tensor, shape: tuple[int, int, int], layer: Layer, config: Config) -> Tensor:
    """Patches of some of the images `x`, in any order; those without anything on them stay out."""
    randoms = default_generator(config.seed + 1)
    num_images = min(len(x), config.patches // 10)
    rows = patches(
        x[torch.randperm(len(x), generator=randoms)[:num_images]], shape, side=layer.side, stride=layer.stride
    )
    rows = rows[rows.amax(1) > rows.amin(1)]
    return rows[torch.randperm(len(rows), generator=randoms)[: config.patches]]


def rights(features: Rows, labels: Rows, config: Config) -> Bool[np.ndarray, " n"]:
    """Which test examples logistic regression gets right, with the penalty that is best on the validation examples."""
    scale = features.train.std(0).clamp_min(1e-3)
    train, valid, test = ((rows / scale).numpy() for rows in features)
    found = []
    for strength in config.strengths:
        classifier = LogisticRegression(C=strength, max_iter=config.max_iter)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            classifier.fit(train, labels.train.numpy())
        found.append((classifier.score(valid, labels.valid.numpy()), classifier.predict(test) == labels.test.numpy()))
    return max(found, key=lambda pair: pair[0])[1]


def main(smoke: bool = False, out: Path = Path("runs/psd_mnist"), results: Path = FOLDER) -> Path:
    """Learn both layers, classify, and write the result file and the picture.

    Args:
        smoke: run the same code on a tiny problem, in seconds.
        out: folder for the runs; those that are there are taken up.
        results: folder for the result file and the picture.
    """
    config = SMOKE if smoke else Config()
    data = load(config.data)
    assert data.image_shape is not None
    splits = (data.train, data.valid, data.test)
    images = Rows(*(split.fixed() for split in splits))
    images = Rows(images.train[: config.train], images.valid, images.test[: config.test])
    classes = [split.labels for split in splits]
    assert not any(labels is None for labels in classes)
    labels = Rows(*(given[: len(rows)] for given, rows in zip(classes, images, strict=True) if given is not None))
    result = Result(
        "psd_mnist",
        "python -m experiments.psd_mnist",
        f"trained and tested on {config.data}",
        [config.seed],
        config,
        {},
    )
    started = time.perf_counter()

    def number(name: str, value: float, std_error: float | None = None) -> None:
        result.add_number(name, value, std_error)
        print(f"{name}: {value:.4g}", file=sys.stderr)

    first, second = config.first, config.second
    shape = (1, *data.image_shape)
    rows = some_patches(images.train, shape, first, config)
    bottom = learn(first, rows, config, out / "first")
    coders = {"encoder": bottom, "exact": bottom.generative}
    layers = {
        name: CodedPatches(coder, shape, side=first.side, stride=first.stride, pool=first.pool)
        for name, coder in coders.items()
    }
    features: dict[str, Rows] = {"pixels": images}
    for name, layer in layers.items():
        begun = time.process_time()
        features[name] = Rows(*(layer.transform(split) for split in images))
        number(f"seconds_{name}", time.process_time() - begun)
    number("features", features["encoder"].test.shape[1])

    pooled = layers["encoder"].pooled_shape(first.codes)
    top = learn(second, some_patches(features["encoder"].train, pooled, second, config), config, out / "second")
    upper = CodedPatches(top, pooled, side=second.side, stride=second.stride, pool=second.pool)
    stack = CodeStack([layers["encoder"], upper])
    features["stacked"] = Rows(
        *(torch.cat([low, stack.transform(split)], 1) for low, split in zip(features["encoder"], images, strict=True))
    )
    right = {name: rights(rows, labels, config) for name, rows in features.items()}
    for name, ones in right.items():
        wrong = 1 - ones.mean()
        number(f"test_error_{name}", 100 * wrong, 100 * float(np.sqrt(wrong * (1 - wrong) / len(ones))))
    for name, other in (("exact", "encoder"), ("encoder", "stacked")):
        gain = right[other].astype(float) - right[name].astype(float)
        number(f"gain_of_{other}_over_{name}", 100 * gain.mean(), 100 * float(gain.std() / np.sqrt(len(gain))))

    problem, code = bottom.generative.lasso(rows[:5000]), bottom.transform(rows[:5000]).double()
    optimum = solve(problem)
    energy, _ = problem.measure(code, code @ problem.gram - problem.correlation)
    number("energy_excess", float(energy.mean() / optimum.objective.mean()) - 1)
    number("active_codes", float((optimum.code != 0).double().sum(1).mean()))
    figure = plots.filter_grid(bottom.generative.dictionary, (first.side, first.side), num=first.codes)
    plots.save(figure, results / "psd_mnist_dictionary.png")
    result.seconds = time.perf_counter() - started
    return result.write(results)


if __name__ == "__main__":
    print(tyro.cli(main))
