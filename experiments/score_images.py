"""Grey digits by one denoiser at all noise levels: bits per dimension by the probability flow, and annealed Langevin.

Two data sets: the 17 grey levels of scikit-learn's digits, 8 × 8, and the 256 of MNIST, 28 × 28. Both dequantised:
x = (level + u) / L with u uniform, drawn anew at every step. The flow gives the model's log-density of x, exact but for the
steps of its solver, whose error is stated, and for random probes of the divergence. Minus its mean over test
images, less log L a pixel, in bits, bounds the cost of the grey levels themselves from above (Theis, van den Oord and
Bethge, 2016). The flow begins at a normal as wide as the data smoothed by the largest noise.

    python -m experiments.score_images                 # both
    python -m experiments.score_images --only digits   # one of them
    python -m experiments.score_images --smoke         # the same code, in seconds
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import tyro
from sklearn.datasets import load_digits
from torch import Tensor

from experiments.results import FOLDER, Result
from genmodels import plots
from genmodels.data import load
from genmodels.data.examples import Examples
from genmodels.dequantisation import bits_per_dimension, dequantised
from genmodels.fit import Settings, fit
from genmodels.interface import default_generator
from genmodels.likelihood import flow_draws, probability_flow
from genmodels.noise_conditional import NoiseConditionalDAE
from genmodels.objectives import noise_levels
from genmodels.progress import bar, training_bar
from samplers import annealed_langevin, best_step_size, geometric_noise_levels

FRAMES, DRAWS = 9, 60


@dataclass(frozen=True)
class Config:
    """Everything that decides the result."""

    levels: int
    width: int
    depth: int
    smallest: float
    largest: float
    atoms: tuple[float, ...]
    """Values that the network is told to look out for."""
    epochs: int
    learning_rate: float
    num_test: int
    num_probes: int
    """Random probes of the divergence; 0 for the exact one."""
    batch_size: int = 100
    average: float = 0.999
    num_steps: int = 60
    """Of the solver."""
    noises: int = 40
    """Levels of annealed Langevin, and its steps at each."""
    langevin_steps: int = 5
    seed: int = 0


CONFIGS = {
    "digits": Config(17, 256, 2, 0.02, 10.0, (), epochs=300, learning_rate=2e-3, num_test=300, num_probes=4),
    "mnist": Config(
        256,
        512,
        3,
        0.002,
        10.0,
        (0.5 / 256, 255.5 / 256),
        epochs=4,
        learning_rate=1.5e-3,
        num_test=100,
        num_probes=2,
        noises=120,
    ),
}
TINY: dict[str, Any] = {
    "width": 8,
    "depth": 1,
    "epochs": 2,
    "num_test": 5,
    "num_steps": 4,
    "noises": 12,
    "langevin_steps": 1,
}
SMOKE = {name: replace(config, **TINY) for name, config in CONFIGS.items()}


@dataclass(frozen=True, eq=False)
class Images:
    """Grey levels in [0, 1]."""

    train: Examples
    test: Examples
    shape: tuple[int, int]
    about: str


def digits() -> Images:
    """1,497 training and 300 test digits, by a fixed permutation."""
    levels = torch.as_tensor(load_digits(return_X_y=True)[0], dtype=torch.float32) / 16
    levels = levels[torch.randperm(len(levels), generator=default_generator(0))]
    about = "scikit-learn's grey digits, 17 levels, dequantised; 1,497 for training, 300 for testing"
    return Images(Examples(levels[300:]), Examples(levels[:300]), (8, 8), about)


def mnist(smoke: bool) -> Images:
    """The 50,000 training images; test images in random order, because the file's first ones are the easier half."""
    if smoke:
        return digits()
    data = load("mnist")
    rows = data.test.values[torch.randperm(len(data.test), generator=default_generator(0))]
    assert data.image_shape is not None
    about = "mnist, 256 grey levels, dequantised; 50,000 images for training, random test images"
    return Images(data.train, Examples(rows), data.image_shape, about)


def train(name: str, config: Config, images: Images, out: Path) -> tuple[NoiseConditionalDAE, float]:
    """The model and the seconds of its epochs, taken up from its checkpoint if an earlier attempt was cut short."""
    model = NoiseConditionalDAE(
        images.train.values.shape[1],
        config.width,
        config.depth,
        smallest=config.smallest,
        largest=config.largest,
        atoms=config.atoms,
        levels=config.levels,
        generator=default_generator(config.seed),
    )
    model.initialise_from_data(dequantised(images.train.fixed(), config.levels, default_generator(config.seed)))
    settings = Settings(
        epochs=config.epochs,
        batch_size=config.batch_size,
        optimizer="Adam",
        optimizer_options={"fused": True},
        learning_rate=config.learning_rate,
        average=config.average,
        seed=config.seed,
        checkpoint_every=1 + config.epochs // 50,
    )
    objective = noise_levels(model)
    with training_bar(name) as progress:
        records = fit(model, objective, images.train, settings, out=out, config=model.config(), progress=progress)
    return model.requires_grad_(False), sum(record["seconds"] for record in records)


def measure(model: NoiseConditionalDAE, config: Config, images: Images, result: Result) -> None:
    """The density of dequantised test images, and what it says of their grey levels."""
    generator = default_generator(1000 + config.seed)
    x = dequantised(images.test.fixed()[: config.num_test], config.levels, generator)
    found = probability_flow(
        model.score,
        x,
        model.base,
        smallest=config.smallest,
        largest=config.largest,
        num_steps=config.num_steps,
        num_probes=config.num_probes,
        generator=generator,
        progress=bar,
    )
    result.add("test_log_density", found)
    result.add_number("discretisation", found.diagnostics["discretisation"])
    result.add("test_bits_per_dimension", bits_per_dimension(found, model.size, config.levels))


def film(model: NoiseConditionalDAE, config: Config, num: int = 10) -> tuple[Tensor, list[int]]:
    """What chains of annealed Langevin would denoise to along the falling noise levels."""
    generator = default_generator(config.seed)
    sigmas = geometric_noise_levels(model.largest, model.smallest, config.noises)
    x = model.widest(num, generator)
    frames, done = [], []
    for part in sigmas.split(-(-config.noises // FRAMES)):
        x = annealed_langevin(
            model.score,
            x,
            part,
            step_size=best_step_size(float(sigmas[0] / sigmas[1]), config.langevin_steps),
            num_steps=config.langevin_steps,
            generator=generator,
            denoise=False,
        )
        frames.append(model.reconstruct(x, float(part[-1])).clamp(0, 1))
        done.append((done[-1] if done else 0) + len(part) * config.langevin_steps)
    return torch.stack(frames), done


def draws(model: NoiseConditionalDAE, config: Config) -> Tensor:
    """Independent draws of the flow's model."""
    start = model.widest(DRAWS, default_generator(config.seed))
    ends: dict[str, Any] = {"smallest": config.smallest, "largest": config.largest, "num_steps": config.num_steps}
    return flow_draws(model.score, start, **ends).clamp(0, 1)


def report(name: str, config: Config, images: Images, out: Path, results: Path) -> Path:
    """Train and evaluate one model; write its result file and its pictures."""
    started = time.perf_counter()
    model, seconds = train(name, config, images, out)
    command = f"python -m experiments.score_images --only {name}"
    result = Result(f"score_{name}", command, images.about, (config.seed,), config, {})
    result.add_number("training_seconds", seconds)
    measure(model, config, images, result)
    frames, steps = film(model, config)
    plots.save(plots.film_strip(frames, steps, images.shape), results / f"score_{name}.png")
    grid = plots.sample_grid(draws(model, config), images.shape, columns=12)
    plots.save(grid, results / f"score_{name}_draws.png")
    result.seconds = time.perf_counter() - started
    return result.write(results)


def main(
    smoke: bool = False, only: str | None = None, out: Path = Path("runs/score_images"), results: Path = FOLDER
) -> list[Path]:
    """Train, evaluate, then write a result file and the pictures for each data set.

    Args:
        smoke: run the same code on a tiny problem, in seconds.
        only: this data set alone: digits or mnist.
        out: folder for the runs; one that was cut short is taken up again.
        results: folder for the result files and the pictures.
    """
    configs = SMOKE if smoke else CONFIGS
    return [
        report(name, configs[name], digits() if name == "digits" else mnist(smoke), out / name, results)
        for name in (configs if only is None else [only])
    ]


if __name__ == "__main__":
    print(*tyro.cli(main), sep="\n")
