"""Networks that lie split over processes learn what whole ones learn."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from genmodels import RBM, VAE, AutoEncoderStack, BadInput, Bernoulli
from genmodels.checkpoint import load_checkpoint
from genmodels.data.examples import Examples
from genmodels.fit import CHECKPOINT, METRICS, fit
from genmodels.interface import default_generator
from genmodels.metrics import MetricsFile
from genmodels.objectives import dreg, elbo, iwae, pcd, reweighted_wake_sleep, target_propagation
from genmodels.processes import launch
from genmodels.runs import load_model
from genmodels.settings import Settings, Strategy
from genmodels.stack_layers import StackLayer
from genmodels.top_priors import FullGaussian
from tests.processes import together
from tests.test_processes import BARS, _train_until, commands

pytestmark = pytest.mark.many_steps
X = Examples(torch.randint(0, 2, (13, 7), generator=torch.Generator().manual_seed(0), dtype=torch.uint8))
SETTINGS = Settings(
    epochs=3,
    batch_size=6,
    optimizer="Adam",
    learning_rate=0.01,
    average=0.9,
    precision="64-true",
    device="cpu",
    snapshots=2,
)
OBJECTIVES = {
    "elbo": lambda model: elbo(model, warm_up=3),
    "iwae": lambda model: iwae(model, num_samples=3),
    "dreg": lambda model: dreg(model, num_samples=3),
    "rws": lambda model: reweighted_wake_sleep(model, num_samples=3),
}


def vae() -> VAE:
    return VAE(Bernoulli(7), latent=(3, 2), hidden=((5,), (3,)), pseudo_inputs=3, generator=default_generator(0))


def stack() -> AutoEncoderStack:
    """Its prior and the deviations of its layers are no networks, and stay whole."""
    return AutoEncoderStack(Bernoulli(7), [StackLayer("tanh", 5)], FullGaussian(3), generator=default_generator(0))


def learn(out: Path, strategy: Strategy) -> None:
    processes, shares = launch("cpu", "64-true", strategy=strategy), []
    seen = lambda record, model: {"norm": float(sum(p.square().sum() for p in model.parameters()))}  # noqa: E731
    for name, build in OBJECTIVES.items():
        model = vae()
        fit(model, build(model), X, SETTINGS, out=out / name, callbacks=[seen], processes=processes)
        shares.append(sum(getattr(p, "to_local", lambda p=p: p)().numel() for p in model.parameters()))
    model = vae()
    fit(model, elbo(model), X, replace(SETTINGS, precision="bf16-mixed"), out=out / "narrow", processes=processes)
    model = stack()
    fit(model, target_propagation(model), X, SETTINGS, out=out / "stack", processes=processes)
    whole = sum(parameter.numel() for parameter in vae().parameters())
    assert (max(shares) < 0.65 * whole) == (strategy == "fsdp"), (shares, whole)
    if strategy == "fsdp":
        machine = RBM(Bernoulli(7), Bernoulli(3))
        with pytest.raises(BadInput, match="no networks"):
            fit(machine, pcd(machine), X, SETTINGS, processes=processes)


def test_split_networks_learn_what_whole_ones_learn(tmp_path: Path) -> None:
    """13 rows in batches of 6 on two processes: the last batch has one row for both."""
    for strategy in ("ddp", "fsdp"):
        assert together(2, learn, tmp_path / strategy, strategy) == [0, 0]
    for name in (*OBJECTIVES, "stack", "narrow"):
        close = 1e-4 if name == "narrow" else 1e-10
        one, other = (tmp_path / strategy / name for strategy in ("ddp", "fsdp"))
        files = [path.relative_to(one) for path in sorted(one.rglob("*.safetensors"))]
        assert len(files) == 3
        for file in files:
            expected, found = (load_checkpoint(out / file).tensors for out in (one, other))
            assert expected.keys() == found.keys()
            for tensor in expected:
                torch.testing.assert_close(
                    found[tensor], expected[tensor], rtol=close, atol=close, msg=f"{name} {tensor}"
                )
        expected, found = (MetricsFile(out / METRICS).read() for out in (one, other))
        for metric in set(expected[-1]) - {"seconds"}:
            assert found[-1][metric] == pytest.approx(expected[-1][metric], rel=close), metric


def test_a_split_run_goes_on_with_any_number(tmp_path: Path) -> None:
    out, others = tmp_path / "two", tmp_path / "three"
    flags = ["train", "vae", *BARS[:4], "--device", "cpu", "--epochs", "8", "--latent", "2", "--hidden", "7"]
    assert together(2, _train_until, out, 7, [*flags, "--strategy", "fsdp"]) == [143, 143]
    shutil.copytree(out, others)
    assert commands(1, "train", "--resume", out) == [0]
    assert commands(3, "train", "--strategy", "fsdp", "--resume", others) == [0, 0, 0]
    for folder in (out, others):
        assert load_checkpoint(folder / CHECKPOINT).meta["step"] == 24
        records = MetricsFile(folder / METRICS).read()
        assert records[-1]["valid_elbo"] > records[0]["valid_elbo"] + 0.1
        assert load_model(folder)[0].encode(torch.zeros(1, 16)).first.mean.shape == (1, 2)
    assert commands(2, *flags, "--strategy", "fsdp", "--accumulate", "2", "--out", tmp_path / "parts") == [2, 2]
