"""log Z of every model along a trajectory, from replicas at equilibrium."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from genmodels.errors import BadInput
from genmodels.groups import Rows, in_groups
from genmodels.likelihood.bridge import bennett
from genmodels.likelihood.estimate import Bound, Estimate
from genmodels.progress import Progress, no_progress
from genmodels.trajectory import Rungs, Trajectory
from samplers import swap_rates

_GROUPS = 10
Ratio = Callable[[Tensor, Tensor], Tensor]


class TrajectoryLogZ(NamedTuple):
    """log Z of the trained model three ways, nats, and how the chains went."""

    log_z: Estimate
    """By the Bennett acceptance ratio from rung to rung: consistent, no bound."""
    lower: Estimate
    """By exponential averages upwards: a stochastic lower bound for chains at equilibrium."""
    upper: Estimate
    """By exponential averages downwards: a stochastic upper bound for chains at equilibrium."""
    along: Float[Tensor, " k"]
    """log Z of the model on every rung, as in `log_z`."""
    swap_rates: Float[Tensor, " p"]
    round_trips: float
    """Mean over the chains."""


@torch.no_grad()
def trajectory_log_z(
    trajectory: Trajectory,
    ladder: Float[Tensor, " k"],
    *,
    num_chains: int = 20,
    num_steps: int = 200,
    burn_in: int = 50,
    thin: int = 2,
    climb: int = 2,
    group_size: int | None = None,
    generator: torch.Generator,
    progress: Progress = no_progress,
) -> TrajectoryLogZ:
    """log Z of the model at the end of `trajectory` by trajectory tempering on `ladder`, which rises from 0.

    Replicas climb the ladder by `climb` sweeps on each rung, run `burn_in` steps, and are then observed after every
    `thin`-th of `num_steps` steps. The k − 1 ratios of neighbours add up to log Z over that of the uncoupled layers at 0,
    which is known exactly. Errors by the jackknife over ten groups of chains, which are independent of each other; they fall
    as 1/√(chains · steps). Bennett (1976) between checkpoints as in Béreux, Decelle, Furtlehner and Seoane (2026); the two
    bounds are Zwanzig's (1954) averages in both directions. Groups of `group_size` chains have random numbers of their own,
    and all processes of torch.distributed share them.
    """
    if num_chains < 2 or num_steps < thin or burn_in < 0 or thin < 1:
        raise BadInput("Give at least two chains, a thin of at least 1, and at least as many steps as it.")
    if float(ladder[0]) != 0 or float(ladder[-1]) != trajectory.length:
        raise BadInput(f"The ladder must rise from 0 to the trained model at {trajectory.length}.")
    rungs = trajectory.rungs(ladder)

    def work(numbers: Tensor, generator: torch.Generator) -> Rows:
        num = len(numbers)
        kernel = trajectory.tempering(ladder, num)
        state = kernel.init(trajectory.climb(ladder, num, num_steps=climb, generator=generator))
        gains: list[tuple[Tensor, Tensor]] = []
        for step in progress(range(1, burn_in + num_steps + 1), "trajectory tempering"):
            state, _ = kernel.step(state, generator)
            if step > burn_in and (step - burn_in) % thin == 0:
                gains.append(neighbour_gains(rungs, state.inner, num))
        up, down = (torch.stack(parts, 1).permute(2, 0, 1) for parts in zip(*gains, strict=True))
        return up, down, swap_rates(state).expand(num, -1), state.round_trips.double()

    up, down, rates, round_trips = in_groups(num_chains, group_size, generator, work)
    up, down = up.permute(1, 2, 0), down.permute(1, 2, 0)
    start = float(rungs.log_z_independent()[0])
    what = f"{len(ladder)} rungs × {num_chains} chains × {num_steps} steps"
    ratios: tuple[tuple[Ratio, Bound, str], ...] = (
        (bennett, "none", f"trajectory tempering with Bennett ratios, {what}"),
        (_upwards, "lower", f"trajectory tempering, exponential averages upwards, {what}"),
        (_downwards, "upper", f"trajectory tempering, exponential averages downwards, {what}"),
    )
    log_z, lower, upper = (_total(up, down, start, *ratio) for ratio in ratios)
    steps = _ratios(up, down, bennett)
    along = start + torch.cat([steps.new_zeros(1), steps.cumsum(0)])
    return TrajectoryLogZ(log_z, lower, upper, along, rates.mean(0), float(round_trips.mean()))


def neighbour_gains(
    rungs: Rungs, state: tuple[Tensor, ...], num_chains: int
) -> tuple[Float[Tensor, "p c"], Float[Tensor, "p c"]]:
    """log f_{i+1} − log f_i of the states on rung i, and of those on rung i + 1, for every pair of neighbours."""

    def shifted(by: int) -> Float[Tensor, "k c"]:
        rows = (torch.roll(layer.unflatten(0, (-1, num_chains)), by, 0).flatten(0, 1) for layer in state)
        return rungs.log_density(tuple(rows)).view(-1, num_chains)

    # After a roll by one, group i + 1 holds the states of rung i; by minus one, group i those of rung i + 1.
    own, above, below = shifted(0), shifted(1), shifted(-1)
    return above[1:] - own[:-1], own[1:] - below[:-1]


def _ratios(up: Float[Tensor, "p t c"], down: Float[Tensor, "p t c"], ratio: Ratio) -> Float[Tensor, " p"]:
    return torch.stack([ratio(u.flatten(), d.flatten()) for u, d in zip(up, down, strict=True)])


def _total(up: Tensor, down: Tensor, start: float, ratio: Ratio, bound: Bound, method: str) -> Estimate:
    """The sum over the ladder, with the jackknife's error over groups of chains."""
    chains = torch.arange(up.shape[2], device=up.device)
    groups = chains.tensor_split(min(_GROUPS, len(chains)))
    left_out = [chains[~torch.isin(chains, group)] for group in groups]
    totals = torch.stack([_ratios(up[..., rest], down[..., rest], ratio).sum() for rest in left_out])
    error = float(totals.std(correction=0) * (len(groups) - 1) ** 0.5)
    return Estimate(start + float(_ratios(up, down, ratio).sum()), error, bound, method, len(chains))


def _upwards(up: Tensor, down: Tensor) -> Tensor:
    return torch.logsumexp(up, 0) - torch.log(up.new_tensor(len(up)))


def _downwards(up: Tensor, down: Tensor) -> Tensor:
    return torch.log(down.new_tensor(len(down))) - torch.logsumexp(-down, 0)
