"""The No-U-Turn Sampler, by Pyro."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from samplers.hmc import Energy


class NutsRun(NamedTuple):
    """Draws of every chain after warm-up, and how each chain fared."""

    draws: Float[Tensor, "steps n d"]
    step_size: Float[Tensor, " n"]
    metric: Float[Tensor, "n d"]
    accept_prob: Float[Tensor, " n"]
    """Mean over the draws and the states of their trajectories: the number that warm-up brings to its target."""
    divergences: Int[Tensor, " n"]
    """Draws whose trajectory ran into an error of H above 1000: where there are any, the chain may have missed a region."""


def nuts(
    energy: Energy,
    position: Float[Tensor, "n d"],
    num_steps: int,
    *,
    warm_up: int,
    generator: torch.Generator,
    target_accept: float = 0.8,
    max_depth: int = 10,
    step_size: float | Float[Tensor, " n"] = 1.0,
    metric: Float[Tensor, " d"] | Float[Tensor, "n d"] | None = None,
) -> NutsRun:
    """Run the No-U-Turn Sampler `num_steps` steps from `position`, after `warm_up` steps that are not kept.

    HMC whose trajectory doubles until it turns back on itself or has 2^`max_depth` − 1 leapfrog steps, and whose next state
    is drawn from all of it (Hoffman and Gelman, 2014; multinomial as in Betancourt, 2017, section A.2). exp(−U) is exactly
    invariant. For one chain or a few: trajectories of unequal length do not batch, so chains run one after the other, each
    with its own warm-up as in Stan, of the step size by dual averaging towards `target_accept` and of a diagonal metric.
    Unlike the kernels of this package it is no pure step: Pyro's `NUTS` does the work and must be installed (pyro-ppl).

    `energy` maps positions (n, d) to −log p̃, shape (n,), here one row at a time. `step_size` and `metric` (ones) start the
    warm-up; with `warm_up=0` they stay, so that a run goes on from the last draws, step size and metric of another. The
    result depends on the generator alone, and torch's global one is left as it was.

    >>> def energy(x):
    ...     return ((x - 3) / 2).square().sum(-1) / 2
    >>> chains = nuts(energy, torch.zeros(1, 5), 200, warm_up=50, generator=torch.Generator().manual_seed(0))
    >>> torch.allclose(chains.draws.mean((0, 1)), torch.tensor(3.0), atol=0.5)
    True
    """
    if num_steps < 1 or warm_up < 0:
        raise ValueError(f"num_steps must be at least 1 and warm_up at least 0, not {num_steps} and {warm_up}.")
    metric = torch.ones_like(position) if metric is None else metric.expand_as(position)
    step_sizes = torch.as_tensor(step_size, dtype=position.dtype).expand(len(position)).tolist()
    seed = torch.randint(2**63 - 1, (), generator=generator, device=generator.device)
    with torch.random.fork_rng():
        torch.manual_seed(int(seed))
        chains = [
            _chain(energy, start, num_steps, warm_up, target_accept, max_depth, size, variances)
            for start, size, variances in zip(position, step_sizes, metric, strict=True)
        ]
    draws, *rest = zip(*chains, strict=True)
    return NutsRun(torch.stack(draws, 1), *(torch.stack(each) for each in rest))


def _chain(
    energy: Energy,
    start: Float[Tensor, " d"],
    num_steps: int,
    warm_up: int,
    target_accept: float,
    max_depth: int,
    step_size: float,
    metric: Float[Tensor, " d"],
) -> tuple[Float[Tensor, "steps d"], Float[Tensor, ""], Float[Tensor, " d"], Float[Tensor, ""], Int[Tensor, ""]]:
    """One chain: its draws, step size, metric, mean acceptance and number of divergences."""
    import pyro  # an optional dependency, and a slow import
    from pyro.infer import NUTS

    kernel = NUTS(
        potential_fn=lambda place: energy(place["x"][None])[0],
        step_size=step_size,  # pyright: ignore[reportArgumentType] (its default is the integer 1)
        adapt_step_size=warm_up > 0,
        adapt_mass_matrix=warm_up > 0,
        target_accept_prob=target_accept,
        max_tree_depth=max_depth,
    )
    place = kernel.initial_params = {"x": start.detach().clone()}
    draws = []
    with pyro.validation_enabled(False), torch.enable_grad():
        kernel.setup(warm_up)
        kernel.mass_matrix_adapter.inverse_mass_matrix = {("x",): metric}
        for _ in range(warm_up + num_steps):
            place = kernel.sample(place)
            draws.append(place["x"])
    return (
        torch.stack(draws[warm_up:]),
        start.new_tensor(kernel.step_size),
        kernel.inverse_mass_matrix["x",],
        start.new_tensor(float(kernel.logging()["acc. prob"])),
        torch.tensor(len(kernel.diagnostics()["divergences"])),
    )
