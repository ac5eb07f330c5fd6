"""How many sweeps a chain of a trained RBM needs until it forgets where it started, by four samplers.

1,000 chains of an RBM with 500 hidden units trained on MNIST start from one and the same test digit. Counted are the sweeps
until the classes of what they show are distributed as at equilibrium, within sampling error: until a χ² test of the 1,000
chains against 2,000 states of equilibrium, which SMC draws, no longer rejects at a level of 1 %. The samplers are

- block Gibbs on the RBM itself;
- parallel tempering along inverse temperatures, from independent pixels at their base rates;
- trajectory tempering along snapshots of the training (Béreux, Decelle, Furtlehner and Seoane, 2025), every replica of
  every rung starting from the same digit too;
- exchange with a reservoir of 2,000 equilibrium states of the model one rung below, as training by `ptt` leaves one behind
  (the same authors, 2026): only the RBM itself is simulated.

A sweep of the two ladders moves all their rungs; the cost of each sweep, in Gibbs sweeps of the RBM, stands beside it. In the
end log Z by trajectory tempering stands beside forward and reverse AIS, with the seconds of each.

    python -m experiments.mixing_rbm            # trains its RBM first, if that is not there
    python -m experiments.mixing_rbm --smoke    # the same code on `digits`, in seconds
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from matplotlib.figure import Figure
from scipy.stats import chi2_contingency
from torch import Tensor

from experiments import rbm_mnist
from experiments.classes import Classes
from experiments.results import FOLDER, Published, Result
from genmodels import RBM, plots
from genmodels.chains import start_at
from genmodels.data import load
from genmodels.interface import State, default_generator
from genmodels.likelihood import Estimate, ais_log_z, reverse_ais_log_z, trajectory_log_z
from genmodels.likelihood.annealed import MarginalPath
from genmodels.objectives.ptt import Frozen, move
from genmodels.trajectory import Trajectory
from samplers import Kernel, adapt_ladder, gibbs, parallel_tempering, rung, salakhutdinov_murray_schedule, smc

PUBLISHED = {"speed_up": Published(100.0, "the aim: a hundredth of the plain Gibbs sweeps at equal cost")}


@dataclass(frozen=True)
class Config:
    """Everything that decides the result."""

    rbm: rbm_mnist.Config = field(default_factory=lambda: replace(rbm_mnist.Config(), epochs=100, seeds=(0,)))
    num_chains: int = 1000
    num_reference: int = 2000
    reference_temperatures: int = 2000
    digit: int = 0
    """Row of the test set from which all chains start."""
    snapshots: int = 5
    swap_rate: float = 0.5
    max_sweeps: int = 20_000
    max_ladder_steps: int = 120
    adaptation_rounds: int = 4
    log_z_chains: int = 20
    log_z_steps: int = 60
    level: float = 0.01


SMOKE = Config(
    rbm=replace(rbm_mnist.SMOKE, seeds=(0,), snapshots=20),
    num_chains=50,
    num_reference=100,
    reference_temperatures=20,
    max_sweeps=20,
    max_ladder_steps=4,
    adaptation_rounds=1,
    log_z_chains=4,
    log_z_steps=4,
)


def temperatures(model: RBM, base: Tensor, betas: Tensor, num_chains: int) -> Kernel:
    """Parallel tempering from independent pixels with fields `base` to the model, the hidden layer summed out in swaps."""
    layers, hidden = model.anneal(), model.units[1]

    def log_density(state: State, betas: Tensor) -> Tensor:
        x = state[0]
        field = layers.field(1, state)
        odd = torch.stack([hidden.log_partition(beta[:, None] * field) for beta in betas.T.to(field)], 1)
        linear, rest = ((x @ bias).double()[:, None] for bias in (model.visible_bias, base))
        return betas * linear + (1 - betas) * rest + odd.double()

    zero = torch.zeros_like(model.hidden_bias)
    return parallel_tempering(
        lambda beta: gibbs(model.anneal(beta.to(base), base=(base, zero))), log_density, betas, num_chains
    )


def sweeps_to_equilibrium(
    step: Callable[[], State],
    counts: Callable[[State], np.ndarray],
    reference: np.ndarray,
    limit: int,
    level: float,
) -> tuple[int | None, list[tuple[int, float]], float]:
    """The first sweep at which and at the next check the test does not reject; p-values on the way; seconds a sweep."""
    found: int | None = None
    curve: list[tuple[int, float]] = []
    checks = sorted({round(1.25**i) for i in range(80) if 1.25**i <= limit})
    spent, done = 0.0, 0
    for check in checks:
        started = time.perf_counter()
        state = None
        while done < check:
            state, done = step(), done + 1
        spent += time.perf_counter() - started
        assert state is not None
        table = np.stack([counts(state), reference])
        p_value = float(chi2_contingency(table[:, table.sum(0) > 0])[1])  # pyright: ignore[reportArgumentType]
        curve.append((check, p_value))
        if p_value < level:
            found = None
        elif found is None:
            found = check
        else:
            break
    return found, curve, spent / done


def chain(
    kernel: Kernel, position: Any, show: Callable[[Any], State], generator: torch.Generator
) -> Callable[[], State]:
    """Steps of a kernel, each of which shows the states of the target."""
    state = kernel.init(position)

    def step() -> State:
        nonlocal state
        state, _ = kernel.step(state, generator)
        return show(state)

    return step


def reservoir_chain(
    model: RBM, below: RBM, reservoir: Tensor, start: Tensor, generator: torch.Generator
) -> Callable[[], State]:
    """Sweeps of chains that exchange states with a reservoir at the equilibrium of the model below."""
    frozen = Frozen(model, "float32")
    frozen.load({f"frozen.{name}": parameter for name, parameter in below.named_parameters()})
    state = {
        "chains": start.clone(),
        "chain_energy": below.free_energy(start).double(),
        "reservoir": reservoir.clone(),
        "reservoir_energy": below.free_energy(reservoir).double(),
    }
    layers = model.anneal()

    def step() -> State:
        move(model, layers, frozen, state, generator)
        x = state["chains"]
        return (x, layers.draw(1, (x, x), layers.noise(1, len(x), generator)))

    return step


def equilibrium(config: Config, model: RBM, base: Tensor, generator: torch.Generator) -> tuple[Tensor, float]:
    """Visible states of a model at equilibrium, by SMC from independent pixels, and log Z on the way.

    No chain that is measured here enters, nor does any image of the data.
    """
    path = MarginalPath(model, base)
    betas = salakhutdinov_murray_schedule(config.reference_temperatures)
    particles = smc(path, config.num_reference, betas=betas, generator=generator)
    weights = particles.log_weight.softmax(0)
    rows = torch.multinomial(weights, config.num_reference, replacement=True, generator=generator)
    return particles.state.kept[0][rows], path.log_z0 + float(particles.log_z_ratio)


def model_at(model: RBM, trajectory: Trajectory, point: Tensor) -> RBM:
    """The model at a point of the trajectory."""
    other = RBM(model.visible, model.hidden).requires_grad_(False)
    weights, biases = trajectory.parameters(point[None])
    other.load_state_dict({"weight": weights[0][0], "visible_bias": biases[0][0], "hidden_bias": biases[1][0]})
    return other


def log_z(
    config: Config, model: RBM, trajectory: Trajectory, ladder: Tensor, rows: Tensor, generator: torch.Generator
) -> dict[str, tuple[Estimate, float]]:
    """log Z by trajectory tempering and by AIS in both directions, and the seconds of each."""
    base, rbm = model.visible.bias_from_data(rows), config.rbm
    schedule = salakhutdinov_murray_schedule(rbm.temperatures)
    started = time.perf_counter()
    found = trajectory_log_z(
        trajectory,
        ladder,
        num_chains=config.log_z_chains,
        num_steps=config.log_z_steps,
        burn_in=config.log_z_steps // 2,
        generator=generator,
    )
    first = time.perf_counter()
    forward = ais_log_z(model, base, schedule, num_chains=rbm.ais_chains, generator=generator)
    second = time.perf_counter()
    start = rows[torch.randint(len(rows), (rbm.ais_chains,), generator=generator)]
    reverse = reverse_ais_log_z(model, start, base, schedule, burn_in=rbm.burn_in, generator=generator)
    last = time.perf_counter()
    return {
        "log_z_trajectory": (found.log_z, first - started),
        "log_z_trajectory_lower": (found.lower, first - started),
        "log_z_trajectory_upper": (found.upper, first - started),
        "log_z_ais": (forward, second - first),
        "log_z_ais_reverse": (reverse, last - second),
    }


def draw(curves: dict[str, list[tuple[int, float]]], costs: dict[str, float], level: float) -> Figure:
    """p-values against the cost, in Gibbs sweeps of the model."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for name, curve in curves.items():
        cost = [sweeps * costs[name] for sweeps, _ in curve]
        axes.loglog(cost, [max(p, 1e-30) for _, p in curve], marker=".", label=name)
    axes.axhline(level, color="grey", linewidth=1, linestyle="--")
    axes.set(xlabel="cost, in Gibbs sweeps of all chains", ylabel="p-value of the classes against equilibrium")
    axes.set_title("1,000 chains from one digit forget it")
    axes.legend(frameon=False)
    return figure


@torch.no_grad()
def main(smoke: bool = False, out: Path = Path("runs/mixing_rbm"), results: Path = FOLDER) -> Path:
    """Measure all four samplers and log Z, and write the result file and the plot.

    Args:
        smoke: run the same code on a tiny problem.
        out: folder of the RBM's run; a finished one is taken as it is.
        results: folder for the result file and the plot.
    """
    config = SMOKE if smoke else Config()
    started = time.perf_counter()
    data = load(config.rbm.train_data)
    with torch.enable_grad():
        model, _ = rbm_mnist.train(config.rbm, 0, data, out / "model")
    generator, rows = default_generator(1), data.train.fixed()
    base = model.visible.bias_from_data(rows)
    classes = Classes(data)
    where = f"RBM trained on {config.rbm.train_data}, chains from one digit of {config.rbm.test_data}"
    result = Result("mixing_rbm", "python -m experiments.mixing_rbm", where, [0], config, PUBLISHED)
    result.add_number("classifier_accuracy", classes.accuracy)

    trajectory = Trajectory.of_run(model, out / "model", config.snapshots)
    ladder, _ = adapt_ladder(
        lambda points: trajectory.tempering(points, 8),
        trajectory.evenly(32),
        trajectory.climb(trajectory.evenly(32), 8, num_steps=5, generator=generator),
        generator=generator,
        num_rounds=config.adaptation_rounds,
        swap_rate=config.swap_rate,
    )
    betas, _ = adapt_ladder(
        lambda betas: temperatures(model, base, betas, 8),
        torch.linspace(0, 1, 32, dtype=torch.float64),
        tuple(layer.repeat(4, 1) for layer in start_at(model, rows[:64])),
        generator=generator,
        num_rounds=config.adaptation_rounds,
        swap_rate=config.swap_rate,
    )
    result.add_number("rungs_trajectory", len(ladder))
    result.add_number("rungs_tempering", len(betas))
    print(f"rungs: {len(ladder)} of the trajectory, {len(betas)} temperatures", file=sys.stderr)

    digit = load(config.rbm.test_data).test.fixed()[config.digit]
    n = config.num_chains
    layers = model.anneal()

    def from_digit(num: int) -> State:
        return start_at(model, digit.expand(num, -1).contiguous())

    def counts(state: State) -> np.ndarray:
        x = state[0]
        hidden = layers.draw(1, state, layers.noise(1, len(x), generator))
        return classes.counts(layers.mean(0, (x, hidden)))

    reference, reference_log_z = equilibrium(config, model, base, generator)
    reference_counts = counts(start_at(model, reference))
    result.add_number("log_z_smc", reference_log_z)
    print(f"classes at equilibrium: {reference_counts.tolist()}, log Z {reference_log_z:.2f}", file=sys.stderr)
    below = model_at(model, trajectory, ladder[-2])
    reservoir, _ = equilibrium(config, below, base, generator)

    everywhere = from_digit(n * len(ladder))
    samplers: dict[str, tuple[Callable[[], State], int]] = {
        "reservoir": (
            reservoir_chain(model, below, reservoir, from_digit(n)[0], generator),
            config.max_sweeps,
        ),
        "gibbs": (chain(gibbs(layers), from_digit(n), lambda state: state, generator), config.max_sweeps),
        "trajectory": (
            chain(trajectory.tempering(ladder, n), everywhere, rung, generator),
            config.max_ladder_steps,
        ),
        "tempering": (
            chain(temperatures(model, base, betas, n), from_digit(n * len(betas)), rung, generator),
            config.max_ladder_steps,
        ),
    }
    found: dict[str, int | None] = {}
    curves: dict[str, list[tuple[int, float]]] = {}
    seconds: dict[str, float] = {}
    for name, (step, limit) in samplers.items():
        found[name], curves[name], seconds[name] = sweeps_to_equilibrium(
            step, counts, reference_counts, limit, config.level
        )
        print(f"{name}: {found[name]} sweeps of {seconds[name]:.3f} s  {curves[name]}", file=sys.stderr)
    costs = {name: spent / seconds["gibbs"] for name, spent in seconds.items()}
    for name, sweeps in found.items():
        reached = sweeps is not None
        result.add_number(f"sweeps_{name}", float(sweeps if sweeps is not None else curves[name][-1][0]))
        result.add_number(f"reached_{name}", float(reached))
        result.add_number(f"cost_{name}", costs[name])
    measured = {name: result.metrics[f"sweeps_{name}"]["value"] * costs[name] for name in found}
    for name in ("tempering", "trajectory", "reservoir"):
        # Where the limit came first, the cost is only known to be larger, and there is no ratio to give.
        if found[name] is not None and found["gibbs"] is not None:
            result.add_number(f"speed_up_{name}", measured["gibbs"] / measured[name])
    plots.save(draw(curves, costs, config.level), results / "mixing_rbm.png")

    for name, (estimate, spent) in log_z(config, model, trajectory, ladder, rows, generator).items():
        result.add(name, estimate)
        result.add_number(f"seconds_{name}", spent)
        print(f"{name}: {estimate}  {spent:.1f} s", file=sys.stderr)
    result.seconds = time.perf_counter() - started
    return result.write(results)


if __name__ == "__main__":
    print(tyro.cli(main))
