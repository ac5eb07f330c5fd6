"""Replica exchange over two modes that a single chain never leaves: traces, the ladder, and its round trips against theory.

Reproduced: Syed, Bouchard-Côté, Deligiannidis and Doucet (2022, "Non-reversible parallel tempering"), section 3: with
deterministic even-odd swaps of rejection rates r_i, and replicas that forget their energy between swaps, a chain makes a round
trip every 2 (1 + Σ_i r_i / (1 − r_i)) steps.

The target has 30 % of its mass in one of two Gaussian modes, 16 standard deviations apart in five dimensions. Metropolis-
adjusted Langevin chains that start in the lighter mode stay there, and R-hat does not see it; with a ladder to one wide
Gaussian, adapted to equal swap rates, they visit both as often as they should.

    python -m experiments.tempering_ladder
    python -m experiments.tempering_ladder --smoke    # the same code in seconds
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro
from matplotlib.figure import Figure
from torch import Tensor

from experiments.results import FOLDER, Result
from genmodels import plots
from samplers import Kernel, Trace, diagnose, mala, run
from samplers.diagnostics import trace_and_rank_plot
from samplers.tempering import adapt_ladder, geometric, parallel_tempering, rung, swap_rates

LIGHT, DISTANCE, WIDE = 0.3, 8.0, 8.0
"""Share of the mode at −distance (in its first coordinate), half the distance, and the width of the hottest Gaussian."""


@dataclass(frozen=True)
class Config:
    """Everything that decides the result."""

    dim: int = 5
    num_rungs: int = 10
    num_chains: int = 100
    num_steps: int = 4000
    adaptation_rounds: int = 7
    shown_chains: int = 4
    shown_steps: int = 250
    shown_replicas: int = 3
    seed: int = 0


SMOKE = Config(num_rungs=4, num_chains=5, num_steps=40, adaptation_rounds=2, shown_steps=20)


def energy(x: Tensor) -> Tensor:
    """−log of the mixture's density, up to a constant."""
    rest = 0.5 * x[:, 1:].square().sum(-1)
    light, heavy = (0.5 * (x[:, 0] - mode).square() for mode in (-DISTANCE, DISTANCE))
    return rest - torch.logaddexp(math.log(LIGHT) - light, math.log(1 - LIGHT) - heavy)


def wide_energy(x: Tensor) -> Tensor:
    """−log of the hottest density, up to a constant."""
    return 0.5 * (x / WIDE).square().sum(-1)


def make_kernel(beta: Tensor) -> Kernel:
    """MALA at each row's inverse temperature, with steps that grow where it is hot."""
    between = beta[:, 0]
    return mala(lambda x: between * energy(x) + (1 - between) * wide_energy(x), 1 / (beta + (1 - beta) / WIDE**2))


def tempered(betas: Tensor, config: Config) -> Kernel:
    """The ladder's kernel."""
    return parallel_tempering(make_kernel, geometric(energy, wide_energy), betas, config.num_chains)


def light_share(draws: Tensor) -> tuple[float, float]:
    """The share of draws in the lighter mode, and its standard error from the chains' own shares."""
    shares = (draws[..., 0] < 0).double().mean(0)
    return float(shares.mean()), float(shares.std() / len(shares) ** 0.5)


def draw_ladder(betas: Tensor, replicas: Tensor, config: Config) -> Figure:
    """Which rung some replicas of one chain are on, step by step. `replicas`: (steps, rungs), who is on each rung."""
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    axes = figure.subplots()
    chosen = torch.linspace(0, len(betas) - 1, config.shown_replicas).round().int().tolist()
    rungs = replicas[: config.shown_steps].argsort(1)
    axes.plot(rungs, color="#cccccc", linewidth=0.5)
    for replica in chosen:
        axes.plot(rungs[:, replica], linewidth=1.6, label=f"replica {replica}")
    axes.set(xlabel="step", ylabel="rung", title="Replicas on their way between the hottest rung, 0, and the target")
    axes.set_yticks(range(len(betas)), [f"{i}: β = {beta:.3f}" for i, beta in enumerate(betas.tolist())], fontsize=7)
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    return figure


def main(smoke: bool = False, results: Path = FOLDER) -> Path:
    """Run both samplers, write the result file and the pictures.

    Args:
        smoke: run the same code on few chains and steps.
        results: folder for the result file and the pictures.
    """
    config = SMOKE if smoke else Config()
    result = Result(
        "tempering_ladder", "python -m experiments.tempering_ladder", "two modes", [config.seed], config, {}
    )
    started, generator = time.perf_counter(), torch.Generator().manual_seed(config.seed)
    first = torch.zeros(config.num_chains, config.dim)
    first[:, 0] = -DISTANCE

    alone = Trace(lambda state: state.position)
    run(mala(energy, 1.0), first, config.num_steps, generator=generator, observe=alone)

    betas, position = adapt_ladder(
        lambda betas: tempered(betas, config),
        torch.linspace(0, 1, config.num_rungs),
        first.repeat(config.num_rungs, 1),
        generator=generator,
        num_rounds=config.adaptation_rounds,
    )
    cold, index = Trace(lambda state: rung(state).position), Trace(lambda state: state.replica[:, 0])
    last = run(tempered(betas, config), position, config.num_steps, generator=generator, observe=(cold, index))

    for name, trace in (("alone", alone), ("tempered", cold)):
        draws = trace.stacked()
        result.add_number(f"light_share_{name}", *light_share(draws))
        worst = diagnose(draws[:, :, :1]).worst()
        result.add_number(f"rhat_{name}", float(worst.rhat))
        result.add_number(f"ess_per_1000_steps_{name}", 1000 * float(worst.ess_bulk) / draws[..., 0].numel())
    result.add_number("light_share_exact", LIGHT)
    rejected = 1 - swap_rates(last)
    trips = last.round_trips.double() / config.num_steps
    result.add_number("round_trips_per_step", float(trips.mean()), float(trips.std() / len(trips) ** 0.5))
    result.add_number("round_trips_per_step_theory", float(1 / (2 * (1 + (rejected / (1 - rejected)).sum()))))
    result.add_number("swap_rate_lowest", float(1 - rejected.max()))
    result.add_number("swap_rate_highest", float(1 - rejected.min()))
    shown = cold.stacked()[:, : config.shown_chains, :1]
    plots.save(trace_and_rank_plot(shown), results / "tempering_ladder_trace.png")
    plots.save(draw_ladder(betas, index.stacked(), config), results / "tempering_ladder.png")
    for name, metric in result.metrics.items():
        print(f"{name:32s} {metric['value']:.4f} ± {metric['std_error'] or 0:.4f}")
    result.seconds = time.perf_counter() - started
    return result.write(results)


if __name__ == "__main__":
    print(tyro.cli(main))
