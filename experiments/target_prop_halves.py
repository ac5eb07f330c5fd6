"""One half of a digit from the other: one pass, Algorithm 6 and its Markov chain, in a stack of two modalities.

Bengio (2014), section 4 and question 12: the upper and the lower half of MNIST's digits have a stack of auto-encoders each, and
one auto-encoder above both, which has learned to find both codes from either. What of a half that is missing: the answer
of one pass with the missingness mask, the end of the climb of Algorithm 6, a state of its Markov chain (section 7.5), or the
mean of the chain's states? Measured on test digits: the cross-entropy of the missing pixels under the answer (nats), its
squared error per pixel, and how often a classifier, trained on whole digits, takes the completed digit for another class.

The same for a stack whose top learned by walk-back (three steps).

    python -m experiments.target_prop_halves            # all stacks
    python -m experiments.target_prop_halves --smoke    # the same code on `digits`, in seconds
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro
from torch import Tensor

from experiments.results import FOLDER, Result
from genmodels import Bernoulli, Categorical, plots
from genmodels.data import DataSet, load
from genmodels.data.labelled import all_labelled
from genmodels.fit import Settings, fit
from genmodels.interface import default_generator
from genmodels.labelled_stack import LabelledStack
from genmodels.multimodal_stack import MultimodalStack, complete
from genmodels.objectives.labelled import back_propagation
from genmodels.objectives.multimodal import multimodal_target_propagation

SHOWN = 8
"""Digits in the picture."""
STACKS: dict[str, dict[str, Any]] = {"base": {}, "walk": {"walk": 3}}


@dataclass(frozen=True)
class Config:
    """Everything that decides the result."""

    data: str = "mnist"
    hidden: tuple[int, ...] = (200, 100)
    within: tuple[int, ...] = (300, 300)
    noise: float = 0.2
    epochs: int = 4
    classifier: tuple[int, ...] = (240, 240)
    classifier_epochs: int = 3
    batch_size: int = 100
    learning_rate: float = 1e-3
    steps: int = 20
    """Of Algorithm 6 and of the chain."""
    keep: int = 10
    """Last states of the chain, whose mean is taken."""
    dial: tuple[float, ...] = (0.5, 1.0)
    """Deviations of the chain's noise, as shares of the noise in training."""
    num_test: int = 2000
    seed: int = 0


SMOKE = Config(data="digits", hidden=(7, 5), within=(6,), epochs=1, classifier=(5,), steps=3, keep=2, num_test=20)


def settings(config: Config, epochs: int) -> Settings:
    """How both networks are trained."""
    return Settings(
        epochs=epochs,
        batch_size=config.batch_size,
        optimizer="Adam",
        optimizer_options={"fused": True},
        learning_rate=config.learning_rate,
        average=0.998,
        seed=config.seed,
        device="cpu",
    )


def train(config: Config, options: dict[str, Any], data: DataSet, out: Path) -> MultimodalStack:
    """The stack of two halves."""
    half = data.num_features // 2
    model = MultimodalStack(
        [Bernoulli(half), Bernoulli(half)], config.hidden, config.within, generator=default_generator(config.seed)
    )
    objective = multimodal_target_propagation(model, noise=config.noise, **options)
    fit(model, objective, data.train, settings(config, config.epochs), out=out)
    return model.requires_grad_(False)


def classifier(config: Config, data: DataSet, out: Path) -> LabelledStack:
    """Who reads the completed digits; by back-propagation."""
    model = LabelledStack(
        data.num_features, config.classifier, 100, Categorical(1, 10), generator=default_generator(config.seed)
    )
    model.initialise_from_data(data.train.fixed())
    rows = all_labelled(data.train, 10)
    fit(model, back_propagation(model), rows, settings(config, config.classifier_epochs), out=out)
    return model.requires_grad_(False)


def answers(config: Config, model: MultimodalStack, x: Tensor, seen: int) -> dict[str, Tensor]:
    """E[x] of all pixels by each method, from modality `seen`; of the chain the mean of the last states' too."""
    observed = torch.zeros(len(x), 2)
    observed[:, seen] = 1
    generator = default_generator(1000 + config.seed)

    def codes(num_steps: int, keep: int = 1, share: float = 0.0) -> Tensor:
        noise = share * config.noise
        return complete(model, x, observed, num_steps=num_steps, keep=keep, noise=noise, generator=generator)

    found = {"one_pass": model.mean(model.decode(codes(1)[0])), "map": model.mean(model.decode(codes(config.steps)[0]))}
    for share in config.dial:
        states = codes(config.steps, config.keep, share)
        means = torch.stack([model.mean(model.decode(state)) for state in states])
        found[f"chain_{share:g}"], found[f"chain_mean_{share:g}"] = means[-1], means.mean(0)
    return found


def measure(
    result: Result, name: str, config: Config, model: MultimodalStack, judge: LabelledStack, data: DataSet
) -> None:
    """Add the three numbers of every method, over both halves."""
    assert data.test.labels is not None
    x, labels = data.test.fixed()[: config.num_test], data.test.labels[: config.num_test]
    half = data.num_features // 2
    collected: dict[str, list[tuple[Tensor, Tensor, Tensor]]] = {}
    for seen in range(2):
        missing = slice(half, None) if seen == 0 else slice(0, half)
        for method, mean in answers(config, model, x, seen).items():
            pixels = mean[:, missing].clamp(1e-4, 1 - 1e-4)
            truth, whole = x[:, missing], x.clone()
            whole[:, missing] = pixels
            nats = -(truth * pixels.log() + (1 - truth) * (1 - pixels).log()).sum(1)
            wrong = (judge.predict(whole).argmax(1) != labels).float() * 100
            squares = (pixels - truth).square().mean(1)
            collected.setdefault(method, []).append((nats, squares, wrong))
    for method, halves in collected.items():
        for metric, values in zip(("nats", "squared_error", "misread"), zip(*halves, strict=True), strict=True):
            each = torch.cat(values)
            result.add_number(f"{name}_{method}_{metric}", each.mean().item(), (each.std() / len(each) ** 0.5).item())
        print(name, method, f"{result.metrics[f'{name}_{method}_nats']['value']:.1f} nats", file=sys.stderr, flush=True)


def picture(config: Config, model: MultimodalStack, data: DataSet, results: Path) -> None:
    """A row a digit: itself, its upper half, and completions: one pass, the climb, states of the chain."""
    assert data.image_shape is not None
    x, half = data.test.fixed()[:SHOWN], data.num_features // 2
    observed = torch.tensor([[1.0, 0.0]]).expand(SHOWN, 2)
    frames = [x, torch.cat([x[:, :half], torch.zeros_like(x[:, half:])], 1)]
    generator = default_generator(config.seed)
    runs = [(1, 0.0), (config.steps, 0.0), *([(config.steps, config.noise)] * 5)]
    for steps, noise in runs:
        codes = complete(model, x, observed, num_steps=steps, noise=noise, generator=generator)[0]
        frames.append(torch.cat([x[:, :half], model.mean(model.decode(codes))[:, half:]], 1))
    shown = torch.stack(frames, 1).flatten(0, 1)
    plots.save(plots.sample_grid(shown, data.image_shape, columns=len(frames)), results / "target_prop_halves.png")


def main(smoke: bool = False, out: Path = Path("runs/target_prop_halves"), results: Path = FOLDER) -> Path:
    """Train every stack and the classifier, then write the result file and the picture.

    Args:
        smoke: run the same code on a tiny problem, in seconds.
        out: folder for the runs; what was cut short is taken up again.
        results: folder for the result file and the picture.
    """
    config = SMOKE if smoke else Config()
    data = load(config.data)
    command = "python -m experiments.target_prop_halves"
    description = f"halves of {config.data}'s images, the first {config.num_test} test examples"
    result = Result("target_prop_halves", command, description, (config.seed,), config, {})
    started = time.perf_counter()
    judge = classifier(config, data, out / "classifier")
    assert data.test.labels is not None
    wrong = judge.predict(data.test.fixed()).argmax(1) != data.test.labels
    result.add_number("whole_digits_misread", 100 * wrong.float().mean().item())
    for name, options in STACKS.items():
        model = train(config, options, data, out / name)
        measure(result, name, config, model, judge, data)
        if name == "base":
            picture(config, model, data, results)
    result.seconds = time.perf_counter() - started
    return result.write(results)


if __name__ == "__main__":
    print(tyro.cli(main))
