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
from typing import Any

import torch
from torch import Tensor, nn

from genmodels.checkpoint import (
    SNAPSHOTS,
    current_versions,
    keep_last,
    load_checkpoint,
    save_checkpoint,
    write_atomically,
)
from genmodels.errors import BadInput
from genmodels.metrics import MetricsFile, Record, is_best
from genmodels.networks import MLP, narrow_networks
from genmodels.objectives import Objective, accumulated
from genmodels.processes import Processes, one_process
from genmodels.rows import Ordered, Rows, check_rows
from genmodels.settings import Settings
from genmodels.sharing import Sharing
from genmodels.signals import StopRequest, stopped_by
from genmodels.splitting import Together, lerp_, load_whole, split_networks, whole, whole_state
from genmodels.training_state import (
    TrainingState,
    as_described_now,
    flatten_optimizer,
    part,
    restore_optimizer,
    with_prefix,
)

CHECKPOINT = "checkpoint.safetensors"
BEST = "best.safetensors"
METRICS = "metrics.jsonl"
DIVERGED = "diverged.json"
"""Where a run that diverged says when; taking the run up removes it."""

Callback = Callable[[Record, nn.Module], Mapping[str, float] | None]
ShowProgress = Callable[[int, int, Record], None]


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
    processes: Processes | None = None,
    until: int | None = None,
) -> list[Record]:
    """Train `model` in place and return one record of metrics per epoch; the model ends with its averaged weights.

    With `out`, that folder gets `checkpoint.safetensors` (with `config` in it) and `metrics.jsonl`; a run that already
    has a checkpoint there is taken up from it, and on a CPU ends bit-identical to one that was never interrupted. SIGINT
    and SIGTERM finish the step, save, and raise KeyboardInterrupt (`Terminated` for SIGTERM). Each callback gets the epoch's
    record and the averaged model, and may return metrics to add. `progress` gets the step, the number of all steps, and the
    latest record.

    The data's order depends on the seed and the epoch alone; all other random numbers come from two generators in the
    checkpoint. Several `processes` share the rows of every batch and the chains, each with random numbers of its own, and
    sum their gradients; the first alone writes, calls back and shows progress. A run may be taken up by any number of them.
    Where they split the parameters of networks, `model` is left split.

    With `until`, the run is left after that many epochs, its learning rate where the schedule of all of them has it; another
    call takes it up.
    """
    settings = Settings() if settings is None else settings
    end = settings.epochs if until is None else min(until, settings.epochs)
    processes = one_process(settings.device, settings.precision) if processes is None else processes
    check_rows(model, data)
    with StopRequest() as stop:
        run = _Run(model, objective, data, settings, out, config or {}, progress, processes, stop)
        run.start()
        while run.state.epoch < end and not run.stopping:
            run.epoch()
            if not run.stopping:
                run.finish_epoch(callbacks)
            last = run.state.epoch == end
            if run.stopping or last or run.state.epoch % settings.checkpoint_every == 0:
                run.save()
        if run.stopping:
            raise stopped_by(run.stopping)
    if settings.average:
        model.load_state_dict(run.average.state_dict())
    return run.records


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
        processes: Processes,
        stop: StopRequest,
    ):
        self.data, self.settings = data, settings
        self.out, self._config, self._progress = out, config, progress
        self.processes, self.fabric, self._stop = processes, processes.fabric, stop
        self._sharing = Sharing(processes, objective, settings.accumulate)
        self._narrow = settings.precision == "bf16-mixed"
        if self._narrow and not any(isinstance(module, MLP) for module in model.modules()):
            raise BadInput("This model has no network that could compute in bfloat16: train it with 32-true.")
        self._dtype = torch.float64 if settings.precision == "64-true" else torch.float32
        self.model = model.to(self._dtype)
        for tensor in self.model.state_dict().values():
            tensor.copy_(processes.from_first(tensor))
        self.average = copy.deepcopy(model).requires_grad_(False)
        # Before they go to the device, which may have no room for the whole.
        self._together = self._split() if processes.split else None
        for weights in (self.model, self.average):
            self.fabric.to_device(weights)
        self._parameters: list[Tensor] = list(model.parameters())
        self.objective = objective
        if settings.accumulate > 1:
            learned = [p for p in self._parameters if p.requires_grad]
            self.objective = accumulated(objective, learned, settings.accumulate)
        self._averaged: list[Tensor] = list(self.average.parameters())
        self.optimizer: Any = self.fabric.setup_optimizers(settings.make_optimizer(self._parameters))
        self.data_generator = torch.Generator().manual_seed(settings.seed)
        self.chain_generator = torch.Generator(device=self.fabric.device).manual_seed(settings.seed + 1)
        self.steps_per_epoch = math.ceil(len(data) / settings.batch_size)
        self._snapshot_steps = settings.snapshot_steps(self.steps_per_epoch * settings.epochs)
        self.state = TrainingState()
        self.records: list[Record] = []
        self._seconds = 0.0
        self._agreed = 0

    def _split(self) -> Together:
        """Leave this process a share of the parameters, and a place where they come together again."""
        if self.settings.accumulate > 1:
            raise BadInput("Parts of a batch need whole parameters: leave --accumulate out, or use --strategy ddp.")
        together = Together(self.average, self.processes.is_first)
        for model in (self.model, self.average):
            split_networks(model, self.processes.mesh())
        return together

    @property
    def stopping(self) -> int:
        """The signal by which all processes have agreed to stop; 0 for none."""
        return self._agreed if self.processes.size > 1 else self._stop.number

    def start(self) -> None:
        """Take up the run that `out` holds, or begin one there."""
        rows = torch.arange(min(self.settings.batch_size, len(self.data)))
        first = self._read(rows, torch.Generator().manual_seed(self.settings.seed))
        self.state.objective = self.objective.init(first, self.chain_generator)
        self._identity = self._describe()
        if self.out is not None and self.processes.on_first((self.out / CHECKPOINT).exists):
            self._restore(self.out)
            return
        self.state.objective = self._sharing.deal(self.state.objective)
        if self.processes.size > 1:
            self._draw_alone()
        if self.out is not None and self.processes.on_first((self.out / METRICS).exists):
            raise BadInput(f"{self.out} holds the {METRICS} of something else: choose an empty folder.")
        self.save()

    def epoch(self) -> None:
        """The rest of the current epoch, or as much as there is before a stop is requested."""
        state, size = self.state, self.settings.batch_size
        order = self._order(_epoch_generator(self.settings.seed, state.epoch))
        started = time.perf_counter()
        while state.batch < self.steps_per_epoch and not self.stopping:
            self._step(order[state.batch * size :][:size])
            if state.batch % 20 == 0:
                self._show_progress()
        self._seconds = time.perf_counter() - started
        if not all(bool(torch.isfinite(whole(p)).all()) for p in self._parameters):
            raise self._diverged()

    def _order(self, generator: torch.Generator) -> Tensor:
        if isinstance(self.data, Ordered):
            return self.data.order(generator)
        return torch.randperm(len(self.data), generator=generator)

    def _read(self, rows: Tensor, generator: torch.Generator) -> Tensor:
        return self.fabric.to_device(self.data.batch(rows, generator)).to(self._dtype)

    def _step(self, rows: Tensor) -> None:
        """One update by the rows with these numbers, of which each process reads its own."""
        state, settings = self.state, self.settings
        mine = rows[self.processes.share(len(rows))]
        # A batch with fewer rows than processes leaves some with none: they read one that counts nothing.
        x = self._read(mine if len(mine) > 0 else rows[:1], self.data_generator)
        learning_rate = settings.learning_rate_at(state.step / (self.steps_per_epoch * settings.epochs))
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        with narrow_networks(self._narrow):
            loss, state.objective, metrics = self.objective.step(x, state.objective, self.chain_generator)
        for parameter in self._parameters:
            parameter.grad = None
        weight = len(mine) / len(rows)
        self.fabric.backward(loss * self._sharing.backward_weight(weight))
        state.objective, loss, metrics, self._agreed = self._sharing.combine(
            weight, self._parameters, state.objective, loss.detach(), metrics, self._stop.number
        )
        if not math.isfinite(loss):
            raise self._diverged()
        self.optimizer.step()
        if settings.average:
            decay = min(settings.average, (1 + state.step) / (10 + state.step))
            lerp_(self._averaged, self._parameters, 1 - decay)
        state.add(metrics)
        state.step += 1
        state.batch += 1
        if self.out is not None and state.step in self._snapshot_steps:
            weights = whole_state(self.model.state_dict())
            if self.processes.is_first:
                save_checkpoint(self.out / SNAPSHOTS / f"{state.step:09d}.safetensors", weights, {})

    @torch.no_grad()
    def finish_epoch(self, callbacks: Sequence[Callback]) -> None:
        """Count the epoch and record its metrics, with those of the callbacks."""
        self.state.epoch += 1
        self.state.batch = 0
        record: Record = {"epoch": self.state.epoch, "step": self.state.step, "seconds": self._seconds}
        record |= self.state.take_means(self.steps_per_epoch)
        record["learning_rate"] = self.optimizer.param_groups[0]["lr"]
        seen = self.average if self.settings.average else self.model
        model = seen if self._together is None else self._together.of(seen)
        self.records.append(self.processes.on_first(lambda: self._watched(record, callbacks, model)))
        if is_best(self.records, self.settings.best_by):
            self.save(BEST)
        self._show_progress()

    def _watched(self, record: Record, callbacks: Sequence[Callback], model: nn.Module) -> Record:
        """The record with what the callbacks add, written down."""
        for callback in callbacks:
            record |= callback(record, model) or {}
        if self.out is not None:
            MetricsFile(self.out / METRICS).append(record)
        return record

    def _show_progress(self) -> None:
        if self._progress is not None and self.processes.is_first:
            last = self.records[-1] if self.records else {}
            self._progress(self.state.step, self.steps_per_epoch * self.settings.epochs, last)

    def save(self, name: str = CHECKPOINT) -> None:
        """Write the checkpoint, if there is a folder for it."""
        if self.out is None:
            return
        state, out, size = self.state, self.out, self.processes.size
        optimizer, optimizer_meta = flatten_optimizer(self.optimizer.state_dict())
        tensors = {
            **with_prefix("model", whole_state(self.model.state_dict())),
            **with_prefix("average", whole_state(self.average.state_dict()) if self.settings.average else {}),
            **with_prefix("optimizer", optimizer),
            **with_prefix("objective", self._sharing.collect(state.objective)),
            **with_prefix("sum", state.sums),
            **self._generators(),
        }
        counters = {"epoch": state.epoch, "batch": state.batch, "step": state.step}
        meta = {"run": self._identity, "optimizer": optimizer_meta, **counters}
        self.processes.on_first(
            lambda: save_checkpoint(out / name, tensors, meta | ({"processes": size} if size > 1 else {}))
        )
        if name == CHECKPOINT and self.processes.is_first:
            keep_last(out / CHECKPOINT, state.step, self.settings.keep_last)

    def _restore(self, out: Path) -> None:
        tensors, meta, versions = load_checkpoint(out / CHECKPOINT)
        held = as_described_now(meta["run"])
        if changed := ", ".join(name for name, value in self._identity.items() if value != held.get(name)):
            raise BadInput(
                f"{out} holds a run with another {changed}: choose an empty folder, or take it up unchanged."
            )
        if versions != current_versions():
            warnings.warn(f"{out} was begun with {versions}; its end may differ in the last digits.", stacklevel=4)
        load_whole(self.model, part("model", tensors))
        if self.settings.average:
            load_whole(self.average, part("average", tensors))
        restore_optimizer(self.optimizer, part("optimizer", tensors), meta["optimizer"])
        self.state = TrainingState(
            epoch=meta["epoch"],
            batch=meta["batch"],
            step=meta["step"],
            objective=self._sharing.deal(self.fabric.to_device(part("objective", tensors))),
            sums=self.fabric.to_device(part("sum", tensors)),
        )
        if meta.get("processes", 1) == self.processes.size:
            self.data_generator.set_state(tensors[f"generator.data{self._suffix(self.processes.rank)}"])
            self.chain_generator.set_state(tensors[f"generator.chains{self._suffix(self.processes.rank)}"])
        else:
            self._draw_alone()
        self.records = self.processes.on_first(lambda: _take_up(out, self.state.epoch))

    def _generators(self) -> dict[str, Tensor]:
        """The states of every process's random numbers."""
        tensors: dict[str, Tensor] = {}
        for name, generator in (("data", self.data_generator), ("chains", self.chain_generator)):
            states = self.processes.collect(self.fabric.to_device(generator.get_state()[None]))
            tensors |= {f"generator.{name}{self._suffix(rank)}": state for rank, state in enumerate(states)}
        return tensors

    @staticmethod
    def _suffix(rank: int) -> str:
        return f".{rank}" if rank else ""

    def _draw_alone(self) -> None:
        """From this step on, random numbers of this process's own."""
        for name, generator in (("data", self.data_generator), ("chains", self.chain_generator)):
            generator.manual_seed(self.processes.stream_seed(self.settings.seed, name, self.state.step))

    def _describe(self) -> dict[str, Any]:
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
        if self.processes.is_first:
            write_atomically(self.out / DIVERGED, (json.dumps({"step": self.state.step}) + "\n").encode())
        return Diverged(f"{when} the last good checkpoint is kept in {self.out};{mend}")


def _epoch_generator(seed: int, epoch: int) -> torch.Generator:
    return torch.Generator().manual_seed((seed * 1_000_003 + epoch) % 2**63)


def _take_up(out: Path, epoch: int) -> list[Record]:
    """The records up to the checkpoint; what says that an earlier attempt went further, or diverged, goes."""
    (out / DIVERGED).unlink(missing_ok=True)
    return MetricsFile(out / METRICS).keep_first(epoch)
