"""Pyro's inference on our models, and our estimators on Pyro's programs, where the evidence is known."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
import zoo
from pyro.infer import MCMC, NUTS, SVI, Predictive, RenyiELBO, ReweightedWakeSleep, Trace_ELBO
from pyro.optim import Adam  # pyright: ignore[reportAttributeAccessIssue]
from test_vae import LOADING, OFFSET, VARIANCE, X, evidence, linear

from genmodels import VAE, BadInput, Bernoulli
from genmodels.data.examples import Examples
from genmodels.fit import Settings, fit
from genmodels.likelihood import elbo, importance_bound
from genmodels.objectives import elbo as elbo_objective
from genmodels.pyro_bridge import PyroModel, pyro_programs


@pytest.fixture(autouse=True)
def clean_slate():
    with torch.random.fork_rng():
        pyro.clear_param_store()
        torch.manual_seed(1 + zoo.seed_shift)
        yield


def test_both_elbos_agree_on_the_same_noise() -> None:
    model = VAE(Bernoulli(7), latent=(3, 2), hidden=((5,), (4,)), generator=zoo.generator())
    x = zoo.some_states(model.observed, 11).float()
    torch.manual_seed(5)
    theirs = Trace_ELBO().loss(*pyro_programs(model), x)
    torch.manual_seed(5)
    z, log_q = model.recognise(x)
    ours = float((model.log_joint(x, z) - log_q).sum())
    assert -theirs == pytest.approx(ours, rel=1e-5)
    assert -Trace_ELBO().loss(*pyro_programs(model), x) != pytest.approx(ours, rel=1e-3)


def test_every_bound_of_pyro_is_the_evidence_where_the_encoder_is_exact() -> None:
    programs, exact = pyro_programs(linear()), float(evidence(X).sum())
    for bound in (Trace_ELBO(num_particles=3), RenyiELBO(alpha=0, num_particles=3)):
        assert -bound.loss(*programs, X) == pytest.approx(exact, abs=1e-6)
    assert -Trace_ELBO().loss(*pyro_programs(linear(0.4)), X) != pytest.approx(exact, abs=1e-2)
    wake, sleep = ReweightedWakeSleep(num_particles=3, vectorize_particles=False).loss(*programs, X)
    assert wake == pytest.approx(-exact, abs=1e-6)
    assert sleep == sleep


def test_svi_trains_the_model_to_the_bound_that_fit_reaches() -> None:
    x = linear().sample(600, generator=zoo.generator(1))[0].float()
    values = []
    for way in ("pyro", "fit"):
        model = linear(1.5).float()
        if way == "pyro":
            svi = SVI(*pyro_programs(model), Adam({"lr": 0.02}), Trace_ELBO())
            for _ in range(40):
                for rows in x.split(100):
                    svi.step(rows)
        else:
            settings = Settings(
                epochs=40, optimizer="Adam", learning_rate=0.02, schedule="constant", average=0.0, device="cpu"
            )
            fit(model, elbo_objective(model), Examples(x), settings)
        values.append(elbo(model, x, num_samples=20, generator=zoo.generator(2)).value)
    untrained = elbo(linear(1.5).float(), x, num_samples=20, generator=zoo.generator(2)).value
    assert abs(values[0] - values[1]) < 0.1 < min(values) - untrained


def test_nuts_finds_the_posterior() -> None:
    model = linear(0.4)
    programs = pyro_programs(model)
    mcmc = MCMC(NUTS(programs.model), num_samples=150, warmup_steps=60, disable_progbar=True)
    mcmc.run(X)
    z = mcmc.get_samples()["z"]
    exact = linear().encode(X).first
    assert float(((z.mean(0) - exact.mean) / exact.log_std.exp()).abs().max()) < 0.4
    torch.testing.assert_close(z.std(0), exact.log_std.exp(), rtol=0.3, atol=0)
    shifted = model.encode(X).first.mean
    assert float(((z.mean(0) - shifted) / exact.log_std.exp()).abs().max()) > 0.4


def test_predictive_draws_rows_of_the_model() -> None:
    found = Predictive(pyro_programs(linear()).model, num_samples=2)(None, 3000)
    assert found["x"].shape == (2, 3000, 5)
    assert float(zoo.z_scores(found["x"].flatten(0, 1).detach(), OFFSET).abs().max()) < 5
    assert float(zoo.z_scores(found["x"].flatten(0, 1).detach(), OFFSET + 0.2).abs().max()) > 7


def users_model(x):
    with pyro.plate("rows", len(x)):
        z = pyro.sample("code", dist.Normal(torch.zeros(len(x), 2, dtype=x.dtype), 1).to_event(1))
        pyro.sample("pixels", dist.Normal(OFFSET + z @ LOADING, VARIANCE**0.5).to_event(1), obs=x)


def users_guide(shift: float):
    exact = linear()

    def guide(x):
        with pyro.plate("rows", len(x)):
            mean, log_std = exact.encode(x).first
            pyro.sample("code", dist.Normal(mean + shift, log_std.exp()).to_event(1))

    return guide


def test_a_users_program_is_evaluated_by_our_estimators() -> None:
    truth = float(evidence(X).mean())
    found = importance_bound(PyroModel(users_model, users_guide(0.0)), X, num_samples=5, generator=zoo.generator(3))
    assert found.value == pytest.approx(truth, abs=1e-8)
    assert found.bound == "lower"
    model = PyroModel(users_model, users_guide(0.4))
    divergence = 0.5 * 0.4**2 * float((1 + LOADING.square().sum(1) / VARIANCE).sum())
    shifted = elbo(model, X, num_samples=2000, generator=zoo.generator(4))
    assert abs(shifted.value - (truth - divergence)) < 5 * shifted.std_error < 0.5 * divergence
    again = elbo(model, X, num_samples=2000, generator=zoo.generator(4))
    assert again.value == shifted.value


def test_what_cannot_be_evaluated_is_named() -> None:
    def rows_forgotten(x):
        pyro.sample("code", dist.Normal(torch.zeros(len(x), 2), 1).to_event(2))

    def draws_more(x):
        users_model(x)
        with pyro.plate("more", len(x)):
            pyro.sample("extra", dist.Normal(torch.zeros(len(x)), 1))

    with pytest.raises(BadInput, match="not one a row"):
        elbo(PyroModel(users_model, rows_forgotten), X, generator=zoo.generator())
    with pytest.raises(BadInput, match="draws extra"):
        elbo(PyroModel(draws_more, users_guide(0.0)), X, generator=zoo.generator())
    with pytest.raises(BadInput, match="call model"):
        pyro_programs(linear()).model(None)
