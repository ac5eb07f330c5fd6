"""Encoders by optimisation and exact inverses in the stack: closed forms, Figure 3, locality."""

# Layers of a network are reached into, which have wider types.
# pyright: reportIndexIssue=false, reportAttributeAccessIssue=false, reportCallIssue=false

from __future__ import annotations

import pytest
import torch
import zoo
from stacks import tiny
from torch import Tensor

from genmodels import BadInput, Bernoulli, Gaussian
from genmodels.climb import TOLERANCE, climb
from genmodels.data.examples import Examples
from genmodels.fit import Settings, fit
from genmodels.likelihood import importance_bound
from genmodels.objectives import algorithm1, target_propagation
from genmodels.objectives.target_prop import Loops, local_losses, reconstructions
from genmodels.stack_layers import StackLayer
from genmodels.target_prop import AutoEncoderStack
from genmodels.top_priors import FactorialBernoulli, FullGaussian, StandardGaussian

INVERSES = ("triangular", "orthogonal")
WAYS = {
    "pair": Loops(),
    "recirculation": Loops(recirculation=True),
    "difference": Loops(reach="top", noise_free=True, difference=True, match=0.3),
    "contract": Loops(contract=0.7),
}


def gaussian_data(size: int, num: int = 11) -> Tensor:
    return torch.randn(num, size, generator=zoo.generator(1), dtype=torch.float64)


# The climb.


def bowl() -> tuple[Tensor, Tensor, Tensor]:
    """Precision and maximum of a quadratic function of every row; its condition number is in the hundreds."""
    root = torch.randn(5, 5, generator=zoo.generator(2), dtype=torch.float64)
    precision = root @ root.T + 0.1 * torch.eye(5, dtype=torch.float64)
    return precision, gaussian_data(5), gaussian_data(5).roll(1, 0)


def test_a_climb_ends_as_near_as_it_says() -> None:
    precision, top, start = bowl()

    def height(at: Tensor) -> Tensor:
        return -0.5 * ((at - top) @ precision * (at - top)).sum(1)

    peak, flattest = climb(height, start, tolerance=0.05, max_steps=500), torch.linalg.eigvalsh(precision)[0]
    assert bool((peak.slope <= 0.05).all())
    assert bool(((peak.at - top).norm(dim=1) <= 0.05 / flattest).all())
    assert bool((-peak.height <= 0.05**2 / (2 * flattest)).all())
    assert peak.steps < 100
    few = climb(height, start, tolerance=0.05, max_steps=3)
    assert few.steps == 3
    assert bool((few.slope > 0.05).any())
    assert bool((few.height > height(start)).all())


def test_rows_climb_alone() -> None:
    precision, top, start = bowl()
    others = start.clone()
    others[1:] = others[1:].flip(0) * 5

    def height(at: Tensor) -> Tensor:
        return -torch.cosh((at - top) @ precision).sum(1)

    first, second = climb(height, start), climb(height, others)
    torch.testing.assert_close(first.at[0], second.at[0])
    assert not torch.allclose(first.at[1:], second.at[1:])


# Equation 20.


@pytest.mark.many_steps
@pytest.mark.parametrize("layer", [1, 2])
@torch.no_grad()
def test_the_optimal_code_is_weighted_least_squares_in_the_linear_gaussian_case(layer: int) -> None:
    model = tiny((("linear", 5), ("linear", 3)), observed=Gaussian(7, variance=0.6), pairs="optimised")
    below = gaussian_data((7, 5)[layer - 1])
    g = model.decoders[layer - 1][0]
    variance = model.observed.log_variance.exp() if layer == 1 else torch.exp(2 * model.layer(1).log_error)
    weighted = g.weight.T / variance
    expected = torch.linalg.solve(weighted @ g.weight, weighted @ (below - g.bias).T).T
    torch.testing.assert_close(model.optimum(layer, below, tolerance=1e-9, max_steps=1000).at, expected)
    flattest = torch.linalg.eigvalsh(weighted @ g.weight)[0]
    assert bool(((model.optimum(layer, below).at - expected).norm(dim=1) <= TOLERANCE / flattest).all())
    assert torch.equal(model.up(layer, below).mean, model.optimum(layer, below).at)
    plain = torch.linalg.lstsq(g.weight, (below - g.bias).T).solution.T
    assert not torch.allclose(plain, expected, rtol=0, atol=0.1)


@pytest.mark.many_steps
@torch.no_grad()
def test_reconstruction_is_perfect_where_codes_have_room() -> None:
    """Below Eq. 20: S = R^d is enough for x of d dimensions; the range of tanh units is not."""
    x, found = 3 * gaussian_data(4), {}
    for kind in ("linear", "tanh"):
        model = tiny(((kind, 5),), observed=Gaussian(4), pairs="optimised")
        code = model.layer(1).code(model.optimum(1, x, tolerance=1e-6, max_steps=200).at).mean
        found[kind] = (model.decode((code,)) - x).abs().max()
    assert found["linear"] < 1e-5
    assert found["tanh"] > 1


@pytest.mark.many_steps
@pytest.mark.parametrize("kind", ["linear", "tanh", "sigmoid"])
@torch.no_grad()
def test_no_code_nearby_is_more_probable(kind: str) -> None:
    model = tiny(((kind, 3),), observed=Gaussian(7), inner=(4, 0), pairs="optimised")
    x = model.decode((model.layer(1).code(gaussian_data(3)).mean,)) + 0.1 * gaussian_data(7)

    def height(field: Tensor) -> Tensor:
        return model.down(1, model.layer(1).code(field).mean).log_prob(x).sum(-1)

    best = model.optimum(1, x, tolerance=1e-4, max_steps=300)
    torch.testing.assert_close(best.height, height(best.at))
    for step in (0.1, -0.1):
        assert bool((height(best.at + step * gaussian_data(3)) < best.height + 1e-4).all())
    start = gaussian_data(3)
    assert bool((height(start + 0.1 * gaussian_data(3)) > height(start) + 1e-4).any())


# Exact inverses.


def square(pairs: str, kind: str = "tanh", *, scale: float = 0.3) -> AutoEncoderStack:
    return tiny(((kind, 4), (kind, 4)), StandardGaussian(4), inner=(6, 0, 0), pairs=pairs, scale=scale)


@torch.no_grad()
def noise_free(model: AutoEncoderStack) -> list[Tensor]:
    """x, h_1 ... h_L."""
    h = [gaussian_data(7)]
    for layer in range(1, model.num_layers + 1):
        h.append(model.up(layer, h[-1]).mean)
    return h


@pytest.mark.parametrize("pairs", INVERSES)
@pytest.mark.parametrize("kind", ["tanh", "linear"])
@torch.no_grad()
def test_decoders_are_the_inverses_of_their_encoders(pairs: str, kind: str) -> None:
    """So a long loop without noise asks for what is there already."""
    for each, exactly in ((pairs, True), ("networks", False)):
        model = square(each, kind)
        h = noise_free(model)
        found = reconstructions(model, h, Loops(reach="top", noise_free=True))
        for layer in range(1, model.num_layers):
            assert torch.allclose(found[layer].mean, h[layer], rtol=0, atol=1e-10) == exactly


@pytest.mark.parametrize("pairs", INVERSES)
@torch.no_grad()
def test_a_target_of_the_top_is_as_good_in_every_layer_below(pairs: str) -> None:
    """Figure 3: the prior's own target of h_L, and what the decoders make of it, all lower −log P(h_L) alike."""
    for each, exactly in ((pairs, True), ("networks", False)):
        model = square(each)
        h = noise_free(model)
        target, costs = model.top.target(h[-1]), []
        for layer in range(model.num_layers, 0, -1):
            again = target
            for number in range(layer + 1, model.num_layers + 1):
                again = model.up(number, again).mean
            costs.append(-model.top.log_prob(again))
            target = model.down(layer, target).mean
        gains = -model.top.log_prob(h[-1]) - torch.stack(costs)
        assert bool((gains[0] > 0).all())
        assert torch.allclose(gains, gains[0].expand_as(gains), rtol=0, atol=1e-10) == exactly


# Learning, layer by layer.


def own(model: AutoEncoderStack, name: str) -> tuple[str, ...]:
    """How the names of the parameters begin that a loss may move."""
    layer = int(name.rsplit("_", 1)[1])
    top = layer == model.num_layers
    below = f"hidden.{layer - 2}.log_error" if layer > 1 else "observed."
    return (
        f"encoders.{layer - 1}.",
        f"decoders.{layer - 1}.",
        "top." if top else f"hidden.{layer - 1}.log_noise",
        below,
    )


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("pairs", ["optimised", *INVERSES])
def test_no_gradient_crosses_a_layer(way: str, pairs: str) -> None:
    model = square(pairs)
    x = torch.bernoulli(torch.full((11, 7), 0.4, dtype=torch.float64), generator=zoo.generator(1))
    losses, _ = local_losses(model, x, WAYS[way], zoo.generator(7))
    names, parameters = zip(*model.named_parameters(), strict=True)
    trained = set()
    for loss, value in losses.items():
        found = torch.autograd.grad(value, parameters, allow_unused=True, retain_graph=True)
        moved = {name for name, g in zip(names, found, strict=True) if g is not None}
        assert all(name.startswith(own(model, loss)) for name in moved), loss
        trained |= moved
    assert trained == set(names)
    assert any(name.startswith("encoders.") for name in names) == (pairs != "optimised")


@pytest.mark.many_steps
@pytest.mark.parametrize("pairs", ["optimised", *INVERSES])
def test_learning_raises_the_likelihood(pairs: str) -> None:
    pattern = torch.tensor([[1, 1, 1, 0, 0, 0, 1], [0, 0, 1, 1, 1, 0, 0], [1, 0, 0, 0, 1, 1, 1]]).float()
    x = pattern[torch.randint(3, (200,), generator=zoo.generator(0))]
    x = (x + torch.bernoulli(torch.full_like(x, 0.05), generator=zoo.generator(1))) % 2
    layers = [StackLayer("tanh", 3), StackLayer("tanh", 3)]
    model = AutoEncoderStack(Bernoulli(7), layers, FullGaussian(3), pairs=pairs, generator=zoo.generator(3))
    model.initialise_from_data(x)
    before = importance_bound(model, x, num_samples=20, generator=zoo.generator(2)).value
    settings = Settings(epochs=6, batch_size=50, optimizer="Adam", learning_rate=0.05, average=0.0, device="cpu")
    fit(model, target_propagation(model), Examples(x), settings)
    after = importance_bound(model, x, num_samples=20, generator=zoo.generator(2)).value
    assert after > before + 0.5


@pytest.mark.parametrize("pairs", ["optimised", *INVERSES])
def test_a_configuration_builds_the_stack_again(pairs: str) -> None:
    model = square(pairs)
    again = AutoEncoderStack.from_config(model.config()).double()
    again.load_state_dict(model.state_dict())
    x = torch.zeros(3, 7, dtype=torch.float64)
    first, second = (each.recognise(x, generator=zoo.generator(1)) for each in (model, again))
    torch.testing.assert_close(first, second)


def test_what_has_no_inverse_or_derivative_is_refused() -> None:
    with pytest.raises(BadInput, match="pairs 'diagonal'"):
        square("diagonal")
    with pytest.raises(BadInput, match="layers of one size"):
        tiny((("tanh", 4), ("tanh", 4)), StandardGaussian(3), pairs="orthogonal")
    with pytest.raises(BadInput, match="layers of one size"):
        tiny((("sigmoid", 2),), StandardGaussian(2), pairs="triangular")
    with pytest.raises(BadInput, match="affine maps"):
        tiny((("tanh", 2),), StandardGaussian(2), inner=(0, 3), pairs="triangular")
    with pytest.raises(BadInput, match="along their derivatives"):
        tiny((("tanh", 2),), FactorialBernoulli(2), pairs="optimised")
    with pytest.raises(BadInput, match="not optimised"):
        algorithm1(square("optimised"))
