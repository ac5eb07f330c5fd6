"""Several processes are one training and one estimate."""

import json
import os
import shutil
import signal
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from genmodels import RBM, BadInput, Bernoulli, runs
from genmodels.checkpoint import load_checkpoint
from genmodels.cli import main
from genmodels.commands import train
from genmodels.data import load
from genmodels.fit import CHECKPOINT, METRICS, fit
from genmodels.groups import Rows, in_groups
from genmodels.interface import default_generator
from genmodels.likelihood import log_likelihood
from genmodels.metrics import MetricsFile
from genmodels.objectives import Objective, pcd
from genmodels.processes import launch
from genmodels.runs import LIKELIHOOD, load_model
from genmodels.settings import Settings
from tests.processes import together

pytestmark = pytest.mark.many_steps
ROWS = torch.randn(13, 3, dtype=torch.float64, generator=default_generator(0))
EXACT = Settings(
    epochs=3, batch_size=6, optimizer="SGD", learning_rate=0.1, average=0.9, precision="64-true", device="cpu"
)


class Line(nn.Module):
    """Least squares, whose gradient is a mean over rows and has no noise."""

    def __init__(self) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.zeros(2, dtype=torch.float64))


class Plane:
    def __len__(self) -> int:
        return len(ROWS)

    def batch(self, index: Tensor, generator: torch.Generator) -> Tensor:
        return ROWS[index]


def least_squares(model: Line) -> Objective:
    def step(x: Tensor, state: dict[str, Tensor], generator: torch.Generator):
        loss = (x[:, :2] @ model.slope - x[:, 2]).square().mean()
        shared = 0.5 * state["mean"] + 0.5 * x.mean(0)
        return loss, {"mean": shared, "count": state["count"] + 1}, {"error": loss}

    return Objective(lambda x, generator: {"mean": x.mean(0), "count": torch.zeros(())}, step)


def descend(out: Path) -> None:
    model = Line()
    fit(model, least_squares(model), Plane(), EXACT, out=out, processes=launch("cpu", "64-true"))


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("alone") / "run"
    descend(out)
    return out


# 13 rows in batches of 6: the last batch has one row for all.
@pytest.mark.parametrize("size", [2, 3])
def test_gradients_state_and_metrics_are_those_of_one_process(alone: Path, tmp_path: Path, size: int) -> None:
    assert together(size, descend, tmp_path / "run") == [0] * size
    one, many = (load_checkpoint(out / CHECKPOINT).tensors for out in (alone, tmp_path / "run"))
    for name in (name for name in one if not name.startswith("generator")):
        torch.testing.assert_close(many[name], one[name], rtol=1e-12, atol=1e-12)
    expected, found = (MetricsFile(out / METRICS).read() for out in (alone, tmp_path / "run"))
    assert [record["error"] for record in found] == pytest.approx([record["error"] for record in expected], rel=1e-12)


BARS = ["--data", "bars-and-stripes", "--batch-size", "10", "--ais-every", "0", "--device", "cpu"]
RBM_FLAGS = ["train", "rbm", *BARS, "--hidden", "5", "--epochs", "50", "--learning-rate", "0.5", "--average", "0.9"]
RBM_FLAGS += ["--num-chains", "50"]


def command(*arguments: str) -> int:
    """The library's command, which leaves a mark in the place of pictures."""
    train.write_pictures = lambda out, progress: (out / f"drawn_by.{os.environ.get('RANK', 0)}").touch() or []
    return main(arguments)


@pytest.fixture(autouse=True)
def pictures_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train, "write_pictures", train.write_pictures)


def commands(size: int, *arguments: object, restarts: int = 0) -> list[int | None]:
    """The exit statuses of one command on `size` processes."""
    return together(size, command, *map(str, arguments), restarts=restarts)


@pytest.fixture(scope="module")
def pair(tmp_path_factory) -> Path:
    """An RBM trained by two processes."""
    out = tmp_path_factory.mktemp("pair") / "rbm"
    assert commands(2, *RBM_FLAGS, "--out", out) == [0, 0]
    return out


def test_two_processes_share_the_chains_of_an_rbm(pair: Path) -> None:
    tensors, meta, _ = load_checkpoint(pair / CHECKPOINT)
    chains = tensors["objective.chains"]
    assert chains.shape == (50, 16)
    assert meta["processes"] == 2
    # Each has its own random numbers: were they the same, so would the halves be.
    assert not torch.equal(chains[:25], chains[25:])
    assert not torch.equal(tensors["generator.chains"], tensors["generator.chains.1"])
    assert [record["epoch"] for record in MetricsFile(pair / METRICS).read()] == list(range(1, 51))
    assert [path.name for path in pair.glob("drawn_by.*")] == ["drawn_by.0"]


def mean_log_likelihood(out: Path) -> float:
    return log_likelihood(load_model(out)[0], load("bars-and-stripes").train.fixed()).log_likelihood.value


def test_two_processes_learn_as_one_does(pair: Path, tmp_path: Path) -> None:
    assert command(*RBM_FLAGS, "--out", str(tmp_path / "one")) == 0
    untrained = -16 * torch.log(torch.tensor(2.0)).item()
    one, two = mean_log_likelihood(tmp_path / "one"), mean_log_likelihood(pair)
    assert min(one, two) > untrained + 0.4
    assert abs(one - two) < 0.2


@pytest.mark.parametrize("size", [1, 3])
def test_a_run_of_two_goes_on_with_another_number(tmp_path: Path, size: int) -> None:
    out = tmp_path / "rbm"
    assert together(2, _train_until, out, 7) == [143, 143]
    before = load_checkpoint(out / CHECKPOINT)
    assert before.meta["step"] == 7
    chains = before.tensors["objective.chains"]
    assert commands(size, "train", "--resume", out) == [0] * size
    after = load_checkpoint(out / CHECKPOINT)
    assert after.meta.get("processes", 1) == size
    assert (after.meta["step"], len(after.tensors["objective.chains"])) == (150, len(chains))
    assert [record["epoch"] for record in MetricsFile(out / METRICS).read()] == list(range(1, 51))


def _train_until(out: Path, step: int, flags: Sequence[str] = RBM_FLAGS) -> int:
    """The status of a training that only this process's fellow asks to stop, after so many steps."""
    build = runs.build_objective

    def stopping(config, model):
        objective, steps = build(config, model), iter(range(1, 1000))

        def stepped(x, state, generator):
            if next(steps) == step and os.environ["RANK"] == "1":
                os.kill(os.getpid(), signal.SIGTERM)
            return objective.step(x, state, generator)

        return objective._replace(step=stepped)

    runs.build_objective = stopping
    return command(*flags, "--out", str(out))


def test_stopped_and_resumed_by_two_it_ends_the_same(pair: Path, tmp_path: Path) -> None:
    out = tmp_path / "rbm"
    assert together(2, _train_until, out, 7) == [143, 143]
    assert commands(2, "train", "--resume", out) == [0, 0]
    resumed, whole = (load_checkpoint(folder / CHECKPOINT).tensors for folder in (out, pair))
    assert resumed.keys() == whole.keys()
    for name in whole:
        torch.testing.assert_close(resumed[name], whole[name], rtol=0, atol=0)


def test_torchrun_takes_a_run_up_after_a_worker_was_lost(tmp_path: Path) -> None:
    out = tmp_path / "rbm"
    assert together(2, _train_until, out, 7) == [143, 143]
    # The same command again, as torchrun gives it.
    assert commands(2, *RBM_FLAGS, "--out", out, restarts=1) == [0, 0]
    assert load_checkpoint(out / CHECKPOINT).meta["step"] == 150
    assert commands(2, *RBM_FLAGS, "--out", out) == [2, 2]


DIRECTED = {
    "vae": ["--latent", "2", "--hidden", "7", "--warm-up", "5"],
    "target-prop": ["--sizes", "7", "3", "--batch-size", "10"],
}


@pytest.mark.parametrize("model", DIRECTED)
def test_models_with_a_decoder_train_on_two_processes_and_go_on_with_one_or_three(tmp_path: Path, model: str) -> None:
    out, others = tmp_path / "two", tmp_path / "three"
    flags = ["train", model, *BARS[:4], "--device", "cpu", "--epochs", "8", *DIRECTED[model]]
    assert together(2, _train_until, out, 7, flags) == [143, 143]
    shutil.copytree(out, others)
    for size, folder in ((1, out), (3, others)):
        assert commands(size, "train", "--resume", folder) == [0] * size
        checkpoint = load_checkpoint(folder / CHECKPOINT)
        assert (checkpoint.meta.get("processes", 1), checkpoint.meta["step"]) == (size, 24)
        records = MetricsFile(folder / METRICS).read()
        assert [record["epoch"] for record in records] == list(range(1, 9))
        assert records[-1]["valid_elbo"] > records[0]["valid_elbo"] + 0.1


@pytest.fixture(scope="module")
def estimates(pair: Path) -> dict[int, dict]:
    """The bracket by one, two and three processes."""
    flags = [
        "--method",
        "auto",
        "--num-temperatures",
        "40",
        "--num-chains",
        "30",
        "--group-size",
        "5",
        "--num-examples",
        "20",
    ]
    found = {}
    for size, method in ((1, "ais"), (2, "ais"), (3, "ais")):
        flags[1] = method
        assert commands(size, "evaluate", pair, *flags) == [0] * size
        found[size] = json.loads((pair / LIKELIHOOD).read_text())
    return found


@pytest.mark.parametrize("size", [2, 3])
def test_the_bracket_does_not_depend_on_the_number_of_processes(estimates: dict[int, dict], size: int) -> None:
    for name in ("lower", "upper", "log_z"):
        for number in ("value", "std_error"):
            assert estimates[size][name][number] == pytest.approx(estimates[1][name][number], abs=1e-6)
    assert estimates[1]["upper"]["std_error"] > 1e-4


def test_groups_draw_their_own_numbers() -> None:
    def work(numbers: Tensor, generator: torch.Generator) -> Rows:
        return (numbers + torch.rand(len(numbers), dtype=torch.float64, generator=generator),)

    def drawn(seed: int) -> Tensor:
        return in_groups(11, 3, default_generator(seed), work)[0]

    found = drawn(0)
    assert torch.equal(found.floor(), torch.arange(11, dtype=torch.float64))
    assert len({round(value, 12) for value in (found - found.floor()).tolist()}) == 11
    assert torch.equal(found, drawn(0))
    assert not torch.equal(found, drawn(1))
    with pytest.raises(BadInput, match="A group has"):
        in_groups(11, 0, default_generator(0), work)


def test_fewer_chains_than_processes_are_refused(tmp_path: Path) -> None:
    assert commands(3, *RBM_FLAGS[:-1], "2", "--out", tmp_path / "rbm") == [2, 2, 2]
    assert not (tmp_path / "rbm" / "config.json").exists()


def test_an_objective_that_cannot_be_shared_is_refused(tmp_path: Path) -> None:
    assert commands(2, *RBM_FLAGS, "--objective", "ptt", "--out", tmp_path / "rbm") == [2, 2]


def test_one_process_with_a_launcher_is_one_process(tmp_path: Path) -> None:
    bars, ends = load("bars-and-stripes"), []
    settings = replace(EXACT, epochs=1, precision="32-true")
    for processes in (None, launch("cpu", "32-true", 1)):
        model = RBM(Bernoulli(16), Bernoulli(5), generator=default_generator(0))
        fit(model, pcd(model), bars.train, settings, processes=processes)
        ends.append(model.weight)
    assert torch.equal(*ends)


def test_restarts_on_the_shared_store_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("RUN_ID", "x"), ("MAX_RESTARTS", "1"), ("USE_AGENT_STORE", "True")):
        monkeypatch.setenv(f"TORCHELASTIC_{name}", value)
    with pytest.raises(BadInput, match="TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1"):
        launch("cpu", "32-true")
