"""Replica exchange: copies of a chain along a ladder of distributions, which swap states so that the last one mixes."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from samplers.kernel import Info, Kernel, run
from samplers.smc import take

LogDensity = Callable[[Any, Tensor], Tensor]
"""log_density(position, betas): log f_β of every row at each of its m inverse temperatures, (n, m) → (n, m), nats."""
_HOT, _COLD = 1, 2


class TemperingState(NamedTuple):
    """All replicas of all chains: row rung · num_chains + chain of `inner`; rung 0 is the hottest, the last one the target."""

    inner: Any
    replica: Int[Tensor, "k c"]
    """Which replica sits on each rung: the index process."""
    origin: Int[Tensor, "k c"]
    """The end of the ladder that it visited last: 0 none yet, 1 the hot one, 2 the cold one after the hot one."""
    round_trips: Int[Tensor, " c"]
    """Ways from the hot end to the cold one and back, of all replicas together."""
    num_swaps: Int[Tensor, ""]
    """Swap moves so far. Even ones try the pairs (0, 1), (2, 3), ..., odd ones the pairs (1, 2), (3, 4), ..."""
    accepted: Float[Tensor, " p"]
    """Sum over moves of each pair's mean acceptance probability."""
    log_up: Float[Tensor, " p"]
    """log of the sum of √(f_{i+1} / f_i) over the states seen on rung i, and so up to a constant its mean."""
    log_down: Float[Tensor, " p"]
    """log of the sum of √(f_i / f_{i+1}) over as many states seen on rung i + 1."""


def parallel_tempering(
    make_kernel: Callable[[Float[Tensor, "n 1"]], Kernel],
    log_density: LogDensity,
    betas: Float[Tensor, " k"],
    num_chains: int,
) -> Kernel:
    """Replica exchange by deterministic even-odd swaps (Okabe et al., 2001; Syed et al., 2022) around any kernel.

    A step moves all replicas by one step of `make_kernel(beta)`, a single kernel whose row i has inverse temperature
    beta[i], and then tries to swap the states x_i, x_j of alternate neighbours, with probability

        min(1, f_i(x_j) f_j(x_i) / (f_i(x_i) f_j(x_j))).

    The product of all f_β is invariant, without detailed balance: even and odd moves alternate, which takes replicas from
    end to end in a time that grows with the number of rungs and not with its square.

    `betas` rises, and has the dtype and device of the states. `init` takes k · num_chains rows, the chains of the hottest
    rung first. The inner kernel may carry what it computed at its position: `init` is called again on the swapped
    `position` (the state itself where it has no such field), which for a gradient-based kernel costs a gradient, and
    draws momenta anew. `log_density` may sum out whatever the inner step draws first, from the rest alone: with −F(x) in
    place of −E(x, h) for an RBM more swaps are accepted, though the h that come along are draws for x at another β.

    The info is the inner kernel's and swap_prob, shape (k, num_chains): each rung's acceptance, 0 without a partner.
    """
    if len(betas) < 2 or bool((betas.diff() <= 0).any()):
        raise ValueError("Tempering needs at least two inverse temperatures, rising.")
    inner = make_kernel(betas.repeat_interleave(num_chains)[:, None])

    def update(state: TemperingState, noise: tuple[Any, Tensor]) -> tuple[TemperingState, Info]:
        moved, info = inner.update(state.inner, noise[0])
        swapped, swap_prob = swap(state._replace(inner=position_of(moved)), noise[1], log_density, betas)
        return swapped._replace(inner=inner.init(swapped.inner)), info | {"swap_prob": swap_prob}

    return Kernel(
        init=lambda position: start(inner, position, betas, num_chains),
        noise=lambda state, generator: (
            inner.noise(state.inner, generator),
            torch.rand(state.replica.shape, dtype=torch.float64, device=betas.device, generator=generator),
        ),
        update=update,
    )


def geometric(energy: Callable[[Any], Tensor], base_energy: Callable[[Any], Tensor] | None = None) -> LogDensity:
    """log f_β = −β E − (1 − β) E_0, from energies position → (n,); E_0 = 0 unless given. Float64."""

    def log_density(position: Any, betas: Float[Tensor, "n m"]) -> Float[Tensor, "n m"]:
        log_f = -betas * energy(position).double()[:, None]
        return log_f if base_energy is None else log_f - (1 - betas) * base_energy(position).double()[:, None]

    return log_density


def start(inner: Kernel, position: Any, betas: Float[Tensor, " k"], num_chains: int) -> TemperingState:
    """Replicas on their own rungs, nothing counted; a `TemperingState` goes on as it is."""
    if isinstance(position, TemperingState):
        return position
    replica = torch.arange(len(betas), device=betas.device)[:, None].repeat(1, num_chains)
    origin = torch.zeros_like(replica)
    origin[0] = _HOT
    none = torch.zeros(len(betas) - 1, dtype=torch.float64, device=betas.device)
    return TemperingState(
        inner.init(position),
        replica,
        origin,
        torch.zeros_like(replica[0]),
        torch.zeros_like(replica[0, 0]),
        accepted=none,
        log_up=none - math.inf,
        log_down=none - math.inf,
    )


def swap(
    state: TemperingState, uniform: Float[Tensor, "k c"], log_density: LogDensity, betas: Float[Tensor, " k"]
) -> tuple[TemperingState, Float[Tensor, "k c"]]:
    """One swap move of positions in `inner`, deterministic given its uniform numbers; and its acceptance probabilities."""
    rung = torch.arange(len(betas), device=betas.device)
    partner = partners(rung, state.num_swaps)
    both = torch.stack([betas, betas[partner]], 1).repeat_interleave(uniform.shape[1], 0)
    log_f = log_density(state.inner, both).unflatten(0, uniform.shape).double()
    # Outside a neighbour's support infinities meet: such a state has no weight there, and no swap takes it there.
    gain = (log_f[..., 1] - log_f[..., 0]).nan_to_num(nan=-math.inf, posinf=math.inf, neginf=-math.inf)
    accept_prob = (gain + gain[partner]).clamp(max=0).exp().nan_to_num(nan=0.0)
    # Both of a pair use the lower one's number, so they agree.
    accept = uniform[torch.minimum(rung, partner)] < accept_prob
    source = torch.where(accept, partner[:, None], rung[:, None])
    chain = torch.arange(uniform.shape[1], device=betas.device)
    origin, round_trips = visit_ends(state.origin.gather(0, source), state.round_trips)
    swapped = count(state, partner[:-1] > rung[:-1], gain, accept_prob)._replace(
        inner=take(state.inner, (source * len(chain) + chain).flatten()),
        replica=state.replica.gather(0, source),
        origin=origin,
        round_trips=round_trips,
    )
    return swapped, accept_prob * (partner != rung)[:, None]


def partners(rung: Int[Tensor, " k"], num_swaps: Int[Tensor, ""]) -> Int[Tensor, " k"]:
    """Each rung's partner in a swap move, itself where it has none."""
    partner = rung + 1 - 2 * ((rung + num_swaps) % 2)
    return torch.where((partner >= 0) & (partner < len(rung)), partner, rung)


def visit_ends(
    origin: Int[Tensor, "k c"], round_trips: Int[Tensor, " c"]
) -> tuple[Int[Tensor, "k c"], Int[Tensor, " c"]]:
    """Mark the replicas at the ends, and count those back at the hot one from the cold one."""
    hot = torch.full_like(origin[:1], _HOT)
    cold = torch.where(origin[-1:] == _HOT, _COLD, origin[-1:])
    return torch.cat([hot, origin[1:-1], cold]), round_trips + (origin[0] == _COLD)


def count(
    state: TemperingState, tried: Tensor, gain: Float[Tensor, "k c"], accept_prob: Float[Tensor, "k c"]
) -> TemperingState:
    """The statistics of one swap move, for the pairs that it tried; `gain` is log f_partner − log f_own."""
    up, down = torch.logsumexp(gain[:-1] / 2, 1), torch.logsumexp(gain[1:] / 2, 1)
    return state._replace(
        num_swaps=state.num_swaps + 1,
        accepted=state.accepted + torch.where(tried, accept_prob[:-1].mean(1), 0),
        log_up=torch.where(tried, torch.logaddexp(state.log_up, up), state.log_up),
        log_down=torch.where(tried, torch.logaddexp(state.log_down, down), state.log_down),
    )


def position_of(state: Any) -> Any:
    """What a kernel's `init` takes, out of its state."""
    return getattr(state, "position", state)


def rung(state: TemperingState, index: int = -1) -> Any:
    """The inner state of all chains on one rung, by default those at the target: what to observe."""
    num_rungs, num_chains = state.replica.shape
    first = index % num_rungs * num_chains
    return take(state.inner, slice(first, first + num_chains))


def swap_rates(state: TemperingState) -> Float[Tensor, " p"]:
    """Mean acceptance probability of the swaps of each pair of neighbours; NaN before its first."""
    odd = torch.arange(len(state.accepted), device=state.accepted.device) % 2
    return state.accepted / ((state.num_swaps + 1 - odd) // 2)


def log_z_ratios(state: TemperingState) -> Float[Tensor, " p"]:
    """log Z_{i+1} / Z_i of neighbours: the geometric bridge E_i[√(f_{i+1} / f_i)] / E_{i+1}[√(f_i / f_{i+1})], nats.

    Meng and Wong (1996). Consistent; over all steps since `init`, so start anew after burn-in. Their sum is that of the ends.
    """
    return state.log_up - state.log_down


def communication_barrier(rates: Float[Tensor, " p"]) -> Float[Tensor, " p+1"]:
    """Λ at each rung: the sum of the rejection rates below it (Syed et al., 2022, section 5).

    Its value Λ at the target belongs to the path, not to the ladder, as rungs get many: with optimal rungs and replicas that
    forget their energy between swaps, one starts a round trip every 2 (1 + Σ r / (1 − r)) → 2 + 2 Λ steps.
    """
    return torch.cat([rates.new_zeros(1), (1 - rates).clamp(min=1e-6).cumsum(0)])


def equal_rates(betas: Float[Tensor, " k"], rates: Float[Tensor, " p"], num_rungs: int) -> Tensor:
    """The ladder with the same ends whose rungs share the barrier equally: Λ(β_i) = i Λ / (num_rungs − 1).

    Syed et al. (2022), section 5, with Λ(β) interpolated linearly where they take a monotone cubic.
    """
    barrier = communication_barrier(rates)
    wanted = torch.linspace(0, float(barrier[-1]), num_rungs, dtype=barrier.dtype, device=barrier.device)
    above = torch.searchsorted(barrier, wanted).clamp(1, len(barrier) - 1)
    fraction = (wanted - barrier[above - 1]) / (barrier[above] - barrier[above - 1])
    return torch.lerp(betas[above - 1].double(), betas[above].double(), fraction).to(betas.dtype)


@torch.no_grad()
def adapt_ladder(
    build: Callable[[Float[Tensor, " k"]], Kernel],
    betas: Float[Tensor, " k"],
    position: Any,
    *,
    generator: torch.Generator,
    num_rounds: int = 6,
    num_steps: int = 16,
    swap_rate: float | None = None,
) -> tuple[Tensor, Any]:
    """Warm-up: `num_rounds` runs, the first of `num_steps` and each twice as long, with equal swap rates aimed at after each.

    `build(betas)` is the `parallel_tempering` kernel on a ladder. Its number of rungs stays, or with `swap_rate` becomes
    what gives that rate: 1 + Λ / (1 − swap_rate), rounded up. Returns the ladder, and the chains' position on it to run from.
    """
    for round_number in range(num_rounds):
        state = run(build(betas), position, num_steps * 2**round_number, generator=generator)
        rates = swap_rates(state)
        barrier = float(communication_barrier(rates)[-1])
        num_rungs = len(betas) if swap_rate is None else max(2, 1 + math.ceil(barrier / (1 - swap_rate)))
        nearest = torch.linspace(0, len(betas) - 1, num_rungs).round().long().to(state.replica.device)
        row = torch.arange(state.replica.numel(), device=nearest.device).view_as(state.replica)[nearest]
        position = take(position_of(state.inner), row.flatten())
        betas = equal_rates(betas, rates, num_rungs)
    return betas, position
