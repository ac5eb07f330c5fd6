"""Denoising auto-encoders with noise in their hidden layers and a deep GSN on binarized MNIST, with and without walk-back.

After Bengio, Yao, Alain and Vincent (2013), "Generalized denoising auto-encoders as generative models", and Bengio, Laufer,
Alain and Yosinski (2014), "Deep generative stochastic networks trainable by backprop": trained on single corruptions, the
chain wanders off into modes that the data do not have; trained along its own chain, it is pulled back.

Here: one hidden layer or two, drawn anew from x in every step, or (the deep GSN) two that the chain carries along, the higher
one with the noise of the authors' code, before and after its activation; salt and pepper on the input, smaller layers and far
shorter training than published; all models get the same number of updates. Two likelihoods of the chains, which start at
training images: the conservative estimator, a lower bound in expectation, with its rise in the number of states; and Parzen
windows around the means of states, bandwidth chosen on validation images, on grey test images: a number for old tables, which
ranks models wrongly.

    python -m experiments.dae_mnist               # all four models
    python -m experiments.dae_mnist --only gsn    # one of them; the result file keeps the others' numbers
    python -m experiments.dae_mnist --smoke       # the same code on `digits`, in seconds
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import torch
import tyro
from torch import Tensor

from experiments.results import FOLDER, Published, Result
from genmodels import DAE, GSN, Bernoulli, plots
from genmodels.corruptions import SaltAndPepper
from genmodels.data import DataSet, load
from genmodels.fit import Settings, fit
from genmodels.interface import default_generator
from genmodels.likelihood import best_bandwidth, chain_fields, csl, parzen
from genmodels.objectives import denoising
from genmodels.progress import bar, training_bar

PUBLISHED = {
    "parzen_gsn": Published(214.0, "Bengio, Laufer, Alain and Yosinski (2014), deep GSN, 10,000 samples"),
}
Name = Literal["walk_back", "walk_back_deep", "gsn", "plain"]
STRIP = (1, 2, 5, 10, 20, 50, 100, 200, 400)


@dataclass(frozen=True)
class Config:
    """Everything that decides the result."""

    data: str = "mnist-dynamic"
    test_data: str = "mnist-binarized"
    grey_data: str = "mnist"
    hidden: int = 500
    """Units of each hidden layer."""
    hidden_noise: float = 0.5
    gsn_noise: float = 2.0
    """Of the GSN's higher layer, before and after its activation; before it alone a chain keeps its digit for hundreds of
    steps."""
    replaced: float = 0.4
    walk_back: int = 3
    gsn_walk_back: int = 4
    """Steps that the GSN learns from, two for each of its layers."""
    epochs: int = 8
    batch_size: int = 100
    learning_rate: float = 2e-3
    average: float = 0.999
    chains: int = 100
    burn_in: int = 400
    states: int = 100
    """Of each chain."""
    thin: int = 10
    bandwidths: tuple[float, ...] = (0.1, 0.13, 0.16, 0.2, 0.25, 0.3)
    num_valid: int = 1000
    seed: int = 0


SMOKE = Config(
    data="digits",
    test_data="digits",
    grey_data="digits",
    hidden=12,
    walk_back=2,
    epochs=2,
    chains=5,
    burn_in=3,
    states=4,
    thin=2,
    num_valid=20,
)


class Walk(NamedTuple):
    """A model, and the steps along its chain that it learns from."""

    model: DAE | GSN
    num_steps: int


def walks(config: Config, num_features: int) -> dict[str, Walk]:
    """All models before training, by name."""

    def dae(depth: int) -> DAE:
        return DAE(*shared, (config.hidden,) * depth, hidden_noise=config.hidden_noise, generator=generator())

    def gsn() -> GSN:
        noise, sizes = config.gsn_noise, (config.hidden,) * 2
        return GSN(*shared, sizes, noise=noise, noise_after=noise, clean_first=True, generator=generator())

    def generator() -> torch.Generator:
        return default_generator(config.seed)

    shared = Bernoulli(num_features), SaltAndPepper(config.replaced)
    return {
        "walk_back": Walk(dae(1), config.walk_back),
        "walk_back_deep": Walk(dae(2), config.walk_back),
        "gsn": Walk(gsn(), config.gsn_walk_back),
        "plain": Walk(dae(1), 1),
    }


def train(config: Config, walk: Walk, data: DataSet, out: Path) -> float:
    """The seconds of its epochs, taken up from its checkpoint if an earlier attempt was cut short."""
    model, walk_back = walk
    model.initialise_from_data(data.train.fixed(config.seed))
    settings = Settings(
        epochs=config.epochs,
        batch_size=config.batch_size,
        optimizer="Adam",
        optimizer_options={"fused": True},
        learning_rate=config.learning_rate,
        average=config.average,
        seed=config.seed,
    )
    about = {**model.config(), "walk_back": walk_back, "data": config.data}
    with training_bar(f"walk-back {walk_back}") as progress:
        objective = denoising(model, walk_back=walk_back)
        records = fit(model, objective, data.train, settings, out=out, config=about, progress=progress)
    model.requires_grad_(False)
    return sum(record["seconds"] for record in records)


def measure(
    config: Config, name: str, model: DAE | GSN, start: Tensor, test: Tensor, grey: DataSet, result: Result
) -> None:
    """CSL at several numbers of states, and Parzen windows."""
    generator = default_generator(1000 + config.seed)
    num_steps = config.states * config.thin
    options = {"burn_in": config.burn_in, "thin": config.thin, "generator": generator, "progress": bar}
    fields = chain_fields(model, start, num_steps, **options)
    steps = 1
    while steps < config.states:
        result.add(f"csl_{name}_{steps * config.chains}_states", csl(model.observed, test, fields[:steps]))
        steps *= 10
    result.add(f"csl_{name}", csl(model.observed, test, fields, progress=bar))
    samples = model.observed.mean(fields.flatten(0, 1))
    valid = grey.valid.fixed()[: config.num_valid]
    bandwidth = best_bandwidth(valid, samples, config.bandwidths)
    result.add(f"parzen_{name}", parzen(grey.test.fixed(), samples, bandwidth))
    result.add_number(f"bandwidth_{name}", bandwidth)
    for metric in (f"csl_{name}", f"parzen_{name}"):
        print(f"{metric}: {result.metrics[metric]['value']:.3f}", file=sys.stderr)


def strip(model: DAE | GSN, start: Tensor, generator: torch.Generator) -> Tensor:
    """Means of chains after each of STRIP steps."""
    fields = chain_fields(model, start, max(STRIP), generator=generator)
    return model.observed.mean(fields[torch.tensor(STRIP) - 1])


def main(
    smoke: bool = False,
    only: Name | None = None,
    out: Path = Path("runs/dae_mnist"),
    results: Path = FOLDER,
) -> Path:
    """Train and evaluate all models, then write the result file and the pictures.

    Args:
        smoke: run the same code on a tiny problem, in seconds.
        only: this model alone; the numbers of the others stay in the result file.
        out: folder for the runs; one that was cut short is taken up again.
        results: folder for the result file and the pictures.
    """
    config = SMOKE if smoke else Config()
    data, grey, test = load(config.data), load(config.grey_data), load(config.test_data).test.fixed()
    result = Result(
        "dae_mnist",
        "python -m experiments.dae_mnist",
        f"trained on {config.data}; CSL on {config.test_data}, Parzen windows on {config.grey_data}",
        (config.seed,),
        config,
        PUBLISHED,
    )
    if only is not None:
        result.metrics |= json.loads((results / "dae_mnist.json").read_text())["metrics"]
    started = time.perf_counter()
    rows = data.train.fixed(config.seed)
    chosen = torch.randint(len(rows), (config.chains,), generator=default_generator(config.seed))
    for name, walk in walks(config, data.num_features).items():
        if only not in (None, name):
            continue
        result.add_number(f"training_seconds_{name}", train(config, walk, data, out / name))
        measure(config, name, walk.model, rows[chosen], test, grey, result)
        # The test set is sorted by class.
        frames = strip(walk.model, test[len(test) // 20 :: len(test) // 10], default_generator(config.seed))
        assert data.image_shape is not None
        plots.save(plots.film_strip(frames, STRIP, data.image_shape), results / f"dae_mnist_{name}.png")
    result.seconds = time.perf_counter() - started
    return result.write(results)


if __name__ == "__main__":
    print(tyro.cli(main))
