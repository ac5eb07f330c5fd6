"""Variational bounds against the closed-form evidence of a linear-Gaussian model."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

from genmodels.errors import BadInput
from genmodels.interface import JointDensity, JointEnergy, Recognition, default_generator
from genmodels.likelihood import Bound, Estimate, elbo, importance_bound
from tests import zoo

LOADING = torch.tensor([[1.0, -0.5, 0.3], [0.2, 0.8, -1.1]], dtype=torch.float64)
NOISE = 0.7


class LinearGaussian(JointDensity, Recognition):
    """z ~ N(0, 1), x ~ N(z LOADING, NOISE²), with a recognition that is the posterior, `off` by a shift of its mean."""

    def __init__(self, off: float = 0.0):
        self.precision = torch.eye(2, dtype=torch.float64) + LOADING @ LOADING.T / NOISE**2
        self.off = off

    def log_joint(self, x, z):
        prior = -0.5 * z[0].square().sum(-1) - math.log(2 * math.pi)
        residual = (x - z[0] @ LOADING) / NOISE
        return prior - 0.5 * residual.square().sum(-1) - 1.5 * math.log(2 * math.pi) - 3 * math.log(NOISE)

    def recognise(self, x, *, generator=None):
        mean = torch.linalg.solve(self.precision, (x @ LOADING.T / NOISE**2).T).T + self.off
        q = MultivariateNormal(mean, precision_matrix=self.precision)
        noise = torch.randn(mean.shape, dtype=x.dtype, generator=generator)
        z = mean + (q.scale_tril @ noise[..., None])[..., 0]
        return (z,), q.log_prob(z)

    def evidence(self, x: Tensor) -> float:
        covariance = LOADING.T @ LOADING + NOISE**2 * torch.eye(3, dtype=torch.float64)
        return float(MultivariateNormal(torch.zeros(3, dtype=torch.float64), covariance).log_prob(x).mean())


X = torch.tensor([[0.3, -1.2, 0.5], [1.9, 0.1, -0.4], [-0.6, 0.7, 2.2]], dtype=torch.float64)


def test_exact_recognition_gives_the_evidence_without_error():
    model, generator = LinearGaussian(), default_generator(0)
    for estimate in (
        elbo(model, X, generator=generator, num_samples=5),
        importance_bound(model, X, num_samples=5, generator=generator),
    ):
        assert estimate.value == pytest.approx(model.evidence(X), abs=1e-10)
        assert estimate.std_error < 1e-7
        assert estimate.bound == "lower"


def test_a_shifted_recognition_costs_its_divergence():
    model = LinearGaussian(off=0.4)
    shift = torch.full((2,), 0.4, dtype=torch.float64)
    divergence = 0.5 * float(shift @ model.precision @ shift)
    found = elbo(model, X, generator=zoo.generator(0), num_samples=20_000)
    assert abs(found.value - (model.evidence(X) - divergence)) < 5 * found.std_error
    assert found.std_error < 0.02


def test_bounds_rise_with_the_number_of_draws_to_the_evidence():
    model = LinearGaussian(off=0.4)
    bounds = [
        importance_bound(model, X.repeat(300, 1), num_samples=k, generator=zoo.generator(0)).value
        for k in (2, 20, 2000)
    ]
    assert bounds[0] < bounds[1] < bounds[2] < model.evidence(X) + 0.01
    assert bounds[2] == pytest.approx(model.evidence(X), abs=0.01)


def test_the_error_is_that_of_repeated_estimates():
    model = LinearGaussian(off=0.2)
    generator = zoo.generator(0)
    runs = [importance_bound(model, X, num_samples=400, generator=generator) for _ in range(100)]
    spread = torch.tensor([run.value for run in runs]).std()
    assert 0.7 < float(spread) / runs[0].std_error < 1.4


class Scaled(LinearGaussian):
    """The same density times e²."""

    def log_joint(self, x, z):
        return super().log_joint(x, z) + 2


class Unnormalised(JointEnergy, Recognition):
    def __init__(self):
        self.inner = Scaled()

    def energy(self, x, z):
        return self.inner.energy(x, z)

    def recognise(self, x, *, generator=None):
        return self.inner.recognise(x, generator=generator)


def test_log_z_is_taken_off_and_its_kind_of_bound_carries_over():
    model = Unnormalised()
    with pytest.raises(BadInput, match="give its log_z"):
        elbo(model, X, generator=default_generator(0))
    turned: dict[Bound, Bound] = {"exact": "lower", "upper": "lower", "lower": "none", "none": "none"}
    for kind, expected in turned.items():
        found = elbo(
            model, X, generator=default_generator(0), log_z=Estimate(2.0, 0.3, kind, "given", 1), num_samples=2
        )
        assert found.value == pytest.approx(model.inner.evidence(X), abs=1e-10)
        assert found.std_error == pytest.approx(0.3)
        assert found.bound == expected
