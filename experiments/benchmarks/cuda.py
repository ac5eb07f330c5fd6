"""The Triton path on a CUDA device: its tests, sweeps against bare bfloat16 products, AIS, PCD, a profile and a roofline.

One call, under ten minutes, writes `bench_cuda.json`, `bench_cuda.png` and `bench_cuda_profile.txt`. Without a CUDA device
it says so and ends with status 2.

    python -m experiments.benchmarks.cuda
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
import tyro
from matplotlib.figure import Figure
from torch import Tensor

from experiments.benchmarks.speed import bare_products, random_model, states
from experiments.results import FOLDER, Result
from genmodels import RBM, plots
from genmodels.checkpoint import write_atomically
from genmodels.data import Examples
from genmodels.fit import Settings, fit
from genmodels.likelihood import ais_log_z
from genmodels.objectives import pcd
from samplers import gibbs, run, salakhutdinov_murray_schedule
from samplers.fused import Precision, graphed

ROOT = Path(__file__).parents[2]
PRECISIONS: tuple[Precision, ...] = ("auto", "float32")
TESTS = ("tests/test_triton.py", "tests/test_gibbs.py", "tests/test_experiments.py")


@dataclass(frozen=True)
class Config:
    """The work to time."""

    visible: int = 784
    hidden: int = 500
    num_chains: int = 65_536
    shapes: tuple[tuple[int, int, int], ...] = (
        (1024, 784, 500),
        (65_536, 784, 500),
        (4096, 4096, 4096),
        (65_536, 4096, 4096),
    )
    """Chains, visible and hidden units of the points on the roofline."""
    rounds: int = 20
    ais_chains: int = 100
    ais_temperatures: int = 14_500
    num_examples: int = 60_000
    batch_size: int = 100


SMOKE = Config(num_chains=256, shapes=((256, 784, 500),), rounds=2, ais_temperatures=30, num_examples=400)


class Point(NamedTuple):
    """A shape on the roofline."""

    label: str
    intensity: float
    """Operations a byte that must move."""
    speed: float
    """Operations a second that a sweep reached."""


def seconds(work: Callable[[], object], rounds: int, inner: int = 10) -> float:
    """Median seconds of one call, by the device's own clock, after a warm-up."""
    for _ in range(3):
        work()
    times = []
    for _ in range(rounds):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        for _ in range(inner):
            work()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) / 1e3 / inner)
    return statistics.median(times)


def on_device(visible: int, hidden: int, num_chains: int) -> tuple[RBM, tuple[Tensor, ...]]:
    """A model and int8 states on the CUDA device."""
    model = random_model(visible, hidden)
    start = tuple(s.to("cuda", torch.int8) for s in states(model, num_chains))
    return model.cuda(), start


def sweep_seconds(model: RBM, start: tuple[Tensor, ...], rounds: int) -> float:
    """A sweep on the fast path, its steps recorded as a graph."""
    generator = torch.Generator("cuda").manual_seed(0)
    go_on = graphed(gibbs(model.anneal(precision="triton")), start, generator)
    return seconds(lambda: go_on(10), rounds, 1) / 10


def time_gibbs(result: Result, config: Config) -> None:
    """A sweep on every path and the products alone."""
    model, start = on_device(config.visible, config.hidden, config.num_chains)
    wide = tuple(s.float() for s in start)
    generator = torch.Generator("cuda").manual_seed(0)
    fast = sweep_seconds(model, start, config.rounds)
    result.add_number("gibbs_seconds_graph", fast)
    paths: dict[Precision, tuple[Tensor, ...]] = {"triton": start, "float32": wide}
    for precision, states_ in paths.items():
        kernel = gibbs(model.anneal(precision=precision))

        def one_sweep(kernel=kernel, states_=states_):
            return run(kernel, states_, 1, generator=generator)

        result.add_number(f"gibbs_seconds_{precision}", seconds(one_sweep, config.rounds))
    narrow_model = on_device(config.visible, config.hidden, 1)[0].bfloat16()
    narrow = (wide[0].bfloat16(), wide[1].bfloat16())
    bare = seconds(bare_products(narrow_model, narrow), config.rounds)
    result.add_number("gibbs_seconds_bf16_products", bare)
    result.add_number("gibbs_over_bf16_products", fast / bare)
    updates = config.num_chains * (config.visible + config.hidden)
    result.add_number("updates_per_ns", updates / fast / 1e9)


def time_ais(result: Result, config: Config) -> None:
    """The whole schedule on both paths, with its log Z."""
    model, _ = on_device(config.visible, config.hidden, 1)
    betas = salakhutdinov_murray_schedule(config.ais_temperatures)
    for precision in PRECISIONS:
        generator = torch.Generator("cuda").manual_seed(0)
        torch.cuda.synchronize()
        started = time.perf_counter()
        estimate = ais_log_z(
            model,
            model.visible_bias.detach(),
            betas,
            num_chains=config.ais_chains,
            generator=generator,
            precision=precision,
        )
        result.add(f"ais_log_z_{precision}", estimate)
        result.add_number(f"ais_seconds_{precision}", time.perf_counter() - started)


def time_pcd(result: Result, config: Config) -> None:
    """A PCD epoch through `fit` on both paths; the second of two, since the first compiles."""
    x = (torch.rand(config.num_examples, config.visible, generator=torch.Generator().manual_seed(0)) < 0.2).to(
        torch.uint8
    )
    settings = Settings(epochs=1, batch_size=config.batch_size, learning_rate=0.01)

    def epoch(precision: Precision) -> float:
        model = random_model(config.visible, config.hidden).cuda()
        torch.cuda.synchronize()
        started = time.perf_counter()
        fit(model, pcd(model, precision=precision), Examples(x), settings)
        torch.cuda.synchronize()
        return time.perf_counter() - started

    for precision in PRECISIONS:
        epoch(precision)
        result.add_number(f"pcd_epoch_seconds_{precision}", epoch(precision))


def peaks() -> tuple[float, float]:
    """What the device reaches: int8 operations a second in a large product, and bytes a second in a large copy."""
    square = torch.ones(8192, 8192, dtype=torch.int8, device="cuda")
    transposed, long = square.T, torch.ones(1 << 30, dtype=torch.int8, device="cuda")
    copy = torch.empty_like(long)
    speed = 2 * 8192**3 / seconds(lambda: torch._int_mm(square, transposed), 5)
    return speed, 2 * long.nbytes / seconds(lambda: copy.copy_(long), 5)


def points(result: Result, config: Config) -> list[Point]:
    """Every shape's arithmetic intensity and speed; both slices of both half-sweeps count as operations."""
    found = []
    for num, visible, hidden in config.shapes:
        model, start = on_device(visible, hidden, num)
        taken = sweep_seconds(model, start, max(2, config.rounds // 4))
        operations = 8 * num * visible * hidden
        moved = 2 * num * (visible + hidden) + 4 * visible * hidden
        label = f"{num}×({visible}+{hidden})"
        found.append(Point(label, operations / moved, operations / taken))
        result.add_number(f"teraops_{num}_{visible}_{hidden}", operations / taken / 1e12)
    return found


def roofline(found: list[Point], speed: float, bandwidth: float) -> Figure:
    """Speed against intensity under the device's measured limits."""
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    grid = torch.logspace(0, 5, 200)
    axes.loglog(grid, torch.clamp(grid * bandwidth, max=speed) / 1e12, color="black", label="measured limits")
    for point in found:
        axes.loglog(point.intensity, point.speed / 1e12, "o", label=point.label)
    axes.set(xlabel="operations a byte", ylabel="10¹² operations a second", title="Block Gibbs, int8")
    axes.legend(frameon=False)
    return figure


def profile(config: Config) -> str:
    """Where twenty sweeps spend their time."""
    model, start = on_device(config.visible, config.hidden, config.num_chains)
    kernel, generator = gibbs(model.anneal(precision="triton")), torch.Generator("cuda").manual_seed(0)
    run(kernel, start, 3, generator=generator)
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as recorded:
        run(kernel, start, 20, generator=generator)
        torch.cuda.synchronize()
    return recorded.key_averages().table(sort_by="self_cuda_time_total", row_limit=20)


def run_tests() -> bool:
    """Whether the tests pass on this device."""
    done = subprocess.run([sys.executable, "-m", "pytest", "-q", *TESTS], cwd=ROOT, timeout=300)
    return done.returncode == 0


def main(smoke: bool = False, results: Path = FOLDER) -> Path:
    """Test and time everything, and write the result file, the roofline and the profile.

    Args:
        smoke: the same code on a tiny problem.
        results: folder for what is written.
    """
    if not torch.cuda.is_available():
        print("This benchmark needs a CUDA device, and there is none here.", file=sys.stderr)
        raise SystemExit(2)
    config = SMOKE if smoke else Config()
    started = time.perf_counter()
    result = Result("bench_cuda", "python -m experiments.benchmarks.cuda", "random bits", [0], config, {})
    result.add_number("tests_pass", float(run_tests()))
    time_gibbs(result, config)
    time_ais(result, config)
    time_pcd(result, config)
    speed, bandwidth = peaks()
    result.add_number("peak_teraops", speed / 1e12)
    result.add_number("peak_gigabytes_per_second", bandwidth / 1e9)
    plots.save(roofline(points(result, config), speed, bandwidth), results / "bench_cuda.png")
    write_atomically(results / "bench_cuda_profile.txt", profile(config).encode())
    result.seconds = time.perf_counter() - started
    for name, metric in result.metrics.items():
        print(f"{name:40s} {metric['value']:.4g}")
    return result.write(results)


if __name__ == "__main__":
    print(tyro.cli(main))
