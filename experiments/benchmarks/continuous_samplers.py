"""Continuous samplers, this library's and others', behind one call: warm up, then hand out more and more draws."""

# The peers are timed where they are installed.
# pyright: reportMissingImports=false

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import count
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from experiments.benchmarks.targets import TORCH, Library, Target
from samplers import Kernel, Trace, adjusted_underdamped, hmc, mala, run, warm_up
from samplers.adaptation import MakeKernel
from samplers.compiled import compiled
from samplers.nuts import nuts

Draw = Callable[[], NDArray[np.float32]]
"""The next draws of all chains, shape (chains, draws, d)."""


@dataclass(frozen=True)
class Effort:
    """How long to warm up."""

    steps: int = 200
    chains: int = 200
    """Steps and chains of this library's, which warms many chains up together."""
    blackjax_steps: int = 1000
    pyro_steps: int = 300
    """Steps of one chain."""


class Tuned(NamedTuple):
    """What the warm-up of HMC learned of a target, and where its chains stand."""

    effort: Effort
    position: Tensor
    """A thousand draws or more."""
    step_size: float
    metric: Tensor
    num_leapfrog: int
    longest: float
    """Standard deviation along the target's longest direction, in units of √metric."""


Start = Callable[[Target, Tuned, int], Draw]
"""start(target, tuned, num_chains): warms up and gives the function that draws."""
NUM_DRAWS, MOST_LEAPFROG = 1000, 64


def tune(target: Target, effort: Effort) -> Tuned:
    """HMC's step size and metric by warm-up, then its length: a quarter of a period of the longest direction.

    That is π/2 standard deviations, after which a Gaussian's draws are independent along it. The longest direction is that of
    the covariance of the draws, in units of the metric.
    """
    energy, generator, num_leapfrog = target.energy(TORCH), torch.Generator().manual_seed(0), 8

    def make_kernel(step_size: float, metric: Tensor) -> Kernel:
        return hmc(energy, step_size, num_leapfrog, metric=metric)

    def length(step_size: float) -> int:
        return min(MOST_LEAPFROG, max(1, round(math.pi / 2 * longest / step_size)))

    start = torch.randn(effort.chains, target.dim, generator=generator)
    first = warm_up(make_kernel, start, effort.steps, target_accept=0.8, generator=generator)
    seen, thin = Trace(lambda state: state.position), 4
    num_steps = thin * math.ceil(NUM_DRAWS / effort.chains)
    state = run(first.kernel, first.state, num_steps, generator=generator, burn_in=thin, thin=thin, observe=seen)
    draws = seen.stacked().flatten(0, 1)
    longest = float(torch.linalg.eigvalsh((draws / first.metric.sqrt()).T.cov())[-1].sqrt())
    num_leapfrog = length(first.step_size)
    known = {"step_size": first.step_size, "metric": first.metric}
    last = warm_up(make_kernel, state, effort.steps // 4, target_accept=0.8, generator=generator, **known)
    return Tuned(effort, draws, last.step_size, last.metric, length(last.step_size), longest)


def our_hmc(target: Target, tuned: Tuned, num_chains: int) -> Draw:
    """Jittered HMC."""
    kernel = hmc(target.energy(TORCH), tuned.step_size, tuned.num_leapfrog, metric=tuned.metric)
    return by_kernel(kernel, tuned, num_chains, 10 if num_chains > 1 else 100, 1)


def our_mala(target: Target, tuned: Tuned, num_chains: int) -> Draw:
    """MALA at its acceptance of 0.574."""
    energy = target.energy(TORCH)
    kernel = tuned_further(lambda step_size, metric: mala(energy, step_size, metric=metric), tuned, 0.574)
    return by_kernel(kernel, tuned, num_chains, 100, 10 if num_chains > 1 else 1)


def our_underdamped(target: Target, tuned: Tuned, num_chains: int) -> Draw:
    """Adjusted underdamped Langevin at an acceptance of 0.9, whose momenta forget within the longest direction's length."""
    energy, friction = target.energy(TORCH), 1 / tuned.longest

    def make_kernel(step_size: float, metric: Tensor) -> Kernel:
        return adjusted_underdamped(energy, step_size, friction, metric=metric)

    kernel = tuned_further(make_kernel, tuned, 0.9)
    return by_kernel(kernel, tuned, num_chains, 100, 10 if num_chains > 1 else 1)


def tuned_further(make_kernel: MakeKernel, tuned: Tuned, target_accept: float) -> Kernel:
    """The kernel at the step size for this acceptance, in the metric known or near it."""
    start, generator = tuned.position[-tuned.effort.chains :], torch.Generator().manual_seed(0)
    steps, known = tuned.effort.steps, {"step_size": tuned.step_size, "metric": tuned.metric}
    return warm_up(make_kernel, start, steps, target_accept=target_accept, generator=generator, **known).kernel


def by_kernel(kernel: Kernel, tuned: Tuned, num_chains: int, steps: int, thin: int) -> Draw:
    """The kernel compiled, `steps` steps a call, every `thin`-th kept."""
    kernel, generator = compiled(kernel), torch.Generator().manual_seed(1)
    state: Any = tuned.position[:num_chains]

    def draw() -> NDArray[np.float32]:
        nonlocal state
        seen = Trace(lambda state: state.position)
        state = run(kernel, state, steps, generator=generator, burn_in=thin, thin=thin, observe=seen)
        return seen.stacked().transpose(0, 1).numpy()

    return draw


def pyro_nuts(target: Target, tuned: Tuned, num_chains: int) -> Draw:
    """Pyro's NUTS; it has no batched chains."""
    energy, generator = target.energy(TORCH), torch.Generator().manual_seed(0)
    last = nuts(energy, torch.zeros(1, target.dim), 1, warm_up=tuned.effort.pyro_steps, generator=generator)

    def draw() -> NDArray[np.float32]:
        nonlocal last
        known: dict[str, Any] = {"step_size": last.step_size, "metric": last.metric}
        last = nuts(energy, last.draws[-1], 5, warm_up=0, generator=generator, **known)
        return last.draws.transpose(0, 1).numpy()

    return draw


def blackjax_nuts(target: Target, tuned: Tuned, num_chains: int) -> Draw:
    """blackjax's NUTS, jitted, all chains by vmap."""
    import blackjax

    log_density = jax_log_density(target)
    position, parameters = jax_warm_up(log_density, target, num_chains, tuned.effort)
    return by_jax(blackjax.nuts(log_density, **parameters), position, 2 if num_chains > 1 else 100)


def blackjax_hmc(target: Target, tuned: Tuned, num_chains: int) -> Draw:
    """blackjax's HMC, jitted, all chains by vmap, tuned as ours is: the same algorithm but for the jitter."""
    import blackjax
    from jax import numpy as jnp

    log_density = jax_log_density(target)
    sampler = blackjax.hmc(
        log_density,
        step_size=tuned.step_size,
        inverse_mass_matrix=jnp.asarray(tuned.metric.numpy()),
        num_integration_steps=tuned.num_leapfrog,
    )
    return by_jax(sampler, jnp.asarray(tuned.position[:num_chains].numpy()), 10 if num_chains > 1 else 200)


def jax_log_density(target: Target) -> Callable[[Any], Any]:
    """log p̃ for JAX, on one thread as all others."""
    os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1")
    import jax

    energy = target.energy(Library(jax.numpy.asarray, jax.nn.softplus))
    return lambda x: -energy(x)


def jax_warm_up(
    log_density: Callable[[Any], Any], target: Target, num_chains: int, effort: Effort
) -> tuple[Any, dict[str, Any]]:
    """One chain through blackjax's window adaptation; many start from draws that it makes with what it learned."""
    import blackjax
    import jax

    adaptation = blackjax.window_adaptation(blackjax.nuts, log_density, target_acceptance_rate=0.8)
    warm_up_by: Any = adaptation.run  # a protocol that leaves num_steps out
    warm, _ = warm_up_by(jax.random.key(0), jax.numpy.zeros(target.dim), effort.blackjax_steps)
    position = warm.state.position[None]
    if num_chains > 1:
        draw = by_jax(blackjax.nuts(log_density, **warm.parameters), position, num_chains)
        position = jax.numpy.asarray(draw()[0])
    return position, dict(warm.parameters)


def by_jax(sampler: Any, position: Any, steps: int) -> Draw:
    """`steps` steps a call, in one jitted scan over chains by vmap."""
    import jax

    @jax.jit
    def chunk(key: Any, states: Any) -> tuple[Any, Any]:
        def one_step(states: Any, key: Any) -> tuple[Any, Any]:
            states, _ = jax.vmap(sampler.step)(jax.random.split(key, len(states.position)), states)
            return states, states.position

        return jax.lax.scan(one_step, states, jax.random.split(key, steps))

    states, numbers = jax.vmap(sampler.init)(position), count()

    def draw() -> NDArray[np.float32]:
        nonlocal states
        states, positions = chunk(jax.random.key(next(numbers)), states)
        return np.asarray(positions).swapaxes(0, 1)

    return draw


def torchebm_hmc(target: Target, tuned: Tuned, num_chains: int) -> Draw:
    """torchebm's HMC with the step size, mass and length of ours, as it adapts none of them."""
    from torchebm.samplers import HamiltonianMonteCarlo

    sampler = HamiltonianMonteCarlo(
        torchebm_model(target), tuned.step_size, tuned.num_leapfrog, mass=tuned.metric.reciprocal()
    )
    return by_torchebm(sampler, tuned.position[:num_chains], 5, 1)


def torchebm_langevin(target: Target, tuned: Tuned, num_chains: int) -> Draw:
    """torchebm's Langevin, unadjusted, at the step size where MALA would accept 0.9; it has no metric."""
    from torchebm.samplers import LangevinDynamics

    energy, ones = target.energy(TORCH), torch.ones(target.dim)
    start, generator = tuned.position[-tuned.effort.chains :], torch.Generator().manual_seed(0)
    warm = warm_up(
        lambda step_size, _: mala(energy, step_size),
        start,
        tuned.effort.steps,
        target_accept=0.9,
        generator=generator,
        step_size=0.01,
        metric=ones,
    )
    sampler = LangevinDynamics(torchebm_model(target), warm.step_size)
    return by_torchebm(sampler, tuned.position[:num_chains], 100, 10 if num_chains > 1 else 1)


def torchebm_model(target: Target) -> Any:
    """The target as torchebm wants it."""
    from torchebm.core import BaseModel

    class Model(BaseModel):
        def __init__(self) -> None:
            super().__init__()
            self.energy = target.energy(TORCH)

        def forward(self, x: Tensor) -> Tensor:
            return self.energy(x)

    return Model()


def by_torchebm(sampler: Any, position: Tensor, steps: int, thin: int) -> Draw:
    """`steps` steps a call, every `thin`-th kept."""
    generator = torch.Generator().manual_seed(1)

    def draw() -> NDArray[np.float32]:
        nonlocal position
        draws = sampler.sample(position, n_steps=steps, thin=thin, return_trajectory=True, generator=generator)
        position = draws[:, -1]
        return draws.numpy()

    return draw


class Entry(NamedTuple):
    """A sampler of the table."""

    start: Start
    needs: str | None = None
    """The package it comes from, if it is not this one."""
    batched: bool = True
    """Can it run many chains at once?"""
    uses_tuned: bool = True
    """Is `tune` part of its warm-up?"""
    patience: int = 1
    """How many times as long a round lasts, where draws that take long or hardly move would be too few."""

    @property
    def missing(self) -> bool:
        return self.needs is not None and find_spec(self.needs) is None


SAMPLERS = {
    "mala": Entry(our_mala, patience=4),
    "hmc": Entry(our_hmc),
    "underdamped": Entry(our_underdamped, patience=4),
    "pyro_nuts": Entry(pyro_nuts, "pyro", batched=False, uses_tuned=False, patience=6),
    "blackjax_nuts": Entry(blackjax_nuts, "blackjax", uses_tuned=False, patience=3),
    "blackjax_hmc": Entry(blackjax_hmc, "blackjax"),
    "torchebm_hmc": Entry(torchebm_hmc, "torchebm"),
    "torchebm_langevin": Entry(torchebm_langevin, "torchebm"),
}
