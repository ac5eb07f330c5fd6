"""log p(x) of one example after the other, many at once: annealed importance sampling over the latents."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from genmodels.errors import BadInput
from genmodels.groups import Rows, in_groups
from genmodels.interface import Ancestral, Code, JointDensity, Latents, TopDown, check_width, require
from genmodels.likelihood.estimate import Estimate
from genmodels.likelihood.variational import mean_log_mean_exp
from genmodels.progress import Progress, no_progress
from samplers import ais_log_weights, hmc, reverse_ais_log_weights
from samplers.hmc import PhaseState

Start = Callable[[Tensor], Code]
"""start(x) -> a distribution over the latents of every row: `model.encode`, or a prior, or any other proposal."""

MAX_CHAINS = 4096  # at once, so that memory does not grow with examples or chains
PILOT_CHAINS = 64
SCALE_DRAWS = 64


@dataclass(frozen=True)
class Annealing:
    """From the start to the posterior: f_β(z) = start(z)^(1−β) p(x, z)^β at `betas`, with HMC transitions.

    `step_sizes` holds that of every temperature but the first, t = k − 1, in units of the start's own deviations of each
    latent; they come from `tune`, on other chains, so that every transition leaves its f_β exactly invariant.
    """

    betas: Float[Tensor, " k"]
    step_sizes: Float[Tensor, " t"]
    num_leapfrog: int = 10

    @classmethod
    @torch.no_grad()
    def tune(
        cls,
        model: JointDensity,
        x: Float[Tensor, "n d"],
        start: Start,
        *,
        num_temperatures: int = 1000,
        num_leapfrog: int = 10,
        target_accept: float = 0.65,
        generator: torch.Generator,
        progress: Progress = no_progress,
    ) -> Annealing:
        """Evenly spaced temperatures, and step sizes that follow the acceptance of 64 pilot chains along them."""
        if num_temperatures < 1 or num_leapfrog < 1:
            raise BadInput("Annealing needs at least one temperature and one leapfrog step.")
        betas = torch.linspace(0, 1, num_temperatures + 1, dtype=torch.float64)
        rows = x[torch.randint(len(x), (PILOT_CHAINS,), generator=generator, device=x.device)]
        path = LatentPath(model, rows, start, cls(betas, torch.ones(num_temperatures), num_leapfrog), generator)
        state, log_step, found = path.start(len(rows), generator), math.log(0.2), []
        pace = max(0.02, min(0.5, 20 / num_temperatures))
        for beta in progress(range(1, num_temperatures + 1), "tuning step sizes"):
            kernel = path.kernel(float(betas[beta]), math.exp(log_step))
            state, info = kernel.step(path.at(state, float(betas[beta])), generator)
            state = path.apart(state, float(betas[beta]))
            log_step += pace * (float(info["accept_prob"].mean()) - target_accept)
            found.append(log_step)
        return cls(betas, torch.tensor(found, dtype=torch.float64).exp(), num_leapfrog)


class PathState(NamedTuple):
    """Flat codes with the two ends' log-densities and slopes there, from which those of every β follow."""

    position: Float[Tensor, "n c"]
    log_start: Float[Tensor, " n"]
    log_joint: Float[Tensor, " n"]
    start_slope: Float[Tensor, "n c"]
    joint_slope: Float[Tensor, "n c"]


class _Joint(NamedTuple):
    """log p(x, z) at some z, and tensors that hang on z with the weights by which their slopes add to its own."""

    value: Callable[[], Tensor]
    outputs: list[Tensor]
    pulls: list[Tensor]


class LatentPath:
    """The latents of the rows of x, a chain a row, from `start` to the posterior. Satisfies `samplers.Path`.

    Positions are in units of the deviations of the start's draws, row by row: a diagonal mass that is fixed beforehand.
    """

    def __init__(
        self,
        model: JointDensity,
        x: Float[Tensor, "n d"],
        start: Start,
        annealing: Annealing,
        generator: torch.Generator,
    ):
        self._model, self._x, self._annealing = model, x, annealing
        self._code = start(x)
        self._steps = dict(zip(annealing.betas[1:].tolist(), annealing.step_sizes.tolist(), strict=True))
        many = self._code.repeat(SCALE_DRAWS).draw(generator)
        self._sizes = [layer.shape[1] for layer in many]
        deviation = torch.cat(many, 1).view(SCALE_DRAWS, len(x), -1).std(0)
        # A latent that the start holds fixed has no scale of its own.
        self._scale = torch.where(deviation > 0, deviation, 1.0)

    def start(self, num: int, generator: torch.Generator) -> PathState:
        return self.state_of(self._code.draw(generator))

    def state_of(self, z: Latents) -> PathState:
        """The path's state at the given latents."""
        return self.state(torch.cat(z, 1) / self._scale)

    def state(self, position: Float[Tensor, "n c"]) -> PathState:
        """The path's state at a position."""
        with torch.enable_grad():
            leaf = position.detach().requires_grad_()
            z = self._latents(leaf)
            log_start, joint = self._code.log_prob(z), self._joint(z)
            (start_slope,) = torch.autograd.grad(log_start.sum(), leaf, retain_graph=True)
            (joint_slope,) = torch.autograd.grad(joint.outputs, leaf, joint.pulls)
        return PathState(leaf.detach(), log_start.detach(), joint.value(), start_slope, joint_slope)

    def _joint(self, z: Latents) -> _Joint:
        """log p(x, z), its slope by way of the observed layer's field where the model has one.

        The density of a layer of units has the slope t(x) − t(E[x]) in its field, which is there without the density.
        """
        model, x = self._model, self._x
        if not isinstance(model, TopDown):
            log_joint = model.log_joint(x, z)
            return _Joint(log_joint.detach, [log_joint], [torch.ones_like(log_joint)])
        log_prior, field = model.prior(len(x)).log_prob(z), model.decode(z)
        unit, at = model.observed, field.detach()
        pull = unit.statistic(x) - unit.statistic(unit.mean(at))
        return _Joint(
            lambda: log_prior.detach() + unit.log_prob(at, x), [log_prior, field], [torch.ones_like(log_prior), pull]
        )

    def log_density(self, state: PathState, beta: float) -> Float[Tensor, " n"]:
        start, joint = state.log_start.double(), state.log_joint.double()
        # A start that reaches where the model has no mass weighs nothing there, and 0 · ∞ is no number.
        return (1 - beta) * start + (beta * joint if beta > 0 else torch.zeros_like(joint))

    def transition(self, state: PathState, beta: float, generator: torch.Generator) -> PathState:
        moved, _ = self.kernel(beta, self._steps[beta]).step(self.at(state, beta), generator)
        return self.apart(moved, beta)

    def kernel(self, beta: float, step_size: float):
        """HMC that leaves f_β invariant."""

        def energy(position: Float[Tensor, "n c"]) -> Float[Tensor, " n"]:
            z = self._latents(position)
            return -(1 - beta) * self._code.log_prob(z) - beta * self._model.log_joint(self._x, z)

        def gradient(position: Float[Tensor, "n c"]) -> Float[Tensor, "n c"]:
            with torch.enable_grad():
                leaf = position.detach().requires_grad_()
                z = self._latents(leaf)
                log_start, joint = self._code.log_prob(z), self._joint(z)
                pulls = [torch.full_like(log_start, beta - 1), *(-beta * pull for pull in joint.pulls)]
                return torch.autograd.grad([log_start, *joint.outputs], leaf, pulls)[0]

        return hmc(energy, step_size, self._annealing.num_leapfrog, gradient=gradient)

    def at(self, state: PathState, beta: float) -> PhaseState:
        """The chains at rest under f_β, with no new evaluation."""
        energy = -(1 - beta) * state.log_start - beta * state.log_joint
        gradient = -(1 - beta) * state.start_slope - beta * state.joint_slope
        still = torch.zeros_like(state.position)
        return PhaseState(state.position, energy, gradient, still, torch.zeros_like(energy))

    def apart(self, moved: PhaseState, beta: float) -> PathState:
        """The state of chains that moved under f_β > 0: what the start has no part in is the model's, with no new evaluation.

        The rounding of E(x, z), divided by β, enters weights multiplied by differences of β.
        """
        with torch.enable_grad():
            leaf = moved.position.detach().requires_grad_()
            log_start = self._code.log_prob(self._latents(leaf))
            (start_slope,) = torch.autograd.grad(log_start.sum(), leaf)
        log_start = log_start.detach()
        log_joint = -(moved.energy + (1 - beta) * log_start) / beta
        joint_slope = -(moved.gradient + (1 - beta) * start_slope) / beta
        return PathState(moved.position, log_start, log_joint, start_slope, joint_slope)

    def _latents(self, position: Float[Tensor, "n c"]) -> Latents:
        return (position * self._scale).split(self._sizes, 1)


@torch.no_grad()
def latent_ais(
    model: JointDensity,
    x: Float[Tensor, "n d"],
    start: Start,
    annealing: Annealing,
    *,
    num_chains: int = 16,
    group_size: int | None = None,
    generator: torch.Generator,
    progress: Progress = no_progress,
) -> Estimate:
    """Mean over the rows of log p(x) by AIS from `start` to the posterior of each row, nats per example (Wu et al., 2017).

    For continuous latents. In expectation a lower bound, which rises to log p(x) with temperatures and chains: each row's
    is the logarithm of the mean of `num_chains` unbiased weights (Neal, 2001). The standard error is that of the chains, by
    the delta method, too small where few chains carry the weight, which the diagnostics' effective sample size shows;
    `latent_bdmc` measures the gap itself. `annealing` should come from `Annealing.tune`. Groups of `group_size` rows have
    random numbers of their own, and all processes of torch.distributed share them.
    """
    weights = latent_log_weights(
        model, x, start, annealing, num_chains, generator=generator, group_size=group_size, progress=progress
    )
    return lower_bound(weights, len(annealing.betas) - 1)


@torch.no_grad()
def latent_log_weights(
    model: JointDensity,
    x: Float[Tensor, "n d"],
    start: Start,
    annealing: Annealing,
    num_chains: int,
    *,
    exact: Latents | None = None,
    group_size: int | None = None,
    generator: torch.Generator,
    progress: Progress = no_progress,
) -> Float[Tensor, "c n"]:
    """Log-weights of AIS of every chain and row, float64, nats; in reverse from `exact` latents where they are given."""
    require(model, JointDensity, by="annealing over latents")

    def annealed(rows: Tensor, repeats: int, generator: torch.Generator) -> Float[Tensor, " m"]:
        path = LatentPath(model, x[rows].repeat(repeats, 1), start, annealing, generator)
        if exact is None:
            return ais_log_weights(path, annealing.betas, repeats * len(rows), generator=generator)
        state = path.state_of(tuple(layer[rows].repeat(repeats, 1) for layer in exact))
        return reverse_ais_log_weights(path, annealing.betas, state, generator=generator)

    return row_log_weights(annealed, x, num_chains, group_size=group_size, generator=generator, progress=progress)


def row_log_weights(
    annealed: Callable[[Tensor, int, torch.Generator], Tensor],
    x: Float[Tensor, "n d"],
    num_chains: int,
    *,
    group_size: int | None,
    generator: torch.Generator,
    progress: Progress,
) -> Float[Tensor, "c n"]:
    """Log-weights of every chain and row, in batches of at most `MAX_CHAINS` chains.

    `annealed` takes the numbers of some rows and how many chains each has, and gives the log-weights, one copy of all rows
    after the other.
    """
    check_width(x, x.shape[-1])
    if num_chains < 1:
        raise BadInput(f"Annealing needs at least one chain a row, not {num_chains}.")
    chains = min(num_chains, MAX_CHAINS)
    rows_at_once = max(1, MAX_CHAINS // chains)

    def work(numbers: Tensor, generator: torch.Generator) -> Rows:
        found = torch.empty(num_chains, len(numbers), dtype=torch.float64, device=x.device)
        batches = [
            (slice(c, min(c + chains, num_chains)), slice(r, r + rows_at_once))
            for r in range(0, len(numbers), rows_at_once)
            for c in range(0, num_chains, chains)
        ]
        for which, rows in (batches[i] for i in progress(range(len(batches)), "annealing over latents")):
            repeats = which.stop - which.start
            found[which, rows] = annealed(numbers[rows], repeats, generator).view(repeats, -1)
        return (found.T,)

    (weights,) = in_groups(len(x), group_size, generator, work)
    return weights.T


class Sandwich(NamedTuple):
    """The mean log p(x) of simulated rows between two bounds, nats per example."""

    lower: Estimate
    """By forward AIS."""
    upper: Estimate
    """By reverse AIS from the latents that the rows were simulated with."""
    gap: Estimate
    """Upper minus lower: in expectation at least as large as the error of either."""


@torch.no_grad()
def latent_bdmc(
    model: JointDensity,
    start: Start,
    annealing: Annealing,
    *,
    num_rows: int = 100,
    num_chains: int = 16,
    group_size: int | None = None,
    generator: torch.Generator,
    progress: Progress = no_progress,
) -> Sandwich:
    """Bidirectional Monte Carlo on rows simulated from the model (Grosse, Ghahramani and Adams, 2015; Wu et al., 2017).

    A simulated row comes with one exact draw of its posterior, from which annealing runs backwards: minus the logarithm of
    the mean of inverse weights is in expectation an upper bound. The chains of a row share that draw, which leaves the
    bound and widens its error: standard errors here are those between rows. The gap holds for rows like the model's own.
    """

    def weights(x: Tensor, exact: Latents | None) -> Float[Tensor, "c n"]:
        return latent_log_weights(
            model,
            x,
            start,
            annealing,
            num_chains,
            exact=exact,
            group_size=group_size,
            generator=generator,
            progress=progress,
        )

    return sandwiched(model, num_rows, weights, len(annealing.betas) - 1, generator)


def sandwiched(
    model: JointDensity,
    num_rows: int,
    weights: Callable[[Tensor, Latents | None], Tensor],
    num_temperatures: int,
    generator: torch.Generator,
) -> Sandwich:
    """The sandwich of rows simulated from the model; `weights` anneals rows forwards, or back from the latents it gets."""
    require(model, JointDensity, Ancestral, by="BDMC")
    if num_rows < 2:
        raise BadInput(f"An error bar needs at least 2 simulated rows, not {num_rows}.")
    assert isinstance(model, Ancestral)
    x, *z = model.sample(num_rows, generator=generator)
    forward, reverse = weights(x, None), weights(x, tuple(z))
    num_chains = len(forward)
    above = math.log(num_chains) - torch.logsumexp(-reverse, 0)
    gap = above - (torch.logsumexp(forward, 0) - math.log(num_chains))
    what = f"{num_rows} simulated rows × {num_chains} chains × {num_temperatures} temperatures"
    upper = Estimate(float(above.mean()), _error(above), "upper", f"reverse latent AIS, {what}", num_rows)
    difference = Estimate(float(gap.mean()), _error(gap), "upper", f"BDMC gap, {what}", num_rows)
    return Sandwich(lower_bound(forward, num_temperatures), upper, difference)


def lower_bound(log_weight: Float[Tensor, "c n"], num_temperatures: int) -> Estimate:
    """The mean over the rows of log mean exp over their chains."""
    value, error, ess = mean_log_mean_exp(log_weight)
    what = f"latent AIS, {len(log_weight)} chains × {num_temperatures} temperatures"
    return Estimate(value, error, "lower", what, len(log_weight), {"ess": ess})


def _error(rows: Float[Tensor, " n"]) -> float:
    return float(rows.std() / len(rows) ** 0.5)
