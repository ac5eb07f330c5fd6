"""Grey 8 × 8 digits by one denoiser at all noise levels: bits per dimension by the probability flow, and annealed Langevin.

The 17 grey levels of scikit-learn's digits, dequantised: x = (level + u) / 17 with u uniform, drawn anew at every read. The flow
gives the model's log-density of x, exact but for the steps of its solver, whose error is stated. Minus its mean over
the test digits, less log 17 a pixel, in bits, bounds the cost of the grey levels themselves from above (Theis, van den
Oord and Bethge, 2016). The flow begins at a normal as wide as the data smoothed by the largest noise.

    python -m experiments.score_digits            # minutes
    python -m experiments.score_digits --smoke    # the same code, in seconds
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import tyro
from sklearn.datasets import load_digits
from torch import Tensor
from torch.distributions import Independent, Normal

from experiments.results import FOLDER, Result
from genmodels import plots
from genmodels.fit import Settings, fit
from genmodels.interface import default_generator
from genmodels.likelihood import probability_flow
from genmodels.noise_conditional import NoiseConditionalDAE
from genmodels.objectives import noise_levels
from genmodels.progress import bar, training_bar
from samplers import annealed_langevin, geometric_noise_levels

LEVELS, SHAPE = 17, (8, 8)


@dataclass(frozen=True)
class Config:
    """Everything that decides the result."""

    hidden: tuple[int, ...] = (256, 256)
    smallest: float = 0.02
    largest: float = 10.0
    epochs: int = 600
    batch_size: int = 100
    learning_rate: float = 2e-3
    average: float = 0.999
    num_test: int = 300
    num_steps: int = 60
    """Of the solver."""
    noises: int = 40
    langevin_steps: int = 10
    step_size: float = 0.15
    seed: int = 0


SMOKE = Config(hidden=(8,), epochs=2, num_test=5, num_steps=4, noises=6, langevin_steps=1)


@dataclass(frozen=True, eq=False)
class Dequantised:
    """Grey levels, a uniform number added to each at every read."""

    levels: Tensor

    def __len__(self) -> int:
        return len(self.levels)

    def batch(self, index: Tensor, generator: torch.Generator) -> Tensor:
        """Rows in [0, 1)."""
        rows = self.levels[index]
        return (rows + torch.rand(rows.shape, generator=generator)) / LEVELS

    def fixed(self, seed: int = 0) -> Tensor:
        """All rows, the same at every call."""
        return self.batch(torch.arange(len(self)), default_generator(seed))


def load() -> tuple[Dequantised, Dequantised]:
    """1,497 training and 300 test digits, by a fixed permutation."""
    levels = torch.as_tensor(load_digits(return_X_y=True)[0], dtype=torch.float32)
    levels = levels[torch.randperm(len(levels), generator=default_generator(0))]
    return Dequantised(levels[300:]), Dequantised(levels[:300])


def film(model: NoiseConditionalDAE, config: Config, num: int = 10) -> tuple[Tensor, list[int]]:
    """What chains of annealed Langevin would denoise to along the falling noise levels."""
    generator = default_generator(config.seed)
    sigmas = geometric_noise_levels(model.largest, model.smallest, config.noises)
    x = model.centre + model.largest * torch.randn(num, model.size, generator=generator)
    frames, done = [], []
    for part in sigmas.split(max(1, config.noises // 8)):
        x = annealed_langevin(
            model.score,
            x,
            part,
            step_size=config.step_size,
            num_steps=config.langevin_steps,
            generator=generator,
            denoise=False,
        )
        frames.append(model.reconstruct(x, float(part[-1])).clamp(0, 1))
        done.append((done[-1] if done else 0) + len(part) * config.langevin_steps)
    return torch.stack(frames), done


def main(smoke: bool = False, out: Path = Path("runs/score_digits"), results: Path = FOLDER) -> Path:
    """Train, evaluate, then write the result file and the picture.

    Args:
        smoke: run the same code on a tiny problem, in seconds.
        out: folder for the run; one that was cut short is taken up again.
        results: folder for the result file and the picture.
    """
    config = SMOKE if smoke else Config()
    started = time.perf_counter()
    train, test = load()
    model = NoiseConditionalDAE(
        64,
        config.hidden,
        smallest=config.smallest,
        largest=config.largest,
        generator=default_generator(config.seed),
    )
    model.initialise_from_data(train.fixed())
    settings = Settings(
        epochs=config.epochs,
        batch_size=config.batch_size,
        optimizer="Adam",
        learning_rate=config.learning_rate,
        average=config.average,
        seed=config.seed,
        checkpoint_every=50,
    )
    with training_bar("digits") as progress:
        records = fit(model, noise_levels(model), train, settings, out=out, config=model.config(), progress=progress)
    model.requires_grad_(False)
    result = Result(
        "score_digits",
        "python -m experiments.score_digits",
        "scikit-learn's grey digits, 17 levels, dequantised; 1,497 for training, 300 for testing",
        (config.seed,),
        config,
        {},
    )
    result.add_number("training_seconds", sum(record["seconds"] for record in records))
    wide = Independent(Normal(model.centre, math.hypot(float(model.spread), config.largest)), 1)
    found = probability_flow(
        model.score,
        test.fixed()[: config.num_test],
        wide.log_prob,
        smallest=config.smallest,
        largest=config.largest,
        num_steps=config.num_steps,
        progress=bar,
    )
    result.add("test_log_density", found)
    result.add_number("discretisation", found.diagnostics["discretisation"])
    bits = (64 * math.log(LEVELS) - found.value) / 64 / math.log(2)
    result.add("test_bits_per_dimension", replace(found, value=bits, bound="upper"))
    frames, steps = film(model, config)
    plots.save(plots.film_strip(frames, steps, SHAPE), results / "score_digits.png")
    result.seconds = time.perf_counter() - started
    return result.write(results)


if __name__ == "__main__":
    print(tyro.cli(main))
