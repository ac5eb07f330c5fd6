"""log Z of layered Boltzmann machines by annealing: forward AIS, reverse AIS, and RAISE."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from genmodels.boltzmann import LayeredBoltzmann, is_narrow
from genmodels.dbm import DBM
from genmodels.errors import BadInput
from genmodels.groups import Rows, in_groups
from genmodels.interface import check_width, require
from genmodels.likelihood.estimate import Bound, Estimate, effective_sample_size, log_mean_exp, log_mean_exp_error
from genmodels.likelihood.exact import mean_free_energy
from genmodels.progress import Progress, no_progress
from genmodels.rbm import RBM
from samplers import ais_log_weights, gibbs, reverse_ais_log_weights, run
from samplers.annealing import Track
from samplers.fused import Precision

FEW_CHAINS = 256
"""Up to so many, products of bytes are faster than table look-up."""
Block = Literal["even", "odd"]


class PathState(NamedTuple):
    """States of the kept layers, with what makes log-densities at any temperature cheap."""

    kept: tuple[Tensor, ...]
    fields: tuple[Tensor, ...]
    """Of the layers that are summed out."""
    linear: Float[Tensor, " n"]
    base_linear: Float[Tensor, " n"]
    reference: Float[Tensor, " n"]


class MarginalPath:
    """One block of a layered machine, the other summed out, from independent sites to the model.

    log f_β = Σ_kept [(β b + (1 − β) b⁰) · t + log_base] + Σ_summed A(β field + (1 − β) b⁰). At β = 0 the layers are
    independent with fields b⁰, zero above the visible layer: the base-rate model of Salakhutdinov and Murray (2008). A
    transition draws the layers that are summed out, then the kept ones: reversible on these. Kept are the even layers or
    the odd ones; unless `keep` says which, the visible layer of a machine with one hidden layer, and else the block with
    fewer units. Satisfies `samplers.Path`.
    """

    def __init__(
        self,
        model: LayeredBoltzmann,
        base_bias: Float[Tensor, " d"],
        precision: Precision = "auto",
        keep: Block | None = None,
    ):
        self._units = model.units
        self._layers = model.anneal(precision=precision)
        self._biases = [bias.detach() for bias in model.biases]
        odd, even = model.blocks
        keep = _smaller_block(model) if keep is None else keep
        self.kept, self._summed = (odd, even) if keep == "odd" else (even, odd)
        self._base = [torch.zeros_like(bias) for bias in self._biases]
        self._base[0] = base_bias.to(self._biases[0])

    @property
    def log_z0(self) -> float:
        """log Z at β = 0, exact."""
        with torch.no_grad():
            pairs = zip(self._units, self._base, strict=True)
            return sum(float(unit.log_partition(field.double())) for unit, field in pairs)

    def start(self, num: int, generator: torch.Generator) -> PathState:
        fields = {i: self._base[i].expand(num, -1) for i in self.kept}
        return self.state(tuple(self._layers.draw_given(i, field, generator) for i, field in fields.items()))

    def state(self, kept: tuple[Tensor, ...]) -> PathState:
        """The path's state at the given kept layers."""
        full = self._full(dict(zip(self.kept, kept, strict=True)), len(kept[0]))
        statistics = [self._units[i].statistic(s) for i, s in zip(self.kept, kept, strict=True)]
        return PathState(
            kept,
            tuple(self._layers.field(i, full) for i in self._summed),
            sum((t @ self._biases[i]).double() for i, t in zip(self.kept, statistics, strict=True)),  # pyright: ignore
            sum((t @ self._base[i]).double() for i, t in zip(self.kept, statistics, strict=True)),  # pyright: ignore
            sum(self._units[i].log_base(s).double() for i, s in zip(self.kept, kept, strict=True)),  # pyright: ignore
        )

    def log_density(self, state: PathState, beta: float) -> Tensor:
        summed = sum(
            self._layers.log_partition_given(i, field, beta=scale)
            for i, field, scale in self._annealed(state.fields, beta)
        )
        return beta * state.linear + (1 - beta) * state.base_linear + state.reference + summed

    def transition(self, state: PathState, beta: float, generator: torch.Generator) -> PathState:
        num = len(state.kept[0])
        drawn = {
            i: self._layers.draw_given(i, field, generator, beta=scale)
            for i, field, scale in self._annealed(state.fields, beta)
        }
        full, layers = self._full(drawn, num), self._layers.at(beta, self._base)
        return self.state(tuple(layers.draw(i, full, layers.noise(i, num, generator)) for i in self.kept))

    def _annealed(self, fields: tuple[Tensor, ...], beta: float) -> Iterator[tuple[int, Tensor, float]]:
        """Layers that are summed out, each with what makes its field at β as a product: a field and a factor."""
        for i, field in zip(self._summed, fields, strict=True):
            # Only the visible layer has a base.
            yield (i, torch.lerp(self._base[i].expand_as(field), field, beta), 1.0) if i == 0 else (i, field, beta)

    def _full(self, known: dict[int, Tensor], num: int) -> tuple[Tensor, ...]:
        """All layers, with empty places for those that the next conditional does not read."""
        return tuple(known.get(i, self._biases[i].expand(num, -1)) for i in range(len(self._units)))


class RoundedPath:
    """`path` for β < 1, and the density and transition of `end` at β = 1, over the same layers. Satisfies `samplers.Path`.

    Any densities may lead from the easy one to the target. Those of a model with rounded weights are cheaper to draw from;
    with the unrounded model at the end, no estimate is off by the rounding.
    """

    def __init__(self, path: MarginalPath, end: MarginalPath):
        self._path, self._end = path, end
        self.kept, self.start, self.state, self.log_z0 = path.kept, path.start, path.state, path.log_z0

    def log_density(self, state: PathState, beta: float) -> Tensor:
        if beta == 1:
            return self._end.log_density(self._end.state(state.kept), beta)
        return self._path.log_density(state, beta)

    def transition(self, state: PathState, beta: float, generator: torch.Generator) -> PathState:
        if beta == 1:
            return self.state(self._end.transition(self._end.state(state.kept), beta, generator).kept)
        return self._path.transition(state, beta, generator)


def _smaller_block(model: LayeredBoltzmann) -> Block:
    odd, even = (sum(model.units[i].size for i in block) for block in model.blocks)
    return "odd" if len(model.units) > 2 and odd < even else "even"


def ais_log_z(
    model: LayeredBoltzmann,
    base_bias: Float[Tensor, " d"],
    betas: Float[Tensor, " k"],
    *,
    num_chains: int = 100,
    num_steps: int = 1,
    group_size: int | None = None,
    precision: Precision = "auto",
    generator: torch.Generator,
    progress: Progress = no_progress,
) -> Estimate:
    """log Z by annealed importance sampling from the base-rate model with visible fields `base_bias`.

    A stochastic lower bound on log Z (Jensen), so log-likelihoods with it are optimistic. The error falls as 1/√chains;
    the bias falls with the number of temperatures, and does not show in the standard error where chains miss modes. With
    precision "auto" the path to the model may be one of rounded weights; its end never is. Salakhutdinov and Murray (2008).
    Groups of `group_size` chains have random numbers of their own, and all processes of torch.distributed share them: the
    estimate is the same on any number of processes.
    """
    path = annealing_path(model, base_bias, betas, num_chains, num_steps, precision)
    track = _track(progress, "AIS")

    def work(numbers: Tensor, generator: torch.Generator) -> Rows:
        return (ais_log_weights(path, betas, len(numbers), generator=generator, num_steps=num_steps, track=track),)

    (log_weight,) = in_groups(num_chains, group_size, generator, work)
    return _log_z(path.log_z0, log_weight, 1, "lower", f"AIS, {num_chains} chains × {len(betas) - 1} temperatures")


def reverse_ais_log_z(
    model: LayeredBoltzmann,
    x: Float[Tensor, "n d"],
    base_bias: Float[Tensor, " d"],
    betas: Float[Tensor, " k"],
    *,
    burn_in: int = 1000,
    num_steps: int = 1,
    group_size: int | None = None,
    precision: Precision = "auto",
    generator: torch.Generator,
    progress: Progress = no_progress,
) -> Estimate:
    """log Z by annealing backwards from chains that start at the rows of `x` and run `burn_in` sweeps first.

    A stochastic upper bound on log Z if the chains have reached equilibrium (exact for rows drawn from the model), which
    no finite run proves: the method's name says how they were made. Grosse, Ghahramani and Adams (2015).
    """
    path = annealing_path(model, base_bias, betas, len(x), num_steps, precision)
    check_width(x, model.units[0].size)
    kernel = gibbs(model.anneal(precision=precision))

    def work(numbers: Tensor, generator: torch.Generator) -> Rows:
        start = (x[numbers], *(x.new_zeros(len(numbers), unit.size) for unit in model.units[1:]))
        chains = run(kernel, start, burn_in, generator=generator, track=_track(progress, "burn-in"))
        state = path.state(tuple(chains[i] for i in path.kept))
        return (_backwards(path, betas, state, generator, num_steps, progress, "reverse AIS"),)

    (log_weight,) = in_groups(len(x), group_size, generator, work)
    made = (
        f"{len(x)} chains × {len(betas) - 1} temperatures, started {burn_in} sweeps from data and taken as equilibrium"
    )
    return _log_z(path.log_z0, log_weight, -1, "upper", f"reverse AIS, {made}")


def raise_log_likelihood(
    model: RBM | DBM,
    x: Float[Tensor, "n d"],
    base_bias: Float[Tensor, " d"],
    betas: Float[Tensor, " k"],
    *,
    num_examples: int = 50,
    num_chains: int = 4,
    num_steps: int = 1,
    group_size: int | None = None,
    precision: Precision = "auto",
    generator: torch.Generator,
    progress: Progress = no_progress,
) -> Estimate:
    """Mean log-likelihood of the rows of `x` under forward AIS taken as a generative process, RAISE.

    A stochastic lower bound on that process's log-likelihood, which approaches the model's as temperatures are added: the
    conservative side for real models, though no strict bound on the model's own. Backward chains run from `num_examples`
    random rows, `num_chains` each; log p_RAISE + F estimates −log Z from each row with little spread, so the mean over
    all rows comes from their free energies. Where the path keeps hidden layers, they start at a draw of q(z | x), and F is
    the variational free energy: the bound is then below log p_RAISE by the gap of q too. Burda, Grosse and Salakhutdinov
    (2015), sections 3 and 4.
    """
    if not isinstance(model, (RBM, DBM)):
        raise BadInput(f"raise_log_likelihood takes an RBM or a DBM, not {type(model).__name__}.")
    check_width(x, model.units[0].size)
    path = annealing_path(model, base_bias, betas, num_examples * num_chains, num_steps, precision)
    rows = torch.randperm(len(x), generator=generator, device=x.device)[:num_examples]
    layers = (x[rows], *_hidden_start(model, x[rows], generator))
    starts = [layers[i].repeat_interleave(num_chains, 0) for i in path.kept]

    def work(numbers: Tensor, generator: torch.Generator) -> Rows:
        state = path.state(tuple(start[numbers] for start in starts))
        return (_backwards(path, betas, state, generator, num_steps, progress, "RAISE"),)

    (log_weight,) = in_groups(len(rows) * num_chains, group_size, generator, work)
    per_row = [log_mean_exp(-w) for w in log_weight.unflatten(0, (len(rows), num_chains))]
    shift = torch.tensor(per_row, dtype=torch.float64)
    mean = -mean_free_energy(model, x)[0] + float(shift.mean()) - path.log_z0
    error = float(shift.std()) / len(rows) ** 0.5 if len(rows) > 1 else float("inf")
    method = f"RAISE, {len(rows)} examples × {num_chains} chains × {len(betas) - 1} temperatures"
    return Estimate(mean, error, "lower", method, len(rows) * num_chains, {"log_weight_std": float(log_weight.std())})


@torch.no_grad()
def _hidden_start(model: RBM | DBM, x: Tensor, generator: torch.Generator) -> tuple[Tensor, ...]:
    """Draws of the hidden layers given x, where a path may keep any."""
    return model.recognise(x, generator=generator)[0] if isinstance(model, DBM) else ()


def _track(progress: Progress, name: str) -> Track:
    return lambda numbers: progress(numbers, name)


def _backwards(
    path: MarginalPath | RoundedPath,
    betas: Tensor,
    state: PathState,
    generator: torch.Generator,
    num_steps: int,
    progress: Progress,
    name: str,
) -> Tensor:
    track = _track(progress, name)
    return reverse_ais_log_weights(path, betas, state, generator=generator, num_steps=num_steps, track=track)


def annealing_path(
    model: LayeredBoltzmann, base_bias: Tensor, betas: Tensor, num_chains: int, num_steps: int, precision: Precision
) -> MarginalPath | RoundedPath:
    """The path of `ais_log_z` at a precision, after a check of what it is to be annealed along."""
    require(model, LayeredBoltzmann, by="annealed importance sampling")
    if isinstance(model, RBM):
        model.check_normalisable()
    if num_chains < 1 or num_steps < 1:
        raise BadInput(f"Annealing needs at least one chain and one step, not {num_chains} and {num_steps}.")
    if betas.ndim != 1 or len(betas) < 2 or betas[0] != 0 or betas[-1] != 1 or bool((betas.diff() < 0).any()):
        raise BadInput("Inverse temperatures must rise from 0 to 1.")
    if num_chains <= FEW_CHAINS and is_narrow(model, precision):
        return RoundedPath(MarginalPath(model, base_bias, "sliced"), MarginalPath(model, base_bias, "float32"))
    return MarginalPath(model, base_bias, precision)


def _log_z(log_z0: float, log_weight: Tensor, sign: int, bound: Bound, method: str) -> Estimate:
    signed = sign * log_weight
    diagnostics = {"ess": effective_sample_size(signed), "log_weight_std": float(log_weight.std(correction=0))}
    value = log_z0 + sign * log_mean_exp(signed)
    return Estimate(value, log_mean_exp_error(signed), bound, method, len(log_weight), diagnostics)
