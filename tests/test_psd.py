"""Learned inference: LISTA against ISTA step by step, PSD's energy and its optimum, and PSD on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from genmodels.cli import main
from genmodels.code_encoders import CodeEncoder, GainTanh, Lista, StepLista, encoder_from_config
from genmodels.data.examples import Examples
from genmodels.errors import BadInput
from genmodels.fit import Settings, fit
from genmodels.lasso import Lasso, ista
from genmodels.objectives import amortised_map, psd
from genmodels.priors import ExponentialPrior, LaplacePrior, StudentTPrior
from genmodels.psd import PSD
from genmodels.runs import load_model
from genmodels.sparse_coding import SparseCoding
from genmodels.units import Gaussian
from tests import zoo

ADAM = Settings(epochs=12, batch_size=100, optimizer="Adam", learning_rate=0.02, average=0.0, device="cpu")


def close(actual: Tensor, expected: Tensor, tolerance: float = 1e-10) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=tolerance)


def generative(non_negative: bool = False, seed: int = 0) -> SparseCoding:
    prior = (ExponentialPrior if non_negative else LaplacePrior)(11, scale=0.4)
    model = SparseCoding(Gaussian(7, variance=0.3), prior, learn_noise=False, generator=zoo.generator(seed))
    with torch.no_grad():
        model.visible_bias.normal_(0, 0.5, generator=zoo.generator(seed + 1))
        model.factors.log_scale.add_(0.2 * torch.randn(11, generator=zoo.generator(seed + 2)))
    return model


def encoder(name: str, non_negative: bool = False) -> CodeEncoder:
    randoms = zoo.generator(5)
    if name == "tanh":
        return GainTanh(7, 11, generator=randoms)
    if name == "steps":
        return StepLista(7, 11, layers=4, non_negative=non_negative)
    layers = {"shrink": 1, "tied": 3, "untied": 4}[name]
    return Lista(7, 11, layers=layers, tied=name != "untied", non_negative=non_negative, generator=randoms)


@pytest.mark.parametrize("non_negative", [False, True])
@pytest.mark.parametrize("tied", [False, True])
def test_lista_with_the_weights_of_ista_is_ista_step_by_step(tied: bool, non_negative: bool):
    model = generative(non_negative).double().requires_grad_(False)
    x = model.sample(13, generator=zoo.generator(3))[0]
    network = Lista(7, 11, layers=6, tied=tied, non_negative=non_negative).double().requires_grad_(False)
    network.start_from(model.dictionary, model.noise_variance, model.factors.scale)
    trajectory = network.trajectory(x - model.visible_bias)
    for step, code in enumerate(trajectory, start=1):
        close(code, ista(model.lasso(x), max_steps=step, tolerance=0.0).code)
    assert float((trajectory[-1] - trajectory[-2]).abs().max()) > 1e-4
    network.log_threshold.add_(0.1)
    assert float((network(x - model.visible_bias) - trajectory[-1]).abs().max()) > 1e-3


def plain_fista(problem: Lasso, steps: int) -> list[Tensor]:
    """Beck and Teboulle (2009), equations 4.1 to 4.3, as they stand."""
    step = 1 / torch.linalg.matrix_norm(problem.gram, 2)
    x = y = torch.zeros_like(problem.correlation)
    t, found = 1.0, []
    for _ in range(steps):
        new = problem.shrink(y - step * (y @ problem.gram - problem.correlation), step)
        later = (1 + (1 + 4 * t**2) ** 0.5) / 2
        y, x, t = new + (t - 1) / later * (new - x), new, later
        found.append(x)
    return found


@pytest.mark.parametrize("non_negative", [False, True])
def test_learned_steps_begin_as_fista_step_by_step(non_negative: bool):
    model = generative(non_negative).double().requires_grad_(False)
    x = model.sample(13, generator=zoo.generator(3))[0]
    network = StepLista(7, 11, layers=9, non_negative=non_negative).double().requires_grad_(False)
    network.start_from(model.dictionary, model.noise_variance, model.factors.scale)
    trajectory = network.trajectory(x - model.visible_bias)
    for code, expected in zip(trajectory, plain_fista(model.lasso(x), 9), strict=True):
        close(code, expected)
    network.momentum.mul_(0.5)
    assert float((network(x - model.visible_bias) - trajectory[-1]).abs().max()) > 1e-3


def test_smaller_steps_and_momenta_have_the_same_limit():
    model = generative().double().requires_grad_(False)
    x = model.sample(13, generator=zoo.generator(3))[0]
    network = StepLista(7, 11, layers=400).double().requires_grad_(False)
    network.start_from(model.dictionary, model.noise_variance, model.factors.scale)
    network.log_step.sub_(0.7 * torch.rand(11, generator=zoo.generator(4)))
    network.momentum.fill_(0.3)

    def largest_excess() -> float:
        code = network(x - model.visible_bias)
        return float((model.energy(x, (code,)) - model.infer(x).energy).max())

    assert largest_excess() < 1e-3
    network.get_buffer("penalty").mul_(1.1)
    assert largest_excess() > 1e-2


@pytest.mark.parametrize("non_negative", [False, True])
@pytest.mark.parametrize("name", ["tanh", "shrink", "tied", "untied"])
def test_the_energy_is_its_formula_and_inference_its_minimum(name: str, non_negative: bool):
    part = generative(non_negative)
    model = PSD(part, encoder(name, non_negative), closeness=0.7).double().requires_grad_(False)
    x, z = part.sample(13, generator=zoo.generator(3))
    predicted = model.encoder(x - part.visible_bias)
    predicted = predicted.clamp_min(0) if non_negative else predicted
    close(model.predict(x), predicted)
    close(model.energy(x, (z,)), part.energy(x, (z,)) + 0.35 * (z - predicted).square().sum(-1))
    found = model.infer(x, tolerance=1e-8)
    assert float(found.gap.max()) <= 1e-8
    noise = 0.03 * torch.randn(300, 13, 11, generator=zoo.generator(4), dtype=torch.float64)
    near = found.z[0] + noise
    near = near.clamp_min(0) if non_negative else near
    energies = torch.stack([model.energy(x, (code,)) for code in near])
    assert bool((energies >= found.energy - 1e-7).all())
    assert bool((part.infer(x).energy <= part.energy(x, found.z) + 1e-6).all())
    # Without the encoder's pull the minimum is another one.
    assert float((part.infer(x).z[0] - found.z[0]).abs().max()) > 1e-3


def test_joint_learning_lowers_the_energy_and_brings_the_prediction_close():
    truth = generative(seed=7)
    x = truth.sample(1000, generator=zoo.generator(8))[0]
    model = PSD(generative(seed=3), encoder("shrink"))
    model.initialise_from_data(x)
    before = float(model.infer(x).energy.detach().mean())
    records = fit(model, psd(model), Examples(x), ADAM)
    after = float(model.infer(x).energy.detach().mean())
    assert after < before - 0.3
    assert records[-1]["prediction_energy"] < records[0]["prediction_energy"]
    close(model.generative.dictionary.norm(dim=0), torch.ones(11), 0.02)
    assert not model.generative.noise_variance.requires_grad


def test_the_gradient_is_that_of_the_minimum():
    model = PSD(generative(), encoder("tanh")).double()
    with torch.no_grad():
        model.generative.dictionary.div_(model.generative.dictionary.norm(dim=0))
    x = model.generative.sample(5, generator=zoo.generator(3))[0]
    loss, _, _ = psd(model, tolerance=1e-12).step(x, {}, zoo.generator())
    loss.backward()
    bias = model.encoder.get_parameter("bias")
    assert bias.grad is not None
    for index in (0, 4):
        ends = []
        for sign in (1, -1):
            with torch.no_grad():
                bias[index] += sign * 1e-4
                ends.append(float(model.infer(x, tolerance=1e-12).energy.mean()))
                bias[index] -= sign * 1e-4
        assert float(bias.grad[index]) == pytest.approx((ends[0] - ends[1]) / 2e-4, abs=1e-5)


def test_an_encoder_learns_to_find_low_energies():
    part = generative(seed=7)
    x = part.sample(2000, generator=zoo.generator(8))[0]
    excess = []
    for layers in (1, 4):
        model = PSD(part, Lista(7, 11, layers=layers, tied=False))
        part.dictionary.requires_grad_(False)
        part.visible_bias.requires_grad_(False)
        model.encoder.start_from(part.dictionary, part.noise_variance, part.factors.scale)
        optimum = part.infer(x).energy.detach()
        before = float((part.energy(x, (model.predict(x),)).detach() - optimum).mean())
        fit(model, amortised_map(model), Examples(x), ADAM)
        excess.append(float((part.energy(x, (model.predict(x),)).detach() - optimum).mean()))
        assert 0 < excess[-1] < 0.7 * before
    assert excess[1] < 0.5 * excess[0]


def test_learned_steps_come_nearer_than_fista_s():
    part = generative(seed=7).requires_grad_(False)
    x = part.sample(2000, generator=zoo.generator(8))[0]
    model = PSD(part, StepLista(7, 11, layers=6))
    model.encoder.start_from(part.dictionary, part.noise_variance, part.factors.scale)

    def excess() -> float:
        return float((part.energy(x, (model.transform(x),)) - part.infer(x).energy).mean())

    before = excess()
    fit(model, amortised_map(model), Examples(x), ADAM)
    assert 0 < excess() < 0.3 * before


def test_a_prior_without_a_lasso_is_refused():
    student = SparseCoding(Gaussian(7), StudentTPrior(11))
    with pytest.raises(BadInput, match="Laplace or an exponential prior"):
        PSD(student, encoder("tanh"))
    for kind in (Lista, StepLista):
        with pytest.raises(BadInput, match="at least one layer"):
            kind(7, 11, layers=0)


@pytest.mark.parametrize("name", ["tanh", "shrink", "tied", "untied", "steps"])
def test_it_can_be_stored(name: str):
    model = PSD(generative(), encoder(name), closeness=0.3)
    again = PSD.from_config(json.loads(json.dumps(model.config())))
    again.load_state_dict(model.state_dict())
    x = model.generative.sample(3, generator=zoo.generator(0))[0]
    close(again.predict(x), model.predict(x), 0)
    with pytest.raises(BadInput, match="Unknown encoder"):
        encoder_from_config({"type": "MLP"})


SHORT = ["--data", "bars-and-stripes", "--codes", "5", "--epochs", "2", "--device", "cpu", "--noise", "0.3"]


def test_every_verb(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    run = tmp_path / "run"
    main(["train", "psd", *SHORT, "--encoder", "tanh", "--out", str(run)])
    names = ["samples.png", "filters.png", "reconstructions.png", "codes.png", "encoder.png", "curves.png"]
    assert capsys.readouterr().out.split() == [str(run / picture) for picture in names]
    main(["sample", str(run), "--num", "7", "--out", str(tmp_path / "s.png")])
    main(["evaluate", str(run), "--num-samples", "20", "--num-examples", "5", "--json"])
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["log_likelihood"]["bound"] == "lower"
    before = (run / "checkpoint.safetensors").read_bytes()
    monkeypatch.setattr("genmodels.commands.train.write_pictures", lambda out, progress: [])
    main(["train", "--resume", str(run)])
    assert (run / "checkpoint.safetensors").read_bytes() == before


def test_lista_can_be_trained_from_the_command_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr("genmodels.commands.train.write_pictures", lambda out, progress: [])
    flags = ["--layers", "2", "--no-tied", "--objective", "amortised", "--prior", "exponential"]
    main(["train", "psd", *SHORT, *flags, "--out", str(tmp_path / "run")])
    assert load_model(tmp_path / "run")[0].encoder.layers == 2
