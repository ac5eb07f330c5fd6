"""The only training loop."""

from __future__ import annotations

import copy
import json
import math
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from genmodels.checkpoint import SNAPSHOTS, current_versions, load_checkpoint, save_checkpoint, write_atomically
from genmodels.device import choose_device
from genmodels.errors import BadInput
from genmodels.interface import BlockGibbs, check_width
from genmodels.metrics import MetricsFile, Record
from genmodels.objectives import Objective
from genmodels.settings import Settings
from genmodels.signals import StopRequest
from genmodels.training_state import TrainingState, flatten_optimizer, part, restore_optimizer, with_prefix
from genmodels.units import Unit

CHECKPOINT = "checkpoint.safetensors"
METRICS = "metrics.jsonl"
DIVERGED = "diverged.json"
"""Where a run that diverged says when; taking the run up removes it."""

Callback = Callable[[Record, nn.Module], Mapping[str, float] | None]
ShowProgress = Callable[[int, int, Record], None]


@runtime_checkable
class Rows(Protocol):
    """Training data: anything that gives rows by number, drawn anew where the data set says so."""

    def __len__(self) -> int: ...

    def batch(self, index: Tensor, generator: torch.Generator) -> Tensor:
        """The rows with the given numbers, float32, shape (len(index), d)."""
        ...


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
    progress: ShowProgress | None = None,
) -> list[Record]:
    """Train `model` in place and return one record of metrics per epoch; the model ends with its averaged weights.

    With `out`, that folder gets `checkpoint.safetensors` (with `config` in it) and `metrics.jsonl`; a run that already
    has a checkpoint there is taken up from it, and on a CPU ends bit-identical to one that was never interrupted. SIGINT
    and SIGTERM finish the step, save, and raise KeyboardInterrupt. Each callback gets the epoch's record and the averaged
    model, and may return metrics to add. `progress` gets the step, the number of all steps, and the latest record.

    The data's order depends on the seed and the epoch alone; all other random numbers come from two generators in the
    checkpoint.
    """
    settings = Settings() if settings is None else settings
    check_rows(model, data)
    run = _Run(model, objective, data, settings, out, config or {}, progress)
    run.start()
    with StopRequest() as stop:
        while run.state.epoch < settings.epochs and not stop.requested:
            run.epoch(stop)
            if not stop.requested:
                run.finish_epoch(callbacks)
            last = run.state.epoch == settings.epochs
            if stop.requested or last or run.state.epoch % settings.checkpoint_every == 0:
                run.save()
        if stop.requested:
            raise KeyboardInterrupt
    if settings.average:
        model.load_state_dict(run.average.state_dict())
    return run.records


def check_rows(model: nn.Module, data: Rows) -> None:
    """Refuse data that are empty, of another width than the model's observed layer, or outside its support."""
    if len(data) == 0:
        raise BadInput("The training data are empty: give at least one row.")
    unit = model.units[0] if isinstance(model, BlockGibbs) else getattr(model, "observed", None)
    if not isinstance(unit, Unit):
        return
    generator = torch.Generator().manual_seed(0)
    for rows in torch.arange(len(data)).split(8192):
        x = data.batch(rows, generator)
        check_width(x, unit.size, "the training data")
        try:
            unit.check(x)
        except BadInput:
            # Once more from the first row, so that the sentence names the row's number among all.
            unit.check(data.batch(torch.arange(int(rows[-1]) + 1), generator))


def make_fabric(settings: Settings) -> Fabric:
    """Fabric on the wanted device; a missing one is an error, not a fallback."""
    device = choose_device(settings.device)
    devices = [device.index or 0] if device.type == "cuda" else 1
    return Fabric(accelerator=device.type, devices=devices, precision=settings.precision)


class _Run:
    """One run's moving parts."""

    def __init__(
        self,
        model: nn.Module,
        objective: Objective,
        data: Rows,
        settings: Settings,
        out: Path | None,
        config: Mapping[str, Any],
        progress: ShowProgress | None,
    ):
        self.objective, self.data, self.settings = objective, data, settings
        self.out, self._config, self._progress = out, config, progress
        self.fabric = make_fabric(settings)
        self._dtype = torch.float64 if settings.precision == "64-true" else torch.float32
        self.model = self.fabric.to_device(model.to(self._dtype))
        self.average = copy.deepcopy(model).requires_grad_(False)
        self._parameters: list[Tensor] = list(model.parameters())
        self._averaged: list[Tensor] = list(self.average.parameters())
        self.optimizer: Any = self.fabric.setup_optimizers(settings.make_optimizer(self._parameters))
        self.data_generator = torch.Generator().manual_seed(settings.seed)
        self.chain_generator = torch.Generator(device=self.fabric.device).manual_seed(settings.seed + 1)
        self.steps_per_epoch = math.ceil(len(data) / settings.batch_size)
        self._snapshot_steps = settings.snapshot_steps(self.steps_per_epoch * settings.epochs)
        self.state = TrainingState()
        self.records: list[Record] = []
        self._seconds = 0.0

    def start(self) -> None:
        """Take up the run that `out` holds, or begin one there."""
        rows = torch.arange(min(self.settings.batch_size, len(self.data)))
        first = self._read(rows, torch.Generator().manual_seed(self.settings.seed))
        self.state.objective = self.objective.init(first, self.chain_generator)
        if self.out is None:
            return
        if (self.out / CHECKPOINT).exists():
            self._restore(self.out)
            (self.out / DIVERGED).unlink(missing_ok=True)
        elif (self.out / METRICS).exists():
            raise BadInput(f"{self.out} holds the {METRICS} of something else: choose an empty folder.")
        else:
            self.save()

    def epoch(self, stop: StopRequest) -> None:
        """The rest of the current epoch, or as much as there is before a stop is requested."""
        state, size = self.state, self.settings.batch_size
        order = torch.randperm(len(self.data), generator=_epoch_generator(self.settings.seed, state.epoch))
        started = time.perf_counter()
        while state.batch < self.steps_per_epoch and not stop.requested:
            self._step(self._read(order[state.batch * size :][:size], self.data_generator))
            if state.batch % 20 == 0:
                self._show_progress()
        self._seconds = time.perf_counter() - started
        if not all(bool(torch.isfinite(p).all()) for p in self._parameters):
            raise self._diverged()

    def _read(self, rows: Tensor, generator: torch.Generator) -> Tensor:
        return self.fabric.to_device(self.data.batch(rows, generator)).to(self._dtype)

    def _step(self, x: Tensor) -> None:
        state, settings = self.state, self.settings
        learning_rate = settings.learning_rate_at(state.step / (self.steps_per_epoch * settings.epochs))
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        with self.fabric.autocast():
            loss, state.objective, metrics = self.objective.step(x, state.objective, self.chain_generator)
        if not math.isfinite(loss.detach()):
            raise self._diverged()
        self.optimizer.zero_grad()
        self.fabric.backward(loss)
        self.optimizer.step()
        if settings.average:
            decay = min(settings.average, (1 + state.step) / (10 + state.step))
            torch._foreach_lerp_(self._averaged, self._parameters, 1 - decay)
        state.add(metrics)
        state.step += 1
        state.batch += 1
        if self.out is not None and state.step in self._snapshot_steps:
            save_checkpoint(self.out / SNAPSHOTS / f"{state.step:09d}.safetensors", self.model.state_dict(), {})

    @torch.no_grad()
    def finish_epoch(self, callbacks: Sequence[Callback]) -> None:
        """Count the epoch and record its metrics, with those of the callbacks."""
        self.state.epoch += 1
        self.state.batch = 0
        record: Record = {"epoch": self.state.epoch, "step": self.state.step, "seconds": self._seconds}
        record |= self.state.take_means(self.steps_per_epoch)
        record["learning_rate"] = self.optimizer.param_groups[0]["lr"]
        for callback in callbacks:
            record |= callback(record, self.average if self.settings.average else self.model) or {}
        self.records.append(record)
        if self.out is not None:
            MetricsFile(self.out / METRICS).append(record)
        self._show_progress()

    def _show_progress(self) -> None:
        if self._progress is not None:
            last = self.records[-1] if self.records else {}
            self._progress(self.state.step, self.steps_per_epoch * self.settings.epochs, last)

    def save(self) -> None:
        """Write the checkpoint, if there is a folder for it."""
        if self.out is None:
            return
        state = self.state
        optimizer, optimizer_meta = flatten_optimizer(self.optimizer.state_dict())
        tensors = {
            **with_prefix("model", self.model.state_dict()),
            **with_prefix("average", self.average.state_dict() if self.settings.average else {}),
            **with_prefix("optimizer", optimizer),
            **with_prefix("objective", state.objective),
            **with_prefix("sum", state.sums),
            "generator.data": self.data_generator.get_state(),
            "generator.chains": self.chain_generator.get_state(),
        }
        counters = {"epoch": state.epoch, "batch": state.batch, "step": state.step}
        meta = {"run": self._identity(), "optimizer": optimizer_meta, **counters}
        save_checkpoint(self.out / CHECKPOINT, tensors, meta)

    def _restore(self, out: Path) -> None:
        tensors, meta, versions = load_checkpoint(out / CHECKPOINT)
        identity, held = self._identity(), meta["run"]
        if changed := ", ".join(name for name in identity if identity[name] != held.get(name)):
            raise BadInput(
                f"{out} holds a run with another {changed}: choose an empty folder, or take it up unchanged."
            )
        if versions != current_versions():
            warnings.warn(f"{out} was begun with {versions}; its end may differ in the last digits.", stacklevel=4)
        self.model.load_state_dict(part("model", tensors))
        if self.settings.average:
            self.average.load_state_dict(part("average", tensors))
        restore_optimizer(self.optimizer, part("optimizer", tensors), meta["optimizer"])
        self.state = TrainingState(
            epoch=meta["epoch"],
            batch=meta["batch"],
            step=meta["step"],
            objective=self.fabric.to_device(part("objective", tensors)),
            sums=self.fabric.to_device(part("sum", tensors)),
        )
        self.data_generator.set_state(tensors["generator.data"])
        self.chain_generator.set_state(tensors["generator.chains"])
        self.records = MetricsFile(out / METRICS).keep_first(self.state.epoch)

    def _identity(self) -> dict[str, Any]:
        """What must be the same for a run to be taken up, as JSON gives it back."""
        tensors = {**self.model.state_dict(), **with_prefix("objective", self.state.objective)}
        shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        same = {**asdict(self.settings), "device": self.fabric.device.type, "config": self._config}
        return json.loads(json.dumps({**same, "num_rows": len(self.data), "shape": shapes}))

    def _diverged(self) -> Diverged:
        when = f"Training diverged at step {self.state.step} (epoch {self.state.epoch + 1});"
        mend = f" lower the learning rate from {self.settings.learning_rate:g}."
        if self.out is None:
            return Diverged(when + mend)
        write_atomically(self.out / DIVERGED, (json.dumps({"step": self.state.step}) + "\n").encode())
        return Diverged(f"{when} the last good checkpoint is kept in {self.out};{mend}")


def _epoch_generator(seed: int, epoch: int) -> torch.Generator:
    return torch.Generator().manual_seed((seed * 1_000_003 + epoch) % 2**63)
