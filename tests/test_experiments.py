"""Every experiment and benchmark runs in seconds with --smoke and writes a result of the one shape."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from experiments import (
    classify_mnist,
    dae_mnist,
    dbm_mnist,
    dbn_mnist,
    denoise_photographs,
    mixing_depth,
    mixing_rbm,
    multi_prediction,
    psd_mnist,
    ptt_mnist,
    rbm_mnist,
    score_images,
    sparse_coding,
    sparse_likelihood,
    target_prop_depth,
    target_prop_halves,
    target_prop_image_label,
    target_prop_mnist,
    target_prop_questions,
    target_prop_recurrent,
    target_prop_samples,
    target_prop_supervised,
    target_prop_top_chain,
    tempering_ladder,
    vae_frey,
    vae_mnist,
    vae_pyro,
)
from experiments.benchmarks import continuous, cuda, latent_ais, pcd_epoch, speed, throughput
from experiments.results import BETWEEN_SEEDS, mean_of
from genmodels.likelihood import Estimate

RESULTS = Path(__file__).parent.parent / "experiments" / "results"
KEYS = {"name", "command", "data", "metrics", "published", "seeds", "seconds", "device", "versions"}


def check_shape(path: Path) -> dict:
    result = json.loads(path.read_text())
    assert set(result) >= KEYS
    assert result["metrics"]
    for metric in result["metrics"].values():
        assert {"value", "std_error", "bound"} <= set(metric)
        assert metric["bound"] in ("exact", "lower", "upper", "none")
    for number in result["published"].values():
        assert set(number) == {"value", "source"}
    return result


def test_rbm_mnist(tmp_path: Path) -> None:
    result = check_shape(rbm_mnist.main(smoke=True, out=tmp_path / "runs", results=tmp_path))
    metrics = result["metrics"]
    assert metrics["test_log_likelihood"]["bound"] == "upper"
    assert metrics["test_log_likelihood_lower"]["bound"] == "lower"
    assert (tmp_path / "rbm_mnist_samples.png").is_file()


@pytest.mark.many_steps
def test_rbm_mnist_takes_a_finished_run_up(tmp_path: Path) -> None:
    first = json.loads(rbm_mnist.main(smoke=True, out=tmp_path / "runs", results=tmp_path).read_text())
    again = json.loads(rbm_mnist.main(smoke=True, out=tmp_path / "runs", results=tmp_path).read_text())
    assert first["metrics"]["test_log_likelihood"] == again["metrics"]["test_log_likelihood"]


def test_ptt_mnist(tmp_path: Path) -> None:
    metrics = check_shape(ptt_mnist.main(smoke=True, out=tmp_path / "runs", results=tmp_path))["metrics"]
    assert metrics["test_log_likelihood_ptt"]["bound"] == metrics["test_log_likelihood_pcd"]["bound"] == "upper"
    assert (tmp_path / "ptt_mnist.png").is_file()


def test_mixing_rbm(tmp_path: Path) -> None:
    metrics = check_shape(mixing_rbm.main(smoke=True, out=tmp_path / "runs", results=tmp_path))["metrics"]
    assert metrics["cost_gibbs"]["value"] == 1
    assert {"sweeps_gibbs", "sweeps_tempering", "sweeps_trajectory", "sweeps_reservoir"} <= set(metrics)
    assert (tmp_path / "mixing_rbm.png").is_file()


def test_vae_mnist(tmp_path: Path) -> None:
    paths = vae_mnist.main(smoke=True, out=tmp_path / "runs", results=tmp_path)
    found = {path.stem.removeprefix("vae_mnist_"): check_shape(path)["metrics"] for path in paths}
    assert list(found) == ["long", "two_layers", "one_layer", "one_layer_iwae_50"]
    assert all(metrics[f"{name}_bound"]["bound"] == "lower" for name, metrics in found.items())
    assert found["long"]["long_ais_of_annealed"]["bound"] == "lower"
    assert (tmp_path / "vae_mnist_long.png").is_file()
    (again,) = vae_mnist.main(smoke=True, only="long", out=tmp_path / "runs", results=tmp_path)
    assert check_shape(again)["metrics"]["long_bdmc_gap"] == found["long"]["long_bdmc_gap"]


def test_classify_mnist(tmp_path: Path) -> None:
    folders: dict[str, Any] = {
        "out": tmp_path / "runs",
        "dbn_out": tmp_path / "dbn",
        "dbm_out": tmp_path / "dbm",
        "results": tmp_path,
    }
    arms = ("discriminative", "hybrid", "joint", "dbn", "dbm", "random")
    for arm, path in zip(arms, classify_mnist.main(smoke=True, arms=arms, **folders), strict=True):
        assert 0 <= check_shape(path)["metrics"][f"{arm}_test_error"]["value"] <= 100
    assert (tmp_path / "classify_mnist_given_label.png").is_file()
    validated = {**folders, "out": tmp_path / "validated"}
    assert classify_mnist.main(smoke=True, validate=True, arms=("discriminative",), **validated) == []


def test_mixing_depth(tmp_path: Path) -> None:
    metrics = check_shape(mixing_depth.main(smoke=True, out=tmp_path / "runs", results=tmp_path))["metrics"]
    for name in ("bottom", "top"):
        assert 0 <= metrics[f"{name}_changes_per_sweep"]["value"] <= 1
        assert sum(metrics[f"{name}_class_{label}"]["value"] for label in range(10)) == 20
    assert (tmp_path / "mixing_depth.png").is_file()


def test_score_images(tmp_path: Path) -> None:
    for path in score_images.main(smoke=True, out=tmp_path / "runs", results=tmp_path):
        assert check_shape(path)["metrics"]["test_bits_per_dimension"]["value"] > 0
    for name in ("digits", "mnist"):
        assert (tmp_path / f"score_{name}.png").is_file()
        assert (tmp_path / f"score_{name}_draws.png").is_file()


def test_bench_latent_ais(tmp_path: Path) -> None:
    metrics = check_shape(latent_ais.main(smoke=True, out=tmp_path / "runs", results=tmp_path))["metrics"]
    assert metrics["ais"]["bound"] == "lower"
    assert metrics["batched_over_one_by_one"]["value"] > 0


def test_vae_frey(tmp_path: Path) -> None:
    metrics = check_shape(vae_frey.main(smoke=True, out=tmp_path / "runs", results=tmp_path))["metrics"]
    assert metrics["test_bound"]["bound"] == "lower"
    assert (tmp_path / "vae_frey_plane.png").is_file()


def test_vae_pyro(tmp_path: Path) -> None:
    metrics = check_shape(vae_pyro.main(smoke=True, results=tmp_path))["metrics"]
    assert metrics["elbo_pyro"]["bound"] == metrics["bound_fit"]["bound"] == "lower"


def test_dae_mnist(tmp_path: Path) -> None:
    metrics = check_shape(dae_mnist.main(smoke=True, out=tmp_path / "runs", results=tmp_path))["metrics"]
    assert metrics["csl_walk_back"]["bound"] == metrics["csl_plain"]["bound"] == "lower"
    assert metrics["parzen_plain"]["bound"] == "none"
    assert (tmp_path / "dae_mnist_walk_back.png").is_file()
    again = json.loads(dae_mnist.main(smoke=True, only="gsn", out=tmp_path / "runs", results=tmp_path).read_text())
    assert again["metrics"] == metrics


def test_sparse_coding(tmp_path: Path) -> None:
    metrics = check_shape(sparse_coding.main(smoke=True, out=tmp_path / "runs", results=tmp_path))["metrics"]
    assert {"lasso_over_sklearn", "dictionary_over_sklearn", "psd_speedup", "psd_energy_excess"} <= set(metrics)
    assert metrics["lasso_largest_gap"]["value"] <= 1e-6
    assert metrics["excess_fista_10"]["value"] < metrics["excess_ista_10"]["value"]
    assert (tmp_path / "sparse_coding_dictionary.png").is_file()


def test_psd_mnist(tmp_path: Path) -> None:
    metrics = check_shape(psd_mnist.main(smoke=True, out=tmp_path / "runs", results=tmp_path))["metrics"]
    assert all(0 <= metrics[f"test_error_{name}"]["value"] < 50 for name in ("pixels", "encoder", "exact", "stacked"))
    assert (tmp_path / "psd_mnist_dictionary.png").is_file()


def test_sparse_likelihood(tmp_path: Path) -> None:
    result = check_shape(sparse_likelihood.main(smoke=True, out=tmp_path / "runs", results=tmp_path))
    metrics = result["metrics"]
    for name in sparse_likelihood.MODELS:
        assert metrics[f"log_likelihood_{name}"]["bound"] == "lower"
    exact = metrics["log_likelihood_gaussian_exact"]["value"]
    assert metrics["log_likelihood_gaussian"]["value"] == pytest.approx(exact, abs=1e-3)
    assert (tmp_path / "sparse_likelihood_s3c.png").is_file()


def test_denoise_photographs(tmp_path: Path) -> None:
    metrics = check_shape(denoise_photographs.main(smoke=True, results=tmp_path))["metrics"]
    assert metrics["psnr_map"]["value"] > metrics["psnr_noisy"]["value"]
    assert (tmp_path / "denoise_photographs.png").is_file()


def test_dbm_mnist(tmp_path: Path) -> None:
    metrics = check_shape(dbm_mnist.main(smoke=True, out=tmp_path / "runs", results=tmp_path))["metrics"]
    for way in ("greedy", "doubled", "joint"):
        assert metrics[f"{way}_variational_bound"]["bound"] == "none"
        assert metrics[f"{way}_importance_weighted_reverse"]["bound"] == "lower"
        assert (tmp_path / f"dbm_mnist_{way}_inpainting.png").is_file()
    assert metrics["bottom_log_likelihood"]["bound"] == "upper"


def test_multi_prediction(tmp_path: Path) -> None:
    found = check_shape(multi_prediction.main(smoke=True, out=tmp_path / "runs", results=tmp_path))["metrics"]
    assert 0 <= found["multi_prediction_test_error"]["value"] <= 100
    assert found["multi_prediction_random_half_nats"]["value"] > 0
    assert (tmp_path / "multi_prediction.png").is_file()


def test_dbn_mnist(tmp_path: Path) -> None:
    metrics = check_shape(dbn_mnist.main(smoke=True, out=tmp_path / "runs", results=tmp_path))["metrics"]
    assert metrics["importance_weighted"]["bound"] == "none"
    assert metrics["importance_weighted_reverse"]["bound"] == "lower"
    assert (tmp_path / "dbn_mnist_samples_from_digits.png").is_file()


def test_target_prop_mnist(tmp_path: Path) -> None:
    metrics = check_shape(target_prop_mnist.main(smoke=True, out=tmp_path / "runs", results=tmp_path))["metrics"]
    assert metrics["test_log_likelihood"]["bound"] == metrics["algorithm1"]["bound"] == "lower"
    assert metrics["backprop"]["bound"] == metrics["csl"]["bound"] == "lower"
    assert metrics["parzen"]["bound"] == "none"
    assert (tmp_path / "target_prop_mnist_target_prop.png").is_file()
    assert (tmp_path / "target_prop_mnist_chain.png").is_file()


def test_tempering_ladder(tmp_path: Path) -> None:
    pytest.importorskip("arviz")
    metrics = check_shape(tempering_ladder.main(smoke=True, results=tmp_path))["metrics"]
    assert 0 < metrics["swap_rate_lowest"]["value"] <= metrics["swap_rate_highest"]["value"] < 1
    assert (tmp_path / "tempering_ladder.png").is_file()
    assert (tmp_path / "tempering_ladder_trace.png").is_file()


@pytest.mark.many_steps
def test_target_prop_supervised(tmp_path: Path) -> None:
    metrics = check_shape(target_prop_supervised.main(smoke=True, out=tmp_path / "runs", results=tmp_path))["metrics"]
    assert {"test_error", "test_error_backprop", "test_error_sign", "test_error_labels_100_unlabelled"} <= set(metrics)


@pytest.mark.many_steps
def test_target_prop_depth(tmp_path: Path) -> None:
    metrics = check_shape(target_prop_depth.main(smoke=True, out=tmp_path / "runs", results=tmp_path))["metrics"]
    assert metrics["bound_binary_target_prop_depth_2"]["bound"] == "lower"
    assert (tmp_path / "target_prop_depth.png").is_file()


@pytest.mark.many_steps
def test_target_prop_samples(tmp_path: Path) -> None:
    path = target_prop_samples.main(smoke=True, out=tmp_path / "runs", stack_out=tmp_path / "stacks", results=tmp_path)
    metrics = check_shape(path)["metrics"]
    assert 0 <= metrics["classes"]["value"] <= 10
    assert sum(metrics[f"chain_share_of_{digit}"]["value"] for digit in range(10)) == pytest.approx(100)


@pytest.mark.many_steps
def test_experiments_that_answer_the_other_questions(tmp_path: Path) -> None:
    """Each writes its result and pictures, and the page has the answer to all questions."""
    halves = check_shape(target_prop_halves.main(smoke=True, out=tmp_path / "halves", results=tmp_path))["metrics"]
    assert {"base_one_pass_nats", "base_map_nats", "base_chain_mean_1_misread"} <= set(halves)
    folders: dict[str, Any] = {"judge_out": tmp_path / "halves" / "classifier", "results": tmp_path}
    labels = check_shape(target_prop_image_label.main(smoke=True, out=tmp_path / "labels", **folders))["metrics"]
    assert labels["walk_image_spread_one_pass"]["value"] == pytest.approx(0, abs=1e-9)
    recurrent = check_shape(target_prop_recurrent.main(smoke=True, out=tmp_path / "time", results=tmp_path))["metrics"]
    assert 0 <= recurrent["test_error_then_backprop_length_6"]["value"] <= 100
    folders = {"stack_out": tmp_path / "stacks", "results": tmp_path}
    chain = check_shape(target_prop_top_chain.main(smoke=True, out=tmp_path / "tops", **folders))["metrics"]
    assert chain["nearest_1_csl"]["bound"] == "lower"
    folders = {"out": tmp_path / "stacks", "results": tmp_path, "others": tmp_path}
    metrics = check_shape(target_prop_questions.main(smoke=True, **folders))["metrics"]
    assert set(target_prop_questions.MODELS) < set(metrics)
    page = (tmp_path / "target_prop_questions.md").read_text()
    assert page.count("nats higher") + page.count("nats lower") > 8
    numbers = [
        int(line[3:].partition(".")[0]) for line in page.splitlines() if line.startswith("## ") and line[3].isdecimal()
    ]
    assert numbers == [1, 2, 4, 7, 9, 10, 11, 12, 12, 13]
    for name in ("halves", "image_label", "recurrent"):
        assert (tmp_path / f"target_prop_{name}.png").is_file()


def test_pcd_epoch(tmp_path: Path) -> None:
    metrics = check_shape(pcd_epoch.main(smoke=True, results=tmp_path))["metrics"]
    assert metrics["pcd_over_sklearn"]["value"] > 0


def test_continuous(tmp_path: Path) -> None:
    pytest.importorskip("arviz")
    metrics = check_shape(continuous.main(smoke=True, results=tmp_path))["metrics"]
    assert metrics["banana_ess_per_second_mala_7"]["value"] > 0
    assert (tmp_path / "bench_continuous.png").is_file()


def test_speed(tmp_path: Path) -> None:
    metrics = check_shape(speed.main(smoke=True, results=tmp_path))["metrics"]
    for name in ("gibbs_over_sklearn", "gibbs_over_products", "ais_over_float32", "pcd_over_sklearn"):
        assert metrics[name]["value"] > 0
    assert "gibbs, sklearn" in (tmp_path / "bench_cpu.md").read_text()


def test_throughput(tmp_path: Path) -> None:
    metrics = check_shape(throughput.main(smoke=True, results=tmp_path))["metrics"]
    assert metrics["pcd_batch_100_speed_of_2"]["value"] > 0
    (name,) = (name for name in metrics if name.startswith("bytes per step: PCD"))
    weights, biases, offsets, rest = 17 * 11, 17 + 11, 17 + 11, 4
    assert metrics[name]["value"] == 4 * (weights + biases) + 8 * (offsets + rest)
    assert metrics[name.replace("bytes", "messages")]["value"] == 2
    assert "PCD, RBM of 11 | 215 | 2 |" in (tmp_path / "cost_model.md").read_text()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_says_that_there_is_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cuda.main(smoke=True, results=tmp_path)
    assert ended.value.code == 2
    assert capsys.readouterr().err.count(".") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("path", sorted(RESULTS.glob("*.json")), ids=lambda path: path.stem)
def test_committed_results_have_the_shape_and_a_command_that_exists(path: Path) -> None:
    result = check_shape(path)
    module = result["command"].split()[2]
    assert callable(importlib.import_module(module).main)


def test_different_bounds_are_not_averaged() -> None:
    sides = [Estimate(-1.0, 0.1, "lower", "a", 1), Estimate(-1.0, 0.1, "upper", "b", 1)]
    with pytest.raises(ValueError, match="different bounds"):
        mean_of(sides)


def test_the_mean_of_seeds_has_the_error_of_the_mean() -> None:
    mean = mean_of([Estimate(-1.0, 0.3, "upper", "a", 5), Estimate(-2.0, 0.4, "upper", "a", 7)])
    assert (mean.value, mean.std_error, mean.samples) == (-1.5, pytest.approx(0.25), 12)
    assert mean.diagnostics[BETWEEN_SEEDS] == pytest.approx(0.5)
    assert mean_of([mean]).diagnostics == {}
