"""Trajectory tempering against PCD as the way to train an RBM with 500 hidden units, at equal cost.

Reproduced: Béreux, Decelle, Furtlehner and Seoane (2026, arXiv 2607.27077) keep the chains of maximum-likelihood training at
equilibrium by exchange with a reservoir of states of the last checkpoint, and follow log Z along the way.

Here both start from the same weights. PTT needs many chains, or updates push away the very chains that they learn from, and
sweeps at every checkpoint: it gets fewer epochs, and the seconds of both are in the result. The test log-likelihood is by
forward AIS, as in `rbm_mnist`, between it and reverse AIS; beside it log Z of the last step by PTT itself and by AIS.

    python -m experiments.ptt_mnist            # three seeds
    python -m experiments.ptt_mnist --smoke    # the same code on `digits`, in seconds
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
import tyro
from matplotlib.figure import Figure

from experiments.results import FOLDER, Result, mean_of
from genmodels import RBM, Bernoulli, plots
from genmodels.checkpoint import load_checkpoint
from genmodels.data import DataSet, load
from genmodels.fit import CHECKPOINT, Settings, fit
from genmodels.interface import default_generator
from genmodels.likelihood import Estimate, ais_log_z, reverse_ais_log_z
from genmodels.likelihood.exact import mean_free_energy
from genmodels.likelihood.report import from_log_z
from genmodels.metrics import Record
from genmodels.objectives import Objective, pcd, ptt
from genmodels.progress import bar, training_bar
from genmodels.training_state import part
from samplers import salakhutdinov_murray_schedule

OBJECTIVES: dict[str, Callable[..., Objective]] = {"pcd": pcd, "ptt": ptt}


@dataclass(frozen=True)
class Config:
    """Everything that decides the result."""

    train_data: str = "mnist-dynamic-60k"
    test_data: str = "mnist-binarized"
    hidden: int = 500
    num_steps_pcd: int = 3
    num_steps_ptt: int = 1
    batch_size: int = 200
    num_chains_ptt: int = 1000
    learning_rate_pcd: float = 0.15
    learning_rate_ptt: float = 0.05
    """A third of it: at 0.15 an update takes the model further than an exchange bridges, and most of them are undone."""
    epochs_pcd: int = 20
    epochs_ptt: int = 5
    average: float = 0.9995
    seeds: tuple[int, ...] = (0, 1, 2)
    ais_chains: int = 100
    temperatures: int = 14_500
    burn_in: int = 1000


SMOKE = Config(
    train_data="digits",
    test_data="digits",
    hidden=12,
    batch_size=50,
    num_chains_ptt=60,
    epochs_pcd=2,
    epochs_ptt=2,
    seeds=(0, 1),
    ais_chains=10,
    temperatures=50,
    burn_in=20,
)


def train(config: Config, name: str, seed: int, data: DataSet, out: Path) -> tuple[RBM, list[Record]]:
    """One model and its records, taken up from its checkpoint if an earlier attempt was cut short."""
    model = RBM(Bernoulli(data.num_features), Bernoulli(config.hidden), generator=default_generator(seed))
    model.initialise_from_data(data.train.fixed(seed))
    num_steps, learning_rate, epochs, num_chains = {
        "pcd": (config.num_steps_pcd, config.learning_rate_pcd, config.epochs_pcd, config.batch_size),
        "ptt": (config.num_steps_ptt, config.learning_rate_ptt, config.epochs_ptt, config.num_chains_ptt),
    }[name]
    settings = Settings(
        epochs=epochs,
        batch_size=config.batch_size,
        learning_rate=learning_rate,
        average=config.average,
        seed=seed,
        checkpoint_every=5,
    )
    objective = OBJECTIVES[name](model, num_steps=num_steps, num_chains=num_chains)
    identity = {**asdict(replace(config, seeds=(seed,))), "objective": name}
    with training_bar(f"{name}, seed {seed}") as progress:
        records = fit(model, objective, data.train, settings, out=out, config=identity, progress=progress)
    return model.requires_grad_(False), records


def evaluate(config: Config, seed: int, model: RBM, rows: torch.Tensor, test: torch.Tensor) -> dict[str, Estimate]:
    """Mean test log-likelihood by forward and by reverse AIS."""
    generator = default_generator(1000 + seed)
    betas = salakhutdinov_murray_schedule(config.temperatures)
    base = model.visible.bias_from_data(rows)
    start = rows[torch.randint(len(rows), (config.ais_chains,), generator=generator)]
    forward = ais_log_z(model, base, betas, num_chains=config.ais_chains, generator=generator, progress=bar)
    reverse = reverse_ais_log_z(model, start, base, betas, burn_in=config.burn_in, generator=generator, progress=bar)
    free_energy, _ = mean_free_energy(model, test)
    return {"": from_log_z(free_energy, forward), "_reverse": from_log_z(free_energy, reverse)}


def carried_along(config: Config, seed: int, rows: torch.Tensor, out: Path) -> dict[str, tuple[float, float | None]]:
    """log Z of the model as training left it, before any average, by PTT and by AIS; each with its standard error."""
    tensors = load_checkpoint(out / CHECKPOINT).tensors
    model = RBM(Bernoulli(rows.shape[1]), Bernoulli(config.hidden))
    model.load_state_dict(part("model", tensors))
    objective = ptt(model, num_steps=config.num_steps_ptt, num_chains=config.num_chains_ptt)
    generator = default_generator(2000 + seed)
    _, _, metrics = objective.step(rows[: config.batch_size], part("objective", tensors), generator)
    base, betas = model.visible.bias_from_data(rows), salakhutdinov_murray_schedule(config.temperatures)
    ais = ais_log_z(model, base, betas, num_chains=config.ais_chains, generator=generator, progress=bar)
    return {
        "log_z": (float(metrics["log_z"]), float(metrics["log_z_error"])),
        "log_z_lower": (float(metrics["log_z_lower"]), None),
        "log_z_upper": (float(metrics["log_z_upper"]), None),
        "log_z_ais": (ais.value, ais.std_error),
    }


def draw(curves: dict[str, list[Record]]) -> Figure:
    """What PTT takes the log-likelihood of its batches for along training, and its overlap with the last checkpoint."""
    figure = Figure(figsize=(8, 3.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    for name, records in curves.items():
        epochs = [record["epoch"] for record in records]
        left.plot(epochs, [record["log_likelihood"] for record in records], label=name)
        right.plot(epochs, [record["overlap"] for record in records], label=name)
    left.set(xlabel="epoch", ylabel="log-likelihood of training batches, nats", title="on the way, without AIS")
    right.set(xlabel="epoch", ylabel="overlap", ylim=(0, 1), title="with the last checkpoint")
    left.legend(frameon=False)
    return figure


def main(smoke: bool = False, out: Path = Path("runs/ptt_mnist"), results: Path = FOLDER) -> Path:
    """Train and evaluate both objectives for every seed, then write the result file and the plot.

    Args:
        smoke: run the same code on a tiny problem, in seconds.
        out: folder for the runs; one that was cut short is taken up again.
        results: folder for the result file and the plot.
    """
    config = SMOKE if smoke else Config()
    data, test = load(config.train_data), load(config.test_data).test.fixed()
    where = f"trained on {config.train_data}, tested on {config.test_data}"
    result = Result("ptt_mnist", "python -m experiments.ptt_mnist", where, config.seeds, config, {})
    started = time.perf_counter()
    collected: dict[str, list[Estimate]] = {}
    curves: dict[str, list[Record]] = {}
    for seed in config.seeds:
        for name in OBJECTIVES:
            folder = out / f"{name}_seed{seed}"
            model, records = train(config, name, seed, data, folder)
            result.add_number(f"training_seconds_{name}_seed_{seed}", sum(record["seconds"] for record in records))
            for side, estimate in evaluate(config, seed, model, data.train.fixed(seed), test).items():
                collected.setdefault(f"{name}{side}", []).append(estimate)
                result.add(f"test_log_likelihood_{name}{side}_seed_{seed}", estimate)
                print(f"seed {seed}  {name}{side}: {estimate}", file=sys.stderr)
            if name == "ptt":
                curves[f"seed {seed}"] = records
                for metric, (value, error) in carried_along(config, seed, data.train.fixed(seed), folder).items():
                    result.add_number(f"{metric}_at_the_end_seed_{seed}", value, error)
                    print(f"seed {seed}  {metric}: {value:.3f}", file=sys.stderr)
                for metric in ("num_checkpoints", "rate"):
                    result.add_number(f"{metric}_last_epoch_seed_{seed}", records[-1][metric])
    for name, estimates in collected.items():
        result.add(f"test_log_likelihood_{name}", mean_of(estimates))
    gains = [ptt.value - pcd.value for ptt, pcd in zip(collected["ptt"], collected["pcd"], strict=True)]
    spread = torch.tensor(gains).std() / len(gains) ** 0.5
    result.add_number("ptt_minus_pcd", sum(gains) / len(gains), float(spread))
    plots.save(draw(curves), results / "ptt_mnist.png")
    result.seconds = time.perf_counter() - started
    return result.write(results)


if __name__ == "__main__":
    print(tyro.cli(main))
