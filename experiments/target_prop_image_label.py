"""An image and its label as two modalities: each from the other by one pass, by Algorithm 6 and by its Markov chain.

Bengio (2014), sections 3.2, 4 and 7.5: as `target_prop_halves`, with MNIST's digit as one modality and its class as the other,
and nothing that tells the training which of them is to be predicted. Labels from images: the error on test examples. Images from
labels: how often a classifier, trained on digits, reads the class that was asked for, and how much images of one class
differ (mean squared distance per pixel between two of them; beside it that of test images). One pass and Algorithm 6 have a
single image for a class, the chain has many.

    python -m experiments.target_prop_image_label            # all stacks
    python -m experiments.target_prop_image_label --smoke    # the same code on `digits`, in seconds
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import tyro
from torch import Tensor
from torch.nn.functional import one_hot

from experiments.results import FOLDER, Result
from experiments.target_prop_halves import SMOKE, STACKS, Config, classifier, settings
from genmodels import Bernoulli, Categorical, plots
from genmodels.data import DataSet, load
from genmodels.data.examples import Examples
from genmodels.fit import fit
from genmodels.interface import default_generator
from genmodels.labelled_stack import LabelledStack
from genmodels.multimodal_stack import MultimodalStack, complete
from genmodels.objectives.multimodal import multimodal_target_propagation

CLASSES = 10
A_CLASS = 100
"""Images asked for by each label."""
SHOWN = 10
"""States of chains in a row of the picture."""


def rows(examples: Examples, num: int | None = None) -> Tensor:
    """Images and labels next to each other."""
    assert examples.labels is not None
    return torch.cat([examples.fixed()[:num], one_hot(examples.labels[:num], CLASSES).float()], 1)


def train(config: Config, options: dict[str, Any], data: DataSet, out: Path) -> MultimodalStack:
    """The stack of image and label."""
    model = MultimodalStack(
        [Bernoulli(data.num_features), Categorical(1, CLASSES)],
        config.hidden,
        config.within,
        generator=default_generator(config.seed),
    )
    objective = multimodal_target_propagation(model, noise=config.noise, **options)
    fit(model, objective, Examples(rows(data.train)), settings(config, config.epochs), out=out)
    return model.requires_grad_(False)


def answers(config: Config, model: MultimodalStack, x: Tensor, seen: int) -> Iterator[tuple[str, Tensor]]:
    """The means of both modalities by each method, (states, n, d), from modality `seen`."""
    observed = torch.zeros(len(x), 2)
    observed[:, seen] = 1
    generator = default_generator(1000 + config.seed)
    methods = {"one_pass": (1, 1, 0.0), "map": (config.steps, 1, 0.0)}
    methods |= {f"chain_{share:g}": (config.steps, config.keep, share * config.noise) for share in config.dial}
    for name, (steps, keep, noise) in methods.items():
        codes = complete(model, x, observed, num_steps=steps, keep=keep, noise=noise, generator=generator)
        yield name, torch.stack([model.mean(model.decode(code)) for code in codes])


def spread(images: Tensor, classes: Tensor) -> float:
    """Mean squared distance per pixel between two images of a class: twice their variance. Of classes with two at least."""
    groups = [images[classes == label] for label in range(CLASSES)]
    return 2 * torch.stack([group.var(0).mean() for group in groups if len(group) > 1]).mean().item()


def measure(
    result: Result, name: str, config: Config, model: MultimodalStack, judge: LabelledStack, data: DataSet
) -> None:
    """Labels from images, then images from labels."""
    test = rows(data.test, config.num_test)
    truth, pixels = test[:, data.num_features :].argmax(1), data.num_features
    for method, states in answers(config, model, test, seen=0):
        for suffix, field in (("", states[-1]), *((("_mean", states.mean(0)),) if len(states) > 1 else ())):
            wrong = 100 * (field[:, pixels:].argmax(1) != truth).float()
            error = (wrong.std() / len(wrong) ** 0.5).item()
            result.add_number(f"{name}_label_error_{method}{suffix}", wrong.mean().item(), error)
            print(f"{name}, label by {method}{suffix}: {wrong.mean():.2f} % wrong", file=sys.stderr, flush=True)
    asked = torch.arange(CLASSES).repeat_interleave(A_CLASS)
    empty = torch.cat([torch.zeros(len(asked), pixels), one_hot(asked, CLASSES).float()], 1)
    for method, states in answers(config, model, empty, seen=1):
        images = states[-1][:, :pixels]
        right = 100 * (judge.predict(images).argmax(1) == asked).float().mean().item()
        result.add_number(f"{name}_image_read_as_asked_{method}", right)
        result.add_number(f"{name}_image_spread_{method}", spread(images, asked))
        print(f"{name}, image by {method}: {right:.1f} % read as asked", file=sys.stderr, flush=True)


def picture(config: Config, model: MultimodalStack, data: DataSet, results: Path) -> None:
    """A row a label: one pass, the climb, and states of chains."""
    assert data.image_shape is not None
    pixels, labels = data.num_features, torch.arange(CLASSES)
    x = torch.cat([torch.zeros(CLASSES, pixels), one_hot(labels, CLASSES).float()], 1)
    observed = torch.tensor([[0.0, 1.0]]).expand(CLASSES, 2)
    generator, frames = default_generator(config.seed), []
    for steps, noise in [(1, 0.0), (config.steps, 0.0), *([(config.steps, config.noise)] * SHOWN)]:
        codes = complete(model, x, observed, num_steps=steps, noise=noise, generator=generator)[0]
        frames.append(model.mean(model.decode(codes))[:, :pixels])
    shown = torch.stack(frames, 1).flatten(0, 1)
    grid = plots.sample_grid(shown, data.image_shape, columns=len(frames))
    plots.save(grid, results / "target_prop_image_label.png")


def main(
    smoke: bool = False,
    out: Path = Path("runs/target_prop_image_label"),
    judge_out: Path = Path("runs/target_prop_halves/classifier"),
    results: Path = FOLDER,
) -> Path:
    """Train every stack, then write the result file and the picture.

    Args:
        smoke: run the same code on a tiny problem, in seconds.
        out: folder for the runs; what was cut short is taken up again.
        judge_out: the run of the classifier of `target_prop_halves`; trained where it is not there.
        results: folder for the result file and the picture.
    """
    config = SMOKE if smoke else Config()
    data = load(config.data)
    command = "python -m experiments.target_prop_image_label"
    description = f"{config.data}'s images and labels, the first {config.num_test} test examples"
    result = Result("target_prop_image_label", command, description, (config.seed,), config, {})
    started = time.perf_counter()
    judge = classifier(config, data, judge_out)
    assert data.test.labels is not None
    test, labels = data.test.fixed()[: config.num_test], data.test.labels[: config.num_test]
    wrong = 100 * (judge.predict(test).argmax(1) != labels).float().mean().item()
    result.add_number("label_error_classifier", wrong)
    result.add_number("image_spread_test_images", spread(test, labels))
    for name, options in STACKS.items():
        model = train(config, options, data, out / name)
        measure(result, name, config, model, judge, data)
        if name == "walk":
            picture(config, model, data, results)
    result.seconds = time.perf_counter() - started
    return result.write(results)


if __name__ == "__main__":
    print(tyro.cli(main))
