"""Batches in parts, and networks in bfloat16: what stays the same to the last digits, and what stays in float32."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import zoo
from torch import Tensor

from genmodels import DBM, RBM, VAE, BadInput, Bernoulli
from genmodels.cli import main
from genmodels.data import load
from genmodels.data.examples import Examples
from genmodels.fit import fit
from genmodels.metrics import MetricsFile
from genmodels.networks import narrow_networks
from genmodels.objectives import Objective, accumulated, cd, elbo, pcd, ptt, variational_pcd
from genmodels.settings import Settings

pytestmark = pytest.mark.many_steps
X = Examples(torch.randint(0, 2, (13, 5), generator=torch.Generator().manual_seed(0), dtype=torch.uint8))
SETTINGS = Settings(epochs=3, batch_size=6, optimizer="SGD", learning_rate=0.1, precision="64-true", device="cpu")


def tiny() -> VAE:
    return VAE(Bernoulli(5), latent=(2,), hidden=((3,),), generator=zoo.generator())


def reconstruction(model: VAE) -> Objective:
    """A mean over rows of what has no noise, and a running mean over rows in the state."""

    def step(x: Tensor, state: dict[str, Tensor], generator: torch.Generator):
        loss = -model.observed.log_prob(model.decode((model.encode(x).first.mean,)), x).mean()
        shared = 0.5 * state["mean"] + 0.5 * x.mean(0)
        return loss, {"mean": shared, "count": state["count"] + 1}, {"distortion": loss}

    return Objective(lambda x, generator: {"mean": x.mean(0), "count": torch.zeros(())}, step)


# Batches of 6, 6 and 1: their parts are uneven, and the last batch has fewer rows than parts.
@pytest.mark.parametrize("parts", [2, 4])
def test_parts_of_a_batch_make_the_same_step(parts: int) -> None:
    whole, split = tiny(), tiny()
    split.load_state_dict(whole.state_dict())
    expected = fit(whole, reconstruction(whole), X, SETTINGS)
    found = fit(split, reconstruction(split), X, replace(SETTINGS, accumulate=parts))
    for one, other in zip(whole.parameters(), split.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)
    assert [r["distortion"] for r in found] == pytest.approx([r["distortion"] for r in expected], rel=1e-12)


def test_the_state_is_that_of_the_whole_batch() -> None:
    model, x = tiny().double(), X.fixed().double()[:6]
    states = []
    for objective in (reconstruction(model), accumulated(reconstruction(model), list(model.parameters()), 4)):
        states.append(objective.step(x, objective.init(x, zoo.generator()), zoo.generator())[1])
    for name in ("mean", "count"):
        torch.testing.assert_close(states[0][name], states[1][name])


@pytest.mark.parametrize("build", [pcd, cd])
def test_gradients_and_chains_of_the_parts_are_put_together(build) -> None:
    """Each part with its rows and its chains, by hand."""
    model, x = zoo.tiny("Bernoulli", "Bernoulli"), X.fixed().double()[:6]
    objective = build(model, centered=True)
    state = objective.init(x, zoo.generator())
    halves = [{n: t[s] if n in ("chains", "hidden") else t for n, t in state.items()} for s in (slice(3), slice(3, 6))]
    randoms, parts, gradients = zoo.generator(5), [], []
    for rows, half in zip(x.split(3), halves, strict=True):
        loss, new, _ = objective.step(rows, half, randoms)
        parts.append(new)
        gradients.append(torch.autograd.grad(loss, list(model.parameters())))
    loss, found, _ = accumulated(objective, list(model.parameters()), 2).step(x, state, zoo.generator(5))
    loss.backward()
    for parameter, one, other in zip(model.parameters(), *gradients, strict=True):
        torch.testing.assert_close(parameter.grad, (one + other) / 2)
    for name, tensor in found.items():
        chains = name in ("chains", "hidden")
        pair = [part[name] for part in parts]
        torch.testing.assert_close(tensor, torch.cat(pair) if chains else (pair[0] + pair[1]) / 2)


def test_what_has_no_parts_is_refused() -> None:
    model = RBM(Bernoulli(5), Bernoulli(3)).double()
    with pytest.raises(BadInput, match="as a whole"):
        fit(model, ptt(model), X, replace(SETTINGS, accumulate=2))
    with pytest.raises(BadInput, match="3 chains for 1 processes with 4 parts"):
        fit(model, pcd(model, num_chains=3), X, replace(SETTINGS, accumulate=4))
    objective = accumulated(pcd(model, num_chains=3), list(model.parameters()), 4)
    state = objective.init(X.fixed().double(), zoo.generator())
    with pytest.raises(BadInput, match="3 chains for 4 parts"):
        objective.step(X.fixed().double(), state, zoo.generator())
    with pytest.raises(BadInput, match="at least 1"):
        replace(SETTINGS, accumulate=0)


def test_a_deep_machine_learns_in_parts() -> None:
    model = DBM(Bernoulli(5), Bernoulli(3), Bernoulli(2)).double()
    records = fit(model, variational_pcd(model), X, replace(SETTINGS, accumulate=3))
    assert len(records) == 3


def test_densities_stay_as_exact_as_their_inputs() -> None:
    """The log-joint of narrow networks' outputs, from its definition in float64; of bfloat16 ones it would be far off."""
    model, x = VAE(Bernoulli(784), latent=(20,), hidden=((30,),), generator=zoo.generator()), torch.ones(7, 784)
    with torch.no_grad(), narrow_networks():
        code = model.encode(x)
        z = code.draw(zoo.generator())
        field, log_joint, log_q = model.decode(z), model.log_joint(x, z), code.log_prob(z)
    with torch.no_grad():
        full = model.decode(z)
    assert (field.dtype, log_joint.dtype, log_q.dtype) == (torch.float32,) * 3
    assert 1e-4 < float((field - full).abs().max()) < 0.1

    def exact(field: Tensor) -> Tensor:
        prior = -0.5 * (z[0].double().square() + torch.log(torch.tensor(2 * torch.pi))).sum(1)
        return prior + torch.nn.functional.logsigmoid(field.double()).sum(1)

    assert float((log_joint - exact(field)).abs().max()) < 1e-3
    assert float((exact(field).bfloat16() - exact(field)).abs().max()) > 0.2


def test_energies_know_nothing_of_it() -> None:
    model = RBM(Bernoulli(5), Bernoulli(3), generator=zoo.generator())
    x = X.fixed()
    with torch.no_grad():
        plain = model.free_energy(x)
        with narrow_networks():
            assert torch.equal(model.free_energy(x), plain)
        with torch.autocast("cpu", torch.bfloat16):
            assert not torch.equal(model.free_energy(x).float(), plain)


def test_training_in_bfloat16(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setattr("genmodels.commands.train.write_pictures", lambda out, progress: [])
    flags = ["--data", "bars-and-stripes", "--device", "cpu", "--epochs", "30", "--batch-size", "10", "--hidden", "7"]
    last = {}
    for precision in ("32-true", "bf16-mixed"):
        more = ["--latent", "2", "--precision", precision, "--accumulate", "2", "--out", str(tmp_path / precision)]
        assert main(["train", "vae", *flags, *more]) == 0
        last[precision] = MetricsFile(tmp_path / precision / "metrics.jsonl").read()[-1]["valid_elbo"]
    assert last["32-true"] != last["bf16-mixed"]
    assert abs(last["32-true"] - last["bf16-mixed"]) < 0.2
    model = VAE(Bernoulli(16), latent=(2,), hidden=((7,),))
    fit(model, elbo(model), load("bars-and-stripes").train, replace(SETTINGS, precision="bf16-mixed"))
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert main(["train", "rbm", *flags, "--precision", "bf16-mixed", "--out", str(tmp_path / "rbm")]) == 2
    assert "no network" in capsys.readouterr().err
