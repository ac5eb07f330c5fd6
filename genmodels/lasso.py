"""The lasso for many examples at once: argmin_z ½|x − D z|² + Σ_j λ_j |z_j|, with a certificate for each of them.

Every solver returns the duality gap, an upper bound on the distance of its objective from the optimum.
"""

from __future__ import annotations

import copy
import ctypes
import functools
import math
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from genmodels.errors import BadInput
from genmodels.interface import check_width
from samplers.fused import native

TOLERANCE = 1e-6
# Sums in any order, as vectors need. Not all of -ffast-math, which would flush the process's subnormal numbers to zero.
_OPTIONS = ("-fassociative-math", "-fno-signed-zeros", "-fno-trapping-math", "-ffinite-math-only", "-fno-math-errno")
_LANES = 8  # of the widest vectors in lasso.cpp
_CHECK_EVERY = 10


class Solution(NamedTuple):
    """Codes with what they are worth."""

    code: Float[Tensor, "n k"]
    objective: Float[Tensor, " n"]
    """½|x − D z|² + Σ_j λ_j |z_j|, float64."""
    gap: Float[Tensor, " n"]
    """Objective minus a feasible value of the dual: at least the distance from the optimum, float64."""
    steps: int
    """Steps of the example that took most; 0 where the solver does not count."""


class Lasso:
    """Examples x (n, d), a dictionary D (d, k), and penalties λ > 0, a number or one a code; z ≥ 0 if `non_negative`.

    Holds Dᵀx and the Gram matrix, so that no solver touches the examples again.
    """

    def __init__(
        self,
        x: Float[Tensor, "n d"],
        dictionary: Float[Tensor, "d k"],
        penalty: float | Float[Tensor, " k"],
        *,
        non_negative: bool = False,
    ):
        check_width(x, len(dictionary))
        self.penalty = torch.as_tensor(penalty, dtype=x.dtype, device=x.device).expand(dictionary.shape[1])
        if not bool((self.penalty > 0).all()):
            raise BadInput("Every penalty of the lasso must be positive; raise those that are not.")
        self.gram = dictionary.T @ dictionary
        self.correlation = x @ dictionary
        self.squared_norm = x.square().sum(-1)
        self.non_negative = non_negative

    def pulled(self, target: Float[Tensor, "n k"], strength: float) -> Lasso:
        """The problem with ½ `strength` |z − target|² added: still a lasso, of examples with as many more dimensions."""
        other = copy.copy(self)
        other.gram = self.gram + strength * torch.eye(len(self.gram)).to(self.gram)
        other.correlation = self.correlation + strength * target
        other.squared_norm = self.squared_norm + strength * target.square().sum(-1)
        return other

    def shrink(self, code: Float[Tensor, "n k"], step_size: float | Tensor) -> Float[Tensor, "n k"]:
        """The proximal map of the penalty: soft thresholds, one-sided for non-negative codes."""
        by = step_size * self.penalty
        return (code - by).clamp_min(0) if self.non_negative else code - code.clamp(-by, by)

    def measure(
        self, code: Float[Tensor, "n k"], gradient: Float[Tensor, "n k"], rows: Tensor | slice = slice(None)
    ) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
        """Objective and duality gap of codes with gradient G z − Dᵀx of the smooth part, float64.

        The dual point is the residual, scaled as far as the dual constraints |dᵀθ| ≤ λ allow.
        """
        b, q, z = self.correlation[rows].double(), -gradient.double(), code.double()
        xx, penalty = self.squared_norm[rows].double(), self.penalty.double()
        bz = (b * z).sum(-1)
        residual = (xx - bz - (q * z).sum(-1)).clamp_min(0)
        size = q.clamp_min(0) if self.non_negative else q.abs()
        limit = (penalty / size).amin(-1)
        scale = torch.minimum(((xx - bz) / residual).nan_to_num(0.0).clamp_min(0), limit)
        objective = 0.5 * residual + (penalty * z.abs()).sum(-1)
        gap = objective - scale * (xx - bz) + 0.5 * scale.square() * residual
        return objective, gap.clamp_min(0)

    def start(self, code: Float[Tensor, "n k"] | None) -> Float[Tensor, "n k"]:
        """Given codes made feasible, or zeros."""
        if code is None:
            return torch.zeros_like(self.correlation)
        code = code.to(self.correlation).clone()
        return code.clamp_min_(0) if self.non_negative else code


@torch.no_grad()
def ista(
    problem: Lasso,
    *,
    start: Float[Tensor, "n k"] | None = None,
    tolerance: float = TOLERANCE,
    max_steps: int = 10_000,
) -> Solution:
    """Proximal gradient steps z ← shrink(z − ∇/L, λ/L), L = |G|₂ (Daubechies, Defrise and De Mol, 2004).

    Stops an example when its gap is at most `tolerance`. The distance from the optimum falls as 1 / steps.
    """
    return _proximal(problem, start, tolerance, max_steps, accelerate=False)


@torch.no_grad()
def fista(
    problem: Lasso,
    *,
    start: Float[Tensor, "n k"] | None = None,
    tolerance: float = TOLERANCE,
    max_steps: int = 10_000,
) -> Solution:
    """ISTA with momentum (Beck and Teboulle, 2009), restarted per example where it points uphill (O'Donoghue and Candès, 2015).

    Converged examples leave the batch. The distance from the optimum falls as 1 / steps², and geometrically once the
    support is found.
    """
    return _proximal(problem, start, tolerance, max_steps, accelerate=True)


def _proximal(problem: Lasso, start: Tensor | None, tolerance: float, max_steps: int, *, accelerate: bool) -> Solution:
    step_size = 1 / float(torch.linalg.matrix_norm(problem.gram, 2))
    z = problem.start(start)
    found, objective = z.clone(), torch.empty(len(z), dtype=torch.float64, device=z.device)
    gap = torch.full_like(objective, math.inf)
    rows = torch.arange(len(z), device=z.device)
    b, ahead, age = problem.correlation, z, torch.ones(len(z), 1, dtype=z.dtype, device=z.device)
    for step in range(max_steps + 1):
        if step % _CHECK_EVERY == 0 or step == max_steps:
            objective[rows], gap[rows] = problem.measure(z, z @ problem.gram - b, rows)
            found[rows] = z
            left = gap[rows] > tolerance
            rows, z, ahead, age, b = (t[left] for t in (rows, z, ahead, age, b))
            if len(rows) == 0 or step == max_steps:
                return Solution(found, objective, gap, step)
        new = problem.shrink(ahead - step_size * (ahead @ problem.gram - b), step_size)
        if accelerate:
            uphill = ((ahead - new) * (new - z)).sum(-1, keepdim=True) > 0
            age = age.masked_fill(uphill, 1.0)
            older = 0.5 * (1 + (1 + 4 * age.square()).sqrt())
            ahead = new + torch.where(uphill, 0.0, (age - 1) / older) * (new - z)
            age = older
        else:
            ahead = new
        z = new
    raise AssertionError("The last step returns.")


@torch.no_grad()
def solve(
    problem: Lasso,
    *,
    start: Float[Tensor, "n k"] | None = None,
    tolerance: float = TOLERANCE,
    max_steps: int = 10_000,
) -> Solution:
    """The fastest way to a small gap: on a CPU compiled coordinate descent with Newton steps on the support, else FISTA.

    The compiled one works in float64, and its gap reaches 1e-10 of the objective. Coordinate descent: Friedman, Hastie and
    Tibshirani (2010); Newton steps within an orthant: the feature-sign search of Lee et al. (2007).
    """
    if problem.gram.device.type != "cpu" or _library() is None:
        return fista(problem, start=start, tolerance=tolerance, max_steps=max_steps)
    gram = torch.nn.functional.pad(problem.gram.double(), (0, -len(problem.gram) % _LANES))
    correlation, squared_norm, penalty, code = (
        t.double().contiguous()
        for t in (problem.correlation, problem.squared_norm, problem.penalty, problem.start(start))
    )
    objective = torch.empty_like(squared_norm)
    gap = torch.empty_like(squared_norm)
    tensors = (gram, correlation, squared_norm, penalty, code, objective, gap)
    job = _Problem(
        *(t.data_ptr() for t in tensors), *code.shape, gram.shape[1], tolerance, max_steps, int(problem.non_negative)
    )
    _native_solve(job, torch.get_num_threads())
    return Solution(code.to(problem.correlation.dtype), objective, gap, 0)


class _Problem(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("gram", "correlation", "squared_norm", "penalty")),
        *((name, ctypes.c_void_p) for name in ("code", "objective", "gap")),
        ("num", ctypes.c_int64),
        ("size", ctypes.c_int64),
        ("stride", ctypes.c_int64),
        ("tolerance", ctypes.c_double),
        ("max_rounds", ctypes.c_int64),
        ("non_negative", ctypes.c_int64),
    )


@functools.cache
def _library() -> ctypes.CDLL | None:
    return native.compiled([Path(__file__).with_suffix(".cpp")], options=_OPTIONS)


def _native_solve(job: _Problem, threads: int) -> None:
    library = _library()
    assert library is not None
    library.lasso_solve.argtypes = [ctypes.POINTER(_Problem), ctypes.c_int64]
    library.lasso_solve.restype = None
    library.lasso_solve(ctypes.byref(job), threads)
