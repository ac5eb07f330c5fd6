"""The training loop: what it averages, how it schedules, what it reads, and that nothing but the data decides its end."""

import json
import math
import os
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from genmodels import RBM, BadInput, Bernoulli, Gaussian
from genmodels.checkpoint import KEPT, load_checkpoint
from genmodels.data import DataSet, Examples, load
from genmodels.fit import BEST, CHECKPOINT, METRICS, Diverged, Settings, _Run, fit
from genmodels.interface import default_generator
from genmodels.monitor import MonitorOptions, monitor
from genmodels.objectives import Objective, cd, fpcd, pcd

TINY = Settings(epochs=3, batch_size=7, learning_rate=0.1, average=0.9, device="cpu")


@pytest.fixture(scope="module")
def bars() -> DataSet:
    return load("bars-and-stripes")


def small_rbm(seed: int = 0) -> RBM:
    return RBM(Bernoulli(16), Bernoulli(5), generator=default_generator(seed))


class Slope(nn.Module):
    """One parameter whose gradient is 1 everywhere, so that every number of a training is known."""

    def __init__(self) -> None:
        super().__init__()
        self.position = nn.Parameter(torch.zeros(1))


def descend(model: Slope) -> Objective:
    return Objective(lambda x, generator: {}, lambda x, state, generator: (model.position.sum(), state, {}))


@dataclass
class Recorded:
    """Rows that remember which were read."""

    num: int
    read: list[list[int]] = field(default_factory=list)

    def __len__(self) -> int:
        return self.num

    def batch(self, index: Tensor, generator: torch.Generator) -> Tensor:
        self.read.append(index.tolist())
        return torch.zeros(len(index), 1)


def test_average_follows_its_recursion() -> None:
    model, rate, decay = Slope(), 0.5, 0.6
    settings = Settings(epochs=2, batch_size=2, learning_rate=rate, schedule="constant", average=decay, device="cpu")
    fit(model, descend(model), Recorded(6), settings)
    position = average = 0.0
    for step in range(6):
        position -= rate
        kept = min(decay, (1 + step) / (10 + step))
        average = kept * average + (1 - kept) * position
    torch.testing.assert_close(model.position.detach(), torch.tensor([average]))


def test_without_average_the_last_weights_are_the_model() -> None:
    model = Slope()
    settings = Settings(epochs=2, batch_size=2, learning_rate=0.5, schedule="constant", average=0.0, device="cpu")
    fit(model, descend(model), Recorded(6), settings)
    torch.testing.assert_close(model.position.detach(), torch.tensor([-3.0]))


@pytest.mark.parametrize(
    ("schedule", "factor"),
    [("linear", lambda t: 1 - t), ("cosine", lambda t: (1 + math.cos(math.pi * t)) / 2), ("constant", lambda t: 1.0)],
)
def test_learning_rate_follows_its_schedule(schedule, factor: Callable[[float], float]) -> None:
    model = Slope()
    settings = Settings(epochs=5, batch_size=2, learning_rate=0.5, schedule=schedule, average=0.0, device="cpu")
    records = fit(model, descend(model), Recorded(6), settings)
    rates = [0.5 * factor(step / 15) for step in range(15)]
    assert [record["learning_rate"] for record in records] == pytest.approx(rates[2::3])
    assert model.position.item() == pytest.approx(-sum(rates))


@pytest.mark.parametrize(("num", "batch_size", "sizes"), [(10, 4, [4, 4, 2]), (3, 100, [3]), (8, 4, [4, 4])])
def test_every_epoch_reads_every_row_once_in_a_new_order(num: int, batch_size: int, sizes: list[int]) -> None:
    model, rows = Slope(), Recorded(num)
    records = fit(model, descend(model), rows, Settings(epochs=2, batch_size=batch_size, device="cpu"))
    epochs = [rows.read[1:][: len(sizes)], rows.read[1 + len(sizes) :]]
    for epoch in epochs:
        assert [len(batch) for batch in epoch] == sizes
        assert sorted(row for batch in epoch for row in batch) == list(range(num))
    assert num == 3 or epochs[0] != epochs[1]
    assert records[-1]["step"] == 2 * len(sizes)


@pytest.mark.parametrize(("batch_size", "chains"), [(100, 30), (7, 7)])
def test_persistent_chains_are_as_many_as_rows_in_a_full_batch(bars, tmp_path, batch_size, chains) -> None:
    model = small_rbm()
    fit(model, pcd(model), bars.train, replace(TINY, batch_size=batch_size), out=tmp_path)
    assert load_checkpoint(tmp_path / CHECKPOINT).tensors["objective.chains"].shape == (chains, 16)


class Killed(Exception):
    """Stands for a kill: nothing more is saved."""


def killer(after: int) -> Callable[..., None]:
    def callback(record, model) -> None:
        if record["epoch"] == after:
            raise Killed

    return callback


def trained(bars: DataSet, out: Path, settings: Settings = TINY, objective=pcd, callbacks: Sequence = ()) -> bytes:
    model = small_rbm()
    fit(model, objective(model), bars.train, settings, out=out, callbacks=callbacks)
    return (out / CHECKPOINT).read_bytes()


OPTIMIZERS = [
    ("SGD", {"momentum": 0.9, "nesterov": True}),
    ("Adam", {"betas": [0.8, 0.99], "amsgrad": True}),
    ("AdamW", {}),
    ("RMSprop", {"momentum": 0.5, "centered": True}),
    ("Adagrad", {}),
    ("Adadelta", {}),
    ("Adamax", {}),
    ("NAdam", {}),
    ("RAdam", {}),
    ("Rprop", {}),
    ("ASGD", {}),
]


@pytest.mark.parametrize(("name", "options"), OPTIMIZERS, ids=[name for name, _ in OPTIMIZERS])
def test_any_optimizer_resumes_to_the_same_bits(bars, tmp_path, name, options) -> None:
    settings = replace(TINY, optimizer=name, optimizer_options=options, learning_rate=0.01)
    with pytest.raises(Killed):
        trained(bars, tmp_path / "killed", settings, callbacks=[killer(2)])
    assert trained(bars, tmp_path / "killed", settings) == trained(bars, tmp_path / "whole", settings)


@pytest.mark.parametrize("objective", [cd, pcd, fpcd])
@pytest.mark.parametrize("precision", ["32-true", "64-true"])
def test_any_objective_resumes_to_the_same_bits(bars, tmp_path, objective, precision) -> None:
    settings = replace(TINY, precision=precision, checkpoint_every=2)
    with pytest.raises(Killed):
        trained(bars, tmp_path / "killed", settings, objective, callbacks=[killer(3)])
    resumed = trained(bars, tmp_path / "killed", settings, objective)
    assert resumed == trained(bars, tmp_path / "whole", settings, objective)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("at", [0, 3, 4, 5, 14])
def test_a_stop_in_the_middle_of_an_epoch_is_saved_and_resumes(bars, tmp_path, number, at) -> None:
    model = small_rbm()
    objective, steps = pcd(model), iter(range(100))

    def step(x, state, generator):
        if next(steps) == at:
            os.kill(os.getpid(), number)
        return objective.step(x, state, generator)

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        fit(model, Objective(objective.init, step), bars.train, TINY, out=tmp_path / "stopped")
    meta = load_checkpoint(tmp_path / "stopped" / CHECKPOINT).meta
    assert meta["step"] == at + 1
    assert 0 < meta["batch"] == at % 5 + 1
    assert trained(bars, tmp_path / "stopped") == trained(bars, tmp_path / "whole")
    assert signal.getsignal(signal.SIGINT) is before


def test_a_finished_run_is_loaded_and_not_trained_again(bars, tmp_path) -> None:
    first = small_rbm()
    records = fit(first, pcd(first), bars.train, TINY, out=tmp_path)
    again = small_rbm(seed=7)
    assert fit(again, pcd(again), bars.train, TINY, out=tmp_path) == records
    assert torch.equal(first.weight, again.weight)
    averaged = load_checkpoint(tmp_path / CHECKPOINT).tensors["average.weight"]
    assert torch.equal(averaged, again.weight)


def test_a_run_left_early_is_taken_up_on_its_schedule(bars, tmp_path) -> None:
    settings, model = replace(TINY, checkpoint_every=2), small_rbm()
    records = fit(model, pcd(model), bars.train, settings, out=tmp_path / "left", until=1)
    assert len(records) == 1
    assert torch.equal(load_checkpoint(tmp_path / "left" / CHECKPOINT).tensors["average.weight"], model.weight)
    assert trained(bars, tmp_path / "left", settings) == trained(bars, tmp_path / "whole", settings)


def test_metrics_of_epochs_after_the_checkpoint_are_dropped(bars, tmp_path) -> None:
    settings = replace(TINY, epochs=5, checkpoint_every=3)
    with pytest.raises(Killed):
        trained(bars, tmp_path, settings, callbacks=[killer(5)])
    with open(tmp_path / METRICS, "a") as file:
        file.write('{"epoch": 5, "half of a li')
    trained(bars, tmp_path, settings)
    lines = (tmp_path / METRICS).read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [1, 2, 3, 4, 5]


def test_watching_changes_nothing(bars, tmp_path) -> None:
    options = MonitorOptions(ais_every=2, ais_chains=3, ais_temperatures=5)
    watched = trained(bars, tmp_path / "watched", callbacks=[monitor(bars, epochs=3, options=options)])
    assert watched == trained(bars, tmp_path / "alone")
    records = [json.loads(line) for line in (tmp_path / "watched" / METRICS).read_text().splitlines()]
    assert all("free_energy_gap" in record and "pseudo_likelihood" in record for record in records)
    assert ["log_likelihood" in record for record in records] == [False, True, True]
    assert records[1]["log_likelihood_std_error"] > 0


def test_global_random_numbers_are_neither_used_nor_changed(bars, tmp_path) -> None:
    torch.manual_seed(1)
    first = trained(bars, tmp_path / "a")
    state = torch.get_rng_state()
    torch.manual_seed(2)
    assert trained(bars, tmp_path / "b") == first
    torch.manual_seed(1)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"learning_rate": 0.2}, "learning_rate"),
        ({"epochs": 9}, "epochs"),
        ({"optimizer": "Adam", "seed": 3}, "optimizer, seed"),
    ],
)
def test_another_run_in_the_folder_is_refused(bars, tmp_path, change, name) -> None:
    before = trained(bars, tmp_path)
    with pytest.raises(BadInput, match=f"another {name}:"):
        trained(bars, tmp_path, replace(TINY, **change))
    assert (tmp_path / CHECKPOINT).read_bytes() == before


def test_another_model_objective_or_data_in_the_folder_is_refused(bars, tmp_path) -> None:
    before = trained(bars, tmp_path)
    other = RBM(Bernoulli(16), Bernoulli(6))
    with pytest.raises(BadInput, match="another shape"):
        fit(other, pcd(other), bars.train, TINY, out=tmp_path)
    with pytest.raises(BadInput, match="another shape"):
        trained(bars, tmp_path, objective=cd)
    model = small_rbm()
    with pytest.raises(BadInput, match="another num_rows"):
        fit(model, pcd(model), Examples(bars.train.values[1:]), TINY, out=tmp_path)
    assert (tmp_path / CHECKPOINT).read_bytes() == before


def test_a_checkpoint_of_another_torch_resumes_with_a_warning(bars, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("genmodels.checkpoint.current_versions", lambda: {"genmodels": "0.1.0", "torch": "2.4.0"})
    with pytest.raises(Killed):
        trained(bars, tmp_path, callbacks=[killer(2)])
    monkeypatch.undo()
    with pytest.warns(UserWarning, match=r"2\.4\.0"):
        trained(bars, tmp_path)


def test_divergence_keeps_the_last_good_checkpoint(tmp_path) -> None:
    data = Examples(torch.randn(40, 3, generator=default_generator(0)))
    model = RBM(Gaussian(3), Bernoulli(5), generator=default_generator(0))
    settings = Settings(epochs=50, batch_size=10, learning_rate=50.0, schedule="constant", device="cpu")
    with pytest.raises(Diverged, match=f"the last good checkpoint is kept in {tmp_path}; lower the learning rate"):
        fit(model, pcd(model), data, settings, out=tmp_path)
    tensors = load_checkpoint(tmp_path / CHECKPOINT).tensors
    assert all(bool(torch.isfinite(tensor).all()) for tensor in tensors.values() if tensor.is_floating_point())


def noting(*values: float) -> Callable:
    """A callback that gives the epochs these values of a metric; nothing for NaN."""
    return lambda record, model: {} if math.isnan(value := values[int(record["epoch"]) - 1]) else {"good": value}


def test_the_best_checkpoint_is_kept(bars, tmp_path) -> None:
    settings = replace(TINY, epochs=5, checkpoint_every=5, best_by="good")
    trained(bars, tmp_path, settings, callbacks=[noting(math.nan, 1.0, 3.0, 2.0, 3.0)])
    assert load_checkpoint(tmp_path / BEST).meta["epoch"] == 3
    assert load_checkpoint(tmp_path / CHECKPOINT).meta["epoch"] == 5


def test_the_best_survives_a_kill(bars, tmp_path) -> None:
    settings, values = replace(TINY, epochs=5, checkpoint_every=2, best_by="good"), (5.0, 4.0, 6.0, 3.0, 5.5)
    with pytest.raises(Killed):
        trained(bars, tmp_path / "killed", settings, callbacks=[noting(*values), killer(5)])
    trained(bars, tmp_path / "killed", settings, callbacks=[noting(*values)])
    trained(bars, tmp_path / "whole", settings, callbacks=[noting(*values)])
    assert (tmp_path / "killed" / BEST).read_bytes() == (tmp_path / "whole" / BEST).read_bytes()


@pytest.mark.parametrize("links", [True, False])
def test_the_last_checkpoints_are_kept_and_no_more(bars, tmp_path, monkeypatch, links) -> None:
    def refuse(*_: object) -> None:
        raise OSError("this file system has no links")

    if not links:
        monkeypatch.setattr(os, "link", refuse)
    trained(bars, tmp_path, replace(TINY, epochs=5, keep_last=3))
    kept = sorted((tmp_path / KEPT).iterdir())
    assert [load_checkpoint(path).meta["epoch"] for path in kept] == [3, 4, 5]
    assert kept[-1].read_bytes() == (tmp_path / CHECKPOINT).read_bytes()


def test_from_an_earlier_checkpoint_it_ends_the_same(bars, tmp_path) -> None:
    settings = replace(TINY, epochs=5, keep_last=3)
    end = trained(bars, tmp_path, settings)
    earlier = min((tmp_path / KEPT).iterdir())
    (tmp_path / CHECKPOINT).unlink()
    (tmp_path / CHECKPOINT).write_bytes(earlier.read_bytes())
    assert trained(bars, tmp_path, settings) == end
    assert len(list((tmp_path / KEPT).iterdir())) == 3


def test_a_setting_that_a_stored_run_did_not_know_has_its_default(bars, tmp_path, monkeypatch) -> None:
    whole = trained(bars, tmp_path / "whole")
    describe = _Run._describe

    def before(self: _Run) -> dict:
        return {name: value for name, value in describe(self).items() if name not in ("keep_last", "best_by")}

    with monkeypatch.context() as patch:
        patch.setattr(_Run, "_describe", before)
        with pytest.raises(Killed):
            trained(bars, tmp_path / "old", callbacks=[killer(2)])
    assert trained(bars, tmp_path / "old") == whole
