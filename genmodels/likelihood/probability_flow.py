"""The exact likelihood of a score at all noise levels: densities along the flow that moves them into each other."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from genmodels.errors import BadInput
from genmodels.groups import Rows, in_groups
from genmodels.interface import default_generator
from genmodels.likelihood.estimate import Estimate
from genmodels.progress import Progress, no_progress

Score = Callable[[Tensor, float], Tensor]
"""score(x, sigma) → ∇ log p_σ(x), (n, d) → (n, d), each row from its own alone."""
LogDensity = Callable[[Tensor], Tensor]


@torch.no_grad()
def probability_flow(
    score: Score,
    x: Float[Tensor, "n d"],
    base: LogDensity,
    *,
    smallest: float,
    largest: float,
    num_steps: int = 100,
    num_probes: int = 0,
    group_size: int | None = None,
    generator: torch.Generator | None = None,
    progress: Progress = no_progress,
) -> Estimate:
    """Mean log-density of the rows under the model that the flow makes of `base`, nats per example.

    Along dx/dt = −σ² s(x, σ), t = log σ, the data smoothed by σ turn into the data smoothed by more, if s is their score, and
    log p_smallest(x) = log p_largest(x(T)) − ∫ σ² ∇·s dt (Song, Sohl-Dickstein, Kingma, Kumar, Ermon and Poole, 2021, section
    4.3, eq. 39). For any smooth s this is the normalised density of a model of its own, which starts at `base`, the log-density
    at `largest`: exact but for the steps of the solver, classical Runge–Kutta of order 4 with `num_steps` in t. The
    diagnostics' `discretisation` is the change to half the steps, divided by 15: the error that is left, to first order.

    The divergence takes d passes, or, with `num_probes` > 0, that many random ones (Hutchinson, 1990; Grathwohl et al., 2019),
    without bias in the log-density; the standard error is theirs. It is the density of x itself at noise `smallest`: on
    discrete data, dequantise first. Groups of `group_size` rows have random probes of their own, and all processes of
    torch.distributed share them.
    """
    if not 0 < smallest < largest:
        raise BadInput(f"Noise levels need 0 < smallest < largest, not {smallest} and {largest}.")
    if num_steps < 2 or num_steps % 2:
        raise BadInput(f"num_steps must be even and at least 2, not {num_steps}.")
    ends = math.log(smallest), math.log(largest)

    def work(numbers: Tensor, generator: torch.Generator) -> Rows:
        rows = x[numbers]
        probes = _probes(rows, num_probes, generator)
        return tuple(
            torch.stack([_log_density(score, rows, base, ends, steps, some, progress) for some in probes], 1)
            for steps in (num_steps, num_steps // 2)
        )

    generator = default_generator(0, x.device) if generator is None else generator
    values = in_groups(len(x), group_size, generator, work)
    fine, coarse = (value.mean(1) for value in values)
    error = 0.0
    if num_probes:
        error = float((values[0].var(1) / num_probes).sum().sqrt()) / len(x) if num_probes > 1 else math.inf
    left = float((fine - coarse).mean()) / 15
    method = f"probability flow, {num_steps} steps of RK4 (error left {left:.1e}), noise {smallest:g} to {largest:g}"
    return Estimate(float(fine.mean()), error, "none", method, max(num_probes, 1), {"discretisation": left})


@torch.no_grad()
def flow_draws(
    score: Score,
    start: Float[Tensor, "n d"],
    *,
    smallest: float,
    largest: float,
    num_steps: int = 100,
    progress: Progress = no_progress,
) -> Float[Tensor, "n d"]:
    """Where the flow leads draws of its base: exact independent draws of the model of `probability_flow`, but for the solver.

    `start` holds draws of the base at `largest`; the solver is the same, run from there to `smallest`.
    """
    length = math.log(smallest / largest) / num_steps
    x, time = start, math.log(largest)

    def slope(at: Tensor, time: float) -> Tensor:
        sigma = math.exp(time)
        return -(sigma**2) * score(at, sigma)

    for _ in progress(range(num_steps), "probability flow"):
        v1 = slope(x, time)
        v2 = slope(x + length / 2 * v1, time + length / 2)
        v3 = slope(x + length / 2 * v2, time + length / 2)
        v4 = slope(x + length * v3, time + length)
        x = x + length / 6 * (v1 + 2 * v2 + 2 * v3 + v4)
        time += length
    return x


def _probes(x: Tensor, num_probes: int, generator: torch.Generator) -> list[Tensor | None]:
    if num_probes == 0:
        return [None]
    signs = [torch.randint(0, 2, x.shape, generator=generator, device=x.device) for _ in range(num_probes)]
    return [(2 * sign - 1).to(x.dtype) for sign in signs]


def _log_density(
    score: Score,
    x: Tensor,
    base: LogDensity,
    ends: tuple[float, float],
    num_steps: int,
    probe: Tensor | None,
    progress: Progress,
) -> Float[Tensor, " n"]:
    """log p_smallest of each row, float64."""
    length = (ends[1] - ends[0]) / num_steps

    def slope(position: Tensor, time: float) -> tuple[Tensor, Tensor]:
        sigma = math.exp(time)
        value, divergence = _divergence(lambda at: score(at, sigma), position, probe)
        return -(sigma**2) * value, -(sigma**2) * divergence.double()

    total = torch.zeros(len(x), dtype=torch.float64, device=x.device)
    for step in progress(range(num_steps), "probability flow"):
        time = ends[0] + step * length
        v1, d1 = slope(x, time)
        v2, d2 = slope(x + length / 2 * v1, time + length / 2)
        v3, d3 = slope(x + length / 2 * v2, time + length / 2)
        v4, d4 = slope(x + length * v3, time + length)
        x = x + length / 6 * (v1 + 2 * v2 + 2 * v3 + v4)
        total = total + length / 6 * (d1 + 2 * d2 + 2 * d3 + d4)
    return base(x).double() + total


def _divergence(
    field: Callable[[Tensor], Tensor], x: Float[Tensor, "n d"], probe: Tensor | None
) -> tuple[Float[Tensor, "n d"], Float[Tensor, " n"]]:
    """The field at x and its divergence: exact, or the quadratic form of its Jacobian with the probe."""
    with torch.enable_grad():
        leaf = x.detach().requires_grad_()
        value = field(leaf)
        if probe is not None:
            (along,) = torch.autograd.grad((value * probe).sum(), leaf)
            return value.detach(), (along * probe).sum(1)
        columns = [torch.autograd.grad(value[:, i].sum(), leaf, retain_graph=True)[0][:, i] for i in range(x.shape[1])]
    return value.detach(), torch.stack(columns).sum(0)
