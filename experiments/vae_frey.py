"""The plane of a two-dimensional code of Frey's face, by a variational auto-encoder with Gaussian pixels.

After Kingma and Welling (2014), "Auto-encoding variational Bayes", figure 4a: 200 hidden units, two latents, 1,965 frames of
one face. Each pixel has a learned variance. Frames are split in video order, so the test frames are a later piece of the
film. Their greys are not dequantised: the densities, in nats a frame on a scale of 0 to 1, compare models on these
numbers and bound nothing else.

    python -m experiments.vae_frey            # minutes
    python -m experiments.vae_frey --smoke    # the same code, in seconds
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import tyro

from experiments.results import FOLDER, Result
from genmodels import VAE, plots
from genmodels.data import load
from genmodels.families.directed import plane
from genmodels.fit import Settings, fit
from genmodels.interface import default_generator
from genmodels.layers import visible_layer
from genmodels.likelihood import elbo, importance_bound
from genmodels.objectives import elbo as elbo_objective
from genmodels.progress import bar, training_bar


@dataclass(frozen=True)
class Config:
    """Everything that decides the result."""

    data: str = "frey"
    latent: int = 2
    hidden: tuple[int, ...] = (200,)
    epochs: int = 400
    batch_size: int = 50
    learning_rate: float = 2e-3
    average: float = 0.999
    warm_up: int = 2000
    bound_draws: int = 5000
    side: int = 16
    seed: int = 0


SMOKE = Config(data="digits", hidden=(8,), epochs=2, warm_up=5, bound_draws=10, side=3)


def main(smoke: bool = False, out: Path = Path("runs/vae_frey"), results: Path = FOLDER) -> Path:
    """Train, evaluate, then write the result file and the picture.

    Args:
        smoke: run the same code on a tiny problem, in seconds.
        out: folder for the run; one that was cut short is taken up again.
        results: folder for the result file and the picture.
    """
    config = SMOKE if smoke else Config()
    started, data = time.perf_counter(), load(config.data)
    observed = visible_layer(data, "gaussian")
    model = VAE(observed, (config.latent,), (config.hidden,), generator=default_generator(config.seed))
    model.initialise_from_data(data.train.fixed())
    settings = Settings(
        epochs=config.epochs,
        batch_size=config.batch_size,
        optimizer="Adam",
        learning_rate=config.learning_rate,
        average=config.average,
        seed=config.seed,
        checkpoint_every=20,
    )
    with training_bar("frey") as progress:
        objective = elbo_objective(model, warm_up=config.warm_up)
        records = fit(model, objective, data.train, settings, out=out, config=model.config(), progress=progress)
    result = Result(
        "vae_frey",
        "python -m experiments.vae_frey",
        f"{config.data}, split in video order; densities of greys in [0, 1]",
        (config.seed,),
        config,
        {},
    )
    result.add_number("training_seconds", sum(record["seconds"] for record in records))
    generator = default_generator(1000 + config.seed)
    for split in ("train", "test"):
        x = data.split(split).fixed()
        result.add(f"{split}_elbo", elbo(model, x, num_samples=50, generator=generator))
    bound = importance_bound(
        model, data.test.fixed(), num_samples=config.bound_draws, generator=generator, progress=bar
    )
    result.add("test_bound", bound)
    faces = plane(model, config.side).clamp(0, 1)
    figure = plots.sample_grid(faces, data.image_shape, title="The plane of the code", columns=config.side)
    plots.save(figure, results / "vae_frey_plane.png")
    result.seconds = time.perf_counter() - started
    return result.write(results)


if __name__ == "__main__":
    print(tyro.cli(main))
