"""Rows in files: every one once an epoch, in blocks, and in bounded memory."""

from __future__ import annotations

import gc
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from genmodels import BadInput
from genmodels.cli import main
from genmodels.data import load
from genmodels.data.blocks import BlockRows
from genmodels.fit import Settings, fit
from genmodels.interface import default_generator
from genmodels.objectives import Objective
from genmodels.rows import Ordered
from tests.test_fit import Slope, descend

pytestmark = pytest.mark.many_steps


@pytest.fixture
def shards(tmp_path: Path) -> tuple[Path, torch.Tensor]:
    """Three files of 5 × 7 images with 11, 2 and 23 rows, and all their rows."""
    generator = np.random.default_rng(0)
    parts = [generator.integers(0, 256, (num, 5, 7), dtype=np.uint8) for num in (11, 2, 23)]
    for number, part in enumerate(parts):
        np.save(tmp_path / f"part-{number}.npy", part)
    return tmp_path, torch.from_numpy(np.concatenate(parts)).flatten(1).float() / 255


def test_rows_are_those_of_the_files(shards) -> None:
    folder, rows = shards
    data = BlockRows(folder, scale=255, block_bytes=4 * 35, window=2)
    assert (len(data), data.num_features) == (36, 35)
    assert isinstance(data, Ordered)
    for index in (torch.arange(36), torch.tensor([35, 0, 12, 12, 11, 10]), torch.randperm(36)):
        torch.testing.assert_close(data.batch(index, default_generator(0)), rows[index], rtol=1e-6, atol=0)


def test_an_epoch_has_every_row_once_and_few_blocks_at_a_time(shards) -> None:
    folder, _ = shards
    data = BlockRows(folder, block_bytes=4 * 35, window=2)
    first, again, other = (data.order(default_generator(seed)) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert sorted(first.tolist()) == list(range(36))
    # Blocks of 4 rows, the last of each file shorter: 11 = 4 + 4 + 3, 2, 23 = 5 · 4 + 3.
    starts = torch.tensor([0, 4, 8, 11, 13, 17, 21, 25, 29, 33])
    blocks = (torch.searchsorted(starts, first, right=True) - 1).tolist()
    place = {block: [i for i, b in enumerate(blocks) if b == block] for block in set(blocks)}
    assert all(max(at) - min(at) < 8 for at in place.values())
    assert any(max(at) - min(at) >= 4 for at in place.values())


def test_a_training_reads_them_in_their_order(shards, monkeypatch) -> None:
    folder, _ = shards
    data, seen = BlockRows(folder, block_bytes=4 * 35, window=2), []
    batch = data.batch
    monkeypatch.setattr(data, "batch", lambda index, generator: (seen.append(index), batch(index, generator))[1])
    model = Slope()
    fit(model, descend(model), data, Settings(epochs=1, batch_size=5, device="cpu"))
    (order,) = [torch.cat(seen[1:])]
    assert sorted(order.tolist()) == list(range(36))
    assert not torch.equal(order, torch.arange(36))


def resident() -> int:
    """Bytes of this process in memory, pages of files included."""
    fields = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines() if ":" in line)
    return int(fields["VmRSS"].split()[0]) * 1024


def growth(path: Path) -> int:
    """The most bytes by which an epoch over the file makes this process larger."""
    data = BlockRows(path, scale=255, block_bytes=1 << 18, window=4)
    gc.collect()
    model, start, most = Slope(), resident(), 0
    objective = descend(model)

    def step(x, state, generator):
        nonlocal most
        most = max(most, resident() - start)
        return objective.step(x, state, generator)

    fit(model, Objective(objective.init, step), data, Settings(epochs=1, batch_size=500, device="cpu"))
    return most


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's count of resident pages")
def test_memory_hardly_grows_with_the_file(tmp_path: Path) -> None:
    size = 16_384 * 784
    for name, times in (("small.npy", 1), ("large.npy", 8)):
        # Zeros that take no room on disk are read as any others.
        np.lib.format.open_memmap(tmp_path / name, "w+", np.uint8, (times * 16_384, 784)).flush()
    growth(tmp_path / "small.npy")  # what the first training of a process allocates once
    small, large = growth(tmp_path / "small.npy"), growth(tmp_path / "large.npy")
    slope = (large - small) / (7 * size)
    # 20 GiB at that slope, beside 350 MiB of Python and torch, stay below 1 GiB.
    assert slope * 20 < (1024 - 350) / 1024, f"{small >> 20} MiB, {large >> 20} MiB"


@pytest.mark.parametrize("problem", ["empty folder", "labels", "pickle", "two shapes"])
def test_what_holds_no_rows_is_refused(tmp_path: Path, problem: str) -> None:
    if problem == "labels":
        np.save(tmp_path / "a.npy", np.arange(5))
    if problem == "pickle":
        np.save(tmp_path / "a.npy", np.array([{}, 1], dtype=object), allow_pickle=True)
    if problem == "two shapes":
        np.save(tmp_path / "a.npy", np.zeros((5, 3)))
        np.save(tmp_path / "b.npy", np.zeros((5, 4)))
    with pytest.raises(BadInput):
        BlockRows(tmp_path)


@pytest.fixture
def splits(tmp_path: Path) -> Path:
    """Bars and stripes as grey levels in a folder: train in three files, and the other two splits."""
    rows = np.tile(load("bars-and-stripes").train.values.numpy(), (4, 1)).reshape(-1, 4, 4)
    for name, part in (("train-0", rows[:50]), ("train-1", rows[50:90]), ("train-2", rows[90:]), ("valid", rows[:30])):
        np.save(tmp_path / f"{name}.npy", part)
    np.save(tmp_path / "test.npy", rows[30:60])
    return tmp_path


def test_a_folder_of_arrays_is_a_data_set(splits: Path) -> None:
    data = load(str(splits))
    assert (len(data.train), len(data.valid), len(data.test)) == (120, 30, 30)
    assert (data.num_features, data.image_shape, data.support) == (16, (4, 4), "binary")
    assert isinstance(data.train, Ordered)
    everything = data.train.batch(torch.arange(120), default_generator(0))
    assert torch.equal(everything, load("bars-and-stripes").train.fixed().repeat(4, 1))
    assert torch.equal(data.train.fixed(), everything)
    for path in splits.glob("*.npy"):
        np.save(path, np.load(path) * np.uint8(200))
    greys = load(str(splits))
    assert greys.support == "unit"
    for rows in (greys.train.fixed(), greys.train.batch(torch.arange(120), default_generator(0))):
        torch.testing.assert_close(rows, everything * 200 / 255)


def test_the_command_line_trains_on_a_folder_of_arrays(splits: Path, tmp_path_factory, monkeypatch) -> None:
    monkeypatch.setattr("genmodels.commands.train.write_pictures", lambda out, progress: [])
    out = tmp_path_factory.mktemp("runs") / "rbm"
    flags = ["--hidden", "5", "--epochs", "30", "--batch-size", "20", "--learning-rate", "0.5", "--device", "cpu"]
    assert main(["train", "rbm", "--data", str(splits), "--out", str(out), *flags]) == 0
    assert main(["evaluate", str(out), "--num-examples", "20"]) == 0
    found = json.loads((out / "likelihood.json").read_text())
    assert found["log_likelihood"]["value"] > -16 * np.log(2) + 0.4


def test_splits_that_are_missing_or_do_not_fit_are_refused(splits: Path) -> None:
    with pytest.raises(BadInput, match="leave the key"):
        load(str(splits), key="x")
    np.save(splits / "valid.npy", np.zeros((3, 5, 5), np.uint8))
    with pytest.raises(BadInput, match="different sizes"):
        load(str(splits))
    (splits / "valid.npy").unlink()
    with pytest.raises(BadInput, match="none for valid"):
        load(str(splits))
