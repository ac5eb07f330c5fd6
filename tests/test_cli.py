"""The command line from end to end, on a data set of 30 rows."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.image import imread

from genmodels import Bernoulli, Categorical, Gaussian, demo
from genmodels.chains import film, half_to_fill, independent_start, run_chains, start_at
from genmodels.cli import main
from genmodels.data import load, names
from genmodels.families import boltzmann
from genmodels.interface import default_generator
from genmodels.likelihood import log_likelihood
from genmodels.rbm import RBM
from genmodels.run_config import RunConfig
from genmodels.runs import load_model, resume, start
from genmodels.settings import Settings

PICTURES = ("samples.png", "filters.png", "film_strip.png", "curves.png")
SHORT = ["--epochs", "3", "--hidden", "4", "--ais-every", "2", "--device", "cpu"]


@pytest.fixture(autouse=True)
def short_chains(monkeypatch) -> None:
    monkeypatch.setattr(boltzmann, "NUM_STEPS", 5)
    monkeypatch.setattr(boltzmann, "FILM_STEPS", (0, 1, 3))


@pytest.fixture
def no_pictures(monkeypatch) -> None:
    monkeypatch.setattr("genmodels.commands.train.write_pictures", lambda out, progress: [])


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "rbm"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(boltzmann, "NUM_STEPS", 5)
        assert main(["train", "rbm", "--data", "bars-and-stripes", "--out", str(out), *SHORT]) == 0
    return out


def said(capsys, *arguments: object) -> tuple[str, str]:
    capsys.readouterr()
    assert main([str(argument) for argument in arguments]) == 0
    return capsys.readouterr()


def test_train_leaves_a_whole_run(run: Path) -> None:
    assert {path.name for path in run.iterdir()} >= {
        "checkpoint.safetensors",
        "config.json",
        "metrics.jsonl",
        *PICTURES,
    }
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [record["epoch"] for record in records] == [1, 2, 3]
    model, config = load_model(run)
    assert config == RunConfig.from_dict(json.loads((run / "config.json").read_text()))
    assert (config.data, config.image_shape, config.settings.epochs) == ("bars-and-stripes", (4, 4), 3)
    assert isinstance(model, RBM)
    assert torch.equal(model.weight, load_model(run / "checkpoint.safetensors")[0].weight)


def test_train_draws_pictures_and_prints_their_paths(capsys, tmp_path: Path) -> None:
    flags = [*SHORT, "--objective", "fpcd", "--optimizer", "Adam", "--learning-rate", "0.01", "--l1", "0.001"]
    out, err = said(capsys, "train", "rbm", "--data", "bars-and-stripes", "--out", tmp_path / "run", *flags)
    assert out.split() == [str(tmp_path / "run" / name) for name in PICTURES]
    assert err == ""
    assert load_model(tmp_path / "run")[1].objective_options["penalty"]["l1"] == 0.001


def test_resuming_a_finished_run_draws_it_again(capsys, run: Path) -> None:
    before = (run / "checkpoint.safetensors").read_bytes()
    out, _ = said(capsys, "train", "--resume", run)
    assert str(run / "samples.png") in out
    assert (run / "checkpoint.safetensors").read_bytes() == before


def test_the_seed_decides_everything(tmp_path: Path) -> None:
    config = RunConfig("rbm", RBM(Bernoulli(16), Bernoulli(3)).config(), "bars-and-stripes")
    ends = []
    for number, seed in enumerate([1, 1, 2]):
        torch.manual_seed(number)
        settings = Settings(epochs=1, seed=seed, device="cpu")
        start(replace(config, settings=settings), tmp_path / str(number))
        ends.append((tmp_path / str(number) / "checkpoint.safetensors").read_bytes())
    assert ends[0] == ends[1] != ends[2]


def test_evaluate_prints_one_json_object_and_nothing_else(capsys, run: Path) -> None:
    out, err = said(capsys, "evaluate", run, "--json")
    report = json.loads(out)
    keys = "model data split num_examples log_likelihood lower upper log_z diagnostics seconds"
    assert list(report) == keys.split()
    assert (report["model"], report["data"], report["split"], report["num_examples"]) == (
        "rbm",
        "bars-and-stripes",
        "test",
        30,
    )
    assert set(report["log_likelihood"]) == {"value", "std_error", "bound", "method"}
    assert report["log_likelihood"]["bound"] == "exact"
    assert report["lower"] is report["upper"] is None
    assert err == ""
    model, _ = load_model(run)
    expected = log_likelihood(model, load("bars-and-stripes").test.fixed()).log_likelihood.value
    assert report["log_likelihood"]["value"] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("method", ["ais", "raise"])
def test_evaluate_shows_the_bracket(capsys, run: Path, method: str) -> None:
    flags = ["--method", method, "--num-temperatures", "30", "--num-chains", "8", "--num-examples", "10"]
    report = json.loads(said(capsys, "evaluate", run, *flags, "--json")[0])
    assert report["num_examples"] == 10
    assert (report["lower"]["bound"], report["upper"]["bound"]) == ("lower", "upper")
    table, _ = said(capsys, "evaluate", run, *flags, "--schedule", "uniform", "--split", "train")
    assert "at or above" in table
    assert "at or below" in table
    assert "The bracket, upper minus lower side, is" in table


def test_evaluate_is_kept_and_drawn(capsys, run: Path) -> None:
    said(capsys, "evaluate", run)
    assert json.loads((run / "likelihood.json").read_text())["estimates"]["value"]["bound"] == "exact"
    out, _ = said(capsys, "plot", run, "--device", "cpu")
    assert out.split() == [str(run / name) for name in [*PICTURES, "likelihood.png"]]


def test_evaluate_on_other_data(capsys, run: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "other.npy", np.random.default_rng(0).integers(0, 2, (40, 16)))
    report = json.loads(said(capsys, "evaluate", run, "--data", tmp_path / "other.npy", "--json")[0])
    assert (report["data"], report["num_examples"]) == ("other.npy", 4)


def test_sample_draws_and_saves(capsys, run: Path, tmp_path: Path) -> None:
    flags = ["--num", "6", "--num-steps", "3", "--out", tmp_path / "s.png", "--save", tmp_path / "s.npz"]
    out, err = said(capsys, "sample", run, *flags, "--seed", "3")
    assert out.split() == [str(tmp_path / "s.png"), str(tmp_path / "s.npz")]
    assert err == ""
    assert imread(tmp_path / "s.png").ndim == 3
    with np.load(tmp_path / "s.npz") as saved:
        states, means = saved["states"], saved["means"]
    assert states.shape == means.shape == (6, 16)
    assert set(np.unique(states)) <= {0, 1}
    assert ((means > 0) & (means < 1)).all()
    model, _ = load_model(run)
    generator = default_generator(3)
    chains = run_chains(model, independent_start(model, 6, generator=generator), 3, generator=generator)
    np.testing.assert_array_equal(states, chains.states)


@pytest.mark.parametrize(("half", "held"), [("upper", slice(8, 16)), ("lower", slice(0, 8))])
@pytest.mark.parametrize("start", [[], ["--from-data"]])
def test_sample_fills_in_half(capsys, run: Path, tmp_path: Path, half: str, held: slice, start: list[str]) -> None:
    flags = ["--num", "30", "--num-steps", "7", "--out", tmp_path / "s.png", "--save", tmp_path / "s.npz"]
    said(capsys, "sample", run, *flags, "--inpaint", half, *start)
    rows = load("bars-and-stripes").test.fixed().numpy()
    with np.load(tmp_path / "s.npz") as saved:
        for values in (saved["states"], saved["means"]):
            np.testing.assert_array_equal(values[:, held], rows[:, held])
            assert (values != rows).any()


def test_halves_of_an_odd_image() -> None:
    masks = {half: half_to_fill((3, 5), half).reshape(3, 5) for half in ("upper", "lower", "left", "right")}
    assert masks["upper"].sum() == masks["lower"].sum() == 5
    assert masks["left"].sum() == masks["right"].sum() == 6
    assert masks["upper"][0].all()
    assert masks["lower"][2].all()
    assert masks["left"][:, :2].all()
    assert masks["right"][:, 3:].all()


def test_film_shows_the_start_and_then_means() -> None:
    model = RBM(Bernoulli(7), Bernoulli(3), generator=default_generator(0))
    x = torch.ones(2, 7)
    frames = film(model, start_at(model, x), [0, 2, 5], generator=default_generator(0))
    assert frames.shape == (3, 2, 7)
    assert torch.equal(frames[0], x)
    end = run_chains(model, start_at(model, x), 5, generator=default_generator(0))
    assert torch.equal(frames[2], end.means)


def own_data(folder: Path, array: np.ndarray) -> Path:
    np.save(folder / "own.npy", array)
    return folder / "own.npy"


def test_real_data_get_gaussian_units_and_tables_no_film(capsys, tmp_path: Path, monkeypatch) -> None:
    data = own_data(tmp_path, np.random.default_rng(0).normal(3, 2, (60, 7)))
    monkeypatch.chdir(tmp_path)
    out, _ = said(capsys, "train", "rbm", "--data", "own.npy", "--out", tmp_path / "run", *SHORT)
    assert "film_strip.png" not in out
    model, config = load_model(tmp_path / "run")
    assert config.data == str(data)
    assert isinstance(model.visible, Gaussian)
    assert model.visible.config()["variance"] == pytest.approx(4, rel=0.3)
    assert model.visible_bias.tolist() == pytest.approx([3.0] * 7, abs=1)
    monkeypatch.chdir("/")
    resume(tmp_path / "run")
    out, _ = said(capsys, "sample", tmp_path / "run", "--out", tmp_path / "s.png", "--from-data", "--num", "6")
    assert (tmp_path / "s.png").exists()


def test_categorical_units_on_both_sides(capsys, tmp_path: Path, no_pictures) -> None:
    levels = np.random.default_rng(0).integers(0, 3, (60, 5))
    data = own_data(tmp_path, np.eye(3)[levels].reshape(60, 15))
    kinds = ["--visible-units", "categorical:3", "--hidden-units", "categorical:4"]
    said(capsys, "train", "rbm", "--data", data, "--out", tmp_path / "run", *SHORT, *kinds, "--no-centered")
    model, _ = load_model(tmp_path / "run")
    assert isinstance(model.visible, Categorical)
    assert (model.visible.groups, model.hidden.size) == (5, 16)


def test_list_names_everything(capsys) -> None:
    out, err = said(capsys, "list")
    for name in ("rbm", "FreeEnergy", "BlockGibbs", "pcd", "gibbs", "ais_log_z", "log_likelihood", *names()):
        assert name in out
    digits = next(line for line in out.splitlines() if line.strip().startswith("digits"))
    assert " here " in digits
    assert err == ""


HELP = (
    [],
    ["train"],
    ["train", "rbm"],
    ["train", "vae"],
    ["train", "dae"],
    ["sample"],
    ["evaluate"],
    ["plot"],
    ["report"],
    ["list"],
)


@pytest.mark.parametrize("verb", HELP, ids=" ".join)
def test_help_at_every_level(capsys, verb: list[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main([*verb, "--help"])
    assert end.value.code in (0, None)
    assert "usage: genmodels" in capsys.readouterr().out


def test_the_module_is_the_command() -> None:
    command = [sys.executable, "-m", "genmodels", "evaluate", "nowhere", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)


def test_tensorboard_gets_the_metrics(capsys, tmp_path: Path, no_pictures) -> None:
    pytest.importorskip("tensorboard")
    said(capsys, "train", "rbm", "--data", "bars-and-stripes", "--out", tmp_path / "run", *SHORT, "--tensorboard")
    assert list((tmp_path / "run" / "tensorboard").glob("events*"))


def test_demo(capsys, tmp_path: Path, monkeypatch) -> None:
    settings = replace(demo.CONFIG.settings, epochs=1)
    options = RBM(Bernoulli(64), Bernoulli(3)).config()
    monkeypatch.setattr(demo, "CONFIG", replace(demo.CONFIG, settings=settings, model_options=options))
    monkeypatch.setattr(demo, "NUM_TEMPERATURES", 20)
    monkeypatch.setattr(demo, "BURN_IN", 3)
    threads = torch.get_num_threads()
    for _ in range(2):
        demo.main(tmp_path / "demo")
    torch.set_num_threads(threads)
    out, _ = capsys.readouterr()
    for name in [*PICTURES, "likelihood.png", "likelihood.json"]:
        assert str(tmp_path / "demo" / name) in out
        assert (tmp_path / "demo" / name).exists()
    estimates = json.loads((tmp_path / "demo" / "likelihood.json").read_text())["estimates"]
    assert list(estimates) == ["exact", "forward AIS", "reverse AIS", "RAISE"]
    assert [estimate["bound"] for estimate in estimates.values()] == ["exact", "upper", "lower", "lower"]


def test_demo_leaves_foreign_folders_alone(tmp_path: Path) -> None:
    (tmp_path / "samples.png").write_text("precious")
    with pytest.raises(ValueError, match=r"samples\.png"):
        demo.main(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["samples.png"]
