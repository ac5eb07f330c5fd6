"""Input that cannot be used: one sentence and exit status 2, a ValueError from Python, and existing files as they were."""

import errno
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from genmodels import RBM, BadInput, Bernoulli, Categorical, Gaussian, checkpoint
from genmodels.chains import independent_start, run_chains, start_at
from genmodels.checkpoint import load_checkpoint
from genmodels.cli import main
from genmodels.data import Examples, load
from genmodels.fit import CHECKPOINT, METRICS, Settings, fit
from genmodels.interface import default_generator
from genmodels.likelihood import log_likelihood
from genmodels.monitor import MonitorOptions
from genmodels.objectives import pcd
from genmodels.run_config import RunConfig
from genmodels.runs import RUN_FILES, load_model, resume, start

TINY = RunConfig(
    model="rbm",
    model_options=RBM(Bernoulli(16), Bernoulli(3)).config(),
    data="bars-and-stripes",
    settings=Settings(epochs=2, batch_size=10, device="cpu"),
    monitor=MonitorOptions(ais_every=0),
)


@dataclass(frozen=True)
class Refusal:
    """Runs the command line, and expects nothing but one sentence."""

    capsys: pytest.CaptureFixture[str]
    folder: Path

    def __call__(self, *arguments: object) -> str:
        before = contents(self.folder)
        self.capsys.readouterr()
        status = main([str(argument) for argument in arguments])
        out, sentence = self.capsys.readouterr()
        assert status == 2
        assert out == ""
        assert sentence.count("\n") == 1
        assert sentence.endswith(".\n")
        assert contents(self.folder) == before
        return sentence

    def to_train(self, data: object, *flags: object) -> str:
        return self("train", "rbm", "--data", data, "--out", self.folder / "new", "--epochs", 1, *flags)


def contents(folder: Path) -> dict[str, tuple[bytes, int]]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


@pytest.fixture
def refused(capsys, tmp_path) -> Refusal:
    return Refusal(capsys, tmp_path)


@pytest.fixture
def run(tmp_path) -> Path:
    start(TINY, tmp_path / "run")
    return tmp_path / "run"


def saved(folder: Path, array: np.ndarray) -> Path:
    np.save(folder / "data.npy", array)
    return folder / "data.npy"


def binary(num: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 2, (num, width)).astype(np.float32)


def rbm(visible=None) -> RBM:
    return RBM(Bernoulli(16) if visible is None else visible, Bernoulli(3), generator=default_generator(0))


def trains(model: RBM, values: torch.Tensor) -> None:
    fit(model, pcd(model), Examples(values), Settings(epochs=1, device="cpu"))


USES: list[Callable[[RBM, torch.Tensor], object]] = [trains, log_likelihood, start_at]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_not_finite(refused, bad) -> None:
    array = np.random.default_rng(0).normal(size=(20, 5))
    array[7, 3] = bad
    path = saved(refused.folder, array)
    assert "row 8, column 4" in refused.to_train(path)
    with pytest.raises(BadInput, match="row 8, column 4"):
        load(str(path))
    for use in USES:
        with pytest.raises(ValueError, match="Row 7, column 3"):
            use(rbm(Gaussian(5)), torch.from_numpy(array).float())


def test_values_outside_the_support(refused) -> None:
    array = binary(40, 12)
    array[:, 5] = 0.5
    path = saved(refused.folder, array)
    assert "column 5" in refused.to_train(path, "--visible-units", "bernoulli")
    assert "one-hot" in refused.to_train(saved(refused.folder, binary(40, 12)), "--visible-units", "categorical:3")
    for use in USES:
        with pytest.raises(ValueError, match=r"Row 0, column 5 holds 0.5, outside \{0, 1\}"):
            use(rbm(Bernoulli(12)), torch.from_numpy(array))
        with pytest.raises(ValueError, match="one-hot"):
            use(rbm(Categorical(4, 3)), torch.from_numpy(binary(40, 12)))


def test_the_row_is_counted_in_all_of_the_data() -> None:
    values = torch.zeros(20_000, 3)
    values[19_000, 1] = 2
    with pytest.raises(ValueError, match="Row 19000, column 1 holds 2"):
        trains(rbm(Bernoulli(3)), values)


def test_wrong_width(refused, run) -> None:
    path = saved(refused.folder, binary(40, 9))
    assert "(n, 16)" in refused("evaluate", run, "--data", path)
    assert "no groups of 5" in refused.to_train(path, "--visible-units", "categorical:5")
    for use in USES:
        with pytest.raises(ValueError, match=r"\(n, 16\)"):
            use(rbm(), torch.from_numpy(binary(40, 9)))


def test_empty_data(refused) -> None:
    assert "is empty" in refused.to_train(saved(refused.folder, np.zeros((0, 16))))
    for use in USES:
        with pytest.raises(ValueError, match="empty"):
            use(rbm(), torch.zeros(0, 16))


def test_labels_instead_of_images(refused) -> None:
    assert "labels" in refused.to_train(saved(refused.folder, np.arange(30) % 10))
    with pytest.raises(ValueError, match="labels"):
        load(str(refused.folder / "data.npy"))


def test_an_unknown_data_set(refused, run) -> None:
    assert "'digits'" in refused.to_train("digit")
    assert "'mnist-binarized'" in refused("evaluate", run, "--data", "minst-binarised")
    assert "no file" in refused.to_train(refused.folder / "nothing.npy")
    with pytest.raises(ValueError, match="'digits'"):
        load("digit")


VERBS = (["sample"], ["evaluate"], ["plot"], ["train", "--resume"])


@pytest.mark.parametrize("verb", VERBS, ids=" ".join)
def test_a_checkpoint_that_is_none(refused, run, verb) -> None:
    whole = (run / CHECKPOINT).read_bytes()
    torch.save({"weight": torch.zeros(3)}, run / "pickle.pt")
    save_file({"weight": torch.zeros(3)}, run / "foreign.safetensors")
    broken = {
        "truncated or no checkpoint": [whole[: len(whole) // 2], whole[:-1], whole[:5], b""],
        "altered": [whole[:-3] + bytes([whole[-3] ^ 1]) + whole[-2:], whole.replace(b"bars-and", b"bars_and", 1)],
        "no checkpoint": [(run / "pickle.pt").read_bytes(), b"some text"],
        "another program": [(run / "foreign.safetensors").read_bytes()],
    }
    for reason, versions in broken.items():
        for content in versions:
            (run / CHECKPOINT).write_bytes(content)
            assert reason in refused(*verb, run)
            with pytest.raises(ValueError, match=reason):
                load_model(run)
            with pytest.raises(ValueError, match=reason):
                resume(run)


def test_every_changed_byte_is_noticed(run) -> None:
    path = run / CHECKPOINT
    whole = path.read_bytes()
    for position in np.random.default_rng(0).integers(len(whole), size=200):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 4]) + whole[position + 1 :])
        with pytest.raises(BadInput):
            load_checkpoint(path)


@pytest.mark.parametrize("verb", VERBS, ids=" ".join)
def test_a_checkpoint_of_a_newer_format(refused, run, verb, monkeypatch) -> None:
    tensors, meta, _ = load_checkpoint(run / CHECKPOINT)
    monkeypatch.setattr(checkpoint, "FORMAT_VERSION", 2)
    checkpoint.save_checkpoint(run / CHECKPOINT, tensors, meta)
    monkeypatch.undo()
    assert "format 2, and this genmodels reads up to 1: upgrade" in refused(*verb, run)
    with pytest.raises(ValueError, match="upgrade"):
        load_model(run)


@pytest.mark.parametrize("verb", VERBS, ids=" ".join)
def test_no_run_at_all(refused, verb) -> None:
    assert "There is no" in refused(*verb, refused.folder / "nowhere")


def test_a_checkpoint_that_no_run_wrote(refused) -> None:
    model = rbm()
    fit(model, pcd(model), load("bars-and-stripes").train, Settings(epochs=1, device="cpu"), out=refused.folder / "own")
    assert "no configuration of a run" in refused("sample", refused.folder / "own")


def test_an_output_folder_that_holds_another_run(refused, run) -> None:
    arguments = ("train", "rbm", "--data", "digits", "--out", run)
    assert f"--resume {run}" in refused(*arguments)
    with pytest.raises(ValueError, match="--resume"):
        start(TINY, run)
    model = rbm()
    with pytest.raises(ValueError, match="holds a run with another"):
        fit(model, pcd(model), load("bars-and-stripes").train, Settings(epochs=3, device="cpu"), out=run)


@pytest.mark.parametrize("name", RUN_FILES)
def test_an_output_folder_with_anything_that_would_be_overwritten(refused, name) -> None:
    (refused.folder / "new").mkdir()
    (refused.folder / "new" / name).write_text("precious")
    assert name in refused.to_train("bars-and-stripes") or name == CHECKPOINT


def test_an_output_folder_that_is_a_file_or_may_not_be_written(refused, monkeypatch) -> None:
    (refused.folder / "new").write_text("precious")
    assert "new" in refused.to_train("bars-and-stripes")

    def deny(*arguments: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", "/somewhere")

    monkeypatch.setattr(os, "replace", deny)
    assert refused("train", "rbm", "--data", "bars-and-stripes", "--out", refused.folder / "other") == (
        "Permission denied: /somewhere.\n"
    )


def test_a_learning_rate_that_diverges(capsys, tmp_path) -> None:
    data = saved(tmp_path, np.random.default_rng(0).normal(size=(50, 3)))
    flags = [
        "--learning-rate",
        "50",
        "--schedule",
        "constant",
        "--hidden",
        "5",
        "--batch-size",
        "10",
        "--ais-every",
        "0",
    ]
    assert main(["train", "rbm", "--data", str(data), "--out", str(tmp_path / "run"), *flags]) == 2
    sentence = capsys.readouterr().err
    assert sentence.count("\n") == 1
    assert f"the last good checkpoint is kept in {tmp_path / 'run'}; lower the learning rate from 50." in sentence
    model, _ = load_model(tmp_path / "run")
    assert all(bool(torch.isfinite(parameter).all()) for parameter in model.parameters())


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_missing_cuda_device(refused, run) -> None:
    for arguments in (("sample", run), ("evaluate", run), ("plot", run)):
        assert "no CUDA device" in refused(*arguments, "--device", "cuda")
    assert "no CUDA device" in refused.to_train("bars-and-stripes", "--device", "cuda:3")
    assert "no device called 'gpu'" in refused.to_train("bars-and-stripes", "--device", "gpu")
    model = rbm()
    with pytest.raises(ValueError, match="no CUDA device"):
        fit(model, pcd(model), load("bars-and-stripes").train, Settings(device="cuda"))


def full_disk(calls: int) -> Callable[[int], None]:
    """An fsync that finds the disk full after so many calls."""
    left = iter(range(calls))

    def fsync(number: int) -> None:
        if next(left, None) is None:
            raise OSError(errno.ENOSPC, "No space left on device")

    return fsync


def test_no_room_on_disk_while_training(capsys, tmp_path, monkeypatch) -> None:
    flags = ["--data", "bars-and-stripes", "--out", str(tmp_path), "--hidden", "3", "--epochs", "9", "--ais-every", "0"]
    monkeypatch.setattr(os, "fsync", full_disk(6))
    assert main(["train", "rbm", *flags]) == 2
    assert capsys.readouterr().err == (
        f"There is no room on disk to write {tmp_path / CHECKPOINT}: free some, then go on.\n"
    )
    monkeypatch.undo()
    # One call for config.json, one for command.txt, one for the first checkpoint, one after every epoch.
    assert load_checkpoint(tmp_path / CHECKPOINT).meta["epoch"] == 3
    assert not list(tmp_path.glob(".*"))
    resume(tmp_path)
    assert load_checkpoint(tmp_path / CHECKPOINT).meta["epoch"] == 9


@pytest.mark.parametrize("calls", [0, 1, 2])
def test_no_room_on_disk_from_the_start(refused, monkeypatch, calls) -> None:
    monkeypatch.setattr(os, "fsync", full_disk(calls))
    assert "no room on disk" in refused.to_train("bars-and-stripes")


def test_no_room_on_disk_for_metrics(tmp_path, monkeypatch) -> None:
    def fill(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("genmodels.metrics.open", fill, raising=False)
    model, data = rbm(), load("bars-and-stripes")
    with pytest.raises(ValueError, match=f"no room on disk to write .*{METRICS}"):
        fit(model, pcd(model), data.train, Settings(device="cpu"), out=tmp_path)
    assert load_checkpoint(tmp_path / CHECKPOINT).meta["epoch"] == 0


def test_no_room_on_disk_for_samples(capsys, tmp_path, run, monkeypatch) -> None:
    (tmp_path / "draws.npz").write_bytes(b"precious")
    monkeypatch.setattr(os, "fsync", full_disk(0))
    flags = ["--num-steps", "1", "--out", str(tmp_path / "s.png"), "--save", str(tmp_path / "draws.npz")]
    assert main(["sample", str(run), *flags]) == 2
    assert "no room on disk" in capsys.readouterr().err
    assert (tmp_path / "draws.npz").read_bytes() == b"precious"


FLAGS = [
    (["train"], "Name a model"),
    (["train", "--resume", "x", "rbm", "--data", "digits", "--out", "y"], "leave the model out"),
    (["train", "--devices", "2", "rbm", "--data", "digits", "--out", "y"], "behind the model"),
    (["train", "rbm", "--data", "digits", "--out", "y", "--devices", "0"], "at least 1"),
    (["train", "rbm", "--data", "digits"], "--out"),
    (["train", "rbm", "--data", "digits", "--out", "y", "--hiden", "3"], "--hidden"),
    (["train", "rbm", "--data", "digits", "--out", "y", "--hidden", "many"], "'many'"),
    (["train", "rbm", "--data", "digits", "--out", "y", "--hidden", "0"], "at least one unit"),
    (["train", "rbm", "--data", "digits", "--out", "y", "--epochs", "0"], "at least 1"),
    (["train", "rbm", "--data", "digits", "--out", "y", "--learning-rate", "nan"], "positive number"),
    (["train", "rbm", "--data", "digits", "--out", "y", "--optimizer", "LBFGS"], "SGD or Adam"),
    (["train", "rbm", "--data", "digits", "--out", "y", "--optimizer", "Adam", "--momentum", "0.5"], "momentum"),
    (["train", "rbm", "--data", "digits", "--out", "y", "--objective", "cd", "--num-chains", "5"], "--num-chains"),
    (["train", "rbm", "--data", "digits", "--out", "y", "--hidden-units", "poisson"], "gaussian"),
    (["train", "rbm", "--data", "digits", "--out", "y", "--hidden-units", "categorical"], "categorical:4"),
    (["train", "rbm", "--data", "digits", "--out", "y", "--num-steps", "0"], "num_steps"),
    (["frobnicate"], "train, sample, evaluate, plot, report, list"),
    ([], "train"),
]


@pytest.mark.parametrize(
    ("arguments", "hint"), FLAGS, ids=[" ".join(arguments[:9]) or "none" for arguments, _ in FLAGS]
)
def test_flags(refused, arguments, hint, monkeypatch) -> None:
    monkeypatch.chdir(refused.folder)
    assert hint in refused(*arguments)


SAMPLES = [
    (["--num", "0"], "at least one draw"),
    (["--num-steps", "0"], "at least one sweep"),
    (["--num", "31", "--from-data"], "30 rows"),
    (["--out", "samples.bmp"], ".png"),
    (["--save", "samples.csv"], ".npz"),
]


@pytest.mark.parametrize(("flags", "hint"), SAMPLES, ids=[" ".join(flags) for flags, _ in SAMPLES])
def test_sample_flags(refused, run, flags, hint, monkeypatch) -> None:
    monkeypatch.chdir(refused.folder)
    assert hint in refused("sample", run, *flags)


EVALUATIONS = [
    (["--num-examples", "0"], "--num-examples"),
    (["--method", "ais", "--num-chains", "1"], "chains"),
    (["--method", "ais", "--num-temperatures", "2"], "temperatures"),
    (["--method", "ais", "--num-steps", "0"], "step"),
]


@pytest.mark.parametrize(("flags", "hint"), EVALUATIONS, ids=[" ".join(flags) for flags, _ in EVALUATIONS])
def test_evaluate_flags(refused, run, flags, hint) -> None:
    assert hint in refused("evaluate", run, *flags)


def test_chains_from_python() -> None:
    generator = default_generator(0)
    with pytest.raises(ValueError, match="at least one chain"):
        independent_start(rbm(), 0, generator=generator)
    with pytest.raises(ValueError, match="at least one sweep"):
        run_chains(rbm(), independent_start(rbm(), 2, generator=generator), 0, generator=generator)
