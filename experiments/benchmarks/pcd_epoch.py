"""One training epoch of PCD-1 against scikit-learn's BernoulliRBM, and how its cost grows with the hidden layer.

The work: 20,000 examples of 784 binary pixels, 500 hidden units, batches of 100, through `fit` as users call it. Rounds
are interleaved and the medians compared, so that a noisy machine slows all of them alike. Beside it stand the five matrix
products of an update alone, in float32.

    python -m experiments.benchmarks.pcd_epoch
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro
from matplotlib.figure import Figure
from sklearn.neural_network import BernoulliRBM

from experiments.results import FOLDER, Result
from genmodels import RBM, Bernoulli, plots
from genmodels.data import Examples
from genmodels.fit import Settings, fit
from genmodels.objectives import pcd

VISIBLE = 784


@dataclass(frozen=True)
class Config:
    """The work to time."""

    num_examples: int = 20_000
    batch_size: int = 100
    hidden: int = 500
    epochs: int = 3
    """Epochs a timing, divided out: what a fit does once is no part of an epoch."""
    sizes: tuple[int, ...] = (125, 250, 500, 1000, 2000)
    rounds: int = 7


SMOKE = Config(epochs=1, num_examples=400, sizes=(8, 16), hidden=16, rounds=1)


def ours(data: Examples, hidden: int, config: Config) -> None:
    """Some epochs through the library's own loop, averaging and all."""
    model = RBM(Bernoulli(VISIBLE), Bernoulli(hidden))
    fit(model, pcd(model), data, Settings(epochs=config.epochs, batch_size=config.batch_size, learning_rate=0.01))


def scikit_learn(x: np.ndarray, hidden: int, config: Config) -> None:
    """As many epochs of scikit-learn's PCD-1."""
    BernoulliRBM(hidden, batch_size=config.batch_size, n_iter=config.epochs, learning_rate=0.01, random_state=0).fit(x)


def products(hidden: int, config: Config) -> None:
    """The five products of every update, nothing else: three conditionals and two correlations."""
    x, h, w = torch.ones(config.batch_size, VISIBLE), torch.ones(config.batch_size, hidden), torch.ones(VISIBLE, hidden)
    for _ in range(config.epochs * config.num_examples // config.batch_size):
        _ = x @ w, h @ w.T, x @ w, x.T @ h, x.T @ h


def interleaved(
    works: Mapping[str, Callable[[], object]], rounds: int, epochs: int, *, settle: bool = False
) -> dict[str, list[float]]:
    """Seconds an epoch of each work in each round; the first round warms up and is dropped.

    With `settle` each work runs once, untimed, before it is timed: for short ones, which would find cold caches and the
    threads of the library before still waiting on the cores.
    """
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(rounds + 1):
        for name, work in works.items():
            if settle:
                work()
            started = time.perf_counter()
            work()
            seconds[name].append((time.perf_counter() - started) / epochs)
    return {name: times[1:] for name, times in seconds.items()}


def draw(sizes: tuple[int, ...], curves: dict[str, list[float]]) -> Figure:
    """Seconds an epoch against hidden units, both logarithmic."""
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for name, seconds in curves.items():
        axes.loglog(sizes, seconds, marker="o", label=name)
    axes.set(xlabel="hidden units", ylabel="seconds an epoch", title="PCD-1, 20,000 × 784, batch 100")
    axes.set_xticks(sizes, [str(size) for size in sizes])
    axes.set_xticks([], minor=True)
    axes.legend(frameon=False)
    return figure


def main(smoke: bool = False, results: Path = FOLDER) -> Path:
    """Time everything and write `bench_pcd.json` and its plot.

    Args:
        smoke: the same code on a tiny problem.
        results: folder for the result file and the plot.
    """
    config = SMOKE if smoke else Config()
    started = time.perf_counter()
    x = (np.random.default_rng(0).random((config.num_examples, VISIBLE)) < 0.2).astype(np.uint8)
    data, floats = Examples(torch.from_numpy(x)), x.astype(np.float32)
    result = Result("bench_pcd", "python -m experiments.benchmarks.pcd_epoch", "random bits", [0], config, {})

    works = {
        "genmodels": lambda: ours(data, config.hidden, config),
        "scikit-learn": lambda: scikit_learn(floats, config.hidden, config),
        "products": lambda: products(config.hidden, config),
    }
    seconds = interleaved(works, config.rounds, config.epochs)
    for name, times in seconds.items():
        result.add_number(f"seconds_{name}", statistics.median(times))
    ratios = [a / b for a, b in zip(seconds["genmodels"], seconds["scikit-learn"], strict=True)]
    result.add_number("pcd_over_sklearn", statistics.median(ratios), _error(ratios))

    curves: dict[str, list[float]] = {"genmodels": [], "the five products alone, float32": []}
    for size in config.sizes:
        both = {"a": lambda size=size: ours(data, size, config), "b": lambda size=size: products(size, config)}
        timed = interleaved(both, max(1, config.rounds // 2), config.epochs)
        medians = [statistics.median(times) for times in timed.values()]
        for curve, value in zip(curves.values(), medians, strict=True):
            curve.append(value)
        result.add_number(f"seconds_{size}_hidden", medians[0])
        result.add_number(f"seconds_{size}_hidden_products", medians[1])
        print(
            f"{size:5d} hidden  {medians[0]:.3f} s   products {medians[1]:.3f} s   ratio {medians[0] / medians[1]:.2f}"
        )
    plots.save(draw(config.sizes, curves), results / "bench_pcd.png")
    print(f"over scikit-learn: {statistics.median(ratios):.3f}")
    result.seconds = time.perf_counter() - started
    return result.write(results)


def _error(values: list[float]) -> float | None:
    return statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else None


if __name__ == "__main__":
    print(tyro.cli(main))
