"""One variational auto-encoder, trained by Pyro's SVI and by `fit`, and evaluated by the same estimators.

`pyro_programs(model)` gives the model and its encoder as Pyro's `model` and `guide`; what SVI learns are the parameters of the
model itself, which afterwards samples and is evaluated like any other. Both ways take the same number of steps of Adam at the
same rate, on batches of the same size, from the same weights.

    python -m experiments.vae_pyro            # the handwritten digits of 8 x 8 pixels, a minute
    python -m experiments.vae_pyro --smoke    # the same code, in seconds
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro
from pyro.infer import SVI, Trace_ELBO
from pyro.optim import Adam  # pyright: ignore[reportAttributeAccessIssue]

from experiments.results import FOLDER, Result
from genmodels import VAE, Bernoulli
from genmodels.data import DataSet, load
from genmodels.fit import Settings, fit
from genmodels.interface import default_generator
from genmodels.likelihood import elbo, importance_bound
from genmodels.objectives import elbo as elbo_objective
from genmodels.pyro_bridge import pyro_programs


@dataclass(frozen=True)
class Config:
    """Everything that decides the result."""

    data: str = "digits"
    latent: int = 8
    hidden: tuple[int, ...] = (64,)
    epochs: int = 60
    batch_size: int = 50
    learning_rate: float = 3e-3
    elbo_draws: int = 200
    bound_draws: int = 2000
    seed: int = 0


SMOKE = Config(latent=2, hidden=(8,), epochs=2, elbo_draws=3, bound_draws=5)


def train_by_pyro(config: Config, model: VAE, data: DataSet) -> None:
    """Stochastic variational inference; Pyro draws from the global generator of torch."""
    torch.manual_seed(config.seed)
    program = pyro_programs(model)
    svi = SVI(*program, Adam({"lr": config.learning_rate}), Trace_ELBO())
    x, generator = data.train.fixed(), default_generator(config.seed)
    for _ in range(config.epochs):
        for rows in torch.randperm(len(x), generator=generator).split(config.batch_size):
            svi.step(x[rows])


def train_by_fit(config: Config, model: VAE, data: DataSet) -> None:
    """The same with this toolkit's own loop."""
    settings = Settings(
        epochs=config.epochs,
        batch_size=config.batch_size,
        optimizer="Adam",
        learning_rate=config.learning_rate,
        schedule="constant",
        average=0.0,
        seed=config.seed,
        device="cpu",
    )
    fit(model, elbo_objective(model), data.train, settings)


def main(smoke: bool = False, results: Path = FOLDER) -> Path:
    """Train both ways, evaluate both models, and write the result file.

    Args:
        smoke: run the same code on a tiny problem, in seconds.
        results: folder for the result file.
    """
    config = SMOKE if smoke else Config()
    started, data = time.perf_counter(), load(config.data)
    about = f"{config.data}, test set"
    result = Result("vae_pyro", "python -m experiments.vae_pyro", about, (config.seed,), config, {})
    for name, train in (("pyro", train_by_pyro), ("fit", train_by_fit)):
        model = VAE(
            Bernoulli(data.num_features), (config.latent,), (config.hidden,), generator=default_generator(config.seed)
        )
        model.initialise_from_data(data.train.fixed())
        began = time.perf_counter()
        train(config, model, data)
        result.add_number(f"training_seconds_{name}", time.perf_counter() - began)
        generator, x = default_generator(1000 + config.seed), data.test.fixed()
        result.add(f"elbo_{name}", elbo(model, x, num_samples=config.elbo_draws, generator=generator))
        result.add(f"bound_{name}", importance_bound(model, x, num_samples=config.bound_draws, generator=generator))
        print(f"{name}: {result.metrics[f'elbo_{name}']['value']:.3f}", file=sys.stderr)
    result.seconds = time.perf_counter() - started
    return result.write(results)


if __name__ == "__main__":
    print(tyro.cli(main))
