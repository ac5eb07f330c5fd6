"""The delta rule with moving averages: what it sums to, and that it remembers the same row alone."""

# Layers of a network are reached into, which have wider types.
# pyright: reportIndexIssue=false

from __future__ import annotations

import pytest
import torch
import zoo
from stacks import tiny
from torch import Tensor

from genmodels import BadInput
from genmodels.networks import DiagonalNormal
from genmodels.objectives import target_propagation
from genmodels.objectives.target_prop import Loops, local_losses
from genmodels.objectives.traces import recalled
from genmodels.stack_layers import StackLayer
from genmodels.target_prop import AutoEncoderStack
from genmodels.top_priors import FactorialBernoulli

PASSES, TRACE, ROWS = 3, 0.6, 5
LINEAR = (("linear", 5), ("linear", 3))


def data() -> Tensor:
    return torch.bernoulli(torch.full((ROWS, 7), 0.4, dtype=torch.float64), generator=zoo.generator(1))


@torch.no_grad()
def signals(model: AutoEncoderStack, *, recirculation: bool = False) -> tuple[list[Tensor], list[Tensor]]:
    """x, h_1 ... h_L of all passes, as the objective draws them; and ĥ_0 ... ĥ_{L−1}, each from the layer above."""
    randoms, drawn, below = zoo.generator(7), [data().repeat(PASSES, 1)], []
    for layer in range(1, model.num_layers + 1):
        drawn.append(model.up(layer, drawn[-1]).draw(randoms))
        below.append(model.down(layer, drawn[-1]))
        if recirculation and not isinstance(below[-1], DiagonalNormal):
            below[-1].draw(randoms)
    return drawn, [p.mean for p in below]


def forward_rule(x: Tensor, h: Tensor, target: Tensor) -> Tensor:
    """Sum of p^r x̄ − mean(p^f x) after every pass, where a trace of x a row and one of p^f x a weight are all that is kept."""
    kept_x, kept_px, weight = torch.zeros(1), torch.zeros(1), 0.0
    update = torch.zeros(h.shape[1], x.shape[1], dtype=x.dtype)
    for x_now, h_now, target_now in zip(x.chunk(PASSES), h.chunk(PASSES), target.chunk(PASSES), strict=True):
        kept_x, kept_px = TRACE * kept_x + x_now, TRACE * kept_px + h_now.T @ x_now
        weight = TRACE * weight + 1
        update += (target_now.T @ kept_x - kept_px) / weight
    return update


def backward_rule(h: Tensor, p: Tensor, x: Tensor) -> Tensor:
    """Sum of (mean(p^f) − p^r) x after every pass, where a trace of p^f is kept."""
    kept, weight = torch.zeros(1), 0.0
    update = torch.zeros(h.shape[1], x.shape[1], dtype=x.dtype)
    for h_now, p_now, x_now in zip(h.chunk(PASSES), p.chunk(PASSES), x.chunk(PASSES), strict=True):
        kept, weight = TRACE * kept + h_now, TRACE * weight + 1
        update += (kept / weight - p_now).T @ x_now
    return update


def delayed(change: Tensor, x: Tensor) -> Tensor:
    """Σ_t Σ_{s ≤ t} w_ts (delta rule of change[t, s] with inputs x[t, s]): every delay by itself, all passes stored."""
    update = torch.zeros(change.shape[-1], x.shape[-1], dtype=x.dtype)
    for t in range(PASSES):
        weight = TRACE ** (t - torch.arange(t + 1, dtype=x.dtype))
        for s in range(t + 1):
            update += weight[s] / weight.sum() * change[t, s].T @ x[t, s]
    return update


def gradient(model: AutoEncoderStack, loss: str, loops: Loops, weight: Tensor) -> Tensor:
    losses, _ = local_losses(model, data(), loops, zoo.generator(7))
    return torch.autograd.grad(losses[loss], weight)[0]


def both_ways(x: Tensor, each: str) -> Tensor:
    """Row [t, s] of all pairs of passes is x at s, or at t."""
    rows = torch.stack(x.chunk(PASSES))
    return rows[None].expand(PASSES, -1, -1, -1) if each == "s" else rows[:, None].expand(-1, PASSES, -1, -1)


def test_the_delta_rules_of_all_delays_are_one_with_moving_averages() -> None:
    """Section 8, by arithmetic alone: no storage of past activations."""
    (x, h, _, _), (_, target, _) = signals(tiny(LINEAR))
    forward = delayed(both_ways(target, "t") - both_ways(h, "s"), both_ways(x, "s"))
    torch.testing.assert_close(forward_rule(x, h, target), forward)
    backward = delayed(both_ways(h, "s") - both_ways(target, "t"), both_ways(x, "t"))
    torch.testing.assert_close(backward_rule(h, target, x), backward)


def test_encoders_learn_by_the_rule_of_feed_forward_connections() -> None:
    model = tiny(LINEAR)
    (x, h, *_), (_, target, *_) = signals(model)
    found = gradient(model, "match_1", Loops(passes=PASSES, trace=TRACE), model.encoders[0][0].weight)

    def expected(before: Tensor) -> Tensor:
        precision = torch.exp(-2 * model.layer(1).log_error.detach())
        return -precision[:, None] * forward_rule(before, h, target) / (PASSES * ROWS)

    x = x - model.centre
    torch.testing.assert_close(found, expected(x))
    # Traces that another row left behind, and the product of averages in the place of the average of products.
    _, *later = x.chunk(PASSES)
    assert not torch.allclose(found, expected(torch.cat([x[:ROWS].roll(1, 0), *later])), rtol=1e-3)


@pytest.mark.parametrize("kind", ["linear", "binary"])
def test_decoders_learn_by_the_rule_of_feedback_connections(kind: str) -> None:
    """Real units with their precision; binary sigmoidal ones as in the text."""
    model = tiny(((kind, 5), (kind, 3)), FactorialBernoulli(2) if kind == "binary" else None)
    (_, h, above, _), (_, p, _) = signals(model, recirculation=True)
    layer, weight = model.layer(1), model.decoders[1][0].weight
    precision = torch.exp(-2 * layer.log_error.detach()) if layer.real else torch.ones(5, dtype=torch.float64)
    found = gradient(model, "decoder_2", Loops(passes=PASSES, trace=TRACE, recirculation=True), weight)
    torch.testing.assert_close(found, -precision[:, None] * backward_rule(h, p, above) / (PASSES * ROWS))
    without = gradient(model, "decoder_2", Loops(passes=PASSES, recirculation=True), weight)
    assert not torch.allclose(found, without, rtol=1e-3)


@pytest.mark.parametrize("kind", ["real", "one-hot"])
@torch.no_grad()
def test_averages_give_the_mean_over_all_passes_so_far(kind: str) -> None:
    """Also of the log-densities themselves, and so of what the deviations learn from."""
    randoms = zoo.generator(2)
    layer = (StackLayer("tanh", 6) if kind == "real" else StackLayer("one-hot:3", 6)).double()
    fields = torch.randn(2, PASSES * ROWS, 6, generator=randoms, dtype=torch.float64)
    h = layer.code(fields[0]).draw(randoms)
    expected = []
    for t, field in enumerate(fields[1].chunk(PASSES)):
        weight = TRACE ** (t - torch.arange(t + 1, dtype=torch.float64))
        each = [layer.reconstruction(field).log_prob(past).sum(-1) for past in h.chunk(PASSES)[: t + 1]]
        expected.append((weight[:, None] * torch.stack(each)).sum(0) / weight.sum())
    found = recalled(layer.reconstruction(fields[1]), h, passes=PASSES, trace=TRACE)
    torch.testing.assert_close(found, torch.cat(expected))
    assert not torch.allclose(found, recalled(layer.reconstruction(fields[1]), h), rtol=1e-3)


def test_a_trace_of_one_pass_and_passes_without_noise_are_refused() -> None:
    with pytest.raises(BadInput, match="several passes"):
        target_propagation(tiny(), trace=0.5)
    with pytest.raises(BadInput, match="several passes"):
        target_propagation(tiny(), passes=2, noise_free=True)
    for passes, trace in ((0, 0.0), (2, 1.5)):
        with pytest.raises(BadInput, match="from 0 to 1"):
            target_propagation(tiny(), passes=passes, trace=trace)
