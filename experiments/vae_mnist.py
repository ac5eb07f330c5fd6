"""Variational auto-encoders on binarized MNIST: one draw, fifty draws, and a second stochastic layer.

Reproduced: Burda, Grosse and Salakhutdinov (2016), "Importance weighted autoencoders", table 1: 50 latents (100 and 50 for
two layers), two hidden layers of 200 tanh units around them (200 and 100 for two layers); pixels drawn anew from the grey
levels at every read; test log-likelihood by the importance-weighted bound with 5,000 draws.

Here: Adam with a rate that falls linearly to zero and an exponential moving average of the weights, far fewer updates than
the published 8 million. `long` and `two_layers` learn by k = 1 on one schedule, `one_layer` and `one_layer_iwae_50` on a shorter
one, so each pair compares at equal updates. Beside the bound of `long` stands annealed importance sampling over the
latents of some of the test images, and the gap of bidirectional Monte Carlo on images that the model made itself.

    python -m experiments.vae_mnist                  # all models, a result file each
    python -m experiments.vae_mnist --only long      # one of them
    python -m experiments.vae_mnist --full           # the published number of epochs and batch size
    python -m experiments.vae_mnist --smoke          # the same code on `digits`, in seconds
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import tyro
from torch import Tensor

from experiments.results import FOLDER, Published, Result
from genmodels import VAE, Bernoulli, plots
from genmodels.checkpoint import write_atomically
from genmodels.data import DataSet, load
from genmodels.fit import Settings, fit
from genmodels.interface import default_generator
from genmodels.likelihood import Annealing, Estimate, elbo, importance_bound, latent_ais, latent_bdmc
from genmodels.objectives import elbo as elbo_objective
from genmodels.objectives import iwae
from genmodels.progress import bar, training_bar

SOURCE = "Burda, Grosse and Salakhutdinov (2016), table 1, 3,280 epochs of batches of 20, evaluated with 5,000 draws"
PUBLISHED = {
    "long": Published(-86.76, SOURCE),
    "one_layer": Published(-86.76, SOURCE),
    "one_layer_iwae_50": Published(-84.78, SOURCE),
    "two_layers": Published(-85.33, SOURCE),
}
ONE: dict[str, Any] = {"latent": (50,), "hidden": ((200, 200),)}
TWO: dict[str, Any] = {"latent": (100, 50), "hidden": ((200, 200), (100, 100))}


@dataclass(frozen=True)
class Model:
    """One model, how it learns and how far it is evaluated."""

    latent: tuple[int, ...]
    hidden: tuple[tuple[int, ...], ...]
    num_samples: int
    """Draws a step: 1 for the ELBO with rates in closed form, else IWAE."""
    epochs: int
    batch_size: int
    learning_rate: float
    num_test: int
    """Test images for the bound."""
    num_annealed: int = 0
    """Test images for annealing over latents; 0 for none."""


@dataclass(frozen=True)
class Config:
    """Everything that decides the result."""

    models: dict[str, Model]
    data: str = "mnist-dynamic"
    test_data: str = "mnist-binarized"
    average: float = 0.9995
    bound_draws: int = 5000
    chains: int = 16
    temperatures: int = 300
    simulated: int = 100
    """Images simulated for the gap."""
    timed: int = 64
    timed_temperatures: int = 10
    """Examples and temperatures of the timing of annealing, many examples at once against one after the other."""
    seed: int = 0


def _config(long: dict[str, Any], short: dict[str, Any], **options: Any) -> Config:
    models = {
        "long": Model(**ONE, num_samples=1, **long),
        "two_layers": Model(**TWO, num_samples=1, **{**long, "num_annealed": 0}),
        "one_layer": Model(**ONE, num_samples=1, **short),
        "one_layer_iwae_50": Model(**ONE, num_samples=50, **short),
    }
    return Config(models, **options)


DEFAULT = _config(
    {"epochs": 450, "batch_size": 100, "learning_rate": 2e-3, "num_test": 10_000, "num_annealed": 100},
    {"epochs": 8, "batch_size": 20, "learning_rate": 1e-3, "num_test": 2000},
)
_FULL = {"epochs": 3280, "batch_size": 20, "learning_rate": 1e-3, "num_test": 10_000, "num_annealed": 1000}
FULL = _config(_FULL, _FULL, simulated=1000)
_TINY = {"epochs": 2, "batch_size": 50, "learning_rate": 2e-3, "num_test": 20, "num_annealed": 3}
SMOKE = _config(
    _TINY,
    {**_TINY, "num_annealed": 0},
    data="digits",
    test_data="digits",
    bound_draws=20,
    chains=2,
    temperatures=3,
    simulated=3,
    timed=16,
    timed_temperatures=2,
)


def train(config: Config, name: str, data: DataSet, out: Path) -> tuple[VAE, float]:
    """One model and the seconds of its epochs, taken up from its checkpoint if an earlier attempt was cut short."""
    chosen = config.models[name]
    model = VAE(
        Bernoulli(data.num_features),
        latent=chosen.latent,
        hidden=chosen.hidden,
        generator=default_generator(config.seed),
    )
    model.initialise_from_data(data.train.fixed(config.seed))
    k = chosen.num_samples
    settings = Settings(
        epochs=chosen.epochs,
        batch_size=chosen.batch_size,
        optimizer="Adam",
        optimizer_options={"fused": True},
        learning_rate=chosen.learning_rate,
        average=config.average,
        seed=config.seed,
    )
    with training_bar(name) as progress:
        records = fit(
            model,
            elbo_objective(model) if k == 1 else iwae(model, num_samples=k),
            data.train,
            settings,
            out=out,
            config={"latent": chosen.latent, "hidden": chosen.hidden, "num_samples": k, "data": config.data},
            progress=progress,
        )
    return model.requires_grad_(False), sum(record["seconds"] for record in records)


def bounds(config: Config, name: str, model: VAE, test: Tensor) -> dict[str, Estimate]:
    """The ELBO and its importance-weighted tightening."""
    generator, x = default_generator(1000 + config.seed), test[: config.models[name].num_test]
    return {
        "elbo": elbo(model, x, num_samples=10, generator=generator, progress=bar),
        "bound": importance_bound(model, x, num_samples=config.bound_draws, generator=generator, progress=bar),
    }


def annealed(config: Config, name: str, model: VAE, test: Tensor) -> dict[str, Estimate]:
    """What annealing over the latents finds, beside the bound of the same images, and its gap on simulated ones."""
    generator, x = default_generator(2000 + config.seed), test[: config.models[name].num_annealed]
    options = {"num_chains": config.chains, "generator": generator, "progress": bar}
    annealing = Annealing.tune(
        model, x, model.encode, num_temperatures=config.temperatures, generator=generator, progress=bar
    )
    return {
        "bound_of_annealed": importance_bound(model, x, num_samples=config.bound_draws, generator=generator),
        "ais_of_annealed": latent_ais(model, x, model.encode, annealing, **options),
        "bdmc_gap": latent_bdmc(model, model.encode, annealing, num_rows=config.simulated, **options).gap,
    }


def annealing_seconds(config: Config, model: VAE, test: Tensor) -> dict[str, float]:
    """Seconds an example of annealing with few temperatures, many examples at once and one after the other."""
    betas = torch.linspace(0, 1, config.timed_temperatures + 1, dtype=torch.float64)
    annealing = Annealing(betas, torch.full((config.timed_temperatures,), 0.2))
    found = {}
    for name, num, at_once in (("batched", config.timed, config.timed), ("one_by_one", config.timed // 16, 1)):
        generator, started = default_generator(config.seed), time.perf_counter()
        for x in test[:num].split(at_once):
            latent_ais(model, x, model.encode, annealing, num_chains=config.chains, generator=generator)
        found[name] = (time.perf_counter() - started) / num
    return found


Numbers = dict[str, dict[str, Any]]


def finish(config: Config, name: str, data: DataSet, test: Tensor, out: Path) -> Numbers:
    """The numbers of one model; each part is kept in its folder, and found there by the next call."""
    model, seconds = train(config, name, data, out)
    # The published files are in no special order, but a part of the rows should not depend on that.
    rows = test[torch.randperm(len(test), generator=default_generator(0))]
    numbers = {f"{name}_training_seconds": _number(seconds)}
    numbers |= _kept(out / "bounds.json", name, lambda: bounds(config, name, model, rows))
    if config.models[name].num_annealed:
        numbers |= _kept(out / "annealed.json", name, lambda: annealed(config, name, model, rows))
        for way, spent in annealing_seconds(config, model, rows).items():
            numbers[f"{name}_annealing_seconds_{way}"] = _number(spent)
    return numbers


def _number(value: float) -> dict[str, Any]:
    return {"value": value, "std_error": None, "bound": "none"}


def _kept(path: Path, name: str, measure: Callable[[], dict[str, Estimate]]) -> Numbers:
    """What the file holds, measured and written there if there is none."""
    if not path.exists():
        found = {f"{name}_{key}": estimate.to_dict() for key, estimate in measure().items()}
        write_atomically(path, json.dumps(found, indent=2).encode())
    return json.loads(path.read_text())


def report(config: Config, name: str, command: str, data: DataSet, test: Tensor, out: Path, results: Path) -> Path:
    """Train and evaluate one model; write its result file and what it draws."""
    started = time.perf_counter()
    result = Result(
        f"vae_mnist_{name}",
        f"{command} --only {name}",
        f"trained on {config.data}, tested on {config.test_data}",
        (config.seed,),
        replace(config, models={name: config.models[name]}),
        {f"{name}_bound": PUBLISHED[name]},
        metrics=finish(config, name, data, test, out),
    )
    model, _ = train(config, name, data, out)
    draws = model.sample(100, generator=default_generator(0))
    means = model.observed_mean(draws[1:])
    plots.save(plots.sample_grid(means, data.image_shape), results / f"vae_mnist_{name}.png")
    result.seconds = time.perf_counter() - started
    return result.write(results)


def main(
    smoke: bool = False,
    full: bool = False,
    only: str | None = None,
    out: Path = Path("runs/vae_mnist"),
    results: Path = FOLDER,
) -> list[Path]:
    """Train and evaluate the models, then write a result file and a picture of draws for each.

    Args:
        smoke: run the same code on a tiny problem, in seconds.
        full: the published number of epochs, batch size and test images: days on a processor.
        only: this model alone.
        out: folder for the runs; what was cut short is taken up again.
        results: folder for the result files and the pictures.
    """
    config = SMOKE if smoke else FULL if full else DEFAULT
    data, test = load(config.data), load(config.test_data).test.fixed()
    command = "python -m experiments.vae_mnist" + " --full" * full
    names = list(config.models) if only is None else [only]
    return [report(config, name, command, data, test, out / name, results) for name in names]


if __name__ == "__main__":
    print(*tyro.cli(main), sep="\n")
