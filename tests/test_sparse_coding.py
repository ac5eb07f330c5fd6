"""Sparse coding against optimality conditions, scikit-learn, closed forms and quadrature."""

from __future__ import annotations

import json
import math

import pytest
import torch
from sklearn.decomposition import sparse_encode
from torch import Tensor
from torch.distributions import Laplace, Normal, StudentT

from genmodels import lasso
from genmodels.errors import BadInput
from genmodels.lasso import Lasso, fista, ista, solve
from genmodels.likelihood import importance_bound
from genmodels.priors import ExponentialPrior, GaussianPrior, LaplacePrior, Prior, StudentTPrior
from genmodels.sparse_coding import SparseCoding
from genmodels.units import Gaussian
from tests import zoo

SOLVERS = {"compiled": solve, "fista": fista, "ista": ista}


def problem(num: int = 23, *, penalty: float | Tensor = 0.3, non_negative: bool = False, seed: int = 0) -> Lasso:
    """Examples of 11 dimensions and 17 atoms of different lengths."""
    randoms = zoo.generator(seed)
    x, dictionary = (torch.randn(*s, generator=randoms, dtype=torch.float64) for s in ((num, 11), (11, 17)))
    return Lasso(1.5 * x, 0.4 * dictionary, penalty, non_negative=non_negative)


def violation(p: Lasso, code: Tensor) -> float:
    """The largest violation of the conditions of optimality: Dᵀr = λ sign(z) where z ≠ 0, |Dᵀr| ≤ λ elsewhere."""
    correlation = p.correlation - code @ p.gram
    zero = correlation.clamp_min(0) if p.non_negative else correlation.abs()
    at_zero = (zero - p.penalty).clamp_min(0)
    return float(torch.where(code == 0, at_zero, (correlation - p.penalty * code.sign()).abs()).max())


@pytest.mark.parametrize("non_negative", [False, True])
@pytest.mark.parametrize("name", SOLVERS)
def test_solutions_satisfy_the_conditions_of_optimality(name: str, non_negative: bool):
    penalty = torch.linspace(0.1, 0.7, 17, dtype=torch.float64)
    p = problem(7, penalty=penalty, non_negative=non_negative)
    found = SOLVERS[name](p, tolerance=1e-9, max_steps=100_000)
    assert float(found.gap.max()) <= 1e-9
    assert violation(p, found.code) < 1e-4
    assert not non_negative or bool((found.code >= 0).all())
    assert violation(p, found.code * 1.01) > 1e-3
    assert 0.1 < float((found.code != 0).double().mean()) < 0.9


@pytest.mark.parametrize("non_negative", [False, True])
def test_the_gap_bounds_the_distance_from_the_optimum(non_negative: bool):
    p = problem(non_negative=non_negative)
    best = solve(p, tolerance=1e-13)
    for steps in (0, 10, 30, 100):
        found = ista(p, tolerance=1e-13, max_steps=steps)
        excess = found.objective - best.objective
        assert bool((excess >= -1e-12).all())
        assert bool((found.gap >= excess - 1e-12).all())
    # Without its scaling the residual is not feasible for the dual, and its "gap" is none.
    z = 0.5 * best.code
    xr = p.squared_norm - (p.correlation * z).sum(-1)
    residual = xr - ((p.correlation - z @ p.gram) * z).sum(-1)
    false_gap = 0.5 * residual + (p.penalty * z.abs()).sum(-1) - xr + 0.5 * residual
    assert bool((false_gap < p.measure(z, z @ p.gram - p.correlation)[0] - best.objective).any())


@pytest.mark.parametrize("non_negative", [False, True])
def test_many_codes_meet_the_conditions_from_any_start(non_negative: bool):
    randoms = zoo.generator(5)
    x, dictionary = (torch.randn(*s, generator=randoms, dtype=torch.float64) for s in ((53, 61), (61, 131)))
    penalty = 4 + 4 * torch.rand(131, generator=randoms, dtype=torch.float64)
    p = Lasso(3 * x, dictionary, penalty, non_negative=non_negative)
    found = solve(p, tolerance=1e-9)
    assert float(found.gap.max()) <= 1e-9
    assert violation(p, found.code) < 1e-3
    assert violation(p, found.code.float().double()) < 1e-3 < violation(p, 1.001 * found.code)
    assert 20 < float((found.code != 0).double().sum(1).mean()) < 61
    for start in (torch.randn_like(found.code), found.code.roll(1, 0), found.code):
        other = solve(p, start=start, tolerance=1e-9)
        assert float(other.gap.max()) <= 1e-9
        close(other.objective, found.objective, 1e-8)
    measured = p.measure(found.code, found.code @ p.gram - p.correlation)
    close(found.objective, measured[0], 1e-9)
    assert float(measured[1].max()) <= 2e-9


def test_agrees_with_scikit_learn():
    randoms = zoo.generator(1)
    x, atoms = (torch.randn(*s, generator=randoms, dtype=torch.float64) for s in ((29, 13), (31, 13)))
    atoms = atoms / atoms.norm(dim=1, keepdim=True)
    theirs = torch.from_numpy(sparse_encode(x.numpy(), atoms.numpy(), algorithm="lasso_cd", alpha=0.4, max_iter=10_000))
    p = Lasso(x, atoms.T, 0.4)
    objective, _ = p.measure(theirs, theirs @ p.gram - p.correlation)
    ours = solve(p)
    close(ours.objective, 0.5 * (x - ours.code @ atoms).square().sum(-1) + 0.4 * ours.code.abs().sum(-1), 1e-10)
    assert bool((ours.objective <= objective + 1e-9).all())
    close(ours.objective, objective, 1e-6)


def test_warm_starts_finish_at_once():
    p = problem()
    best = fista(p, tolerance=1e-10)
    assert fista(p, start=best.code, tolerance=1e-9).steps == 0
    assert fista(p, tolerance=1e-9).steps > 0
    close(solve(p, start=torch.randn_like(best.code), tolerance=1e-10).objective, best.objective, 1e-9)


def test_duplicate_atoms_and_flat_examples_are_no_trouble():
    dictionary = torch.randn(5, 7, generator=zoo.generator(2), dtype=torch.float64)
    x = torch.cat([torch.zeros(1, 5, dtype=torch.float64), dictionary.T])
    p = Lasso(x, torch.cat([dictionary, dictionary, torch.zeros(5, 1, dtype=torch.float64)], 1), 0.05)
    found = solve(p, tolerance=1e-8)
    assert float(found.gap.max()) <= 1e-8
    assert float(found.objective[0]) == 0


def test_without_a_compiler_fista_takes_over(monkeypatch: pytest.MonkeyPatch):
    p = problem()
    best = solve(p, tolerance=1e-9)
    monkeypatch.setattr(lasso, "_library", lambda: None)
    close(solve(p, tolerance=1e-9).objective, best.objective, 1e-8)


def test_a_penalty_that_is_not_positive_is_refused():
    with pytest.raises(BadInput, match="must be positive"):
        problem(penalty=0.0)


def close(actual: Tensor, expected: Tensor, tolerance: float = 1e-10) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=tolerance)


PRIORS = {
    "gaussian": lambda k: GaussianPrior(k, scale=0.8),
    "laplace": lambda k: LaplacePrior(k, scale=0.8),
    "exponential": lambda k: ExponentialPrior(k, scale=0.8),
    "student": lambda k: StudentTPrior(k, scale=0.8, dof=3.5),
    "cauchy": lambda k: StudentTPrior(k, scale=0.8, dof=1.0),
}


def tiny(name: str, size: int = 5, codes: int = 3, noise: float = 0.6, seed: int = 0) -> SparseCoding:
    """A float64 model whose parameters are all random."""
    randoms = zoo.generator(seed)
    model = SparseCoding(Gaussian(size, variance=noise**2), PRIORS[name](codes), generator=randoms).double()
    with torch.no_grad():
        model.dictionary.mul_(1.3)
        model.visible_bias.normal_(0, 0.5, generator=randoms)
        model.factors.log_scale.add_(0.2 * torch.randn(codes, generator=randoms))
        model.observed.get_parameter("log_variance").add_(0.3 * torch.randn(size, generator=randoms))
    return model.requires_grad_(False)


@pytest.mark.parametrize("name", PRIORS)
def test_priors_are_normalised_and_their_draws_follow_them(name: str):
    prior: Prior = PRIORS[name](1).double().requires_grad_(False)
    # z = sinh(t) spans the tails of the Cauchy prior.
    t = torch.linspace(-30, 30, 200_000, dtype=torch.float64)
    z = torch.sinh(t)
    mass = (prior.log_prob(z[:, None]).exp() * torch.cosh(t)).sum() * (t[1] - t[0])
    assert float(mass) == pytest.approx(1, abs=1e-7)
    draws = prior.sample(50_000, generator=zoo.generator(3))[:, 0]
    edges = torch.tensor([-2.0, -0.8, -0.1, 0.3, 1.0, 3.0], dtype=torch.float64)
    cell = (prior.log_prob(z[:, None]).exp() * torch.cosh(t) * (t[1] - t[0])).cumsum(0)
    cdf = cell[torch.searchsorted(z, edges) - 1].clamp(0, 1)
    expected = torch.diff(torch.cat([torch.zeros(1), cdf, torch.ones(1)]).double())
    cells = torch.bucketize(draws, edges)
    assert zoo.accepted(zoo.chi_square(cells, expected.clamp_min(0)))
    assert zoo.rejected(zoo.chi_square(torch.bucketize(1.2 * draws, edges), expected.clamp_min(0)))


def test_priors_are_those_of_torch():
    z = torch.tensor([[0.3, -1.7, 2.9]], dtype=torch.float64)
    for prior, reference in (
        (LaplacePrior(3, scale=0.7), Laplace(0.0, 0.7)),
        (StudentTPrior(3, scale=0.7, dof=2.5), StudentT(2.5, 0.0, 0.7)),
    ):
        close(prior.double().log_prob(z), reference.log_prob(z).sum(-1), 1e-6)


@pytest.mark.parametrize("name", ["gaussian", "laplace", "student", "cauchy"])
def test_the_quadratic_bound_touches_the_prior_and_lies_below_it(name: str):
    prior = PRIORS[name](1).double().requires_grad_(False)
    z, other = torch.linspace(0.05, 4, 50).double()[:, None], torch.linspace(-5, 5, 60).double()
    bound = prior.log_prob(z)[:, None] - 0.5 * prior.curvature(z.square()) * (other.square() - z.square())
    assert bool((bound <= prior.log_prob(other[:, None]) + 1e-9).all())
    slope = torch.func.grad(lambda v: prior.log_prob(v))(z[7])
    close(-slope / z[7], prior.curvature(z.square())[7], 1e-9)


@pytest.mark.parametrize("name", PRIORS)
def test_the_density_is_its_formula(name: str):
    model = tiny(name)
    x, z = model.sample(7, generator=zoo.generator(1))
    residual = x - z @ model.dictionary.T - model.visible_bias
    expected = Normal(0.0, model.noise_variance.sqrt()).log_prob(residual).sum(-1)
    close(model.log_joint(x, (z,)), expected + model.factors.log_prob(z))
    close(model.energy(x, (z,)), -expected - model.factors.log_prob(z))
    problem, other = model.lasso(x), model.sample(7, generator=zoo.generator(2))[1]
    if name in ("laplace", "exponential"):
        energies = [problem.measure(codes, codes @ problem.gram - problem.correlation)[0] for codes in (z, other)]
        close(energies[1] - energies[0], model.energy(x, (other,)) - model.energy(x, (z,)))


@pytest.mark.parametrize("name", PRIORS)
def test_the_most_probable_code_is_a_minimum(name: str):
    model = tiny(name)
    x, _ = model.sample(13, generator=zoo.generator(1))
    found = model.infer(x)
    close(found.energy, model.energy(x, found.z))
    noise = 0.03 * torch.randn(200, 13, 3, generator=zoo.generator(2), dtype=torch.float64)
    around = found.z[0] + noise
    around = around.clamp_min(0) if model.factors.non_negative else around
    energies = torch.stack([model.energy(x, (z,)) for z in around])
    assert bool((energies >= found.energy - 1e-6).all())
    convex = name in ("gaussian", "laplace", "exponential")
    assert bool((found.gap <= 1e-6).all()) == convex
    assert bool(torch.isinf(found.gap).all()) != convex


def test_the_gaussian_prior_has_its_posterior_and_evidence_in_closed_form():
    model = tiny("gaussian")
    x, _ = model.sample(7, generator=zoo.generator(1))
    loading = model.dictionary * model.factors.scale
    covariance = loading @ loading.T + torch.diag(model.noise_variance)
    centred = x - model.visible_bias
    quadratic = (centred @ torch.linalg.inv(covariance) * centred).sum(-1)
    evidence = -0.5 * (quadratic + torch.logdet(covariance) + 5 * math.log(2 * math.pi))
    close(model.log_evidence(x), evidence)
    # An exact posterior has a constant weight, for every draw.
    z, log_q = model.recognise(x, generator=zoo.generator(2))
    close(model.log_joint(x, z) - log_q, evidence)
    close(model.infer(x).z[0], centred @ torch.linalg.inv(covariance) @ loading * model.factors.scale)


def test_the_gradient_of_the_evidence_is_the_posterior_mean_of_that_of_the_joint():
    model = tiny("gaussian").requires_grad_(True)
    x = model.sample(3, generator=zoo.generator(1))[0]
    expected = torch.autograd.grad(model.log_evidence(x).sum(), model.dictionary)[0]
    rows = x.repeat(40_000, 1)
    with torch.no_grad():
        z, _ = model.recognise(rows, generator=zoo.generator(2))
    found = torch.autograd.grad(model.log_joint(rows, z).sum(), model.dictionary)[0] / 40_000
    close(found, expected, 0.15)


@torch.no_grad()
def evidence(model: SparseCoding, x: Tensor) -> Tensor:
    """log p(x) by quadrature over two codes: z = sinh(t), which reaches far into the tails; 0 is an edge of the cells."""
    t = torch.linspace(-7, 7, 1200, dtype=torch.float64)
    step = float(t[1] - t[0])
    points = torch.cartesian_prod(t, t)
    z = torch.sinh(points)
    log_measure = torch.cosh(points).log().sum(-1) + 2 * math.log(step)
    joint = [model.log_joint(row.expand(len(z), -1), (z,)) for row in x]
    return torch.stack([torch.logsumexp(log_p + log_measure, 0) for log_p in joint])


@pytest.mark.parametrize("name", PRIORS)
def test_importance_weighting_finds_the_evidence(name: str):
    model = tiny(name, size=3, codes=2, seed=4)
    x, _ = model.sample(3, generator=zoo.generator(5))
    exact = float(evidence(model, x).mean())
    found = importance_bound(model, x, num_samples=2000, generator=zoo.generator(6))
    assert abs(found.value - exact) < 5 * found.std_error + 1e-3
    assert found.std_error < 0.03
    with torch.no_grad():
        model.visible_bias.add_(0.5)
    assert abs(importance_bound(model, x, num_samples=2000, generator=zoo.generator(6)).value - exact) > 0.03


def test_it_can_be_stored():
    model = tiny("student")
    again = SparseCoding.from_config(json.loads(json.dumps(model.config()))).double()
    again.load_state_dict(model.state_dict())
    x, z = model.sample(3, generator=zoo.generator(0))
    close(again.energy(x, (z,)), model.energy(x, (z,)))
