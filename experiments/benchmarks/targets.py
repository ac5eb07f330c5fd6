"""Targets for continuous samplers, each one formula for every library, and their true means and variances."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Energy = Callable[[Any], Any]
"""−log p̃ of positions (..., d), shape (...)."""


class Library(NamedTuple):
    """What a formula needs of a tensor library."""

    array: Callable[[NDArray[np.float32]], Any]
    softplus: Callable[[Any], Any]


TORCH = Library(torch.from_numpy, torch.nn.functional.softplus)


class Truth(NamedTuple):
    """Means and variances of the coordinates, shape (2 d,), and their standard errors where they are estimates."""

    value: Floats
    std_error: Floats


class Target(NamedTuple):
    """A density, up to its constant, and what is known of it."""

    dim: int
    energy: Callable[[Library], Energy]
    truth: Truth


def gaussian(dim: int = 20, condition: float = 1000.0) -> Target:
    """Correlated: eigenvalues of the covariance from 1 down to 1 / condition, along directions drawn at random."""
    axes = np.linalg.qr(np.random.default_rng(0).normal(size=(dim, dim)))[0]
    variances = np.logspace(0, -np.log10(condition), dim)
    precision = (axes / variances) @ axes.T

    def energy(library: Library) -> Energy:
        matrix = library.array(precision.astype(np.float32))
        return lambda x: ((x @ matrix) * x).sum(-1) / 2

    return Target(dim, energy, exactly(np.zeros(dim), np.diag((axes * variances) @ axes.T)))


def banana(pairs: int = 10, width: float = 0.8) -> Target:
    """Pairs u ~ N(0, 1), v given u ~ N(u² − 1, width²): each a bent ridge (the shape of Haario, Saksman and Tamminen, 1999)."""

    def energy(library: Library) -> Energy:
        def formula(x: Any) -> Any:
            u, v = x[..., :pairs], x[..., pairs:]
            return (u**2 + ((v - u**2 + 1) / width) ** 2).sum(-1) / 2

        return formula

    return Target(2 * pairs, energy, exactly(np.zeros(2 * pairs), np.repeat([1, 2 + width**2], pairs)))


def logistic_regression(num: int = 200, dim: int = 25, seed: int = 0) -> Target:
    """The posterior of `dim` coefficients, a priori N(0, 1), given `num` labels drawn from the model."""
    randoms = np.random.default_rng(seed)
    inputs = np.concatenate([np.ones((num, 1)), randoms.normal(size=(num, dim - 1))], 1)
    chance = 1 / (1 + np.exp(-inputs @ randoms.normal(size=dim)))
    # Signed so that an example's energy is softplus(signed · b).
    signed = inputs * np.where(randoms.random(num) < chance, -1, 1)[:, None]

    def energy(library: Library) -> Energy:
        matrix = library.array(signed.astype(np.float32).T.copy())
        return lambda x: library.softplus(x @ matrix).sum(-1) + (x * x).sum(-1) / 2

    return Target(dim, energy, by_importance(signed, randoms))


def exactly(mean: Floats, variance: Floats) -> Truth:
    """Moments in closed form."""
    value = np.concatenate([mean, variance])
    return Truth(value, np.zeros_like(value))


def by_importance(
    signed: Floats, randoms: np.random.Generator, num: int = 400_000, inflate: float = 1.5, freedom: float = 8.0
) -> Truth:
    """Moments of the regression by self-normalised importance sampling, which shares nothing with the samplers.

    Draws come from Student's t with `freedom` degrees at the mode, its scale that of the Laplace approximation times
    `inflate`: their weights are bounded. Errors by the delta method.
    """
    dim = signed.shape[1]
    mode, hessian = np.zeros(dim), np.eye(dim)
    for _ in range(30):  # Newton's method
        chance = 1 / (1 + np.exp(-signed @ mode))
        hessian = (signed.T * (chance * (1 - chance))) @ signed + np.eye(dim)
        mode -= np.linalg.solve(hessian, signed.T @ chance + mode)
    noise = randoms.normal(size=(num, dim)) / np.sqrt(randoms.chisquare(freedom, size=(num, 1)) / freedom)
    x = mode + noise @ np.linalg.cholesky(inflate * np.linalg.inv(hessian)).T
    # By parts, as num × examples numbers are too many at once.
    energy = np.concatenate([np.logaddexp(0, part @ signed.T).sum(-1) for part in np.array_split(x, 40)])
    log_proposal = -(freedom + dim) / 2 * np.log1p((noise**2).sum(-1) / freedom)
    log_weight = -energy - (x**2).sum(-1) / 2 - log_proposal
    weight = np.exp(log_weight - log_weight.max())
    weight /= weight.sum()
    features = np.concatenate([x, (x - weight @ x) ** 2], 1)
    value = weight @ features
    return Truth(value, np.sqrt(weight**2 @ (features - value) ** 2))


TARGETS: dict[str, Callable[[], Target]] = {
    "gaussian": gaussian,
    "banana": banana,
    "logistic_regression": logistic_regression,
}
