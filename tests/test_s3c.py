"""Spike-and-slab sparse coding against enumeration of the spikes, and on the command line."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import Bernoulli, Independent, Normal

from genmodels.cli import main
from genmodels.data.examples import Examples
from genmodels.errors import BadInput
from genmodels.fit import Settings, fit
from genmodels.likelihood import importance_bound, spike_slab_ais, spike_slab_bdmc
from genmodels.likelihood.spike_slab_ais import SpikeSlabPath, spike_slab_log_weights
from genmodels.objectives import variational_em
from genmodels.objectives.variational_em import expected_statistics, m_step
from genmodels.s3c import S3C
from genmodels.spike_slab import SpikeSlabCode
from genmodels.units import Bernoulli as BernoulliUnits
from genmodels.units import Gaussian
from tests import zoo

EM = Settings(epochs=6, batch_size=300, learning_rate=1.0, schedule="constant", average=0.0, device="cpu")


def close(actual: Tensor, expected: Tensor, tolerance: float = 1e-9) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=tolerance)


def tiny(size: int = 3, codes: int = 5, seed: int = 0, *, orthogonal: bool = False) -> S3C:
    """A float64 model whose parameters are all random."""
    randoms = zoo.generator(seed)
    model = S3C(Gaussian(size, variance=0.3), codes, active=0.3, generator=randoms).double()
    with torch.no_grad():
        model.dictionary.mul_(1.3)
        if orthogonal:
            model.dictionary.copy_(1.3 * torch.linalg.qr(model.dictionary)[0])
        else:
            model.observed.get_parameter("log_variance").add_(0.3 * torch.randn(size, generator=randoms))
        model.visible_bias.normal_(0, 0.5, generator=randoms)
        model.log_odds.add_(0.5 * torch.randn(codes, generator=randoms))
        model.slab_mean.normal_(0.4, 0.5, generator=randoms)
        model.slab_log_variance.add_(0.3 * torch.randn(codes, generator=randoms))
    return model.requires_grad_(False)


def test_the_density_is_its_formula():
    model = tiny()
    x, h, s = model.sample(7, generator=zoo.generator(1))
    spikes = Independent(Bernoulli(logits=model.log_odds), 1).log_prob(h)
    slabs = Normal(h * model.slab_mean, (0.5 * model.slab_log_variance).exp()).log_prob(s).sum(-1)
    mean = (h * s) @ model.dictionary.T + model.visible_bias
    expected = spikes + slabs + Normal(mean, model.noise_variance.sqrt()).log_prob(x).sum(-1)
    close(model.log_joint(x, (h, s)), expected)
    assert 0 < float(h.mean()) < 1


def test_enumeration_sums_the_spikes_and_integrates_the_slabs():
    model = tiny(size=2, codes=2)
    x = model.sample(3, generator=zoo.generator(1))[0]
    t = torch.linspace(-9, 9, 361, dtype=torch.float64)
    slabs = torch.cartesian_prod(t, t)
    log_cell = 2 * math.log(float(t[1] - t[0]))
    terms = []
    for spikes in BernoulliUnits(2).states(torch.arange(4)).double():
        z = (spikes.expand(len(slabs), -1), slabs)
        terms.append(torch.stack([model.log_joint(row.expand(len(slabs), -1), z) for row in x]) + log_cell)
    close(model.log_evidence(x), torch.logsumexp(torch.cat(terms, 1), 1), 1e-8)


def posterior(model: S3C, x: Tensor) -> Tensor:
    """P(h_j = 1 | x), exact."""
    kept = []
    for j in range(model.codes):
        pinned = S3C.from_config(model.config()).double()
        pinned.load_state_dict(model.state_dict())
        pinned.requires_grad_(False).log_odds[j] = 60.0
        log_prior = torch.nn.functional.logsigmoid(model.log_odds[j])
        kept.append((pinned.log_evidence(x) + log_prior - model.log_evidence(x)).exp())
    return torch.stack(kept, 1)


def test_the_bound_is_the_elbo_and_lies_below_the_evidence():
    model = tiny()
    x = model.sample(7, generator=zoo.generator(1))[0]
    q = model.encode(x)
    bound = model.bound(x, q)
    assert bool((bound < model.log_evidence(x)).all())
    many, rows = q.repeat(40_000), x.repeat(40_000, 1)
    z = many.draw(zoo.generator(2))
    weight = (model.log_joint(rows, z) - many.log_prob(z)).view(-1, len(x))
    error = weight.std(0) / len(weight) ** 0.5
    assert bool(((weight.mean(0) - bound).abs() < 5 * error).all())
    assert bool(((weight.mean(0) - model.log_evidence(x)).abs() > 5 * error).any())


def test_orthogonal_atoms_have_an_exact_mean_field():
    model = tiny(size=7, codes=5, orthogonal=True)
    x = model.sample(11, generator=zoo.generator(1))[0]
    q = model.encode(x)
    close(model.bound(x, q), model.log_evidence(x))
    close(torch.sigmoid(q.logit), posterior(model, x), 1e-8)


def test_the_mean_field_is_a_maximum_and_no_update_lowers_the_bound():
    model = tiny()
    x = model.sample(7, generator=zoo.generator(1))[0]
    q = model.encode(x)
    best = model.bound(x, q)
    for seed in range(50):
        noise = 0.05 * torch.randn(2, *q.logit.shape, generator=zoo.generator(100 + seed), dtype=torch.float64)
        near = SpikeSlabCode(q.logit + noise[0], q.centre + noise[1], q.on, q.off)
        assert bool((model.bound(x, near) < best + 1e-6).all())
    wider = SpikeSlabCode(q.logit, q.centre, 1.3 * q.on, q.off)
    assert bool((model.bound(x, wider) < best).all())
    rows, randoms = model.rows(x), zoo.generator(3)
    y = torch.randn(rows.correlation.shape, generator=randoms, dtype=torch.float64)
    residual, before = rows.residual(y), None
    logit, centre = torch.zeros_like(y), y.clone()
    for j in [0, 1, 2, 3, 4] * 3:
        site = rows.site(j, y, residual)
        logit[j], centre[j] = site.logit, site.centre
        rows.move(j, site.mean, y, residual)
        if j == 4:
            now = model.bound(x, SpikeSlabCode(logit.T, centre.T, q.on, q.off))
            assert before is None or bool((now >= before - 1e-10).all())
            before = now
    close(residual, rows.residual(y))


def test_the_m_step_maximises_the_bound():
    model = tiny()
    x = model.sample(200, generator=zoo.generator(1))[0] + 0.3
    q = model.encode(x)
    better = tiny(seed=9)
    better.load_state_dict({name: value.double() for name, value in m_step(expected_statistics(x, q)).items()})
    summed_out = SpikeSlabCode(q.logit, q.centre, q.on, better.prior(1).off)
    assert float(better.bound(x, summed_out).mean()) > float(model.bound(x, q).mean()) + 0.01
    parameters = list(better.requires_grad_().parameters())
    gradients = torch.autograd.grad(better.bound(x, summed_out).mean(), parameters)
    assert max(float(g.abs().max()) for g in gradients) < 1e-4
    parameters = list(model.requires_grad_().parameters())
    gradients = torch.autograd.grad(model.bound(x, q).mean(), parameters)
    assert max(float(g.abs().max()) for g in gradients) > 0.01


@pytest.mark.many_steps
def test_em_on_all_rows_never_lowers_the_bound_and_raises_the_evidence():
    truth = tiny(seed=5)
    x = truth.sample(300, generator=zoo.generator(6))[0].float()
    model = S3C(Gaussian(3, variance=0.5), 5, generator=zoo.generator(7))
    model.initialise_from_data(x)
    before = float(model.log_evidence(x).detach().mean())
    records = fit(model, variational_em(model, forgetting=1e9), Examples(x), EM)
    bounds = torch.tensor([record["bound"] for record in records])
    assert bool((bounds.diff() > -1e-4).all())
    assert float(bounds[-1]) > float(bounds[0]) + 0.02
    assert float(model.log_evidence(x).detach().mean()) > before + 0.02


@pytest.mark.many_steps
def test_gibbs_sweeps_leave_the_posterior_invariant():
    model = tiny()
    x = model.sample(1, generator=zoo.generator(1))[0].expand(5000, -1)
    exact = posterior(model, x[:1])[0]
    path, randoms = SpikeSlabPath(model, x), zoo.generator(2)
    state = path.start(len(x), randoms)
    for _ in range(20):
        state = path.transition(state, 1.0, randoms)
    z_score = ((state.y != 0).double().mean(1) - exact) / (exact * (1 - exact) / len(x)).sqrt()
    assert float(z_score.abs().max()) < 5
    for _ in range(10):
        state = path.transition(state, 0.5, randoms)
    z_score = ((state.y != 0).double().mean(1) - exact) / (exact * (1 - exact) / len(x)).sqrt()
    assert float(z_score.abs().max()) > 7


@pytest.mark.many_steps
def test_annealing_weights_are_unbiased_and_find_the_evidence():
    model = tiny()
    x = model.sample(3, generator=zoo.generator(1))[0]
    exact = model.log_evidence(x)
    rough = spike_slab_log_weights(model, x, num_temperatures=3, num_chains=5000, generator=zoo.generator(2))
    ratio = (rough - exact).exp()
    assert bool(((ratio.mean(0) - 1).abs() < 5 * ratio.std(0) / len(ratio) ** 0.5).all())
    found = spike_slab_ais(model, x, num_temperatures=40, num_chains=200, generator=zoo.generator(3))
    assert abs(found.value - float(exact.mean())) < 5 * found.std_error
    assert found.std_error < 0.05
    assert found.bound == "lower"
    # A mean field finds one of the posterior's modes: more draws raise its bound, but these do not reach the others.
    weighted = importance_bound(model, x, num_samples=1000, generator=zoo.generator(4))
    elbo = float(model.bound(x, model.encode(x)).mean())
    assert elbo + 0.01 < weighted.value < float(exact.mean()) + 5 * weighted.std_error
    model.visible_bias.add_(0.5)
    wrong = spike_slab_ais(model, x, num_temperatures=40, num_chains=200, generator=zoo.generator(3))
    assert abs(wrong.value - float(exact.mean())) > 5 * wrong.std_error


@pytest.mark.many_steps
def test_simulated_rows_are_bracketed():
    model = tiny()
    few, many = (
        spike_slab_bdmc(model, num_rows=200, num_temperatures=n, num_chains=3, generator=zoo.generator(5))
        for n in (2, 100)
    )
    assert 0 < many.gap.value < 0.1 < few.gap.value
    assert (many.lower.bound, many.upper.bound) == ("lower", "upper")


def test_bad_input_is_named():
    cases: tuple[tuple[dict[str, Any], str], ...] = (
        ({"codes": 0}, "at least one code"),
        ({"codes": 3, "active": 1.0}, "between 0 and 1"),
        ({"codes": 3, "slab_variance": 0.0}, "positive number"),
    )
    for arguments, match in cases:
        with pytest.raises(BadInput, match=match):
            S3C(Gaussian(5), **arguments)
    with pytest.raises(BadInput, match="too many to enumerate"):
        S3C(Gaussian(5), 15).log_evidence(torch.zeros(2, 5))
    with pytest.raises(BadInput, match="at least one temperature"):
        spike_slab_ais(tiny(), torch.zeros(2, 3), num_temperatures=0, generator=zoo.generator())
    with pytest.raises(BadInput, match="forgetting"):
        variational_em(tiny(), forgetting=-1.0)


def test_it_can_be_stored():
    model = tiny()
    again = S3C.from_config(json.loads(json.dumps(model.config()))).double()
    again.load_state_dict(model.state_dict())
    x, *z = model.sample(3, generator=zoo.generator(0))
    close(again.energy(x, tuple(z)), model.energy(x, tuple(z)), 0)
    close(again.transform(x), torch.sigmoid(model.encode(x).logit), 0)


def test_every_verb(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    run = tmp_path / "run"
    flags = ["--data", "bars-and-stripes", "--codes", "5", "--epochs", "2", "--device", "cpu", "--noise", "0.3"]
    main(["train", "s3c", *flags, "--out", str(run)])
    names = ["samples.png", "filters.png", "reconstructions.png", "curves.png"]
    assert capsys.readouterr().out.split() == [str(run / picture) for picture in names]
    main(["sample", str(run), "--num", "7", "--out", str(tmp_path / "s.png")])
    capsys.readouterr()
    short = ["--num-examples", "3", "--num-samples", "5", "--num-temperatures", "5", "--num-chains", "3", "--json"]
    for method, bound in (("auto", "lower"), ("ais", "lower"), ("exact", "exact")):
        main(["evaluate", str(run), "--method", method, *short])
        assert json.loads(capsys.readouterr().out)["log_likelihood"]["bound"] == bound
    before = (run / "checkpoint.safetensors").read_bytes()
    monkeypatch.setattr("genmodels.commands.train.write_pictures", lambda out, progress: [])
    main(["train", "--resume", str(run)])
    assert (run / "checkpoint.safetensors").read_bytes() == before
