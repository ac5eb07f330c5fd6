"""The only training loop."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from genmodels.checkpoint import load_checkpoint, save_checkpoint
from genmodels.errors import BadInput
from genmodels.metrics import MetricsFile, Record
from genmodels.objectives import Objective
from genmodels.signals import StopRequest
from genmodels.training_state import TrainingState, flatten_optimizer, restore_optimizer

Callback = Callable[[Record, nn.Module], Mapping[str, float] | None]


class Rows(Protocol):
    """Training data: anything that gives rows by number, drawn anew where the data set says so."""

    def __len__(self) -> int: ...

    def batch(self, index: Tensor, generator: torch.Generator) -> Tensor:
        """The rows with the given numbers, float32, shape (len(index), d)."""
        ...


@dataclass(frozen=True)
class Settings:
    """How to train. A learning rate follows `schedule` from `learning_rate` towards 0 over all steps."""

    epochs: int = 60
    batch_size: int = 100
    optimizer: str = "SGD"
    """Name of any optimizer in torch.optim."""
    learning_rate: float = 0.05
    optimizer_options: dict[str, Any] = field(default_factory=dict)
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    average: float = 0.999
    """Decay per step of the exponential moving average of the weights, which is what training returns; 0 for none."""
    seed: int = 0
    device: str = "auto"
    precision: Literal["32-true", "64-true", "bf16-mixed", "16-mixed"] = "32-true"
    checkpoint_every: int = 1
    """Epochs between checkpoints."""

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch_size < 1 or self.checkpoint_every < 1:
            raise BadInput("epochs, batch_size and checkpoint_every must be at least 1.")
        if not (self.learning_rate > 0 and math.isfinite(self.learning_rate)):
            raise BadInput(f"The learning rate must be a positive number, not {self.learning_rate}.")
        if not 0 <= self.average < 1:
            raise BadInput(f"The averaging decay must lie in [0, 1), not {self.average}.")
        chosen = getattr(torch.optim, self.optimizer, None)
        if not (isinstance(chosen, type) and issubclass(chosen, torch.optim.Optimizer)):
            raise BadInput(f"torch.optim has no optimizer {self.optimizer!r}; try SGD or Adam.")


class Diverged(BadInput):
    """Training met a non-finite loss or parameter."""


def fit(
    model: nn.Module,
    objective: Objective,
    data: Rows,
    settings: Settings | None = None,
    *,
    out: Path | None = None,
    callbacks: Sequence[Callback] = (),
    config: Mapping[str, Any] | None = None,
    progress: Callable[[int, int, Record], None] | None = None,
) -> list[Record]:
    """Train `model` in place and return one record of metrics per epoch; the model ends with its averaged weights.

    With `out`, that folder gets `checkpoint.safetensors` (with `config` in it) and `metrics.jsonl`; a run that already has a
    checkpoint there is taken up from it, and on a CPU ends bit-identical to one that was never interrupted. SIGINT and
    SIGTERM finish the step, save, and raise KeyboardInterrupt. Each callback gets the epoch's record and the averaged
    model, and may return metrics to add.

    The data's order depends on the seed and the epoch alone; all other random numbers come from two generators in the
    checkpoint.
    """
    settings = Settings() if settings is None else settings
    if len(data) == 0:
        raise BadInput("The training data are empty; give at least one row.")
    fabric = make_fabric(settings)
    run = _Run(fabric, model, objective, data, settings, out, dict(config or {}))
    run.start()
    with StopRequest() as stop:
        while run.state.epoch < settings.epochs:
            run.epoch(stop, progress)
            if stop.requested:
                run.save()
                raise KeyboardInterrupt
            run.finish_epoch(callbacks)
            if run.state.epoch % settings.checkpoint_every == 0 or run.state.epoch == settings.epochs:
                run.save()
    if settings.average:
        model.load_state_dict(run.average.state_dict())
    return run.records


def make_fabric(settings: Settings) -> Fabric:
    """Fabric on the wanted device; a missing one is an error, not a fallback."""
    kind = settings.device.split(":")[0]
    if kind == "cuda" and not torch.cuda.is_available():
        raise BadInput("There is no CUDA device here; use --device cpu or auto.")
    if kind not in ("auto", "cpu", "cuda", "mps"):
        raise BadInput(f"Unknown device {settings.device!r}; use auto, cpu, cuda or mps.")
    if kind == "auto":
        kind = "cuda" if torch.cuda.is_available() else "cpu"
    index = [int(settings.device.split(":")[1])] if ":" in settings.device and kind == "cuda" else 1
    return Fabric(accelerator=kind, devices=index, precision=settings.precision)


class _Run:
    """One run's moving parts."""

    def __init__(self, fabric, model, objective, data, settings, out: Path | None, config: dict):
        self.fabric, self.objective, self.data, self.settings = fabric, objective, data, settings
        self.model = fabric.to_device(model)
        self.average = copy.deepcopy(model).requires_grad_(False)
        optimizer = getattr(torch.optim, settings.optimizer)(
            model.parameters(), lr=settings.learning_rate, **settings.optimizer_options
        )
        self.optimizer = fabric.setup_optimizers(optimizer)
        self.checkpoint = None if out is None else out / "checkpoint.safetensors"
        self.metrics = None if out is None else MetricsFile(out / "metrics.jsonl")
        self.config = config
        self.records: list[Record] = []
        self.data_generator = torch.Generator().manual_seed(settings.seed)
        self.chain_generator = torch.Generator(device=fabric.device).manual_seed(settings.seed + 1)
        self.state = TrainingState()
        self.steps_per_epoch = math.ceil(len(data) / settings.batch_size)
        self._parameters = list(model.parameters())
        self._averaged = list(self.average.parameters())

    def start(self) -> None:
        if self.checkpoint is not None and self.checkpoint.exists():
            self._restore()
            return
        rows = torch.arange(min(self.settings.batch_size, len(self.data)))
        first = self.fabric.to_device(self.data.batch(rows, torch.Generator().manual_seed(self.settings.seed)))
        self.state.objective = self.objective.init(first, self.chain_generator)
        if self.checkpoint is not None:
            self.save()

    def epoch(self, stop: StopRequest, progress) -> None:
        """The rest of the current epoch, or as much as there is before a stop is requested."""
        state, settings = self.state, self.settings
        order = torch.randperm(len(self.data), generator=_epoch_generator(settings.seed, state.epoch))
        started = time.perf_counter()
        while state.batch < self.steps_per_epoch and not stop.requested:
            rows = order[state.batch * settings.batch_size :][: settings.batch_size]
            self._step(self.fabric.to_device(self.data.batch(rows, self.data_generator)))
            if progress is not None and (state.batch % 20 == 0 or state.batch == self.steps_per_epoch):
                last = self.records[-1] if self.records else {}
                progress(state.step, self.steps_per_epoch * settings.epochs, last)
        self.seconds = time.perf_counter() - started

    def _step(self, x: Tensor) -> None:
        state = self.state
        factor = _schedule(self.settings.schedule, state.step / (self.steps_per_epoch * self.settings.epochs))
        for group in self.optimizer.param_groups:
            group["lr"] = self.settings.learning_rate * factor
        with self.fabric.autocast():
            loss, state.objective, metrics = self.objective.step(x, state.objective, self.chain_generator)
        if not math.isfinite(loss.detach()):
            raise self._diverged()
        self.optimizer.zero_grad()
        self.fabric.backward(loss)
        self.optimizer.step()
        if self.settings.average:
            decay = min(self.settings.average, (1 + state.step) / (10 + state.step))
            torch._foreach_lerp_(self._averaged, self._parameters, 1 - decay)
        state.add(metrics)
        state.step += 1
        state.batch += 1

    @torch.no_grad()
    def finish_epoch(self, callbacks: Sequence[Callback]) -> None:
        self.state.epoch += 1
        self.state.batch = 0
        record: Record = {"epoch": self.state.epoch, "step": self.state.step, "seconds": self.seconds}
        record |= self.state.take_means(self.steps_per_epoch)
        record["learning_rate"] = self.optimizer.param_groups[0]["lr"]
        for callback in callbacks:
            record |= callback(record, self.average if self.settings.average else self.model) or {}
        self.records.append(record)
        if self.metrics is not None:
            self.metrics.append(record)

    def save(self) -> None:
        if self.checkpoint is None:
            return
        if not all(bool(torch.isfinite(p).all()) for p in self._parameters):
            raise self._diverged()
        state = self.state
        tensors = {f"model.{k}": v for k, v in self.model.state_dict().items()}
        if self.settings.average:
            tensors |= {f"average.{k}": v for k, v in self.average.state_dict().items()}
        optimizer_tensors, optimizer_meta = flatten_optimizer(self.optimizer.state_dict())
        tensors |= optimizer_tensors
        tensors |= {f"objective.{k}": v for k, v in state.objective.items()}
        tensors |= {f"sum.{k}": v for k, v in state.sums.items()}
        tensors["generator.data"] = self.data_generator.get_state()
        tensors["generator.chains"] = self.chain_generator.get_state()
        meta = {
            "config": self.config,
            "epoch": state.epoch,
            "batch": state.batch,
            "step": state.step,
            "optimizer": optimizer_meta,
            "records": len(self.records),
        }
        save_checkpoint(self.checkpoint, tensors, meta)

    def _restore(self) -> None:
        assert self.checkpoint is not None
        assert self.metrics is not None
        tensors, meta = load_checkpoint(self.checkpoint)
        if meta["config"] != self.config:
            raise BadInput(f"{self.checkpoint.parent} holds another run; choose an empty folder or resume that run.")
        self.model.load_state_dict(_part(tensors, "model."))
        if self.settings.average:
            self.average.load_state_dict(_part(tensors, "average."))
        restore_optimizer(self.optimizer, tensors, meta["optimizer"])
        device = self.fabric.device
        self.state = TrainingState(
            epoch=meta["epoch"],
            batch=meta["batch"],
            step=meta["step"],
            objective={k: v.to(device) for k, v in _part(tensors, "objective.").items()},
            sums={k: v.to(device) for k, v in _part(tensors, "sum.").items()},
        )
        self.data_generator.set_state(tensors["generator.data"])
        self.chain_generator.set_state(tensors["generator.chains"])
        self.records = self.metrics.keep_first(meta["records"])

    def _diverged(self) -> Diverged:
        kept = "" if self.checkpoint is None else f" the last good checkpoint is kept in {self.checkpoint};"
        return Diverged(
            f"Training diverged at step {self.state.step} (epoch {self.state.epoch + 1}):{kept} lower the learning rate "
            f"from {self.settings.learning_rate:g}."
        )


def _schedule(name: str, done: float) -> float:
    if name == "linear":
        return 1 - done
    return 0.5 * (1 + math.cos(math.pi * done)) if name == "cosine" else 1.0


def _epoch_generator(seed: int, epoch: int) -> torch.Generator:
    return torch.Generator().manual_seed((seed * 1_000_003 + epoch) % 2**63)


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
