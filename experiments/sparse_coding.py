"""Sparse coding of natural images: a dictionary of Gabor functions, fast exact codes, and faster learned ones.

Reproduced: Olshausen and Field (1996), "Emergence of simple-cell receptive field properties by learning a sparse code for
natural images": oriented, localised, band-pass atoms; here learned online (Mairal et al., 2009) from whitened 12 × 12 patches.
Learned inference: Kavukcuoglu, Ranzato and LeCun (2008) for the encoders of PSD, Gregor and LeCun (2010) for LISTA.

An energy is ½|x − D z|² / σ² + |z|₁ / s, reconstruction plus sparsity, in nats without the constants of the densities; an
excess is the mean of it over test patches, less that of the exact optimum for the same dictionary.

    python -m experiments.sparse_coding            # 5,000 test patches for each time
    python -m experiments.sparse_coding --smoke    # the same code on `digits`, in seconds
"""

from __future__ import annotations

import statistics
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from jaxtyping import Float
from matplotlib.figure import Figure
from torch import Tensor

from experiments.gabor import gabor_fit
from experiments.results import FOLDER, Published, Result
from experiments.sparse_timing import dictionary_race, lasso_race, seconds
from genmodels import plots
from genmodels.code_encoders import CodeEncoder, GainTanh, Lista
from genmodels.data import DataSet, load
from genmodels.fit import Settings, fit
from genmodels.interface import default_generator
from genmodels.lasso import fista, ista, solve
from genmodels.objectives import amortised_map, dictionary_learning, psd
from genmodels.priors import LaplacePrior
from genmodels.progress import training_bar
from genmodels.psd import PSD
from genmodels.sparse_coding import SparseCoding
from genmodels.sparse_plots import code_histogram
from genmodels.units import Gaussian

PUBLISHED: dict[str, Published] = {}


@dataclass(frozen=True)
class Config:
    """Everything that decides the result."""

    data: str = "natural-patches"
    codes: int = 256
    penalty: float = 1.2
    """λ = σ² / s; with this scale s, σ² + 2 s² k / d is about 1, the variance of a whitened pixel."""
    scale: float = 0.375
    epochs: int = 6
    batch_size: int = 500
    good_fit: float = 0.8
    """Share of an atom's energy that a Gabor function must explain."""
    num_test: int = 5000
    num_curve: int = 1000
    steps: tuple[int, ...] = (1, 2, 3, 5, 10, 20, 30, 50, 100)
    psd_epochs: int = 1
    amortised_epochs: int = 4
    layers: tuple[int, ...] = (1, 3, 10)
    lista_epochs: int = 2
    race_rows: int = 5000
    race_passes: int = 1
    repeats: int = 3
    seed: int = 0


SMOKE = Config(
    data="digits",
    codes=11,
    epochs=2,
    num_test=40,
    num_curve=20,
    steps=(1, 3, 10),
    psd_epochs=1,
    amortised_epochs=1,
    layers=(1, 2),
    lista_epochs=1,
    race_rows=100,
    repeats=1,
)


def learn_dictionary(config: Config, data: DataSet, out: Path) -> SparseCoding:
    """Sparse coding with a Laplace prior, its dictionary learned online."""
    observed = Gaussian(data.num_features, variance=config.penalty * config.scale)
    prior = LaplacePrior(config.codes, scale=config.scale)
    model = SparseCoding(observed, prior, learn_noise=False, generator=default_generator(config.seed))
    model.initialise_from_data(data.train.fixed()[: 20 * config.codes])
    settings = _settings(config, config.epochs, optimizer="SGD", learning_rate=1.0, schedule="constant")
    with training_bar("dictionary") as progress:
        fit(model, dictionary_learning(model), data.train, settings, out=out, config=asdict(config), progress=progress)
    return model.requires_grad_(False)


def learn_psd(config: Config, data: DataSet, start: SparseCoding, encoder: CodeEncoder, out: Path) -> tuple[PSD, PSD]:
    """PSD from the learned dictionary on, all learned together; and its encoder after learning on its own energy."""
    found = []
    for name, objective, epochs in (
        ("psd", psd, config.psd_epochs),
        ("amortised", amortised_map, config.amortised_epochs),
    ):
        generative = SparseCoding.from_config(start.config())
        generative.load_state_dict(start.state_dict())
        model = PSD(generative, encoder, closeness=1.0)
        if not found:
            encoder.start_from(generative.dictionary, generative.noise_variance, generative.factors.scale)
        else:
            model.load_state_dict(found[0].state_dict())
            generative.requires_grad_(False)
        settings = _settings(config, epochs, optimizer="Adam", learning_rate=0.002, schedule="linear")
        with training_bar(f"{out.name}, {name}") as progress:
            fit(model, objective(model), data.train, settings, out=out / name, config=asdict(config), progress=progress)
        found.append(PSD.from_config(model.config()))
        found[-1].load_state_dict(model.state_dict())
    return found[0].requires_grad_(False), found[1].requires_grad_(False)


def learn_lista(config: Config, data: DataSet, generative: SparseCoding, layers: int, out: Path) -> PSD:
    """LISTA with untied layers for a dictionary that stays, from the weights of ISTA."""
    encoder = Lista(data.num_features, config.codes, layers=layers, tied=False)
    encoder.start_from(generative.dictionary, generative.noise_variance, generative.factors.scale)
    model = PSD(generative, encoder)
    settings = _settings(config, config.lista_epochs, optimizer="Adam", learning_rate=0.001, schedule="linear")
    with training_bar(f"LISTA, {layers} layers") as progress:
        fit(model, amortised_map(model), data.train, settings, out=out, config=asdict(config), progress=progress)
    return model.requires_grad_(False)


def excess_of(model: PSD, x: Float[Tensor, "n d"]) -> tuple[float, float]:
    """Mean energy of the encoder's codes over the mean optimum, less 1, and the mean excess in nats."""
    problem, code = model.generative.lasso(x), model.predict(x).double()
    energy, _ = problem.measure(code, code @ problem.gram - problem.correlation)
    optimum = solve(problem).objective.mean()
    excess = float(energy.mean() - optimum)
    return excess / float(optimum), excess


def speedup_of(model: PSD, x: Float[Tensor, "n d"], repeats: int) -> float:
    """Median ratio of the times of exact inference (to a gap of 1e-6) and of the encoder, on the same examples."""
    ratios = []
    for _ in range(repeats):
        slow, _ = seconds(lambda: solve(model.generative.lasso(x)))
        fast = statistics.median(seconds(lambda: model.predict(x))[0] for _ in range(11))
        ratios.append(slow / fast)
    return statistics.median(ratios)


def curves(config: Config, model: SparseCoding, x: Tensor, learned: dict[int, PSD]) -> dict[str, dict[int, float]]:
    """Mean excess energy, nats, of ISTA and FISTA after some steps and of LISTA by its layers."""
    problem = model.lasso(x)
    optimum = solve(problem, tolerance=1e-8).objective.mean()
    found: dict[str, dict[int, float]] = {}
    for name, solver in (("ISTA", ista), ("FISTA", fista)):
        ends = {n: solver(problem, max_steps=n, tolerance=0.0).objective.mean() for n in config.steps}
        found[name] = {n: float(end - optimum) for n, end in ends.items()}
    found["LISTA"] = {layers: excess_of(encoder, x)[1] for layers, encoder in learned.items()}
    return found


def draw_curves(found: dict[str, dict[int, float]], encoders: dict[str, float]) -> Figure:
    """Excess energy against steps or layers; one-layer encoders as points."""
    figure = Figure(figsize=(5.6, 3.8), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    for name, curve in found.items():
        axes.plot(list(curve), list(curve.values()), "o-", ms=3.5, lw=1.2, label=name)
    for marker, (name, excess) in zip("s^Dv", encoders.items(), strict=False):
        axes.plot(1, excess, marker, ms=6, mfc="none", label=name)
    axes.set(xscale="log", yscale="log", xlabel="steps or layers", ylabel="mean energy above the optimum, nats")
    axes.legend(fontsize=8, edgecolor="none")
    axes.grid(alpha=0.25)
    return figure


def gabor_shares(dictionary: Float[Tensor, "d k"], shape: tuple[int, int]) -> np.ndarray:
    """How much of every atom the best Gabor function explains."""
    return np.array([gabor_fit(atom.reshape(shape))[1] for atom in dictionary.T.double().numpy()])


def _settings(config: Config, epochs: int, **options: Any) -> Settings:
    return Settings(epochs=epochs, batch_size=config.batch_size, average=0.0, seed=config.seed, device="cpu", **options)


def main(smoke: bool = False, out: Path = Path("runs/sparse_coding"), results: Path = FOLDER) -> Path:
    """Learn, measure, and write the result file and the pictures.

    Args:
        smoke: run the same code on a tiny problem, in seconds.
        out: folder for the runs; those that are there are taken up.
        results: folder for the result file and the pictures.
    """
    config = SMOKE if smoke else Config()
    data = load(config.data)
    assert data.image_shape is not None
    test = data.test.fixed()[: config.num_test]
    result = Result(
        "sparse_coding",
        "python -m experiments.sparse_coding",
        f"trained and tested on {config.data}",
        [config.seed],
        config,
        PUBLISHED,
    )
    started = time.perf_counter()
    model = learn_dictionary(config, data, out / "dictionary")

    def number(name: str, value: float) -> None:
        result.add_number(name, value)
        print(f"{name}: {value:.4g}", file=sys.stderr)

    lasso = lasso_race(test, model.dictionary, config.penalty, config.repeats)
    number("lasso_over_sklearn", lasso.race.ratio)
    number("lasso_seconds", lasso.race.ours)
    number("lasso_seconds_sklearn", lasso.race.theirs)
    number("lasso_largest_gap", lasso.largest_gap)
    number("lasso_sklearn_largest_excess", lasso.largest_excess)
    race = dictionary_race(
        data.train.fixed()[: config.race_rows],
        data.valid.fixed()[: config.num_curve],
        config.codes,
        config.penalty,
        passes=config.race_passes,
        batch_size=config.batch_size,
        repeats=config.repeats,
        seed=config.seed,
    )
    number("dictionary_over_sklearn", race.race.ratio)
    number("dictionary_seconds", race.race.ours)
    number("dictionary_seconds_sklearn", race.race.theirs)
    number("dictionary_objective", race.reached)
    number("dictionary_objective_sklearn", race.objective)

    encoders: dict[str, float] = {}
    for name, encoder in (
        ("tanh", GainTanh(data.num_features, config.codes)),
        ("shrink", Lista(data.num_features, config.codes)),
    ):
        joint, amortised = learn_psd(config, data, model, encoder, out / name)
        number(f"psd_speedup_{name}", speedup_of(amortised, test, config.repeats))
        for kind, machine in (("joint", joint), ("amortised", amortised)):
            relative, encoders[f"{name}, {kind}"] = excess_of(machine, test)
            number(f"psd_energy_excess_{name}_{kind}", relative)
    number("psd_speedup", result.metrics["psd_speedup_shrink"]["value"])
    number("psd_energy_excess", result.metrics["psd_energy_excess_shrink_amortised"]["value"])
    learned = {layers: learn_lista(config, data, model, layers, out / f"lista{layers}") for layers in config.layers}
    found = curves(config, model, test[: config.num_curve], learned)
    for name, curve in found.items():
        for steps, excess in curve.items():
            number(f"excess_{name.lower()}_{steps}", excess)

    shares = gabor_shares(model.dictionary, data.image_shape)
    number("gabor_share", float((shares > config.good_fit).mean()))
    number("gabor_median_explained", float(np.median(shares)))
    code = solve(model.lasso(test)).code
    number("active_codes", float((code != 0).double().sum(1).mean()))
    pictures = {
        "dictionary": plots.filter_grid(model.dictionary, data.image_shape, num=config.codes),
        "codes": code_histogram(code, model.factors),
        "energies": draw_curves(found, encoders),
    }
    for name, figure in pictures.items():
        plots.save(figure, results / f"sparse_coding_{name}.png")
    result.seconds = time.perf_counter() - started
    return result.write(results)


if __name__ == "__main__":
    print(tyro.cli(main))
