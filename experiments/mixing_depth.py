"""Do chains mix better at depth? Class changes per sweep in the top RBM of a DBN and in the RBM below it.

Bengio, Mesnil, Dauphin and Rifai (2013), "Better mixing via deep representations": a chain over a deep representation visits
more classes than one over the pixels. Here: the DBN of `experiments.dbn_mnist`, its bottom RBM (784-500) and its top one
(500-2000, its states passed down), each with 100 chains of block Gibbs that start at ten test digits of each class. The class
of a picture, the means of its pixels, is what a small network finds most probable. The runs are taken up, or trained first.

The numbers: changes of class from one sweep to the next, a chain; the share of chains whose class is that of their start after
the last sweep; how sure the classifier is of these pictures on average, since a blurred chain changes class for nothing; and
how many of the last pictures are in each class. Draws of a model that has forgotten its start would keep a tenth.

    python -m experiments.mixing_depth
    python -m experiments.mixing_depth --smoke    # the same code on `digits`, in seconds
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import torch
import tyro
from jaxtyping import Float, Int64
from matplotlib.figure import Figure
from torch import Tensor

from experiments import dbn_mnist, rbm_mnist
from experiments.classes import Classes
from experiments.results import FOLDER, Result
from genmodels import DBN, RBM, plots
from genmodels.chains import run_chains, start_at
from genmodels.data import load
from genmodels.errors import BadInput
from genmodels.interface import State, default_generator
from genmodels.progress import bar


@dataclass(frozen=True)
class Config:
    """Everything that decides the result."""

    dbn: dbn_mnist.Config = field(default_factory=dbn_mnist.Config)
    num_chains: int = 100
    num_sweeps: int = 1000
    seed: int = 0


SMOKE = Config(dbn=dbn_mnist.SMOKE, num_chains=20, num_sweeps=7)
CLASSES = 10


class Walk(NamedTuple):
    """What the classifier sees of chains, sweep by sweep; the start first."""

    classes: Int64[Tensor, "t n"]
    certainty: Float[Tensor, "t n"]
    """The probability of that class."""
    last: Float[Tensor, "n d"]
    """The means of the pixels after the last sweep."""


def walk(
    config: Config, rbm: RBM, start: Tensor, x: Tensor, picture: Callable[[State], Tensor], judge: Classes
) -> Walk:
    """Chains of `rbm` from `start`, which stands for the pictures x, and the classes of what `picture` shows of their states."""
    generator = default_generator(config.seed)
    classes, certainty, means = [], [], x

    @torch.no_grad()
    def observe(step: int, state: State) -> None:
        nonlocal means
        means = picture(state) if step > 0 else x
        found, p = judge.read(means)
        classes.append(found)
        certainty.append(p)

    run_chains(rbm, start_at(rbm, start), config.num_sweeps, generator=generator, observe=observe, progress=bar)
    return Walk(torch.stack(classes), torch.stack(certainty), means)


def add(result: Result, name: str, found: Walk) -> None:
    """The numbers of one machine's chains, errors between chains."""
    changes = (found.classes[1:] != found.classes[:-1]).double().mean(0)
    kept = (found.classes[-1] == found.classes[0]).double()
    num = len(kept)
    result.add_number(f"{name}_changes_per_sweep", float(changes.mean()), float(changes.std()) / num**0.5)
    result.add_number(f"{name}_kept", float(kept.mean()), float(kept.std()) / num**0.5)
    result.add_number(f"{name}_certainty", float(found.certainty[1:].mean()))
    for label, count in enumerate(torch.bincount(found.classes[-1], minlength=CLASSES).tolist()):
        result.add_number(f"{name}_class_{label}", count)


def kept_figure(walks: Mapping[str, Walk]) -> Figure:
    """The share of chains in the class of their start, against sweeps."""
    figure = Figure(figsize=(6, 3.6), layout="constrained")
    axes = figure.subplots()
    for name, found in walks.items():
        share = (found.classes == found.classes[0]).double().mean(1)
        axes.plot(range(1, len(share)), share[1:], lw=1.2, label=name)
    axes.axhline(1 / CLASSES, color="#999999", lw=0.8, ls="--")
    axes.set(xscale="log", ylim=(0, 1), xlabel="sweeps", ylabel="chains in the class of their start")
    axes.legend(frameon=False)
    return figure


def main(smoke: bool = False, out: Path = Path("runs/dbn_mnist"), results: Path = FOLDER) -> Path:
    """Run the chains of both machines, then write the result file and the pictures.

    Args:
        smoke: run the same code on a tiny problem, in seconds.
        out: the run of `experiments.dbn_mnist`.
        results: folder for the result file and the pictures.
    """
    config = SMOKE if smoke else Config()
    how = config.dbn
    unlabelled, data = load(how.bottom.train_data), load(how.test_data)
    bottom, _ = rbm_mnist.train(how.bottom, 0, unlabelled, out / "bottom")
    top, _ = dbn_mnist.train_top(how, bottom, unlabelled, out / "top")
    model = DBN.from_stack([bottom, top]).requires_grad_(False)
    judge = Classes(unlabelled)
    started = time.perf_counter()
    labels, each = data.test.labels, config.num_chains // CLASSES
    if labels is None:
        raise BadInput(f"{how.test_data} has no labels: put its label file into the data folder.")
    rows = torch.cat([torch.where(labels == label)[0][:each] for label in range(CLASSES)])
    x = data.test.fixed()[rows]
    up = model.encode(x).draw(default_generator(config.seed))[-1]
    walks = {
        "bottom": walk(config, bottom, x, x, lambda state: bottom.visible.mean(bottom.field(0, state)), judge),
        "top": walk(config, model.top, up, x, lambda state: model.observed_mean((state[0],)), judge),
    }
    words = f"{len(x)} chains, {config.num_sweeps} sweeps, from test digits of {how.test_data}"
    result = Result("mixing_depth", "python -m experiments.mixing_depth", words, (config.seed,), config, {})
    result.add_number("classifier_accuracy", judge.accuracy)
    for name, found in walks.items():
        add(result, name, found)
        plots.save(plots.sample_grid(found.last, data.image_shape), results / f"mixing_depth_{name}.png")
    plots.save(kept_figure(walks), results / "mixing_depth.png")
    result.seconds = time.perf_counter() - started
    return result.write(results)


if __name__ == "__main__":
    print(tyro.cli(main))
