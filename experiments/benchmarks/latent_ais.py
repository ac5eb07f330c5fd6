"""Annealing over the latents of many images at once, 16 chains × 1,000 temperatures each, against one image after the other.

The model is the one-layer variational auto-encoder of `vae_mnist`, trained in short. 1,000 images are annealed together.
One after the other few are timed, since the work does not depend on the image, and the hours of 1,000 are so many times
theirs. More images than fit into one batch of chains go through batch after batch: the peak of the process's memory stands
beside, with its size before annealing began.

    python -m experiments.benchmarks.latent_ais            # a quarter of an hour
    python -m experiments.benchmarks.latent_ais --smoke    # the same code on `digits`, in seconds
"""

from __future__ import annotations

import resource
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro
from torch import Tensor

from experiments.results import FOLDER, Result
from genmodels import VAE, Bernoulli
from genmodels.data import DataSet, load
from genmodels.fit import Settings, fit
from genmodels.interface import default_generator
from genmodels.likelihood import Annealing, importance_bound, latent_ais
from genmodels.objectives import elbo
from genmodels.progress import bar, training_bar


@dataclass(frozen=True)
class Config:
    """Everything that decides the result."""

    data: str = "mnist-dynamic"
    test_data: str = "mnist-binarized"
    epochs: int = 10
    examples: int = 1000
    chains: int = 16
    temperatures: int = 1000
    leapfrog: int = 2
    one_by_one: int = 2
    bound_draws: int = 500
    seed: int = 0


SMOKE = Config("digits", "digits", epochs=1, examples=6, chains=2, temperatures=4, one_by_one=2, bound_draws=5)


def train(config: Config, data: DataSet, out: Path) -> VAE:
    """The model, taken up from its checkpoint if an earlier attempt was cut short."""
    model = VAE(Bernoulli(data.num_features), generator=default_generator(config.seed))
    model.initialise_from_data(data.train.fixed(config.seed))
    options = {"fused": True}
    settings = Settings(config.epochs, 100, "Adam", 2e-3, options, average=0.999, seed=config.seed)
    with training_bar("one layer") as progress:
        fit(model, elbo(model), data.train, settings, out=out, config=model.config(), progress=progress)
    return model.requires_grad_(False)


def peak() -> float:
    """The most memory that this process ever had, GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def compare(config: Config, model: VAE, x: Tensor, result: Result) -> None:
    """The same annealing of many images at once and of one after the other."""
    generator = default_generator(config.seed)
    annealing = Annealing.tune(
        model,
        x,
        model.encode,
        num_temperatures=config.temperatures,
        num_leapfrog=config.leapfrog,
        generator=generator,
        progress=bar,
    )
    result.add("bound", importance_bound(model, x, num_samples=config.bound_draws, generator=generator))
    result.add_number("gib_before", peak())
    for name, rows in (("one_by_one", x[: config.one_by_one].split(1)), ("batched", (x,))):
        started, cpu = time.perf_counter(), time.process_time()
        found = [
            latent_ais(
                model, part, model.encode, annealing, num_chains=config.chains, generator=generator, progress=bar
            )
            for part in rows
        ]
        num = sum(len(part) for part in rows)
        result.add_number(f"seconds_an_example_{name}", (time.perf_counter() - started) / num)
        result.add_number(f"processor_seconds_an_example_{name}", (time.process_time() - cpu) / num)
    result.add("ais", found[0])
    result.add_number("gib_peak", peak())
    spent = {
        name: result.metrics[f"processor_seconds_an_example_{name}"]["value"] for name in ("one_by_one", "batched")
    }
    for name, seconds in spent.items():
        result.add_number(f"processor_hours_of_1000_{name}", 1000 * seconds / 3600)
    result.add_number("batched_over_one_by_one", spent["batched"] / spent["one_by_one"])


def main(smoke: bool = False, out: Path = Path("runs/bench_latent_ais"), results: Path = FOLDER) -> Path:
    """Train, anneal both ways, then write the result file.

    Args:
        smoke: run the same code on a tiny problem, in seconds.
        out: folder for the run; one that was cut short is taken up again.
        results: folder for the result file.
    """
    config = SMOKE if smoke else Config()
    started = time.perf_counter()
    data, test = load(config.data), load(config.test_data).test.fixed()
    result = Result(
        "bench_latent_ais",
        "python -m experiments.benchmarks.latent_ais",
        f"trained on {config.data}; random test images of {config.test_data}",
        (config.seed,),
        config,
        {},
    )
    rows = test[torch.randperm(len(test), generator=default_generator(0))][: config.examples]
    compare(config, train(config, data, out), rows, result)
    result.seconds = time.perf_counter() - started
    return result.write(results)


if __name__ == "__main__":
    print(tyro.cli(main))
