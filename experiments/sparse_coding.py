"""Sparse coding of natural images: a dictionary of Gabor functions, fast exact codes, and faster learned ones.

Reproduced: Olshausen and Field (1996), "Emergence of simple-cell receptive field properties by learning a sparse code for
natural images": oriented, localised, band-pass atoms; here learned online (Mairal et al., 2009) from whitened 12 × 12 patches.
Learned inference: Kavukcuoglu, Ranzato and LeCun (2008) for the encoders of PSD, Gregor and LeCun (2010) for LISTA.

PSD's encoder is measured in small integers (`QuantisedEncoder`), whole and with the largest quarter of its filters, as well as
in float32, beside exact inference to a gap of 1e-6 of the same patches.

LISTA stands beside ISTA and FISTA (Beck and Teboulle, 2009) in two forms: all its weights learned, and steps and momenta
alone (`StepLista`), in ten layers.

An energy is ½|x − D z|² / σ² + |z|₁ / s, reconstruction plus sparsity, in nats without the constants of the densities; an
excess is the mean of it over test patches, less that of the exact optimum for the same dictionary.

    python -m experiments.sparse_coding            # 5,000 test patches for each time
    python -m experiments.sparse_coding --smoke    # the same code on `digits`, in seconds
"""

from __future__ import annotations

import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from jaxtyping import Float
from torch import Tensor

from experiments.gabor import gabor_fit
from experiments.results import FOLDER, Published, Result
from experiments.sparse_encoders import curves, draw_curves, excess_of, learn_amortised, learn_psd, steps_to
from experiments.sparse_timing import dictionary_race, encoder_race, lasso_race
from genmodels import plots
from genmodels.code_encoders import GainTanh, Lista, StepLista
from genmodels.data import DataSet, load
from genmodels.fit import Settings, fit
from genmodels.interface import default_generator
from genmodels.lasso import solve
from genmodels.objectives import dictionary_learning
from genmodels.priors import LaplacePrior
from genmodels.progress import training_bar
from genmodels.quantised import QuantisedEncoder
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
    levels: int = 15
    """Of the integers that the quantised encoder's inputs become, on either side of 0."""
    keep: float = 0.25
    """Share of its filters."""
    layers: tuple[int, ...] = (1, 3, 10)
    lista_epochs: int = 2
    step_epochs: int = 1
    race_rows: int = 5000
    race_passes: int = 1
    race_batch: int = 1000
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
        batch_size=config.race_batch,
        repeats=config.repeats,
        seed=config.seed,
    )
    number("dictionary_over_sklearn", race.race.ratio)
    number("dictionary_seconds", race.race.ours)
    number("dictionary_seconds_sklearn", race.race.theirs)
    number("dictionary_objective", race.reached)
    number("dictionary_objective_sklearn", race.objective)

    adam = {"optimizer": "Adam", "learning_rate": 0.002, "schedule": "linear"}
    joint, amortised = (_settings(config, n, **adam) for n in (config.psd_epochs, config.amortised_epochs))
    machines = {
        name: learn_psd(data, model, encoder, joint, amortised, out / name, asdict(config))
        for name, encoder in (
            ("tanh", GainTanh(data.num_features, config.codes)),
            ("shrink", Lista(data.num_features, config.codes)),
        )
    }
    encoders: dict[str, float] = {}
    for name, pair in machines.items():
        for kind, machine in zip(("joint", "amortised"), pair, strict=True):
            excess = excess_of(machine, test, machine.transform(test))
            encoders[f"{name}, {kind}"] = excess.nats
            number(f"psd_energy_excess_{name}_{kind}", excess.share)
    (_, tanh), (_, shrink) = machines.values()
    whole = QuantisedEncoder(shrink, levels=config.levels)
    quantised = QuantisedEncoder(shrink, levels=config.levels, keep=config.keep)
    transforms = {
        "tanh": tanh.transform,
        "shrink": shrink.transform,
        "whole": whole.transform,
        "quantised": quantised.transform,
    }
    times = encoder_race(shrink, transforms, test, config.repeats, len(test))
    for name in transforms:
        number(f"psd_speedup_{name}", times.over_exact[name])
    number("psd_speedup", times.over_exact["quantised"])
    number("psd_speedup_over_sklearn", times.over_sklearn["quantised"])
    number("psd_microseconds_per_patch", 1e6 * times.seconds["quantised"] / len(test))
    small = encoder_race(shrink, transforms, test, config.repeats, config.batch_size)
    number("psd_speedup_in_small_batches", small.over_exact["quantised"])
    number("psd_energy_excess_whole", excess_of(shrink, test, whole.transform(test)).share)
    number("psd_energy_excess", excess_of(shrink, test, quantised.transform(test)).share)
    kinds = {
        "LISTA": lambda layers: Lista(data.num_features, config.codes, layers=layers, tied=False),
        "learned steps": lambda layers: StepLista(data.num_features, config.codes, layers=layers),
    }
    settings = {
        "LISTA": _settings(config, config.lista_epochs, optimizer="Adam", learning_rate=0.001),
        "learned steps": _settings(config, config.step_epochs, optimizer="Adam", learning_rate=0.03),
    }
    learned = {
        kind: {
            layers: learn_amortised(
                data, model, build(layers), settings[kind], out / f"{kind.replace(' ', '_')}{layers}", asdict(config)
            )
            for layers in config.layers
        }
        for kind, build in kinds.items()
    }
    found = curves(config.steps, model, test[: config.num_curve], learned)
    for name, curve in found.items():
        for steps, excess in curve.items():
            if steps in (*config.steps, *config.layers):
                number(f"excess_{name.lower().replace(' ', '_')}_{steps}", excess)
    for name in kinds:
        worth = steps_to(found["FISTA"], found[name][max(config.layers)])
        number(f"fista_steps_like_{name.lower().replace(' ', '_')}", worth)

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
