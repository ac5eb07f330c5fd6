"""Block Gibbs, AIS and PCD on a CPU against scikit-learn, rbms and thrml, and against the bare float32 products.

The machine is an RBM with 784 visible and 500 hidden Bernoulli units, weights drawn at random. Rounds are interleaved and
ratios taken within a round, then their median, so that a noisy machine slows all of them alike. A round of sweeps has
several in a row, as chains do, after as many that are not timed. rbms and thrml are timed
where they are installed (`pip install rbms thrml`).

    python -m experiments.benchmarks.speed
"""

# The peers are timed where they are installed.
# pyright: reportMissingImports=false

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from matplotlib.figure import Figure
from sklearn.neural_network import BernoulliRBM
from torch import Tensor

from experiments.benchmarks import pcd_epoch
from experiments.benchmarks.pcd_epoch import interleaved
from experiments.results import FOLDER, Result
from genmodels import RBM, Bernoulli, plots
from genmodels.checkpoint import write_atomically
from genmodels.data import Examples
from genmodels.likelihood import ais_log_z
from samplers import gibbs, run, salakhutdinov_murray_schedule

Work = Callable[[], object]
Timings = dict[str, list[float]]


@dataclass(frozen=True)
class Config:
    """The work to time."""

    visible: int = 784
    hidden: int = 500
    num_chains: int = 1024
    num_sweeps: int = 10
    """Sweeps a round."""
    rounds: int = 15
    chain_counts: tuple[int, ...] = (1, 4, 16, 64, 256, 1024, 4096, 16_384, 65_536)
    hidden_sizes: tuple[int, ...] = (125, 250, 500, 1000, 2000, 4000)
    thrml_chains: int = 16
    ais_chains: int = 100
    ais_temperatures: int = 14_500
    ais_timed: int = 500
    """Temperatures of a timed round: every temperature costs the same."""
    ais_rounds: int = 5
    pcd: pcd_epoch.Config = field(default_factory=pcd_epoch.Config)


SMOKE = Config(
    visible=20,
    hidden=13,
    num_chains=16,
    num_sweeps=2,
    rounds=1,
    chain_counts=(1, 8),
    hidden_sizes=(5, 7),
    thrml_chains=2,
    ais_chains=5,
    ais_temperatures=30,
    ais_timed=10,
    ais_rounds=1,
    pcd=pcd_epoch.SMOKE,
)


@torch.no_grad()
def random_model(visible: int, hidden: int) -> RBM:
    """Weights of standard deviation 0.05 and biases about −1: states as sparse as those of models of images."""
    generator = torch.Generator().manual_seed(0)
    model = RBM(Bernoulli(visible), Bernoulli(hidden))
    model.weight.normal_(0, 0.05, generator=generator)
    model.visible_bias.normal_(-1, 1, generator=generator)
    model.hidden_bias.normal_(-1, 1, generator=generator)
    return model


def repeated(works: dict[str, Work], num: int) -> dict[str, Work]:
    """Each work so many times."""

    def several(work: Work) -> Work:
        return lambda: [work() for _ in range(num)]

    return {name: several(work) for name, work in works.items()}


def states(model: RBM, num: int) -> tuple[Tensor, Tensor]:
    """States to start from and to multiply."""
    generator = torch.Generator().manual_seed(1)
    return tuple((torch.rand(num, unit.size, generator=generator) < 0.25).float() for unit in model.units)  # pyright: ignore


def our_sweep(model: RBM, start: tuple[Tensor, Tensor]) -> Work:
    """A sweep as `run_chains` does it; the couplings are prepared outside, once for all sweeps."""
    kernel, generator = gibbs(model.anneal(precision="auto")), torch.Generator().manual_seed(2)
    return lambda: run(kernel, start, 1, generator=generator)


def bare_products(model: RBM, start: tuple[Tensor, Tensor]) -> Work:
    """The two float32 products of a sweep, nothing else."""
    (x, h), weight = start, model.weight.detach()
    return lambda: (x @ weight, h @ weight.T)


def scikit_learn_sweep(model: RBM, start: tuple[Tensor, Tensor]) -> Work:
    """`BernoulliRBM.gibbs` in float32."""
    x = start[0].numpy()
    machine = BernoulliRBM(model.hidden.size, n_iter=1, random_state=0).fit(x[:1])
    weight, visible_bias, hidden_bias = (p.detach().numpy() for p in (model.weight, *model.biases))
    machine.components_ = np.ascontiguousarray(weight.T)
    machine.intercept_visible_, machine.intercept_hidden_ = visible_bias, hidden_bias
    return lambda: machine.gibbs(x)


def rbms_model(model: RBM):
    """The same machine for rbms."""
    from rbms.bernoulli_bernoulli.classes import BBRBM

    weight, visible_bias, hidden_bias = (p.detach().clone() for p in (model.weight, *model.biases))
    return BBRBM(weight, visible_bias, hidden_bias)


def rbms_sweep(model: RBM, start: tuple[Tensor, Tensor]) -> Work:
    """`sample_state` of rbms: hidden layer, then visible layer."""
    machine = rbms_model(model)
    chains = machine.init_chains(len(start[0]), start_v=start[0])
    return lambda: machine.sample_state(n_steps=1, chains=chains)


def thrml_sweep(model: RBM, num_chains: int) -> Work:
    """A compiled sweep of thrml over the same two blocks, in spins: s = 2x − 1, J = W / 4, b = half the field at x = ½."""
    import jax
    import jax.numpy as jnp
    from thrml import Block, SamplingSchedule, SpinNode, sample_states
    from thrml.models import IsingEBM, IsingSamplingProgram

    visible, hidden = ([SpinNode() for _ in range(unit.size)] for unit in model.units)
    weight = model.weight.detach()
    biases = torch.cat([model.biases[0] / 2 + weight.sum(1) / 4, model.biases[1] / 2 + weight.sum(0) / 4]).detach()
    edges: list[Any] = [(v, h) for v in visible for h in hidden]
    machine = IsingEBM(
        [*visible, *hidden],
        edges,
        jnp.asarray(biases.numpy()),
        jnp.asarray(weight.flatten().numpy() / 4),
        jnp.array(1.0),
    )
    blocks: list[Any] = [Block(hidden), Block(visible)]
    # Its first sample is the state after the warm-up, so that one sweep is one step of warm-up and one sample.
    program, schedule = IsingSamplingProgram(machine, blocks, []), SamplingSchedule(1, 1, 1)
    start = [jnp.zeros((num_chains, len(block)), dtype=bool) for block in blocks]
    keys = jax.random.split(jax.random.key(0), num_chains)

    @jax.jit
    def sweep(keys, start):
        return jax.vmap(lambda key, state: sample_states(key, program, schedule, state, [], blocks))(keys, start)

    return lambda: jax.block_until_ready(sweep(keys, start))


def ratio_to(seconds: Timings, other: str) -> tuple[float, float | None]:
    """Median over the rounds of our time over another's, and its standard error."""
    ratios = [a / b for a, b in zip(seconds["genmodels"], seconds[other], strict=True)]
    error = statistics.stdev(ratios) / math.sqrt(len(ratios)) if len(ratios) > 1 else None
    return statistics.median(ratios), error


def record(result: Result, task: str, seconds: Timings, names: dict[str, str]) -> None:
    """Medians of a task's seconds, and our ratio to each of the others under its metric's name."""
    for name, times in seconds.items():
        result.add_number(f"{task}_seconds_{name}", statistics.median(times))
    for other, metric in names.items():
        if other in seconds:
            result.add_number(metric, *ratio_to(seconds, other))
            print(f"{metric:22s} {result.metrics[metric]['value']:.3f}")


def time_gibbs(result: Result, config: Config) -> None:
    """Sweeps against scikit-learn, rbms and the products, and against thrml with as many chains as it can hold."""
    model = random_model(config.visible, config.hidden)
    start = states(model, config.num_chains)
    works: dict[str, Work] = {
        "genmodels": our_sweep(model, start),
        "scikit-learn": scikit_learn_sweep(model, start),
        "products": bare_products(model, start),
    }
    if find_spec("rbms"):
        works["rbms"] = rbms_sweep(model, start)
    names = {"scikit-learn": "gibbs_over_sklearn", "rbms": "gibbs_over_rbms", "products": "gibbs_over_products"}
    num = config.num_sweeps
    record(result, "gibbs", interleaved(repeated(works, num), config.rounds, num, settle=True), names)
    if find_spec("thrml"):
        few = states(model, config.thrml_chains)
        both = {"genmodels": our_sweep(model, few), "thrml": thrml_sweep(model, config.thrml_chains)}
        seconds = interleaved(repeated(both, num), max(1, config.rounds // 5), num, settle=True)
        record(result, f"gibbs_{config.thrml_chains}_chains", seconds, {"thrml": "gibbs_over_thrml"})


def time_ais(result: Result, config: Config) -> None:
    """AIS against rbms in rounds of few temperatures; then the whole schedule, fast and in float32, for log Z."""
    model = random_model(config.visible, config.hidden)

    def ours(num_temperatures: int, precision, seed: int):
        betas, generator = salakhutdinov_murray_schedule(num_temperatures), torch.Generator().manual_seed(seed)
        base = model.visible_bias.detach()
        return ais_log_z(model, base, betas, num_chains=config.ais_chains, generator=generator, precision=precision)

    works: dict[str, Work] = {
        "genmodels": lambda: ours(config.ais_timed, "auto", 0),
        "float32": lambda: ours(config.ais_timed, "float32", 0),
    }
    if find_spec("rbms"):
        from rbms.partition_function.ais import compute_partition_function_ais

        machine = rbms_model(model)
        works["rbms"] = lambda: compute_partition_function_ais(config.ais_chains, config.ais_timed + 1, machine)
    record(
        result,
        "ais",
        interleaved(works, config.ais_rounds, 1),
        {"rbms": "ais_over_rbms", "float32": "ais_over_float32"},
    )
    for seed, precision in enumerate(("auto", "float32")):
        started = time.perf_counter()
        result.add(f"ais_log_z_{precision}", ours(config.ais_temperatures, precision, seed))
        result.add_number(f"ais_{config.ais_temperatures}_seconds_{precision}", time.perf_counter() - started)


def time_pcd(result: Result, config: Config) -> None:
    """The PCD epoch of `pcd_epoch`."""
    pcd = config.pcd
    x = (np.random.default_rng(0).random((pcd.num_examples, pcd_epoch.VISIBLE)) < 0.2).astype(np.uint8)
    data, floats = Examples(torch.from_numpy(x)), x.astype(np.float32)
    works: dict[str, Work] = {
        "genmodels": lambda: pcd_epoch.ours(data, pcd.hidden, pcd),
        "scikit-learn": lambda: pcd_epoch.scikit_learn(floats, pcd.hidden, pcd),
        "products": lambda: pcd_epoch.products(pcd.hidden, pcd),
    }
    names = {"scikit-learn": "pcd_over_sklearn", "products": "pcd_over_products"}
    record(result, "pcd", interleaved(works, pcd.rounds, pcd.epochs), names)


def scan(
    result: Result, axis: str, cases: dict[int, tuple[RBM, int]], rounds: int, num_sweeps: int
) -> dict[str, list[float]]:
    """Seconds of a sweep and of its two products in every case."""
    curves: dict[str, list[float]] = {"genmodels": [], "products": []}
    for value, (model, num) in cases.items():
        start = states(model, num)
        works = {"genmodels": our_sweep(model, start), "products": bare_products(model, start)}
        sweeps = max(1, num_sweeps * 1024 // max(1024, num))
        for name, times in interleaved(repeated(works, sweeps), rounds, sweeps, settle=True).items():
            curves[name].append(statistics.median(times))
            result.add_number(f"gibbs_seconds_{value}_{axis}_{name}", curves[name][-1])
    return curves


def peak_over_states(model: RBM, num_chains: int) -> float | None:
    """Peak memory of a sweep, from the states it starts with on, over the size of those states (Linux only)."""
    status, reset = Path("/proc/self/status"), Path("/proc/self/clear_refs")
    if not (status.exists() and reset.exists()):
        return None

    def kilobytes(name: str) -> int:
        return next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith(name))

    start = states(model, num_chains)
    sweep = our_sweep(model, start)
    reset.write_text("5")
    before = kilobytes("VmRSS")
    sweep()
    return 1 + 1024 * (kilobytes("VmHWM") - before) / sum(s.nbytes for s in start)


def draw(config: Config, by_chains: dict[str, list[float]], by_hidden: dict[str, list[float]]) -> Figure:
    """Seconds a sweep against chains and against hidden units, logarithmic."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    for axes, curves, values, label in (
        (figure.add_subplot(1, 2, 1), by_chains, config.chain_counts, f"chains, {config.hidden} hidden units"),
        (figure.add_subplot(1, 2, 2), by_hidden, config.hidden_sizes, f"hidden units, {config.num_chains} chains"),
    ):
        for name, seconds in curves.items():
            axes.loglog(values, seconds, marker="o", label=name)
        axes.set(xlabel=label, ylabel="seconds a sweep")
        axes.set_xticks(values[::2], [f"{value:,}" for value in values[::2]])
        axes.set_xticks([], minor=True)
        axes.legend(frameon=False)
    return figure


def table(result: Result) -> str:
    """The ratios in Markdown."""
    lines = ["| our time over | ratio | standard error |", "|---|---|---|"]
    for name, metric in result.metrics.items():
        if "_over_" in name:
            error = metric["std_error"]
            lines.append(f"| {name.replace('_over_', ', ')} | {metric['value']:.3f} | {error and round(error, 3)} |")
    return "\n".join(lines) + "\n"


def main(smoke: bool = False, results: Path = FOLDER) -> Path:
    """Time everything and write `bench_cpu.json`, its table and its plot.

    Args:
        smoke: the same code on a tiny problem.
        results: folder for what is written.
    """
    config = SMOKE if smoke else Config()
    started = time.perf_counter()
    result = Result("bench_cpu", "python -m experiments.benchmarks.speed", "random bits", [0], config, {})
    time_gibbs(result, config)
    time_ais(result, config)
    time_pcd(result, config)
    model = random_model(config.visible, config.hidden)
    few, num = max(1, config.rounds // 3), config.num_sweeps
    by_chains = scan(result, "chains", {count: (model, count) for count in config.chain_counts}, few, num)
    sizes = {size: (random_model(config.visible, size), config.num_chains) for size in config.hidden_sizes}
    by_hidden = scan(result, "hidden", sizes, few, num)
    memory = peak_over_states(model, config.chain_counts[-1])
    if memory is not None:
        result.add_number("memory_over_states", memory)
    plots.save(draw(config, by_chains, by_hidden), results / "bench_cpu.png")
    write_atomically(results / "bench_cpu.md", table(result).encode())
    result.seconds = time.perf_counter() - started
    return result.write(results)


if __name__ == "__main__":
    print(tyro.cli(main))
