"""How likely are patches of photographs under linear models with Gaussian, Laplace, Student-t and spike-and-slab codes?

The question is that of Olshausen and Field (1996) and of Lewicki and Olshausen (1999): does a sparse prior describe
natural images better than a Gaussian one with as many codes? All models learn dictionary, noise and the scales of their
priors by maximum likelihood from the same patches: the Gaussian one in closed form (Tipping and Bishop, 1999), Laplace and
Student-t by sampling their posterior, spike and slab by variational EM. Each is then measured by annealed importance
sampling over its codes, in expectation a lower bound; rows that are simulated from the model and annealed both ways tell by
how much it may be low. The pixels are the middle of whitened 12 × 12 patches, which have a density where whole ones,
without their mean, have none.

    python -m experiments.sparse_likelihood            # 8 × 8 pixels, 128 codes
    python -m experiments.sparse_likelihood --smoke    # the same code, in seconds
"""

from __future__ import annotations

import math
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import tyro
from jaxtyping import Float
from matplotlib.figure import Figure
from torch import Tensor, nn

from experiments.results import FOLDER, Published, Result
from genmodels import plots
from genmodels.data import load
from genmodels.data.examples import Examples
from genmodels.fit import Settings, fit
from genmodels.interface import default_generator
from genmodels.likelihood import Annealing, Estimate, latent_bdmc, spike_slab_bdmc
from genmodels.likelihood.latent_ais import Sandwich, latent_log_weights, lower_bound
from genmodels.likelihood.spike_slab_ais import spike_slab_log_weights
from genmodels.objectives import Objective, dictionary_learning, posterior_sampling, variational_em
from genmodels.priors import GaussianPrior, LaplacePrior, Prior, StudentTPrior
from genmodels.progress import training_bar
from genmodels.s3c import S3C
from genmodels.settings import Schedule
from genmodels.sparse_coding import SparseCoding
from genmodels.units import Gaussian

PUBLISHED: dict[str, Published] = {}
_STEPS: tuple[str, float, Schedule] = ("SGD", 1.0, "constant")  # of objectives that find the next parameters themselves
MODELS = ("gaussian", "laplace", "student", "s3c")


@dataclass(frozen=True)
class Config:
    """Everything that decides the result."""

    data: str = "natural-patches"
    side: int = 8
    """Of the middle that is cut out of every patch."""
    codes: int = 128
    penalty: float = 0.45
    scale: float = 0.375
    num_train: int = 30_000
    dictionary_epochs: int = 1
    batch_size: int = 250
    epochs: int = 4
    learning_rate: float = 0.005
    em_batch_size: int = 1000
    em_epochs: int = 3
    num_test: int = 100
    num_chains: int = 8
    num_temperatures: int = 200
    num_leapfrog: int = 5
    num_simulated: int = 30
    seed: int = 0


SMOKE = Config(
    data="digits",
    side=3,
    codes=11,
    num_train=300,
    epochs=1,
    batch_size=100,
    em_batch_size=100,
    em_epochs=1,
    num_test=5,
    num_chains=3,
    num_temperatures=4,
    num_simulated=3,
)


def say(text: str) -> None:
    """Report on the way."""
    print(text, file=sys.stderr, flush=True)


class Table:
    """Models trained on the same patches, and what each says of the same test patches."""

    def __init__(self, config: Config, out: Path):
        self.config, self.out = config, out
        data = load(config.data)
        assert data.image_shape is not None
        self.train = middle(data.train.fixed()[: config.num_train], data.image_shape[0], config.side)
        self.test = middle(data.test.fixed()[: config.num_test], data.image_shape[0], config.side)

    def model(self, name: str) -> Any:
        """The model at its maximum likelihood."""
        if name == "gaussian":
            return principal_components(self.train, self.config.codes)
        config, start = self.config, self._dictionary()
        if name == "s3c":
            model = S3C(Gaussian(self.train.shape[1], variance=config.penalty), config.codes)
            objective = variational_em(model)
            settings = self._settings(config.em_epochs, config.em_batch_size, *_STEPS)
        else:
            model = self._linear(LaplacePrior if name == "laplace" else StudentTPrior)
            objective = posterior_sampling(model)
            settings = self._settings(config.epochs, config.batch_size, "Adam", config.learning_rate, "linear")
        with torch.no_grad():
            model.dictionary.copy_(start.dictionary)
            model.visible_bias.copy_(start.visible_bias)
        self._fit(name, model, objective, settings)
        return model.requires_grad_(False)

    def _linear(self, prior: type[Prior], *, learn_noise: bool = True) -> SparseCoding:
        config = self.config
        observed = Gaussian(self.train.shape[1], variance=config.penalty)
        factors = prior(config.codes, scale=config.scale)
        return SparseCoding(observed, factors, learn_noise=learn_noise, generator=default_generator(config.seed))

    def _dictionary(self) -> SparseCoding:
        """Where all sparse models start: atoms of the most probable Laplace codes, learned online."""
        model = self._linear(LaplacePrior, learn_noise=False)
        model.initialise_from_data(self.train[: 20 * self.config.codes])
        settings = self._settings(self.config.dictionary_epochs, 500, *_STEPS)
        self._fit("dictionary", model, dictionary_learning(model), settings)
        return model.requires_grad_(False)

    def _settings(self, epochs: int, batch_size: int, optimizer: str, rate: float, schedule: Schedule) -> Settings:
        return Settings(
            epochs=epochs,
            batch_size=batch_size,
            optimizer=optimizer,
            learning_rate=rate,
            schedule=schedule,
            average=0.0,
            seed=self.config.seed,
            device="cpu",
        )

    def _fit(self, name: str, model: nn.Module, objective: Objective, settings: Settings) -> None:
        data, described = Examples(self.train), asdict(self.config)
        with training_bar(name) as progress:
            fit(model, objective, data, settings, out=self.out / name, config=described, progress=progress)

    def measure(self, model: Any) -> tuple[Float[Tensor, "c n"], Sandwich]:
        """Log-weights of the test rows, and the bracket of rows simulated from the model."""
        config, generator = self.config, default_generator(self.config.seed)
        common: dict[str, Any] = {"num_chains": config.num_chains, "generator": generator}
        if isinstance(model, S3C):
            common["num_temperatures"] = config.num_temperatures
            weights = spike_slab_log_weights(model, self.test, **common)
            return weights, spike_slab_bdmc(model, num_rows=config.num_simulated, **common)
        annealing = Annealing.tune(
            model,
            self.test,
            model.encode,
            num_temperatures=config.num_temperatures,
            num_leapfrog=config.num_leapfrog,
            generator=generator,
        )
        weights = latent_log_weights(model, self.test, model.encode, annealing, **common)
        return weights, latent_bdmc(model, model.encode, annealing, num_rows=config.num_simulated, **common)


def middle(x: Float[Tensor, "n d"], side: int, inner: int) -> Float[Tensor, "n e"]:
    """The square of `inner` × `inner` pixels in the middle of every patch."""
    first = (side - inner) // 2
    within = slice(first, first + inner)
    return x.view(-1, side, side)[:, within, within].flatten(1)


@torch.no_grad()
def principal_components(x: Float[Tensor, "n d"], codes: int) -> SparseCoding:
    """The Gaussian linear model of maximum likelihood (Tipping and Bishop, 1999), its unused codes silent."""
    centred = (x - x.mean(0)).double()
    values, vectors = torch.linalg.eigh(centred.T @ centred / len(x))
    values, vectors = values.flip(0), vectors.flip(1)
    used = min(codes, x.shape[1] - 1)
    noise = values[used:].mean()
    model = SparseCoding(Gaussian(x.shape[1], variance=float(noise)), GaussianPrior(codes))
    model.dictionary.zero_()
    model.dictionary[:, :used] = (vectors[:, :used] * (values[:used] - noise).clamp_min(0).sqrt()).float()
    model.visible_bias.copy_(x.mean(0))
    return model.requires_grad_(False)


def row_values(weights: Float[Tensor, "c n"]) -> Float[Tensor, " n"]:
    """log p of every row."""
    return torch.logsumexp(weights, 0) - math.log(len(weights))


def draw_table(found: dict[str, Estimate], gaps: dict[str, float]) -> Figure:
    """The likelihoods side by side, with their standard errors, and as a line above each by how much it may be low."""
    figure = Figure(figsize=(4.6, 3.2), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    values = [estimate.value for estimate in found.values()]
    axes.errorbar(range(len(found)), values, [e.std_error for e in found.values()], fmt="o", ms=5, capsize=3)
    for place, (value, gap) in enumerate(zip(values, gaps.values(), strict=True)):
        axes.plot([place, place], [value, value + max(gap, 0.0)], color="#999999", lw=1)
    axes.set_xticks(range(len(found)), list(found))
    axes.set_ylabel("log-likelihood of test patches, nats")
    axes.set_xlim(-0.5, len(found) - 0.5)
    axes.grid(axis="y", alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def main(smoke: bool = False, out: Path = Path("runs/sparse_likelihood"), results: Path = FOLDER) -> Path:
    """Train all models, measure them on the same rows, and write the result file and the pictures.

    Args:
        smoke: run the same code on a tiny problem, in seconds.
        out: folder for the runs; those that are there are taken up.
        results: folder for the result file and the pictures.
    """
    config = SMOKE if smoke else Config()
    started = time.perf_counter()
    table = Table(config, out)
    result = Result(
        "sparse_likelihood",
        "python -m experiments.sparse_likelihood",
        f"the middle {config.side} × {config.side} pixels of {config.data}, {config.num_test} test patches",
        [config.seed],
        config,
        PUBLISHED,
    )
    found: dict[str, Estimate] = {}
    gaps: dict[str, float] = {}
    rows: dict[str, Tensor] = {}
    for name in MODELS:
        model = table.model(name)
        weights, sandwich = table.measure(model)
        found[name], rows[name] = lower_bound(weights, config.num_temperatures), row_values(weights)
        gaps[name] = sandwich.gap.value
        result.add(f"log_likelihood_{name}", found[name])
        result.add(f"simulated_gap_{name}", sandwich.gap)
        say(f"{name}: {found[name]}; gap on simulated rows {sandwich.gap.value:.3f} ± {sandwich.gap.std_error:.3f}")
        if name == "gaussian":
            exact = float(model.log_evidence(table.test).double().mean())
            result.add("log_likelihood_gaussian_exact", Estimate(exact, 0.0, "exact", "closed form", 0))
            say(f"gaussian, closed form: {exact:.3f}")
        else:
            ahead = rows[name] - rows["gaussian"]
            error = float(ahead.std() / len(ahead) ** 0.5)
            result.add_number(f"{name}_over_gaussian", float(ahead.mean()), error)
            say(f"{name} over gaussian: {float(ahead.mean()):.3f} ± {error:.3f} between rows")
            picture = plots.filter_grid(model.dictionary, (config.side, config.side), num=config.codes)
            plots.save(picture, results / f"sparse_likelihood_{name}.png")
        noise = float(model.noise_variance.mean())
        result.add_number(f"noise_variance_{name}", noise)
    plots.save(draw_table(found, gaps), results / "sparse_likelihood.png")
    result.seconds = time.perf_counter() - started
    return result.write(results)


if __name__ == "__main__":
    print(tyro.cli(main))
