"""A generative stack of auto-encoders on binarized MNIST, trained by target propagation alone.

Bengio (2014), "How auto-encoders could provide credit assignment in deep networks via target propagation", Algorithm 2: no
gradient crosses a layer. The paper has no experiments, and no likelihood of its generative model has been published; the
numbers beside it are those of sigmoid belief nets of two layers of 200 units on the same data.

Three hidden layers of real units with learned noise, each encoder and decoder with one layer of tanh units within, an
explicit standard Gaussian prior at the top. On the same stack, for as many epochs: the gradients inside the cost of
Algorithm 1, and the variational bound by back-propagation. The log-likelihood is that of P(x | h_1) P(h_1 | h_2) ... P(h_L),
importance-weighted with Q: a lower bound in expectation. For target propagation also CSL of the chain that goes up and down
the stack, which has another distribution, and Parzen windows of independent draws for historic tables.

    python -m experiments.target_prop_mnist            # all three ways
    python -m experiments.target_prop_mnist --smoke    # the same code on `digits`, in seconds
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
import tyro
from torch import Tensor

from experiments.results import FOLDER, Published, Result, mean_of
from genmodels import Bernoulli, plots
from genmodels.checkpoint import write_atomically
from genmodels.data import DataSet, load
from genmodels.fit import Settings, fit
from genmodels.interface import default_generator
from genmodels.likelihood import Estimate, best_bandwidth, chain_fields, csl, elbo, importance_bound, parzen
from genmodels.objectives import Objective, algorithm1, target_propagation
from genmodels.objectives import elbo as elbo_objective
from genmodels.progress import bar, training_bar
from genmodels.stack_chain import StackChain
from genmodels.stack_layers import StackLayer
from genmodels.target_prop import AutoEncoderStack
from genmodels.top_priors import StandardGaussian

Way = Literal["target_prop", "algorithm1", "backprop"]
WAYS: dict[Way, tuple[str, Callable[[Any], Objective]]] = {
    "target_prop": ("test_log_likelihood", target_propagation),
    "algorithm1": ("algorithm1", algorithm1),
    "backprop": ("backprop", elbo_objective),
}
PUBLISHED = {
    "test_log_likelihood": Published(-107.7, "sigmoid belief net 200-200 by wake-sleep, fixed binarization"),
    "test_log_likelihood_nvil": Published(-99.8, "sigmoid belief net 200-200 by NVIL, fixed binarization"),
    "test_log_likelihood_best": Published(-95.4, "the best two-layer sigmoid belief net, fixed binarization"),
    "parzen": Published(214.0, "Bengio, Laufer, Alain and Yosinski (2014), deep GSN, 10,000 samples"),
}

STRIP = (1, 2, 5, 10, 20, 50, 100, 200)


@dataclass(frozen=True)
class Config:
    """Everything that decides the result."""

    data: str = "mnist-binarized"
    grey_data: str = "mnist"
    sizes: tuple[int, ...] = (100, 60, 30)
    """Of h_1 ... h_L."""
    inner: tuple[int, ...] = (300, 150, 100)
    """Units within each encoder and decoder."""
    batch_size: int = 200
    learning_rate: float = 0.003
    epochs: int = 50
    seeds: tuple[int, ...] = (0, 1, 2)
    """Of target propagation; the two beside it take the first."""
    """Of target propagation and back-propagation; Algorithm 1 has the first alone."""
    num_samples: int = 100
    """Draws of Q for every test example."""
    chains: int = 100
    steps: int = 20
    """Of each chain, after as many that are thrown away."""
    bandwidths: tuple[float, ...] = (0.15, 0.18, 0.21, 0.25)


SMOKE = Config(
    data="digits",
    grey_data="digits",
    sizes=(7, 5, 3),
    inner=(11, 9, 8),
    batch_size=100,
    epochs=2,
    seeds=(0, 1),
    num_samples=5,
    chains=5,
    steps=4,
)


def train(config: Config, way: Way, seed: int, data: DataSet, out: Path) -> tuple[AutoEncoderStack, float]:
    """One model and the seconds of its epochs; what an earlier attempt finished is taken up."""
    *hidden, top = config.sizes
    model = AutoEncoderStack(
        Bernoulli(data.num_features),
        [StackLayer("linear", size) for size in hidden],
        StandardGaussian(top),
        inner=config.inner,
        generator=default_generator(seed),
    )
    model.initialise_from_data(data.train.fixed())
    settings = Settings(
        epochs=config.epochs,
        batch_size=config.batch_size,
        optimizer="Adam",
        optimizer_options={"fused": True},
        learning_rate=config.learning_rate,
        average=0.998,
        seed=seed,
        device="cpu",
        checkpoint_every=5,
    )
    with training_bar(out.name) as progress:
        records = fit(model, WAYS[way][1](model), data.train, settings, out=out, progress=progress)
    return model.requires_grad_(False), sum(record["seconds"] for record in records)


Found = dict[str, Estimate]


def bounds(config: Config, seed: int, model: AutoEncoderStack, test: Tensor) -> Found:
    """The importance-weighted bound on all test examples, and the plain one."""
    generator = default_generator(1000 + seed)
    return {
        "": importance_bound(model, test, num_samples=config.num_samples, generator=generator, progress=bar),
        "_variational_bound": elbo(model, test, num_samples=10, generator=generator),
    }


def of_samples(config: Config, seed: int, model: AutoEncoderStack, data: DataSet, grey: DataSet) -> Found:
    """CSL of chains up and down the stack, and Parzen windows of as many independent draws."""
    generator, chain = default_generator(2000 + seed), StackChain(model)
    start = data.train.fixed()[: config.chains]
    fields = chain_fields(chain, start, config.steps, burn_in=config.steps, generator=generator, progress=bar)
    means = model.observed_mean(model.sample(config.chains * config.steps, generator=generator)[1:])
    bandwidth = best_bandwidth(grey.valid.fixed()[:1000], means, config.bandwidths)
    return {
        "csl": csl(model.observed, data.test.fixed(), fields, progress=bar),
        "parzen": parzen(grey.test.fixed(), means, bandwidth),
    }


def kept(path: Path, work: Callable[[], Found]) -> Found:
    """What the file holds, measured and written there if there is none."""
    if not path.exists():
        text = json.dumps({name: asdict(estimate) for name, estimate in work().items()}, indent=2)
        write_atomically(path, text.encode())
    return {name: Estimate(**values) for name, values in json.loads(path.read_text()).items()}


def pictures(way: Way, model: AutoEncoderStack, data: DataSet, results: Path) -> None:
    """Means of independent draws; and of chains from test images, for target propagation."""
    generator, shape = default_generator(0), data.image_shape
    assert shape is not None
    draws = model.observed_mean(model.sample(100, generator=generator)[1:])
    plots.save(plots.sample_grid(draws, shape), results / f"target_prop_mnist_{way}.png")
    if way == "target_prop":
        fields = chain_fields(StackChain(model), data.test.fixed()[:10], max(STRIP), generator=generator)
        frames = model.observed.mean(fields[torch.tensor(STRIP) - 1])
        plots.save(plots.film_strip(frames, STRIP, shape), results / "target_prop_mnist_chain.png")


def main(
    smoke: bool = False,
    out: Path = Path("runs/target_prop_mnist"),
    results: Path = FOLDER,
    ways: tuple[Way, ...] = ("target_prop", "algorithm1", "backprop"),
) -> Path:
    """Train and evaluate every way and seed, then write the result file and the samples.

    Args:
        smoke: run the same code on a tiny problem, in seconds.
        out: folder for the runs; what was cut short is taken up again.
        results: folder for the result file and the pictures.
        ways: these ways of learning instead of all three.
    """
    config = SMOKE if smoke else Config()
    data, grey = load(config.data), load(config.grey_data)
    description = f"trained and tested on {config.data}; Parzen windows on {config.grey_data}"
    command = "python -m experiments.target_prop_mnist"
    result = Result("target_prop_mnist", command, description, config.seeds, config, PUBLISHED)
    started = time.perf_counter()
    for way in ways:
        collected: dict[str, list[Estimate]] = {}
        for seed in config.seeds if way == "target_prop" else config.seeds[:1]:
            run = out / f"{way}_seed{seed}"
            model, seconds = train(config, way, seed, data, run)
            result.add_number(f"training_seconds_{way}_seed_{seed}", seconds)
            found = kept(run / "bounds.json", partial(bounds, config, seed, model, data.test.fixed()))
            found = {WAYS[way][0] + name: estimate for name, estimate in found.items()}
            if way == "target_prop":
                found |= kept(run / "samples.json", partial(of_samples, config, seed, model, data, grey))
            for name, estimate in found.items():
                collected.setdefault(name, []).append(estimate)
                print(f"{way} seed {seed}, {name}: {estimate}", file=sys.stderr, flush=True)
            if seed == config.seeds[0]:
                pictures(way, model, data, results)
        for name, estimates in collected.items():
            result.add(name, mean_of(estimates))
        result.seconds = time.perf_counter() - started
        path = result.write(results)
    return path  # pyright: ignore[reportPossiblyUnboundVariable]


if __name__ == "__main__":
    print(tyro.cli(main))
