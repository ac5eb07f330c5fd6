"""Learning dictionaries, and sparse coding on the command line."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor

from genmodels.cli import main
from genmodels.data.examples import Examples
from genmodels.errors import BadInput
from genmodels.fit import Settings, fit
from genmodels.objectives import dictionary, dictionary_learning
from genmodels.objectives.dictionary import improved_atoms
from genmodels.priors import LaplacePrior
from genmodels.sparse_coding import SparseCoding
from genmodels.units import Gaussian
from tests import zoo

PAPER = Settings(epochs=4, batch_size=50, learning_rate=1.0, schedule="constant", average=0.0, device="cpu")


def data(num: int = 600) -> tuple[SparseCoding, Tensor]:
    """A model with few large codes, and draws of it."""
    truth = SparseCoding(Gaussian(11, variance=0.01), LaplacePrior(7, scale=0.3), generator=zoo.generator(7))
    x, z = truth.sample(num, generator=zoo.generator(8))
    keep = torch.rand(z.shape, generator=zoo.generator(9)) < 0.15
    return truth, 5 * (z * keep) @ truth.dictionary.detach().T + 0.05 * torch.randn(x.shape, generator=zoo.generator(1))


def learner(x: Tensor) -> SparseCoding:
    observed = Gaussian(11, variance=0.05)
    model = SparseCoding(observed, LaplacePrior(7, scale=0.4), learn_noise=False, generator=zoo.generator(3))
    model.initialise_from_data(x)
    return model


def test_one_pass_lowers_the_surrogate_and_each_atom_is_the_best_given_the_others():
    randoms = zoo.generator(0)
    codes, x = (torch.randn(s, generator=randoms, dtype=torch.float64) for s in ((50, 5), (50, 7)))
    codes[:, 3] = 0
    second, cross = codes.T @ codes, x.T @ codes

    def surrogate(atoms: Tensor) -> Tensor:
        return 0.5 * torch.trace(atoms.T @ atoms @ second) - torch.trace(atoms.T @ cross)

    start = torch.nn.functional.normalize(torch.randn(7, 5, generator=randoms, dtype=torch.float64), dim=0)
    after = improved_atoms(start, second, cross)
    assert float(surrogate(after)) < float(surrogate(start))
    torch.testing.assert_close(after.norm(dim=0), torch.ones(5, dtype=torch.float64))
    assert torch.equal(after[:, 3], start[:, 3])
    for _ in range(300):
        after = improved_atoms(after, second, cross)
    best = surrogate(after)
    for _ in range(100):
        near = torch.nn.functional.normalize(after + 0.02 * torch.randn(7, 5, generator=randoms).double(), dim=0)
        assert float(surrogate(near)) > float(best) - 1e-9


@pytest.mark.parametrize("size", [7, 61])
def test_without_a_compiler_the_pass_is_the_same(size: int, monkeypatch: pytest.MonkeyPatch):
    randoms = zoo.generator(4)
    codes, x, atoms = (torch.randn(s, generator=randoms, dtype=torch.float64) for s in ((50, 5), (50, size), (size, 5)))
    start = atoms.clone()
    compiled = improved_atoms(atoms, codes.T @ codes, x.T @ codes)
    monkeypatch.setattr(dictionary, "_library", lambda: None)
    torch.testing.assert_close(improved_atoms(atoms, codes.T @ codes, x.T @ codes), compiled, rtol=0, atol=1e-12)
    assert float((compiled - atoms).abs().max()) > 0.1
    assert torch.equal(atoms, start)


def test_a_full_batch_step_never_raises_the_mean_energy():
    _, x = data(200)
    model = learner(x)
    settings = Settings(**{**vars(PAPER), "epochs": 8, "batch_size": 200})
    records = fit(model, dictionary_learning(model, forgetting=1e9, tolerance=1e-7), Examples(x), settings)
    energies = [record["energy"] for record in records]
    assert all(after <= before + 1e-4 for before, after in pairwise(energies))
    assert energies[-1] < energies[0] - 1


def test_the_learned_atoms_cost_no_more_energy_than_the_true_ones():
    truth, x = data(4000)
    model, untrained, ideal = learner(x), learner(x), learner(x)
    records = fit(model, dictionary_learning(model), Examples(x), PAPER)
    torch.testing.assert_close(model.dictionary.norm(dim=0), torch.ones(7))
    with torch.no_grad():
        ideal.dictionary.copy_(truth.dictionary)
    learned, before, best = (float(m.infer(x).energy.detach().mean()) for m in (model, untrained, ideal))
    assert learned < best + 1 < before - 5
    assert records[-1]["active"] < 0.5


def test_atoms_that_no_code_uses_become_examples():
    _, x = data(50)
    model = learner(x)
    with torch.no_grad():
        model.factors.log_scale[2] = -20.0
    objective = dictionary_learning(model)
    loss, state, metrics = objective.step(x, objective.init(x, zoo.generator()), zoo.generator())
    loss.backward()
    gradient = model.dictionary.grad
    assert gradient is not None
    atom = (model.dictionary - gradient).detach()[:, 2]
    centred = x - model.visible_bias
    cosine = torch.nn.functional.normalize(centred, dim=1) @ atom
    assert float(cosine.detach().amax()) == pytest.approx(1, abs=1e-5)
    assert float(metrics["reseeded"]) == 1
    assert float(state["second"][2].abs().sum()) == 0


def test_unequal_noise_is_refused():
    _, x = data(20)
    model = learner(x)
    with torch.no_grad():
        model.observed.get_parameter("log_variance")[0] += 1
    with pytest.raises(BadInput, match="one noise variance"):
        dictionary_learning(model)


SHORT = ["--data", "bars-and-stripes", "--codes", "5", "--epochs", "2", "--device", "cpu", "--noise", "0.3"]


@pytest.mark.parametrize(
    ("name", "flags", "bound"),
    [
        ("laplace", (), "lower"),
        ("gaussian", ("--objective", "iwae"), "exact"),
        ("exponential", (), "lower"),
        ("student", ("--objective", "posterior", "--optimizer", "Adam"), "lower"),
        ("cauchy", ("--objective", "iwae", "--num-samples", "2", "--optimizer", "Adam"), "lower"),
    ],
)
def test_every_prior_can_be_trained_and_evaluated(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    name: str,
    flags: tuple[str, ...],
    bound: str,
):
    monkeypatch.setattr("genmodels.commands.train.write_pictures", lambda out, progress: [])
    run = tmp_path / "run"
    main(["train", "sparse-coding", *SHORT, "--prior", name, *flags, "--out", str(run)])
    main(["evaluate", str(run), "--num-samples", "20", "--num-examples", "5", "--json"])
    report = json.loads(capsys.readouterr().out)
    assert report["log_likelihood"]["bound"] == bound


def test_every_verb(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    run = tmp_path / "run"
    main(["train", "sparse-coding", *SHORT, "--out", str(run)])
    printed = capsys.readouterr().out.split()
    names = ["samples.png", "filters.png", "reconstructions.png", "codes.png", "curves.png"]
    assert printed == [str(run / picture) for picture in names]
    main(["sample", str(run), "--num", "7", "--out", str(tmp_path / "s.png")])
    capsys.readouterr()
    main(["evaluate", str(run), "--num-samples", "20", "--num-examples", "5", "--json"])
    assert json.loads(capsys.readouterr().out)["log_likelihood"]["bound"] == "lower"
    main(["plot", str(run)])
    assert str(run / "likelihood.png") in capsys.readouterr().out.split()
    before = (run / "checkpoint.safetensors").read_bytes()
    monkeypatch.setattr("genmodels.commands.train.write_pictures", lambda out, progress: [])
    main(["train", "--resume", str(run)])
    assert (run / "checkpoint.safetensors").read_bytes() == before


def test_a_run_that_was_cut_short_ends_with_the_same_bits(tmp_path: Path):
    _, x = data(120)
    ends = []
    for name, epochs in (("whole", (4,)), ("parts", (2, 4))):
        model = learner(x)
        for stop in epochs:
            model = learner(x)
            objective = dictionary_learning(model)
            seen = iter(range(10))

            def interrupt(record, averaged, seen=seen, stop=stop):
                if next(seen) + 1 == stop < 4:
                    raise KeyboardInterrupt

            try:
                fit(model, objective, Examples(x), PAPER, out=tmp_path / name, callbacks=[interrupt])
            except KeyboardInterrupt:
                continue
        ends.append(model.dictionary.detach().clone())
    assert torch.equal(*ends)
    assert not torch.equal(ends[0], learner(x).dictionary)
