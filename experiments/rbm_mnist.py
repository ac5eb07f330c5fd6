"""RBM with 500 hidden units on binarized MNIST, beyond the published log-likelihood.

Reproduced: Salakhutdinov and Murray (2008), "On the quantitative analysis of deep belief networks": an RBM with 500
hidden units trained by CD-25 reaches a test log-likelihood of −86.34 nats on the fixed binarization, by AIS with 100
chains and 14,500 temperatures.

Here: persistent contrastive divergence with the centered gradient, a learning rate that falls linearly to zero, and an
exponential moving average of the weights. Training images: all 60,000 of MNIST, pixels drawn anew from the grey levels at
every read. Test images: the 10,000 of the fixed binarization, never seen in training. The estimator is that of the paper, forward
AIS, an upper bound in expectation; beside it stand the reverse side, from chains run from training data, and RAISE, the
conservative side.

    python -m experiments.rbm_mnist            # three seeds
    python -m experiments.rbm_mnist --smoke    # the same code on `digits`, in seconds
"""

from __future__ import annotations

import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
import tyro

from experiments.results import FOLDER, Published, Result, mean_of
from genmodels import RBM, Bernoulli, plots
from genmodels.chains import independent_start, run_chains
from genmodels.data import DataSet, load
from genmodels.fit import Settings, fit
from genmodels.interface import default_generator
from genmodels.likelihood import Estimate, ais_log_z, raise_log_likelihood, reverse_ais_log_z
from genmodels.likelihood.exact import mean_free_energy
from genmodels.likelihood.report import from_log_z
from genmodels.objectives import pcd
from genmodels.progress import bar, training_bar
from samplers import salakhutdinov_murray_schedule

PUBLISHED = {
    "test_log_likelihood": Published(-86.34, "Salakhutdinov and Murray (2008), CD-25, AIS; quoted in later papers"),
}


@dataclass(frozen=True)
class Config:
    """Everything that decides the result."""

    train_data: str = "mnist-dynamic-60k"
    test_data: str = "mnist-binarized"
    hidden: int = 500
    num_steps: int = 6
    num_chains: int = 200
    batch_size: int = 200
    learning_rate: float = 0.2
    epochs: int = 300
    average: float = 0.9995
    snapshots: int = 100
    """Of the weights along training: the ladder of trajectory tempering."""
    seeds: tuple[int, ...] = (0, 1, 2)
    ais_chains: int = 100
    temperatures: int = 14_500
    burn_in: int = 3000
    raise_examples: int = 50
    raise_chains: int = 4


SMOKE = Config(
    train_data="digits",
    test_data="digits",
    hidden=12,
    num_steps=1,
    num_chains=50,
    snapshots=5,
    batch_size=50,
    epochs=2,
    seeds=(0, 1),
    ais_chains=10,
    temperatures=50,
    burn_in=20,
    raise_examples=5,
    raise_chains=2,
)


def train(config: Config, seed: int, data: DataSet, out: Path, *, until: int | None = None) -> tuple[RBM, float]:
    """One model and the seconds of its epochs, taken up from its checkpoint if an earlier attempt was cut short.

    With `until`, what it is after that many epochs of its schedule.
    """
    generator = default_generator(seed)
    model = RBM(Bernoulli(data.num_features), Bernoulli(config.hidden), generator=generator)
    model.initialise_from_data(data.train.fixed(seed))
    objective = pcd(model, num_steps=config.num_steps, num_chains=config.num_chains)
    settings = Settings(
        epochs=config.epochs,
        batch_size=config.batch_size,
        learning_rate=config.learning_rate,
        average=config.average,
        snapshots=config.snapshots,
        seed=seed,
        checkpoint_every=5,
    )
    with training_bar(f"seed {seed}") as progress:
        records = fit(
            model,
            objective,
            data.train,
            settings,
            out=out,
            config=asdict(replace(config, seeds=(seed,))),
            progress=progress,
            until=until,
        )
    return model.requires_grad_(False), sum(record["seconds"] for record in records)


def evaluate(
    config: Config, seed: int, model: RBM, train_rows: torch.Tensor, test: torch.Tensor
) -> dict[str, Estimate]:
    """Forward, reverse and conservative estimates of the mean test log-likelihood."""
    generator = default_generator(1000 + seed)
    betas = salakhutdinov_murray_schedule(config.temperatures)
    base = model.visible.bias_from_data(train_rows)
    start = train_rows[torch.randint(len(train_rows), (config.ais_chains,), generator=generator)]
    forward = ais_log_z(model, base, betas, num_chains=config.ais_chains, generator=generator, progress=bar)
    reverse = reverse_ais_log_z(model, start, base, betas, burn_in=config.burn_in, generator=generator, progress=bar)
    conservative = raise_log_likelihood(
        model,
        test,
        base,
        betas,
        num_examples=config.raise_examples,
        num_chains=config.raise_chains,
        generator=generator,
        progress=bar,
    )
    free_energy, _ = mean_free_energy(model, test)
    return {
        "test_log_likelihood": from_log_z(free_energy, forward),
        "test_log_likelihood_reverse": from_log_z(free_energy, reverse),
        "test_log_likelihood_lower": conservative,
        "log_z": forward,
    }


def draw_pictures(model: RBM, data: DataSet, folder: Path) -> None:
    """Samples from long chains that start at independent pixels, and the filters."""
    generator = default_generator(0)
    chains = run_chains(
        model, independent_start(model, 100, generator=generator), 5000, generator=generator, progress=bar
    )
    plots.save(plots.sample_grid(chains.means, data.image_shape), folder / "rbm_mnist_samples.png")
    plots.save(plots.filter_grid(model.weight, data.image_shape), folder / "rbm_mnist_filters.png")


def main(
    smoke: bool = False,
    out: Path = Path("runs/rbm_mnist"),
    results: Path = FOLDER,
    seeds: tuple[int, ...] | None = None,
) -> Path:
    """Train and evaluate every seed, then write the result file and the pictures.

    Args:
        smoke: run the same code on a tiny problem, in seconds.
        out: folder for the runs; a seed that was cut short is taken up again.
        results: folder for the result file and the pictures.
        seeds: these seeds instead of the default three.
    """
    config = SMOKE if smoke else Config()
    config = config if seeds is None else replace(config, seeds=seeds)
    data, test = load(config.train_data), load(config.test_data).test.fixed()
    result = Result(
        "rbm_mnist",
        "python -m experiments.rbm_mnist",
        f"trained on {config.train_data}, tested on {config.test_data}",
        config.seeds,
        config,
        PUBLISHED,
    )
    started = time.perf_counter()
    collected: dict[str, list[Estimate]] = {}
    for seed in config.seeds:
        model, seconds = train(config, seed, data, out / f"seed{seed}")
        result.add_number(f"training_seconds_seed_{seed}", seconds)
        for name, estimate in evaluate(config, seed, model, data.train.fixed(seed), test).items():
            collected.setdefault(name, []).append(estimate)
            result.add(f"{name}_seed_{seed}", estimate)
            print(f"seed {seed}  {name}: {estimate}", file=sys.stderr)
        if seed == config.seeds[0]:
            draw_pictures(model, data, results)
    for name, estimates in collected.items():
        if name != "log_z":
            result.add(name, mean_of(estimates))
    sides = zip(collected["test_log_likelihood"], collected["test_log_likelihood_reverse"], strict=True)
    widths = [(up.value - low.value, (up.std_error**2 + low.std_error**2) ** 0.5) for up, low in sides]
    result.add_number("bracket_width", *max(widths, key=lambda width: abs(width[0])))
    result.seconds = time.perf_counter() - started
    return result.write(results)


if __name__ == "__main__":
    print(tyro.cli(main))
