"""What a second process brings, and what a step sends: throughput on one core and on two, bytes per step, a cost model.

    python -m experiments.benchmarks.throughput

Each process is pinned to one core. The same work is done by one process and by two, in turn, which share it: annealing and
sampling by groups of chains, training by rows and chains. A ratio is the median of those of some rounds. Beside it stands what
two processes that know nothing of each other gain on bare matrix products. The bytes that a process gives to collective
operations are counted where they are called, and the page `cost_model.md` says what they mean on 64 GPUs.
"""

from __future__ import annotations

import multiprocessing
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from queue import Queue
from statistics import median
from typing import Any

import torch
import tyro
from torch import Tensor, distributed, nn

from experiments.results import FOLDER, Result
from genmodels import DAE, DBM, RBM, VAE, AutoEncoderStack, Bernoulli
from genmodels.checkpoint import write_atomically
from genmodels.corruptions import SaltAndPepper
from genmodels.data.examples import Examples
from genmodels.fit import fit
from genmodels.groups import Rows, in_groups
from genmodels.interface import default_generator
from genmodels.likelihood import ais_log_z
from genmodels.objectives import Objective, denoising, elbo, iwae, pcd, target_propagation, variational_pcd
from genmodels.processes import Processes, launch
from genmodels.settings import Settings
from genmodels.stack_layers import StackLayer
from genmodels.top_priors import StandardGaussian
from samplers import gibbs, run

GPUS = 64
BANDWIDTH = 50e9
"""Bytes a second that a GPU sends over the network: assumed, one link of 400 Gbit/s each."""
LATENCY = 10e-6
"""Seconds for one message from one GPU to another: assumed."""


@dataclass(frozen=True)
class Config:
    """How much work there is, and how often it is timed."""

    visible: int = 784
    hidden: int = 500
    chains: int = 2048
    sweeps: int = 160
    """Some seconds of work, as for the others."""
    temperatures: int = 100
    epochs: int = 4
    steps_per_epoch: int = 30
    """As many as 60,000 rows have in batches of 2,000."""
    products: int = 100
    rounds: int = 3
    """Of one process, then two: a slow minute of the machine meets both."""


SMOKE = Config(
    visible=17,
    hidden=11,
    chains=8,
    sweeps=3,
    temperatures=3,
    epochs=1,
    steps_per_epoch=10,
    products=2,
    rounds=1,
)


def machine(config: Config) -> RBM:
    """An RBM with random weights: what sweeps cost does not depend on what was learned."""
    return RBM(Bernoulli(config.visible), Bernoulli(config.hidden), generator=default_generator(0))


def ais(config: Config, processes: Processes) -> Callable[[], object]:
    """Annealing of an RBM's chains, in as many groups as there are cores."""
    model, betas = machine(config), torch.linspace(0, 1, config.temperatures + 1, dtype=torch.float64)
    size = config.chains // 2
    base = torch.zeros(config.visible)
    return lambda: ais_log_z(
        model, base, betas, num_chains=config.chains, group_size=size, generator=default_generator(0)
    )


def sampling(config: Config, processes: Processes) -> Callable[[], object]:
    """Gibbs sweeps of the same chains."""
    kernel = gibbs(machine(config).anneal(precision="auto"))

    def work(numbers: Tensor, generator: torch.Generator) -> Rows:
        start = tuple(torch.zeros(len(numbers), size) for size in (config.visible, config.hidden))
        return run(kernel, start, config.sweeps, generator=generator)[:1]

    return lambda: in_groups(config.chains, config.chains // 2, default_generator(0), work)


def training(batch_size: int, num_steps: int = 1) -> Callable[[Config, Processes], Callable[[], object]]:
    """PCD of an RBM, `num_steps` sweeps an update, from the first weights to the last."""

    def work(config: Config, processes: Processes) -> Callable[[], object]:
        data = examples(config.visible, config.steps_per_epoch * batch_size)

        def train() -> None:
            model = machine(config)
            fit(model, pcd(model, num_steps=num_steps), data, settings(batch_size, config.epochs), processes=processes)

        return train

    return work


def settings(batch_size: int, epochs: int = 1) -> Settings:
    return Settings(epochs=epochs, batch_size=batch_size, learning_rate=0.01, average=0.0, device="cpu")


def examples(size: int, num: int) -> Examples:
    return Examples(torch.randint(0, 2, (num, size), generator=default_generator(0), dtype=torch.uint8))


WORKS: dict[str, Callable[[Config, Processes], Callable[[], object]]] = {
    "ais": ais,
    "sampling": sampling,
    "pcd_batch_100": training(100),
    "pcd_batch_2000": training(2000),
    "pcd_6_batch_2000": training(2000, num_steps=6),
}


def objectives(config: Config) -> Iterator[tuple[str, nn.Module, Objective]]:
    """Every objective that several processes share, on a model of its usual size."""
    unit, hidden = Bernoulli(config.visible), config.hidden
    rbm, dbm = machine(config), DBM(unit, Bernoulli(hidden), Bernoulli(2 * hidden))
    yield f"PCD, RBM of {hidden}", rbm, pcd(rbm)
    yield f"variational PCD, DBM of {hidden}-{2 * hidden}", dbm, variational_pcd(dbm)
    for name, build in (("ELBO", elbo), ("IWAE, 50 draws", lambda model: iwae(model, num_samples=50))):
        vae = VAE(unit, latent=(50,), hidden=((200, 200),))
        yield f"{name}, VAE of 200-200-50", vae, build(vae)
    stack = AutoEncoderStack(unit, [StackLayer("tanh", 100), StackLayer("tanh", 60)], StandardGaussian(30))
    yield "target propagation, stack of 100-60-30", stack, target_propagation(stack)
    dae = DAE(unit, SaltAndPepper(0.4), hidden=(hidden,))
    yield f"denoising, DAE of {hidden}", dae, denoising(dae, walk_back=3)


@contextmanager
def counted() -> Iterator[dict[str, int]]:
    """What this process gives to collective operations: messages and bytes."""
    total = {"messages": 0, "bytes": 0}
    plain = {name: getattr(distributed, name) for name in ("all_reduce", "all_gather", "broadcast")}

    def counting(name: str) -> Callable[..., Any]:
        def send(*arguments: Any, **options: Any) -> Any:
            given = next(argument for argument in arguments if isinstance(argument, Tensor))
            total["messages"] += 1
            total["bytes"] += given.numel() * given.element_size()
            return plain[name](*arguments, **options)

        return send

    try:
        for name in plain:
            setattr(distributed, name, counting(name))
        yield total
    finally:
        for name, function in plain.items():
            setattr(distributed, name, function)


def traffic(config: Config, processes: Processes) -> dict[str, dict[str, float]]:
    """Of every objective: parameters, and messages and bytes per step, as the difference between runs of 3 and of 2 steps."""
    found = {}
    for name, model, objective in objectives(config):
        totals = []
        for steps in (2, 3):
            with counted() as total:
                fit(model, objective, examples(config.visible, 4 * steps), settings(4), processes=processes)
            totals.append(total)
        parameters = sum(parameter.numel() for parameter in model.parameters())
        step = {kind: totals[1][kind] - totals[0][kind] for kind in ("messages", "bytes")}
        found[name] = {"parameters": parameters, **step}
    return found


def products(config: Config, processes: Processes) -> Callable[[], object]:
    """This process's share of matrix products of a sweep's shape, with nobody else."""
    left = torch.rand(config.chains, config.visible)
    right = torch.rand(config.visible, config.hidden)
    share = range(config.products)[processes.share(config.products)]
    return lambda: [left @ right for _ in share]


def timed(config: Config, processes: Processes) -> dict[str, Any]:
    """Seconds of every work, from when all are ready to when all are done; and the traffic."""
    found: dict[str, Any] = {}
    for name, build in ({"products": products} | WORKS).items():
        work = build(config, processes)
        work()  # loads and compiles
        processes.fabric.barrier()
        started = time.perf_counter()
        work()
        processes.fabric.barrier()
        found[name] = time.perf_counter() - started
    if processes.size > 1:
        found["traffic"] = traffic(config, processes)
    return found


def on_cores(size: int, config: Config) -> dict[str, Any]:
    """What `timed` finds on `size` processes, each on a core of its own."""
    context = multiprocessing.get_context("spawn")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    results = context.Queue()
    workers = [context.Process(target=_worker, args=(rank, size, port, config, results)) for rank in range(size)]
    for worker in workers:
        worker.start()
    found = results.get(timeout=600)
    for worker in workers:
        worker.join()
    return found


def _worker(rank: int, size: int, port: int, config: Config, results: Queue[dict[str, Any]]) -> None:
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[rank % len(cores)]})
    torch.set_num_threads(1)
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(size),
        "LOCAL_WORLD_SIZE": str(size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "TORCHELASTIC_RUN_ID": "throughput",
    }
    found = timed(config, launch("cpu", "32-true"))
    if rank == 0:
        results.put(found)


def seconds_on_gpus(num_bytes: float, messages: float) -> float:
    """A step's collectives on 64 GPUs: 2 (p − 1) / p of the bytes through every link, and 2 log₂ p hops a message."""
    return 2 * (GPUS - 1) / GPUS * num_bytes / BANDWIDTH + messages * _hops() * LATENCY


def _hops() -> int:
    """Up a binary tree and down again."""
    return 2 * (GPUS - 1).bit_length()


def page(found: dict[str, dict[str, float]]) -> str:
    """The cost model as Markdown."""
    rows = [
        f"| {name} | {step['parameters']:,.0f} | {step['messages']:.0f} | {step['bytes']:,.0f} "
        f"| {1e3 * seconds_on_gpus(step['bytes'], step['messages']):.2f} "
        f"| {1e4 * seconds_on_gpus(step['bytes'], step['messages']):.1f} |"
        for name, step in found.items()
    ]
    return f"""# What a step of training sends

Made by `python -m experiments.benchmarks.throughput`. Messages and bytes are those that one process gives to collective
operations in one step, counted where they are called; they depend neither on the batch nor on the number of processes:
the gradients of all parameters in one message, and in the other, in float64, the means of what else the objective keeps (the
offsets of centered gradients), of metrics and the loss. Chains and examples never travel during training; a checkpoint
collects the chains once.

The last two columns are a model, not a measurement. An all-reduce over {GPUS} GPUs is taken to move 2 · {GPUS - 1}/{GPUS}
of the bytes through each GPU's link, of {BANDWIDTH / 1e9:.0f} GB/s (400 Gbit/s a GPU), in {_hops()} hops of
{LATENCY * 1e6:.0f} µs; both are assumed. Nothing is computed while it lasts. So {GPUS} GPUs work at 90 % where a step,
sending included, takes ten times as long as that, which is the last column: below it, a larger batch pays.

| objective | parameters | messages | bytes | sending on {GPUS} GPUs, ms | step wanted, ms |
|---|---|---|---|---|---|
{chr(10).join(rows)}

Annealing, sampling and all other estimators send nothing while they work: each process has its groups, and at the end one
message with a number for every chain or example (for draws, a row each).
"""


def main(smoke: bool = False, results: Path = FOLDER) -> Path:
    """Time all works on one core and on two, count what a step sends, and write the result file and the page."""
    config = SMOKE if smoke else Config()
    result = Result(
        name="throughput",
        command="python -m experiments.benchmarks.throughput",
        data="random bits",
        seeds=(0,),
        config=config,
        published={},
    )
    started = time.perf_counter()
    rounds = [(on_cores(1, config), on_cores(2, config)) for _ in range(config.rounds)]
    for name in ("products", *WORKS):
        one, two = (median([found[i][name] for found in rounds]) for i in range(2))
        speed = median([first[name] / second[name] for first, second in rounds])
        limit = median([first["products"] / second["products"] for first, second in rounds])
        result.add_number(f"{name}_seconds_1_process", one)
        result.add_number(f"{name}_seconds_2_processes", two)
        result.add_number(f"{name}_speed_of_2", speed)
        result.add_number(f"{name}_of_the_machines_limit", speed / limit)
        print(f"{name}: {one:.3f} s, {two:.3f} s, {speed:.2f} times as fast")
    found = rounds[-1][1]["traffic"]
    for name, step in found.items():
        result.add_number(f"bytes per step: {name}", step["bytes"])
        result.add_number(f"messages per step: {name}", step["messages"])
        print(f"{name}: {step['bytes']:,.0f} bytes in {step['messages']:.0f} messages a step")
    result.seconds = time.perf_counter() - started
    write_atomically(results / "cost_model.md", page(found).encode())
    return result.write(results)


if __name__ == "__main__":
    tyro.cli(main)
