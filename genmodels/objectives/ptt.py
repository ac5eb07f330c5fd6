"""Training with trajectory tempering: chains at equilibrium all the way, and log Z with them."""

from __future__ import annotations

import copy
import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from genmodels.boltzmann import Layers
from genmodels.errors import BadInput
from genmodels.interface import require
from genmodels.likelihood.bridge import bennett, bennett_variance
from genmodels.objectives.objective import Objective, ObjectiveState, with_gradient
from genmodels.objectives.phases import Penalty, compare_phases, first_offsets
from genmodels.rbm import RBM
from samplers.fused import Precision

RESERVOIR, HELD_OUT = 10, 5
"""States of the reservoir for each chain, and further ones that no chain meets: they only measure ratios of Z."""
THERMALISE, APART = 20, 2
"""Autocorrelation times that a new checkpoint's chains run, and between those of its states that are kept."""
_FIRST_WINDOW, _LAST_WINDOW = 16, 64


def ptt(
    model: RBM,
    *,
    num_steps: int = 1,
    num_chains: int | None = None,
    centered: bool = True,
    freeze_below: float = 0.3,
    undo_below: float = 0.1,
    penalty: Penalty | None = None,
    precision: Precision = "auto",
) -> Objective:
    """Maximum likelihood with chains that trajectory tempering keeps at equilibrium.

    Béreux, Decelle, Furtlehner and Seoane (2026, arXiv 2607.27077), for RBMs of any unit types.

    A checkpoint of the model, at first the independent sites, is kept with a reservoir of states at its equilibrium, ten
    for each of `num_chains` chains (the batch size unless given). Before every one of `num_steps` sweeps each chain x may
    change places with a random state r of the reservoir, with probability

        min(1, exp(F(x) − F(r) + F_0(r) − F_0(x))),

    F the free energy of the model and F_0 that of the checkpoint, which keeps both at equilibrium and lets the chains jump
    between modes. The model's overlap with its checkpoint is the mean of it, or what the mean would be at equilibrium by the
    reservoir alone, Σ_ij min(w_i, w_j) / (n Σ_i w_i) with w = exp(F_0 − F) of its states, where that is less: a phase that
    the model grows and no chain has met yet shows only there (the paper looks at the chains alone; the first checkpoints may
    then lie so far apart that log Z is lost). When the overlap falls below `freeze_below` the model becomes the new
    checkpoint: its chains run for twenty autocorrelation times (of F, summed until it is lost in the noise) and fill a new
    reservoir over twenty more. An update that takes it below `undo_below` is undone and the rate halved; every new
    checkpoint doubles it again, up to what the optimizer was given (there it stays halved, which from rates that suit the
    end of training stops the beginning).

    So log Z is known on the way, as the metrics `log_z` (Bennett's acceptance ratio from checkpoint to checkpoint, which is
    consistent), with the standard error `log_z_error` of its ratios if states are independent, between `log_z_lower` and
    `log_z_upper` (exponential averages over states of the checkpoint and over the chains: stochastic bounds), in nats. All
    this holds as far as chains are at equilibrium, of which the error knows nothing. An update pushes away the very chains
    that it has seen, by about the learning rate times ‖∂F‖² / `num_chains` nats of F each: where that comes near 1, take
    more chains or a lower rate.
    """
    require(model, RBM, by="ptt")
    if num_steps < 1 or (num_chains is not None and num_chains < 1):
        raise BadInput("num_steps and num_chains must be at least 1.")
    if not 0 <= undo_below < freeze_below < 1:
        raise BadInput("The overlaps must satisfy 0 <= undo_below < freeze_below < 1.")
    frozen = Frozen(model, precision)

    @torch.no_grad()
    def init(x: Tensor, generator: torch.Generator) -> ObjectiveState:
        num = len(x) if num_chains is None else num_chains
        unit, bias = model.units[0], model.biases[0]
        names = {id(weight) for weight in model.weights}
        independent = {
            name: torch.zeros_like(p) if id(p) in names else p.detach().clone() for name, p in model.named_parameters()
        }
        total = (RESERVOIR + HELD_OUT + 1) * num
        states = unit.draw(bias.expand(total, -1), unit.noise(total, bias, generator))
        pairs = zip(model.units, model.biases, strict=True)
        log_z = sum(float(unit.log_partition(bias.double())) for unit, bias in pairs)
        state = {
            "chains": states[:num],
            "rate": x.new_ones(()),
            "num_checkpoints": x.new_zeros(()),
            **_under("previous", _copies(model)),
            **_checkpoint(frozen, independent, states[num:], torch.full((3,), log_z, dtype=torch.float64)),
            "log_z_variance": torch.zeros((), dtype=torch.float64),
        }
        state["chain_energy"] = _free_energies(frozen.model, state["chains"])
        return state | (first_offsets(model, x) if centered else {})

    def attempt(x: Tensor, state: ObjectiveState, generator: torch.Generator):
        # A step leaves the state that it is given as it was; within the step the reservoir changes in place.
        state = state | {name: state[name].clone() for name in ("reservoir", "reservoir_energy")}
        frozen.load(state)
        layers = model.anneal(precision=precision)
        for _ in range(num_steps - 1):
            move(model, layers, frozen, state, generator)
        swap = move(model, layers, frozen, state, generator)
        phases = compare_phases(model, layers, state["chains"], x, state, generator, precision, penalty)
        num = len(state["chains"])
        at_chain = state["chain_energy"] - _free_energy(model, layers, state["chains"], phases.field[:num])
        at_slot = torch.where(swap.accept, swap.at_chain, swap.at_partner)
        swap_prob = (at_slot - at_chain).clamp(max=0).exp().mean()
        # Of the reservoir's states as they were: the exchange takes away those that fit the model best.
        overlap = min(float(swap_prob), acceptance_at_equilibrium(swap.at_partner))
        metrics = {
            "swap_prob": swap_prob,
            "overlap": swap_prob.new_tensor(overlap),
            **_log_z(state, swap.at_partner, at_chain),
        }
        metrics |= {"log_z_error": state["log_z_variance"].sqrt(), "energy_difference": phases.value}
        metrics["log_likelihood"] = -_free_energy(model, layers, x, phases.field[num:]).mean() - metrics["log_z"]
        if undo_below < overlap < freeze_below:
            _freeze(model, layers, frozen, state, generator)
        state |= phases.offsets | _under("previous", _copies(model))
        metrics |= {name: state[name] for name in ("num_checkpoints", "rate")}
        return phases, state, metrics

    def step(x: Tensor, state: ObjectiveState, generator: torch.Generator):
        with torch.no_grad():
            phases, new, metrics = attempt(x, state, generator)
            if float(metrics["overlap"]) <= undo_below:
                _restore(model, state)
                phases, new, metrics = attempt(x, state | {"rate": state["rate"] / 2}, generator)
        return new["rate"] * with_gradient(phases.value, *phases.descent), new, metrics

    # The reservoir, its checkpoint and log Z belong together.
    return Objective(init, step, chains=None)


class Frozen:
    """The last checkpoint, as a model of its own that follows what the objective's state holds."""

    def __init__(self, model: RBM, precision: Precision):
        self.model = copy.deepcopy(model).requires_grad_(False)
        self.layers: Layers = self.model.anneal()
        self._precision: Precision = precision
        self._held: Tensor | None = None

    def load(self, state: ObjectiveState) -> None:
        """Take over the checkpoint in `state`, if it is another one."""
        parameters = _part("frozen", state)
        first = next(iter(parameters.values()))
        if self._held is not first:
            self.model.load_state_dict(parameters, strict=False)
            self.layers = self.model.anneal(precision=self._precision)
            self._held = first


class Swap(NamedTuple):
    """A proposal to exchange every chain with its own random state of the reservoir."""

    accept_prob: Float[Tensor, " c"]
    accept: Tensor
    slot: Tensor
    """Places of the states in the reservoir."""
    partner: Float[Tensor, "c d"]
    """What was in those places."""
    field: Float[Tensor, "c h"]
    """The hidden layer's field at each chain once the exchange is done."""
    at_partner: Float[Tensor, " c"]
    """log f − log f_0 of the states of the reservoir, with f the model and f_0 the checkpoint."""
    at_chain: Float[Tensor, " c"]
    """The same of the chains."""


def propose(model: RBM, layers: Layers, state: ObjectiveState, generator: torch.Generator) -> Swap:
    """Draw a partner for every chain and the coin that decides."""
    chains, num = state["chains"], len(state["chains"])
    # Different places, so that no state is in two chains.
    slot = torch.randperm(len(state["reservoir"]), device=chains.device, generator=generator)[:num]
    partner = state["reservoir"][slot].to(chains.dtype)
    both = torch.cat([chains, partner])
    field = layers.field(1, (both, both))
    energy = _free_energy(model, layers, both, field)
    at_partner = state["reservoir_energy"][slot] - energy[num:]
    at_chain = state["chain_energy"] - energy[:num]
    accept_prob = (at_partner - at_chain).clamp(max=0).exp()
    coin = torch.rand(num, dtype=accept_prob.dtype, device=chains.device, generator=generator)
    accept = coin < accept_prob
    field = torch.where(accept[:, None], field[num:], field[:num])
    return Swap(accept_prob, accept, slot, partner, field, at_partner, at_chain)


def sweep(layers: Layers, frozen: Frozen, swap: Swap, state: ObjectiveState, generator: torch.Generator) -> None:
    """Carry out the exchange and move the chains by one sweep of block Gibbs, in the given state."""
    chains, accept, held = state["chains"], swap.accept, state["reservoir_energy"]
    state["reservoir"][swap.slot] = torch.where(accept[:, None], chains, swap.partner).to(state["reservoir"].dtype)
    held[swap.slot] = torch.where(accept, state["chain_energy"], held[swap.slot])
    hidden = layers.draw_given(1, swap.field, generator)
    chains = layers.draw(0, (chains, hidden), layers.noise(0, len(chains), generator))
    energy = _free_energy(frozen.model, frozen.layers, chains, frozen.layers.field(1, (chains, chains)))
    state |= {"chains": chains, "chain_energy": energy}


def move(model: RBM, layers: Layers, frozen: Frozen, state: ObjectiveState, generator: torch.Generator) -> Swap:
    """One exchange and one sweep, in the given state."""
    swap = propose(model, layers, state, generator)
    sweep(layers, frozen, swap, state, generator)
    return swap


def _freeze(model: RBM, layers: Layers, frozen: Frozen, state: ObjectiveState, generator: torch.Generator) -> None:
    """Make the model the new checkpoint: thermalise, collect a reservoir, and take log Z along."""

    def run(num_sweeps: int) -> list[Tensor]:
        energies = []
        for _ in range(num_sweeps):
            move(model, layers, frozen, state, generator)
            energies.append(model.free_energy(state["chains"]))
        return energies

    window, time = _FIRST_WINDOW, float("inf")
    while window <= _LAST_WINDOW and 4 * time > window:
        time = autocorrelation_time(torch.stack(run(window)))
        window *= 2
    time = min(time, _LAST_WINDOW / 4)
    run(round(THERMALISE * time))
    collected = []
    for _ in range(RESERVOIR + HELD_OUT):
        run(round(APART * time))
        collected.append(state["chains"])
    states = torch.cat(collected)
    old, new = (_log_ratio(model, frozen.model, x) for x in (state["held_out"].to(states.dtype), states))
    gain = torch.stack([bennett(old, new), _log_mean_exp(old), -_log_mean_exp(-new)])
    state["log_z_variance"] = state["log_z_variance"] + bennett_variance(old, new)
    state |= _checkpoint(frozen, _copies(model), states, state["log_z"] + gain)
    state["chain_energy"] = _free_energies(model, state["chains"])
    state["num_checkpoints"] = state["num_checkpoints"] + 1
    state["rate"] = (2 * state["rate"]).clamp(max=1)


def acceptance_at_equilibrium(log_ratio: Float[Tensor, " n"]) -> float:
    """Mean acceptance of exchanges between f and f_0, from w = f / f_0 at n draws of f_0 alone: Σ_ij min(w_i, w_j) / (n Σ_i w_i).

    That is E[min(1, w(r) / w(x))] with x such a draw too, weighted by w. Too large while no draw is where f has grown.
    """
    num = len(log_ratio)
    weight = torch.exp(log_ratio.double() - log_ratio.max()).sort().values
    # The k-th smallest is the smaller one of 2 (n − k) + 1 ordered pairs.
    pairs = torch.arange(2 * num - 1, 0, -2, dtype=weight.dtype, device=weight.device)
    return float((pairs * weight).sum() / (num * weight.sum()))


def autocorrelation_time(series: Float[Tensor, "t c"]) -> float:
    """Integrated autocorrelation time 1 + 2 Σ ρ(t) in steps, over chains at equilibrium, from their common mean.

    The sum ends where ρ falls below two of its standard errors, 2/√(number of pairs) (Geyer, 1992, takes the first
    negative pair: with hundreds of short chains the noise is known beforehand).
    """
    deviation = series.double() - series.double().mean()
    variance = deviation.square().mean()
    total = 1.0
    for lag in range(1, len(series)):
        rho = float((deviation[lag:] * deviation[:-lag]).mean() / variance)
        if not rho > 2 / (series[lag:].numel() ** 0.5):
            break
        total += 2 * rho
    return total


def _checkpoint(frozen: Frozen, parameters: dict[str, Tensor], states: Tensor, log_z: Tensor) -> ObjectiveState:
    held = _under("frozen", parameters)
    frozen.load(held)
    num = len(states) * RESERVOIR // (RESERVOIR + HELD_OUT)
    energy = _free_energies(frozen.model, states[:num])
    # States of discrete units are 0 or 1: a byte each.
    kept = states if frozen.model.units[0].num_states is None else states.to(torch.uint8)
    return {**held, "reservoir": kept[:num], "reservoir_energy": energy, "held_out": kept[num:], "log_z": log_z}


def _log_z(state: ObjectiveState, at_partner: Tensor, at_chain: Tensor) -> dict[str, Tensor]:
    """log Z of the model as it is: that of the checkpoint, and one more step by the geometric bridge and its bounds."""
    old, new = at_partner.double(), at_chain.double()
    bridge = _log_mean_exp(old / 2) - _log_mean_exp(-new / 2)
    gain = (bridge, _log_mean_exp(old), -_log_mean_exp(-new))
    values = zip(("log_z", "log_z_lower", "log_z_upper"), state["log_z"], gain, strict=True)
    return {name: total + more for name, total, more in values}


def _log_mean_exp(values: Tensor) -> Tensor:
    return torch.logsumexp(values, 0) - math.log(len(values))


def _free_energy(model: RBM, layers: Layers, x: Tensor, field: Tensor) -> Tensor:
    visible, hidden = model.visible, layers.log_partition_given(1, field)
    return -(visible.statistic(x) @ model.visible_bias + visible.log_base(x)).double() - hidden


def _free_energies(model: RBM, x: Tensor) -> Tensor:
    return torch.cat([model.free_energy(rows) for rows in x.split(4096)]).double()


def _log_ratio(model: RBM, frozen: RBM, x: Tensor) -> Tensor:
    """log f − log f_0 at every row, float64."""
    return _free_energies(frozen, x) - _free_energies(model, x)


def _restore(model: RBM, state: ObjectiveState) -> None:
    previous = _part("previous", state)
    for name, parameter in model.named_parameters():
        parameter.copy_(previous[name])


def _copies(model: RBM) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def _under(prefix: str, tensors: dict[str, Tensor]) -> ObjectiveState:
    return {f"{prefix}.{name}": tensor for name, tensor in tensors.items()}


def _part(prefix: str, state: ObjectiveState) -> dict[str, Tensor]:
    return {name.removeprefix(f"{prefix}."): t for name, t in state.items() if name.startswith(f"{prefix}.")}
