"""Do the chains mix? R-hat, effective sample sizes and pictures from ArviZ; round trips of tempering; changes of class.

Draws have shape (steps, chains, ...), as `Trace.stacked` gives them. ArviZ, any version from 0.20, is imported when first needed.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from samplers.tempering import TemperingState, swap_rates

Draws = Shaped[Tensor, "steps chains ..."]
_MOST_ROWS = 20


class Diagnostics(NamedTuple):
    """How far to trust the draws of each coordinate, float64; NaN for one that never changed, as that tells nothing."""

    rhat: Float[Tensor, "*d"]
    """Rank-normalised split R-hat, of the values or of their distances from the median, whichever is larger.

    1 for chains that agree, to be below 1.01; enormous where each is stuck at its own value.
    """
    ess_bulk: Float[Tensor, "*d"]
    """Effective sample size for the centre of the distribution: that of the rank-normalised values."""
    ess_tail: Float[Tensor, "*d"]
    """Effective sample size for its tails: the smaller one of those for the quantiles at 5 % and 95 %."""
    mcse: Float[Tensor, "*d"]
    """Monte Carlo standard error of the mean: standard deviation / √ESS, with the ESS of the values themselves."""
    autocorrelation_time: Float[Tensor, "*d"]
    """Integrated, 1 + 2 Σ_k ρ_k, in draws (times `thin` in steps): number of draws / ESS of the values themselves."""

    def worst(self) -> Diagnostics:
        """The least favourable number of each kind among the coordinates that changed."""
        changed = ~self.rhat.isnan()
        if not bool(changed.any()):
            return Diagnostics(*(torch.tensor(math.nan, dtype=torch.float64) for _ in self))
        rhat, bulk, tail, mcse, time = (values[changed] for values in self)
        return Diagnostics(rhat.max(), bulk.min(), tail.min(), mcse.max(), time.max())


def diagnose(draws: Draws) -> Diagnostics:
    """Convergence diagnostics of every coordinate (Vehtari, Gelman, Simpson, Carpenter and Bürkner, 2021).

    `draws` has at least 4 steps and 2 chains, and no burn-in; each field of the result has the shape of one chain's draw. The
    authors ask for an R-hat below 1.01 and an ESS above 400 before draws are used; no number here sees a mode that no chain has
    visited. Autocorrelations are summed over Geyer's (1992) initial monotone sequence; the ESS of n draws is at most n log₁₀ n.

    >>> draws = torch.randn(500, 4, 3, generator=torch.Generator().manual_seed(0))
    >>> diagnose(draws).rhat < 1.01
    tensor([True, True, True])
    >>> draws[:, 0] += 2  # one chain elsewhere
    >>> round(float(diagnose(draws).worst().rhat), 1)
    1.3
    """
    if draws.ndim < 2 or len(draws) < 4 or draws.shape[1] < 2:
        raise ValueError(
            f"Diagnostics need at least 4 steps of at least 2 chains, not draws of shape {(*draws.shape,)}."
        )
    values = draws.detach().cpu().double().reshape(*draws.shape[:2], -1)
    if not bool(values.isfinite().all()):
        raise ValueError("Some draws are infinite or NaN: diagnose chains that stay finite.")
    result = torch.full((len(Diagnostics._fields), values.shape[2]), math.nan, dtype=torch.float64)
    for i in (values != values[0, 0]).any(0).any(0).nonzero().flatten().tolist():
        result[:, i] = torch.tensor(_diagnose_one(values[..., i].T.numpy()), dtype=torch.float64)
    return Diagnostics(*result.view(-1, *draws.shape[2:]))


def to_inference_data(draws: Draws | Mapping[str, Tensor], *, accept_prob: Float[Tensor, "_ _"] | None = None) -> Any:
    """The draws for ArviZ: an InferenceData, or from ArviZ 1 on an xarray DataTree.

    `draws` are those of one variable, to be called x, or of several by name. `accept_prob`, shape (steps, chains), becomes
    acceptance_rate of the sample statistics.
    """
    arviz = _arviz()
    variables = draws if isinstance(draws, Mapping) else {"x": draws}
    statistics = {} if accept_prob is None else {"acceptance_rate": accept_prob}
    shapes = {name: tuple(values.shape[:2]) for name, values in [*variables.items(), *statistics.items()]}
    if len(set(shapes.values())) != 1:
        raise ValueError(f"Give draws of the same steps and chains; they have shapes {shapes}.")
    groups = {"posterior": _by_chain(variables)} | ({"sample_stats": _by_chain(statistics)} if statistics else {})
    with warnings.catch_warnings():
        # It takes more chains than draws for a mistake.
        warnings.simplefilter("ignore", UserWarning)
        return arviz.from_dict(groups) if _is_new(arviz) else arviz.from_dict(**groups)


def trace_and_rank_plot(draws: Draws | Mapping[str, Tensor]) -> Any:
    """ArviZ's trace and rank plots, one row a coordinate, as a matplotlib Figure: chains that mix have even ranks.

    Vehtari et al. (2021), section 4.3. Choose up to 20 coordinates first, for instance draws[..., :3]. They must be continuous:
    the ranks of discrete ones, full of ties, are never even; of an image model plot the energy.
    """
    arviz, data = _arviz(), to_inference_data(draws)
    num = sum(values[0, 0].numel() for values in (draws.values() if isinstance(draws, Mapping) else [draws]))
    if num > _MOST_ROWS:
        raise ValueError(f"A row for each of {num} coordinates is too much to see: choose up to {_MOST_ROWS}.")
    with warnings.catch_warnings():
        # It uses what Matplotlib will drop, and finds no density for what never changes.
        warnings.simplefilter("ignore")
        return (_new_plot if _is_new(arviz) else _old_plot)(arviz, data, (10, 2 * num), num)


class TemperingReport(NamedTuple):
    """How well replicas travel along a ladder."""

    swap_rates: Float[Tensor, " p"]
    """Mean acceptance probability of each pair of neighbours."""
    round_trips: Int[Tensor, " c"]
    """From the hot end to the cold one and back, of each chain's replicas together."""
    round_trips_per_1000_steps: Float[Tensor, " c"]


def tempering_report(state: TemperingState) -> TemperingReport:
    """Counts since the state's `init`: a chain without a round trip has not used its hot end yet.

    R-hat and ESS of tempered chains are those of the target's rung alone: trace `samplers.rung(state)`.
    """
    per_step = state.round_trips.double() / state.num_swaps
    return TemperingReport(swap_rates(state), state.round_trips, 1000 * per_step)


class ClassChanges(NamedTuple):
    """How often chains change class, and where they are."""

    rate: Float[Tensor, ""]
    """Fraction of consecutive draws that differ in class, mean over the chains."""
    std_error: Float[Tensor, ""]
    """Of `rate`, from the spread of the chains, which are independent; NaN for one chain."""
    per_chain: Float[Tensor, " chains"]
    class_shares: Float[Tensor, " classes"]
    """Fraction of all draws in each class."""


@torch.no_grad()
def class_changes(draws: Draws, classify: Callable[[Tensor], Tensor], num_classes: int) -> ClassChanges:
    """Whether image chains walk from class to class, judged by `classify`: rows (chains, ...) → integers below `num_classes`.

    A classifier's errors on pictures between two classes count as changes. Independent draws have the rate 1 − Σ_c p_c².

    >>> class_changes(torch.tensor([[0, 2], [0, 1], [1, 2]]), lambda x: x, 3).per_chain
    tensor([0.5000, 1.0000], dtype=torch.float64)
    """
    if len(draws) < 2:
        raise ValueError(f"Changes of class need at least 2 draws of each chain, not {len(draws)}.")
    labels = torch.stack([classify(rows).cpu() for rows in draws])
    per_chain = (labels[1:] != labels[:-1]).double().mean(0)
    std_error = per_chain.std() / math.sqrt(len(per_chain)) if len(per_chain) > 1 else per_chain.new_tensor(math.nan)
    shares = torch.bincount(labels.flatten(), minlength=num_classes).double() / labels.numel()
    return ClassChanges(per_chain.mean(), std_error, per_chain, shares)


def _diagnose_one(values: Any) -> list[float]:
    """The diagnostics of one coordinate that changes, from its draws by chain, in the order of their fields."""
    arviz = _arviz()
    with warnings.catch_warnings():
        # Chains that are all stuck divide by their variance, 0.
        warnings.simplefilter("ignore", RuntimeWarning)
        bulk, mean = (float(arviz.ess(values, method=method)) for method in ("bulk", "mean"))
        tail = float(arviz.ess(values, method="tail", prob=(0.05, 0.95)))
        rhat, mcse = float(arviz.rhat(values)), float(arviz.mcse(values, method="mean"))
    return [rhat, bulk, tail, mcse, values.size / mean]


def _by_chain(variables: Mapping[str, Tensor]) -> dict[str, Any]:
    return {name: draws.detach().cpu().transpose(0, 1).numpy() for name, draws in variables.items()}


def _arviz() -> Any:
    with warnings.catch_warnings():
        # Version 0.23 announces version 1, which works as well.
        warnings.simplefilter("ignore", FutureWarning)
        import arviz
    return arviz


def _is_new(arviz: Any) -> bool:
    return int(arviz.__version__.split(".")[0]) >= 1


def _old_plot(arviz: Any, data: Any, size: tuple[int, int], num_rows: int) -> Any:
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(num_rows, 3, squeeze=False)
    arviz.plot_trace(data, axes=axes[:, :2], compact=False)
    arviz.plot_rank(data, ax=axes[:, 2])
    return figure


def _new_plot(arviz: Any, data: Any, size: tuple[int, int], num_rows: int) -> Any:
    from matplotlib import pyplot

    plots = [(arviz.plot_trace, {}), (arviz.plot_rank, {})]
    figure = arviz.combine_plots(data, plots, backend="matplotlib").viz["figure"].item()
    pyplot.close(figure)
    figure.set_size_inches(*size)
    figure.set_layout_engine("none")
    figure.subplots_adjust(left=0.06, right=0.98, bottom=0.5 / size[1], top=1 - 0.6 / size[1], hspace=0.9)
    return figure
