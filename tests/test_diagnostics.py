"""Diagnostics: against ArviZ called directly, chains whose autocorrelation is known, and chains that are stuck."""

import ast
import inspect
import math
import warnings
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import chi2, multivariate_normal, norm
from torch import Tensor
from zoo import accepted, generator, rejected, z_scores

from samplers import Kernel, Trace, diagnostics, mala, parallel_tempering, run
from samplers.diagnostics import (
    Diagnostics,
    class_changes,
    diagnose,
    tempering_report,
    to_inference_data,
    trace_and_rank_plot,
)
from samplers.tempering import TemperingState, geometric, rung

with warnings.catch_warnings():
    warnings.simplefilter("ignore", FutureWarning)
    import arviz

STEPS, CHAINS, COORDINATES = 2003, 5, 47


def normals(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=generator(seed), dtype=torch.float64)


def autoregressive(rho: float, seed: int = 0) -> Tensor:
    """Stationary chains x' = ρ x + √(1 − ρ²) ξ of variance 1: autocorrelation time (1 + ρ) / (1 − ρ)."""
    x = normals(STEPS, CHAINS, COORDINATES, seed=seed)
    for step in range(1, STEPS):
        x[step] = rho * x[step - 1] + math.sqrt(1 - rho**2) * x[step]
    return x


@cache
def diagnosed(rho: float) -> tuple[Tensor, Diagnostics]:
    x = autoregressive(rho)
    return x.mean((0, 1)), diagnose(x)


def tail_time(rho: float) -> float:
    """Autocorrelation time of whether such a chain is below its quantile at 5 %, from the bivariate normal distribution."""
    q, p = float(norm.ppf(0.05)), 0.05
    normal: Any = multivariate_normal
    pairs = [normal([0, 0], [[1, rho**k], [rho**k, 1]]) for k in range(1, 90)]
    return 1 + 2 * sum(float(pair.cdf([q, q])) - p**2 for pair in pairs) / (p - p**2)


# Against known chains. The mean over 47 coordinates has a standard error of about 1 %, so that 5 % are five of them.


@pytest.mark.parametrize("rho", [-0.3, 0.4, 0.9])
def test_effective_sample_sizes_are_known(rho: float):
    time, num = (1 + rho) / (1 - rho), STEPS * CHAINS
    _, found = diagnosed(rho)
    assert float(found.autocorrelation_time.mean()) == pytest.approx(time, rel=0.05)
    assert float((num / found.ess_bulk).mean()) == pytest.approx(time, rel=0.05)
    assert float(found.mcse.square().mean()) == pytest.approx(time / num, rel=0.05)
    # The worse of two tails.
    assert float((num / found.ess_tail).mean()) == pytest.approx(tail_time(rho), rel=0.1)
    assert tail_time(rho) != pytest.approx(time, rel=0.2)
    assert time != pytest.approx(1, rel=0.2)


@pytest.mark.parametrize("rho", [-0.3, 0.4, 0.9])
def test_the_mean_errs_as_the_standard_error_says(rho: float):
    """χ² of the means of 47 coordinates, whose truth is 0; with the standard error of independent draws it is rejected."""
    mean, found = diagnosed(rho)

    def p_value(std_error: Tensor | float) -> float:
        square = float((mean / std_error).square().sum())
        return 2 * min(float(chi2.cdf(square, COORDINATES)), float(chi2.sf(square, COORDINATES)))

    assert accepted(p_value(found.mcse))
    assert rho != 0.9 or rejected(p_value(1 / math.sqrt(STEPS * CHAINS)))


def test_independent_chains_agree_and_shifted_ones_do_not():
    x = normals(1009, 5, 7)
    assert float(diagnose(x).worst().rhat) < 1.01
    shifted = x + torch.tensor([0, 0, 0, 0, 1.0])[:, None]
    assert float(diagnose(shifted).rhat.min()) > 1.05
    # Same mean, another spread: only the folded part sees it.
    wide = x * torch.tensor([1, 1, 1, 1, 3.0])[:, None]
    assert float(diagnose(wide).rhat.min()) > 1.05


# Against ArviZ.


def direct(draws: Tensor) -> Diagnostics:
    data = to_inference_data({"v": draws.double()})

    def values(found: Any) -> Tensor:
        return torch.from_numpy(np.array(found["v"], dtype=float))

    num = draws.shape[0] * draws.shape[1]
    return Diagnostics(
        rhat=values(arviz.rhat(data)),
        ess_bulk=values(arviz.ess(data, method="bulk")),
        ess_tail=values(arviz.ess(data, method="tail", prob=(0.05, 0.95))),
        mcse=values(arviz.mcse(data, method="mean")),
        autocorrelation_time=num / values(arviz.ess(data, method="mean")),
    )


@pytest.mark.parametrize("shape", [(101, 3), (101, 3, 7), (4, 2, 5), (53, 11, 3, 2)])
def test_every_number_is_that_of_arviz(shape: tuple[int, ...]):
    x = normals(*shape)
    for draws in (1e3 + x.cumsum(0).float(), x > 0.3 if len(x) > 50 else x, (7 * x).int()):
        for ours, theirs in zip(diagnose(draws), direct(draws), strict=True):
            assert ours.shape == draws.shape[2:]
            torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=0)


# Coordinates and chains that say nothing.


def test_a_constant_coordinate_is_not_a_number_and_does_not_hide_the_others():
    x = normals(101, 3, 2, 2)
    x[..., 1, 0] = 0.1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = diagnose(x)
        nothing = diagnose(x[..., 1, 0]).worst()
    constant = torch.tensor([[False, False], [True, False]])
    for values, none, worst in zip(found, nothing, found.worst(), strict=True):
        assert torch.equal(values.isnan(), constant)
        assert bool(none.isnan())
        assert bool(worst.isfinite())
    assert found.worst().rhat == found.rhat[~constant].max()
    assert found.worst().ess_bulk == found.ess_bulk[~constant].min()
    assert found.worst().ess_tail == found.ess_tail[~constant].min()
    assert found.worst().mcse == found.mcse[~constant].max()
    assert found.worst().autocorrelation_time == found.autocorrelation_time[~constant].max()


def test_chains_that_never_move_from_different_values_are_found():
    """A pixel that is black in every second chain: no chain ever changes, and yet it is no constant."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = diagnose((torch.arange(10) % 2).expand(101, 10))
    assert float(found.rhat) > 1e3
    assert float(found.ess_bulk) < 101


def test_draws_that_cannot_be_diagnosed_are_refused():
    for shape in ((3, 5, 2), (11, 1, 2), (11, 1)):
        with pytest.raises(ValueError, match="at least 4 steps of at least 2 chains"):
            diagnose(torch.zeros(shape))
    for bad in (math.nan, math.inf):
        x = normals(11, 3)
        x[4, 1] = bad
        with pytest.raises(ValueError, match="finite"):
            diagnose(x)


# Chains in two modes, and tempering.

BETAS = torch.logspace(-2, 0, 5, dtype=torch.float64)


def two_modes(x: Tensor) -> Tensor:
    """Modes of equal weight, 12 standard deviations apart."""
    return -torch.logaddexp(-((x + 3) / 0.5).square().sum(-1) / 2, -((x - 3) / 0.5).square().sum(-1) / 2)


def start(num_chains: int) -> Tensor:
    return 3 * (-1.0) ** torch.arange(num_chains, dtype=torch.float64)[:, None]


def test_chains_stuck_in_different_modes_are_found_and_tempered_ones_pass():
    """Only the rung of the target is diagnosed.

    In 12 runs its R-hat was at most 1.03, its ESS at least 590; those of the stuck chains 1.71 and 10.
    """
    alone, target = Trace(lambda state: state.position), Trace(lambda state: rung(state).position)
    accept = Trace(lambda info: info["accept_prob"])
    settings: dict[str, Any] = {"generator": generator(), "burn_in": 100}
    run(mala(two_modes, 0.2), start(6), 400, observe=alone, observe_info=accept, **settings)
    kernel = parallel_tempering(
        lambda beta: mala(lambda x: beta[:, 0] * two_modes(x), 0.2 / beta), geometric(two_modes), BETAS, 20
    )
    last = run(kernel, start(100), 400, observe=target, **settings)
    stuck, tempered = diagnose(alone.stacked()), diagnose(target.stacked())
    assert float(stuck.rhat) > 1.5
    assert float(stuck.ess_bulk) < 20
    assert float(tempered.rhat) < 1.1
    assert float(tempered.ess_bulk) > 200
    assert bool((tempering_report(last).round_trips > 0).all())
    data = to_inference_data(alone.stacked(), accept_prob=accept.stacked())
    assert data["sample_stats"]["acceptance_rate"].shape == (6, 301)


def test_the_report_of_a_ladder_where_every_swap_is_accepted():
    """Every replica goes up and down in 2 k steps, so k of them make one round trip in 2 steps."""
    still = Kernel(init=lambda position: position, noise=lambda *_: (), update=lambda state, _: (state, {}))
    kernel = parallel_tempering(lambda _: still, lambda _, betas: torch.zeros_like(betas), BETAS, 3)
    state = run(kernel, torch.zeros(15, 1), 1000, generator=generator())
    report = tempering_report(state)
    assert torch.equal(report.swap_rates, torch.ones(4, dtype=torch.float64))
    assert report.round_trips.tolist() == state.round_trips.tolist() == [report.round_trips[0]] * 3
    assert report.round_trips_per_1000_steps.tolist() == pytest.approx([500] * 3, abs=4)
    assert isinstance(state, TemperingState)


# For ArviZ's own functions.


def test_draws_come_to_arviz_by_chain():
    x, h, accept = normals(53, 3, 7, 2), normals(53, 3), normals(53, 3).sigmoid()
    data = to_inference_data({"x": x, "h": h}, accept_prob=accept)
    assert data["posterior"]["x"].dims[:2] == ("chain", "draw")
    assert torch.equal(torch.from_numpy(data["posterior"]["x"].values.copy()), x.transpose(0, 1))
    assert torch.equal(torch.from_numpy(data["posterior"]["h"].values.copy()), h.T)
    assert torch.equal(torch.from_numpy(data["sample_stats"]["acceptance_rate"].values.copy()), accept.T)
    assert len(arviz.summary(data)) == 15


def test_many_short_chains_are_no_mistake():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data = to_inference_data(normals(5, 11))
    assert dict(data["posterior"].sizes) == {"chain": 11, "draw": 5}


def test_draws_of_different_lengths_are_refused():
    with pytest.raises(ValueError, match="same steps and chains"):
        to_inference_data(normals(53, 3, 7), accept_prob=normals(52, 3))
    with pytest.raises(ValueError, match="same steps and chains"):
        to_inference_data({"x": normals(53, 3), "h": normals(53, 5)})


@pytest.mark.parametrize("shape", [(53, 3), (53, 3, 2)])
def test_the_plot_shows_every_trace_and_the_ranks_beside_it(shape: tuple[int, ...]):
    x = normals(*shape)
    figure = trace_and_rank_plot(x)
    columns = x.reshape(53, 3, -1).permute(2, 1, 0)
    drawn = [[line.get_ydata() for line in axes.lines] for axes in figure.axes]
    for traces in columns.numpy():
        assert any(all(any(np.array_equal(line, trace) for line in lines) for trace in traces) for lines in drawn)
    assert len(figure.axes) % len(columns) == 0
    assert any("ank" in axes.get_xlabel() for axes in figure.axes)


def test_too_many_rows_are_refused():
    with pytest.raises(ValueError, match="choose up to 20"):
        trace_and_rank_plot({"x": normals(53, 3, 4, 5), "h": normals(53, 3)})


def test_arviz_is_imported_only_when_needed():
    imported = [
        node for node in ast.parse(inspect.getsource(diagnostics)).body if isinstance(node, ast.Import | ast.ImportFrom)
    ]
    assert not any(name in ast.unparse(node) for node in imported for name in ("arviz", "matplotlib"))
    assert len(imported) > 5


# Changes of class.


def hopping(rate: float, num_chains: int) -> Tensor:
    """Chains that leave their class, one of three, with this probability at every step, for either of the others."""
    randoms = generator(3)
    leaves = torch.rand(STEPS, num_chains, generator=randoms) < rate
    return (leaves * (1 + torch.randint(2, leaves.shape, generator=randoms))).cumsum(0) % 3


def test_the_rate_of_changes_and_the_shares_are_known():
    """z of the rate over 101 chains, and the pictures are pairs whose sum is the class."""
    labels = hopping(0.2, 101)
    pictures = torch.stack([labels - 5, torch.full_like(labels, 5)], 2)
    found = class_changes(pictures, lambda rows: rows.sum(1), 5)
    assert abs(float((found.rate - 0.2) / found.std_error)) < 4.42
    assert abs(float((found.rate - 0.21) / found.std_error)) > 7
    assert abs(float(z_scores(found.per_chain, 0.2))) < 4.42
    assert float(found.std_error) == pytest.approx(math.sqrt(0.2 * 0.8 / (STEPS - 1) / 101), rel=0.3)
    assert found.class_shares.tolist() == pytest.approx([1 / 3, 1 / 3, 1 / 3, 0, 0], abs=0.02)
    assert float(found.class_shares.sum()) == pytest.approx(1, abs=1e-12)


def test_changes_are_counted_along_each_chain():
    found = class_changes(torch.tensor([[0, 1], [0, 2], [1, 1], [1, 2]]), lambda rows: rows, 3)
    torch.testing.assert_close(found.per_chain, torch.tensor([1 / 3, 1.0], dtype=torch.float64))
    assert found.class_shares.tolist() == [0.25, 0.5, 0.25]
    single = class_changes(torch.tensor([[0], [0], [1]]), lambda rows: rows, 2)
    assert float(single.rate) == 0.5
    assert bool(single.std_error.isnan())


def test_changes_need_two_draws():
    with pytest.raises(ValueError, match="at least 2 draws"):
        class_changes(torch.zeros(1, 3), lambda rows: rows.long(), 2)
