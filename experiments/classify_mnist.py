"""Telling MNIST's digits apart: RBMs with labels, and networks that begin as a DBN and as a DBM. Permutation invariant.

Reproduced, test errors of the papers in brackets:

- Larochelle and Bengio (2008), "Classification using discriminative restricted Boltzmann machines": an RBM over pixels and
  label, y by the exact p(y | x), trained for log p(y | x) (1.81 %, 500 hidden units), and for that plus 0.01 log p(x, y), the
  hybrid (1.28 %, 1,500 units). Here the hybrid has 500 and begins with some epochs of log p(x, y) alone, from random weights;
  "joint" learns log p(x, y) only, and begins as the RBM of `experiments.dbm_mnist`, which learned pixels.
- Hinton and Salakhutdinov (2006): a network that begins as a DBN (1.14 %).
- Salakhutdinov and Hinton (2009): one that begins as a DBM, its input augmented by the mean field (0.95 %).

Here: the DBN of `experiments.dbn_mnist` and the DBM of `experiments.dbm_mnist`, trained without labels, are taken from their
runs, or trained first; `to_mlp` gives the networks. Fine-tuning drops a fifth of the inputs (Srivastava et al., 2014), which
the papers above did not; a network of the DBN's shape with random weights, trained in the same way, is the control. The RBMs
see pixels drawn anew from the grey levels at every read, all others the grey levels. Nothing is shifted, rotated or otherwise
added to the images. `--validate` trains on 50,000 and measures on the other 10,000 training images; the numbers are those of
training on all 60,000, at its end, one seed. Each classifier has a result file of its own.

    python -m experiments.classify_mnist
    python -m experiments.classify_mnist --smoke    # the same code on `digits`, in seconds
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
import tyro
from torch import Tensor, nn

from experiments import dbm_mnist, dbn_mnist, rbm_mnist
from experiments.results import FOLDER, Published, Result
from genmodels import DBN, RBM, Bernoulli, Categorical, plots
from genmodels.chains import independent_start, run_chains
from genmodels.data import DataSet, Examples, load
from genmodels.features import to_mlp
from genmodels.fit import Settings, fit
from genmodels.interface import default_generator
from genmodels.joined import Joined
from genmodels.labels import WithClasses, class_log_probs, error_rate, label_sites
from genmodels.objectives import Objective, cd, classification, discriminative, hybrid, pcd
from genmodels.progress import bar, training_bar

PUBLISHED = {
    "discriminative_test_error": Published(1.81, "Larochelle and Bengio (2008), 500 hidden units"),
    "hybrid_test_error": Published(1.28, "Larochelle and Bengio (2008), 1,500 hidden units"),
    "dbn_test_error": Published(1.14, "Hinton and Salakhutdinov (2006), without dropout"),
    "dbm_test_error": Published(0.95, "Salakhutdinov and Hinton (2009), 500-1000, without dropout"),
}
CLASSES = 10
Arm = Literal["discriminative", "hybrid", "joint", "dbn", "dbm", "random"]


@dataclass(frozen=True)
class Training:
    """How one classifier learns."""

    epochs: int
    learning_rate: float
    batch_size: int = 200
    average: float = 0.999
    num_steps: int = 1
    """Sweeps of the chains an update, where there are chains."""


@dataclass(frozen=True)
class Config:
    """Everything that decides the result."""

    dynamic: str = "mnist-dynamic"
    grey: str = "mnist"
    discriminative_hidden: int = 500
    discriminative: Training = field(default_factory=lambda: Training(30, 1e-3))
    hybrid_hidden: int = 500
    hybrid_start: Training = field(default_factory=lambda: Training(8, 0.1, average=0.9995))
    hybrid: Training = field(default_factory=lambda: Training(20, 0.012))
    hybrid_weight: float = 0.01
    joint: Training = field(default_factory=lambda: Training(8, 0.05, average=0.9995, num_steps=3))
    fine_tuning: Training = field(default_factory=lambda: Training(50, 2e-3))
    drop_input: float = 0.2
    drop_hidden: float = 0.0
    dbn: dbn_mnist.Config = field(default_factory=dbn_mnist.Config)
    dbm: dbm_mnist.Config = field(default_factory=dbm_mnist.Config)
    pretrained_data: str = "mnist-dynamic-60k"
    sample_sweeps: int = 1000
    seed: int = 0


SMOKE = Config(
    dynamic="digits",
    grey="digits",
    discriminative_hidden=11,
    discriminative=Training(2, 1e-2, 50),
    hybrid_hidden=11,
    hybrid_start=Training(2, 0.05, 50),
    hybrid=Training(2, 1e-2, 50),
    joint=Training(2, 0.05, 50),
    fine_tuning=Training(2, 1e-3, 50),
    dbn=dbn_mnist.SMOKE,
    dbm=dbm_mnist.SMOKE,
    pretrained_data="digits",
    sample_sweeps=5,
)


@dataclass(frozen=True)
class Images:
    """What a classifier learns from and is measured on."""

    train: Examples
    held_out: Tensor
    classes: Tensor


def images(name: str, *, grey: str, validate: bool) -> Images:
    """The training images as `name` gives them, the last 10,000 among them unless they are the held-out ones; grey tests."""
    data, greys = load(name), load(grey)
    held_out = greys.valid if validate else greys.test
    assert held_out.labels is not None
    train = data.train if validate else joined(data.train, data.valid)
    return Images(train, held_out.fixed(), held_out.labels)


def joined(first: Examples, second: Examples) -> Examples:
    """The examples of both."""
    assert first.labels is not None
    assert second.labels is not None
    values = torch.cat([first.values, second.values])
    return Examples(values, first.dynamic, torch.cat([first.labels, second.labels]))


def learn(
    model: nn.Module, objective: Objective, train: Examples, how: Training, config: Config, out: Path, name: str
) -> float:
    """Train, or take the training up; the seconds of its epochs."""
    settings = Settings(
        epochs=how.epochs,
        batch_size=how.batch_size,
        optimizer="SGD" if name in ("joint", "hybrid_start") else "Adam",
        learning_rate=how.learning_rate,
        average=how.average,
        seed=config.seed,
        checkpoint_every=5,
    )
    rows = WithClasses(train, CLASSES)
    with training_bar(name) as progress:
        records = fit(model, objective, rows, settings, out=out / name, config=asdict(how), progress=progress)
    model.requires_grad_(False)
    return sum(record["seconds"] for record in records)


def labelled_rbm(num_features: int, num_hidden: int, config: Config) -> RBM:
    """An RBM over pixels and label that has learned nothing."""
    visible = Joined(Bernoulli(num_features), Categorical(1, CLASSES))
    return RBM(visible, Bernoulli(num_hidden), generator=default_generator(config.seed))


@torch.no_grad()
def with_label(rbm: RBM, config: Config) -> RBM:
    """An RBM that has learned pixels alone, with a label beside them that is all but uncoupled."""
    size = rbm.visible.size
    model = labelled_rbm(size, rbm.hidden.size, config)
    model.weight[:size] = rbm.weight
    model.visible_bias[:size] = rbm.visible_bias
    model.hidden_bias.copy_(rbm.hidden_bias)
    return model


def train_rbm(config: Config, arm: Arm, data: Images, dbm_out: Path, out: Path) -> tuple[RBM, float]:
    """The RBM of an arm, and the seconds of its training with labels."""
    size = data.held_out.shape[1]
    if arm == "discriminative":
        model = labelled_rbm(size, config.discriminative_hidden, config)
        return model, learn(model, discriminative(model), data.train, config.discriminative, config, out, arm)
    if arm == "hybrid":
        return train_hybrid(config, labelled_rbm(size, config.hybrid_hidden, config), data, out)
    bottom, _ = rbm_mnist.train(config.dbm.bottom, config.dbm.seed, load(config.pretrained_data), dbm_out / "bottom")
    model = with_label(bottom, config)
    return model, learn(model, from_data(model, data, config.joint, config), data.train, config.joint, config, out, arm)


def train_hybrid(config: Config, model: RBM, data: Images, out: Path) -> tuple[RBM, float]:
    """First log p(x, y) alone, by PCD; then log p(y | x) beside it, by CD, as persistent chains do not keep up with it."""
    start, how = config.hybrid_start, config.hybrid
    rows = WithClasses(data.train, CLASSES)
    model.initialise_from_data(rows.batch(torch.arange(len(rows)), default_generator(config.seed)))
    seconds = learn(model, from_data(model, data, start, config), data.train, start, config, out, "hybrid_start")
    model.requires_grad_(True)
    objective = hybrid(model, cd(model, num_steps=how.num_steps), weight=config.hybrid_weight)
    return model, seconds + learn(model, objective, data.train, how, config, out, "hybrid")


def from_data(model: RBM, data: Images, how: Training, config: Config) -> Objective:
    """Learning of log p(x, y) by chains that begin at labelled images."""
    start = WithClasses(data.train, CLASSES).batch(torch.arange(how.batch_size), default_generator(config.seed))
    return pcd(model, num_steps=how.num_steps, start=start)


def fine_tune(
    config: Config, arm: Arm, data: Images, dbn_out: Path, dbm_out: Path, out: Path
) -> tuple[Callable[[Tensor], Tensor], float]:
    """The network of an arm, and the seconds of its fine-tuning."""
    unlabelled = load(config.pretrained_data)
    if arm == "dbm":
        model, _, _ = dbm_mnist.train(config.dbm, "greedy", unlabelled, dbm_out)
        network = to_mlp(model, CLASSES)
        # The mean field stays as it is: once for every row is enough.
        augment, rest = network[0], nn.Sequential(*list(network)[1:])
    else:
        augment, rest = nn.Identity(), dbn_network(config, unlabelled, dbn_out, pretrained=arm == "dbn")
    rows = Examples(torch.cat([augment(x) for x in data.train.fixed().split(1000)]), labels=data.train.labels)
    objective = classification(rest, drop_input=config.drop_input, drop_hidden=config.drop_hidden)
    seconds = learn(rest, objective, rows, config.fine_tuning, config, out, arm)
    return nn.Sequential(augment, *rest), seconds


def dbn_network(config: Config, data: DataSet, out: Path, *, pretrained: bool) -> nn.Sequential:
    """The network of the DBN, or of one of its shape with random weights, those of torch's linear layers."""
    bottom, _ = rbm_mnist.train(config.dbn.bottom, 0, data, out / "bottom")
    top, _ = dbn_mnist.train_top(config.dbn, bottom, data, out / "top")
    network = to_mlp(DBN.from_stack([bottom, top]), CLASSES)
    if not pretrained:
        torch.manual_seed(config.seed)
        for layer in network:
            if isinstance(layer, nn.Linear):
                layer.reset_parameters()
    return network


def draw_classes(model: RBM, config: Config, shape: tuple[int, int] | None, folder: Path) -> None:
    """Ten chains of each class, the label held."""
    generator = default_generator(config.seed)
    pixels, _ = independent_start(model, 10 * CLASSES, generator=generator)
    labels = torch.eye(CLASSES).repeat_interleave(10, 0)
    sites = label_sites(model)
    start = torch.cat([pixels[:, ~sites], labels], 1), torch.zeros(len(labels), model.hidden.size)
    chains = run_chains(model, start, config.sample_sweeps, generator=generator, held=sites, progress=bar)
    plots.save(plots.sample_grid(chains.means[:, ~sites], shape), folder / "classify_mnist_given_label.png")


def main(
    smoke: bool = False,
    validate: bool = False,
    out: Path = Path("runs/classify_mnist"),
    dbn_out: Path = Path("runs/dbn_mnist"),
    dbm_out: Path = Path("runs/dbm_mnist"),
    results: Path = FOLDER,
    arms: Sequence[Arm] = ("discriminative", "hybrid", "joint", "dbn", "dbm", "random"),
) -> list[Path]:
    """Train each classifier and write its result file; for "joint", the picture of digits drawn by class too.

    Args:
        smoke: run the same code on a tiny problem, in seconds.
        validate: train on 50,000 images, print the error on the other 10,000, and write nothing.
        out: folder for the runs; one that was cut short is taken up again.
        dbn_out: the run of `experiments.dbn_mnist`.
        dbm_out: the run of `experiments.dbm_mnist`.
        results: folder for the result files and the picture.
        arms: only these classifiers.
    """
    config = SMOKE if smoke else Config()
    paths = []
    for arm in arms:
        started = time.perf_counter()
        is_rbm = arm in ("discriminative", "hybrid", "joint")
        data = images(config.dynamic if is_rbm else config.grey, grey=config.grey, validate=validate)
        if is_rbm:
            model, seconds = train_rbm(config, arm, data, dbm_out, out)
            scores: Any = partial(class_log_probs, model)
        else:
            model = None
            scores, seconds = fine_tune(config, arm, data, dbn_out, dbm_out, out)
        share, num = error_rate(scores, data.held_out, data.classes), len(data.classes)
        print(f"{arm}: {100 * share:.2f} % {'validation' if validate else 'test'} error", file=sys.stderr)
        if validate:
            continue
        result = Result(
            f"classify_mnist_{arm}",
            f"python -m experiments.classify_mnist --arms {arm}",
            "MNIST, 60,000 training and 10,000 test images; errors in per cent",
            (config.seed,),
            config,
            PUBLISHED,
        )
        result.add_number(f"{arm}_test_error", 100 * share, 100 * (share * (1 - share) / num) ** 0.5)
        result.add_number(f"{arm}_training_seconds", seconds)
        if arm == "joint" and model is not None:
            draw_classes(model, config, load(config.grey).image_shape, results)
        result.seconds = time.perf_counter() - started
        paths.append(result.write(results))
    return paths


if __name__ == "__main__":
    print(*tyro.cli(main))
