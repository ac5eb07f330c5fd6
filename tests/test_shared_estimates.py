"""Draws and estimates do not depend on how many processes share them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zoo
from torch import Tensor

from genmodels import DAE, DBM, DBN, RBM, VAE, AutoEncoderStack, BadInput, Bernoulli, Gaussian
from genmodels.cli import main
from genmodels.corruptions import SaltAndPepper
from genmodels.groups import Rows, in_groups
from genmodels.interface import default_generator
from genmodels.likelihood import (
    Annealing,
    Estimate,
    bound_report,
    chain_fields,
    csl,
    elbo,
    exact_log_z,
    importance_bound,
    importance_weighted,
    latent_ais,
    latent_bdmc,
    log_likelihood,
    log_weights,
    probability_flow,
    smc_log_z,
    trajectory_log_z,
)
from genmodels.processes import launch
from genmodels.stack_layers import StackLayer
from genmodels.top_priors import StandardGaussian
from genmodels.trajectory import Trajectory
from samplers import gibbs, parallel_tempering, run, rung
from tests.processes import together

pytestmark = pytest.mark.many_steps
BETAS = torch.linspace(0, 1, 11, dtype=torch.float64)
RUNS = {
    "rbm": ["--hidden", "5", "--ais-every", "0"],
    "vae": ["--latent", "2", "--hidden", "5"],
    "dae": ["--hidden", "5"],
    "target-prop": ["--sizes", "5", "3"],
}


def randomised(model: Any) -> Any:
    """The model in float64 with random parameters: no bias is 0."""
    randoms = default_generator(0)
    with torch.no_grad():
        for parameter in model.double().parameters():
            parameter.normal_(0, 0.5, generator=randoms)
    return model


def rows(size: int, num: int = 11) -> Tensor:
    return torch.rand(num, size, generator=default_generator(1)).round().double()


def estimates(seed: int = 0, group_size: int = 4) -> dict[str, list[float]]:
    """Every estimate that has groups, of some 11 rows or chains in groups of 4."""
    shared: dict[str, Any] = {"group_size": group_size, "generator": default_generator(seed)}
    vae, x = randomised(VAE(Bernoulli(5), latent=(2,), hidden=((3,),))), rows(5)
    annealing = Annealing.tune(
        vae, x, vae.encode, num_temperatures=4, num_leapfrog=2, generator=default_generator(seed)
    )
    found: dict[str, Any] = {
        "elbo": elbo(vae, x, num_samples=3, **shared),
        "iwae": importance_bound(vae, x, num_samples=7, **shared),
        "log_weights": log_weights(vae, x, num_samples=3, **shared),
        "latent_ais": latent_ais(vae, x, vae.encode, annealing, num_chains=3, **shared),
        "bdmc": latent_bdmc(vae, vae.encode, annealing, num_rows=5, num_chains=2, **shared).upper,
    }
    stack = randomised(AutoEncoderStack(Bernoulli(5), [StackLayer("tanh", 3)], StandardGaussian(2)))
    found["stack"] = importance_bound(stack, x, num_samples=7, **shared)
    dbm = randomised(DBM(Bernoulli(5), Bernoulli(3), Bernoulli(2)))
    report = log_likelihood(dbm, x, method="ais", num_chains=11, num_temperatures=10, burn_in=3, **shared)
    found["dbm"] = importance_weighted(report, dbm, x, num_samples=7, **shared).lower
    dbn = randomised(DBN([Bernoulli(5)], RBM(Bernoulli(3), Bernoulli(2))))
    annealed = {"num_chains": 11, "num_temperatures": 10, "burn_in": 3}
    found["dbn"] = bound_report(dbn, x, num_samples=7, **annealed, **shared).lower
    dae = randomised(DAE(Bernoulli(5), SaltAndPepper(0.3), hidden=(3,)))
    fields = chain_fields(dae, x, 3, **shared)
    found["csl"] = csl(dae.observed, x, fields, group_size=group_size)
    unit, mixing = Gaussian(5).double(), torch.randn(5, 5, generator=default_generator(2), dtype=torch.float64)
    found["flow"] = probability_flow(
        lambda at, sigma: -(at @ mixing).tanh() / (1 + sigma),
        x,
        lambda at: unit.log_prob(torch.zeros_like(at), at),
        smallest=0.1,
        largest=2.0,
        num_steps=4,
        num_probes=2,
        **shared,
    )
    rbm = randomised(RBM(Bernoulli(5), Bernoulli(3)))
    base = torch.linspace(-1, 1, 5, dtype=torch.float64)
    found["smc"] = smc_log_z(rbm, base, BETAS, num_islands=5, island_size=4, generator=default_generator(seed))
    trajectory = Trajectory(rbm, [randomised(RBM(Bernoulli(5), Bernoulli(3))).state_dict()])
    options: dict[str, Any] = {"num_chains": 11, "num_steps": 4, "burn_in": 1}
    found["trajectory"] = trajectory_log_z(trajectory, trajectory.evenly(3), **options, **shared).log_z
    found["tempering"] = tempered(rbm, **shared)
    return {name: numbers(value) for name, value in found.items()}


def tempered(model: RBM, *, group_size: int, generator: torch.Generator) -> Tensor:
    """Where 11 tempered chains of an RBM end."""

    def work(some: Tensor, generator: torch.Generator) -> Rows:
        betas = torch.tensor([0.3, 0.6, 1.0], dtype=torch.float64)
        states = tuple(torch.zeros(3 * len(some), unit.size, dtype=torch.float64) for unit in model.units)

        def log_density(state: Any, beta: Tensor) -> Tensor:
            return -beta * model.energy(state[0], (state[1],))[:, None]

        kernel = parallel_tempering(lambda beta: gibbs(model.anneal(beta)), log_density, betas, len(some))
        return rung(run(kernel, states, 10, generator=generator))

    return torch.cat(in_groups(11, group_size, generator, work), 1)


def numbers(found: Estimate | Tensor) -> list[float]:
    return [found.value, found.std_error] if isinstance(found, Estimate) else found.flatten().tolist()


def write(out: Path, trained: Path) -> None:
    """What one process of several finds, by the library and by the command line."""
    processes = launch("cpu", "64-true")
    found = estimates()
    if processes.is_first:
        (out / "estimates.json").write_text(json.dumps(found))
    for name, flags in commands(out, trained).items():
        assert main(flags) == 0, name
    if processes.is_first:
        assert json.loads((trained / "vae" / "likelihood.json").read_text())
        for model in RUNS:
            (out / f"{model}.json").write_text((trained / model / "likelihood.json").read_text())


def commands(out: Path, trained: Path) -> dict[str, list[str]]:
    small = ["--device", "cpu", "--group-size", "4"]
    draws = [*small, "--num", "11", "--num-steps", "3", "--out", str(out / "s.png")]
    sampled = {"rbm": ["--inpaint", "upper"], "vae": [], "dae": [], "target-prop": ["--from-data"]}
    few = {"rbm": ["--method", "raise"], "vae": ["--method", "ais"], "dae": [], "target-prop": []}
    chains = [*small, "--num-examples", "11", "--num-samples", "30", "--num-chains", "10", "--num-temperatures", "5"]
    made = {
        f"sample {name}": ["sample", str(trained / name), *draws, *more, "--save", str(out / f"{name}.npz")]
        for name, more in sampled.items()
    }
    return made | {
        f"evaluate {name}": ["evaluate", str(trained / name), "--json", *chains, *more] for name, more in few.items()
    }


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """Runs of one epoch, without pictures."""
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("genmodels.commands.train.write_pictures", lambda out, progress: [])
        for name, flags in RUNS.items():
            data = ["--data", "bars-and-stripes", "--epochs", "1", "--device", "cpu"]
            assert main(["train", name, *data, *flags, "--out", str(folder / name)]) == 0
    return folder


@pytest.fixture(scope="module")
def alone(tmp_path_factory, trained: Path) -> Path:
    out = tmp_path_factory.mktemp("alone")
    write(out, trained)
    return out


def likelihood(path: Path) -> list[float]:
    found = json.loads(path.read_text())["log_likelihood"]
    return [found["value"], found["std_error"]]


# The groups are three: with two processes one has more of them than the other; of two groups, the third of three has none.
@pytest.mark.parametrize("size", [2, 3])
def test_any_number_of_processes_finds_the_same(alone: Path, trained: Path, tmp_path: Path, size: int) -> None:
    assert together(size, write, tmp_path, trained) == [0] * size
    expected, found = (json.loads((out / "estimates.json").read_text()) for out in (alone, tmp_path))
    assert len(expected) == 13
    for name, values in expected.items():
        assert found[name] == pytest.approx(values, abs=1e-6), name
    for name in RUNS:
        assert likelihood(tmp_path / f"{name}.json") == pytest.approx(likelihood(alone / f"{name}.json"), abs=1e-6), (
            name
        )
        with np.load(tmp_path / f"{name}.npz") as drawn, np.load(alone / f"{name}.npz") as wanted:
            assert drawn["states"].shape == (11, 16)
            for part in ("states", "means"):
                np.testing.assert_allclose(drawn[part], wanted[part], atol=1e-6, err_msg=name)


def test_other_seeds_and_other_groups_find_something_else(alone: Path) -> None:
    """What two processes agree on is random: it is not the same for all seeds, nor for groups of another size."""
    expected = json.loads((alone / "estimates.json").read_text())
    for other, same in ((estimates(seed=1), set()), (estimates(group_size=3), {"smc"})):
        assert {name for name, values in other.items() if values == pytest.approx(expected[name], abs=1e-6)} == same


def test_groups_may_be_fewer_than_processes() -> None:
    assert together(3, _two_groups) == [0, 0, 0]


def _two_groups() -> int:
    launch("cpu", "64-true")

    def work(some: Tensor, generator: torch.Generator) -> Rows:
        return some.double(), some[:, None].expand(-1, 2)

    ones, pairs = in_groups(5, 3, default_generator(0), work)
    return int(ones.tolist() != [0, 1, 2, 3, 4] or pairs.tolist() != [[i, i] for i in range(5)])


def test_islands_estimate_z_without_bias() -> None:
    """The mean of Ẑ / Z over 250 runs of 2 islands is 1; of islands that are averaged in the logarithm it is not."""
    model, base = zoo.tiny("Bernoulli", "Bernoulli"), torch.linspace(-1, 1, 5, dtype=torch.float64)
    exact, randoms = exact_log_z(model).value, zoo.generator(4)
    found = [smc_log_z(model, base, BETAS[::5], num_islands=2, island_size=4, generator=randoms) for _ in range(250)]
    ratio = torch.tensor([estimate.value - exact for estimate in found], dtype=torch.float64).exp()
    assert abs(float(zoo.z_scores(ratio, 1.0))) < 4.5
    assert abs(float(zoo.z_scores(ratio, 1.3))) > 6
    assert {estimate.bound for estimate in found} == {"lower"}
    many = smc_log_z(model, base, BETAS, num_islands=50, island_size=50, generator=randoms)
    assert abs(many.value - exact) < 5 * many.std_error < 0.1
    with pytest.raises(BadInput, match="at least 2 islands"):
        smc_log_z(model, base, BETAS, num_islands=1, generator=randoms)


def test_memory_of_draws_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("genmodels.groups.MAX_PARALLEL_CHAINS", 4)
    sizes: list[int] = []

    def work(some: Tensor, generator: torch.Generator) -> Rows:
        sizes.append(len(some))
        return (some,)

    (found,) = in_groups(11, None, default_generator(0), work)
    assert (found.tolist(), sizes) == (list(range(11)), [4, 4, 3])
