"""Warm-up: the step size and the diagonal metric of an adjusted kernel, learned from all its chains together."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from samplers.kernel import Kernel
from samplers.observers import Moments

MakeKernel = Callable[[float, Tensor], Kernel]
"""make_kernel(step_size, metric) → a kernel whose info holds accept_prob and whose states serve every other such kernel."""

_PATIENCE = 100


class WarmUp(NamedTuple):
    """A tuned kernel, the chains where warm-up left them, and what was learned."""

    kernel: Kernel
    state: Any
    step_size: float
    metric: Float[Tensor, " d"]


class DualAveraging(NamedTuple):
    """Nesterov's dual averaging of log step_size (Hoffman and Gelman, 2014, section 3.2, with their constants)."""

    target: float
    centre: float
    num: int = 0
    error: float = 0.0
    log_step: float = 0.0
    log_average: float = 0.0

    @classmethod
    def start(cls, step_size: float, target: float) -> DualAveraging:
        """Pulled towards ten times the first step size: trying large steps costs less than staying with small ones."""
        return cls(target, math.log(10 * step_size), log_step=math.log(step_size), log_average=math.log(step_size))

    def update(self, accept_prob: float) -> DualAveraging:
        """Equation 6 of the paper, with γ = 0.05, t₀ = 10, κ = 0.75."""
        num = self.num + 1
        error = self.error + (self.target - accept_prob - self.error) / (num + 10)
        log_step = self.centre - math.sqrt(num) / 0.05 * error
        log_average = self.log_average + num**-0.75 * (log_step - self.log_average)
        return self._replace(num=num, error=error, log_step=log_step, log_average=log_average)


@torch.no_grad()
def warm_up(
    make_kernel: MakeKernel,
    position: Any,
    num_steps: int,
    *,
    target_accept: float,
    generator: torch.Generator,
    step_size: float = 1.0,
    metric: Float[Tensor, " d"] | None = None,
) -> WarmUp:
    """Run the chains `num_steps` steps while tuning; what follows may use the kernel, the state, or both.

    All chains share one step size, moved at every step by the mean of their acceptance probabilities, and one metric: the
    variance over all chains and the steps of a window. Windows double in length up to four fifths of the run, each
    forgetting the ones before; the last fifth tunes the step size alone. So it serves one chain, whose steps must cover
    the target, and thousands, which cover it at once. `step_size` and `metric` (ones) only start the search.

    `target_accept`: 0.574 for MALA (Roberts and Rosenthal, 1998), 0.65 to 0.8 for HMC (Beskos et al., 2013; Hoffman and
    Gelman, 2014), 0.9 for `adjusted_underdamped`. Chains that adapt are not Markov chains: discard what they pass through.

    >>> from samplers.langevin import mala
    >>> def energy(x):
    ...     return (x / torch.tensor([0.1, 10.0])).square().sum(-1) / 2
    >>> def make_kernel(step_size, metric):
    ...     return mala(energy, step_size, metric=metric)
    >>> generator = torch.Generator().manual_seed(0)
    >>> tuned = warm_up(make_kernel, torch.zeros(100, 2), 200, target_accept=0.574, generator=generator)
    >>> [round(math.log10(variance)) for variance in tuned.metric.tolist()]
    [-2, 2]
    """
    state = make_kernel(step_size, torch.ones(()) if metric is None else metric).init(position)
    metric = torch.ones_like(state.position[0]) if metric is None else metric
    step_size = find_reasonable_step_size(make_kernel, state, metric, generator=generator, step_size=step_size)
    averaging, moments = DualAveraging.start(step_size, target_accept), Moments.empty(metric)
    ends = window_ends(num_steps)
    for step in range(1, num_steps + 1):
        state, info = make_kernel(math.exp(averaging.log_step), metric).step(state, generator)
        averaging, moments = averaging.update(float(info["accept_prob"].mean())), moments.add(state.position)
        if step in ends:
            metric, moments = learned_metric(moments, metric), Moments.empty(metric)
            step_size = math.exp(averaging.log_average)
            step_size = find_reasonable_step_size(make_kernel, state, metric, generator=generator, step_size=step_size)
            averaging = DualAveraging.start(step_size, target_accept)
    step_size = math.exp(averaging.log_average)
    return WarmUp(make_kernel(step_size, metric), state, step_size, metric)


def find_reasonable_step_size(
    make_kernel: MakeKernel,
    position: Any,
    metric: Float[Tensor, " d"],
    *,
    generator: torch.Generator,
    step_size: float = 1.0,
) -> float:
    """A step size, a power of two times the given one, where the chains' mean acceptance crosses one half.

    Hoffman and Gelman (2014), algorithm 4; all trials share one draw of the noise, so that only the step size differs.
    """
    first = make_kernel(step_size, metric)
    state = first.init(position)
    noise = first.noise(state, generator)

    def accepts(size: float) -> bool:
        _, info = make_kernel(size, metric).update(state, noise)
        if "accept_prob" not in info:
            raise ValueError("Warm-up needs a kernel that reports accept_prob: an adjusted one.")
        return float(info["accept_prob"].mean()) > 0.5

    grows = accepts(step_size)
    for _ in range(_PATIENCE):
        step_size = step_size * 2 if grows else step_size / 2
        if accepts(step_size) != grows:
            return step_size
    raise ValueError(
        "The acceptance is the same at all step sizes: is the energy finite at the start, and not constant?"
    )


def learned_metric(moments: Moments, metric: Float[Tensor, " d"]) -> Float[Tensor, " d"]:
    """The variances, drawn towards the metric so far by the weight of five draws, on a log scale so that units do not matter.

    A coordinate that never moved keeps its metric.
    """
    weight = moments.num / (moments.num + 5)
    variance = moments.squares / max(moments.num - 1, 1)
    return torch.where(variance > 0, variance**weight * metric ** (1 - weight), metric)


def window_ends(num_steps: int) -> set[int]:
    """Steps after which the metric is estimated anew: four fifths of the run, halved up to five times."""
    return {int(0.8 * num_steps / 2**k) for k in range(6)}
