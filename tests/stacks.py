"""Tiny stacks of auto-encoders with random parameters, exact sums over discrete ones, exact means over normal noise."""

# Layers of a network are reached into, which have wider types.
# pyright: reportIndexIssue=false

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
import zoo
from torch import Tensor

from genmodels import Bernoulli, Gaussian
from genmodels.networks import DiagonalNormal
from genmodels.stack_layers import StackLayer
from genmodels.target_prop import AutoEncoderStack
from genmodels.top_priors import FactorialBernoulli, StandardGaussian, TopPrior
from genmodels.units import Unit


def tiny(
    hidden: Sequence[tuple[str, int]] = (("tanh", 5), ("sigmoid", 3)),
    prior: TopPrior | None = None,
    observed: Unit | None = None,
    *,
    inner: Sequence[int] = (),
    pairs: str = "networks",
    seed: int = 0,
    scale: float = 0.7,
) -> AutoEncoderStack:
    """A float64 stack: no bias is 0, no deviation 1."""
    layers = [StackLayer(kind, size) for kind, size in hidden]
    observed, prior = observed or Bernoulli(7), prior or StandardGaussian(2)
    model = AutoEncoderStack(observed, layers, prior, inner=inner, pairs=pairs).double()
    randoms = zoo.generator(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, scale, generator=randoms)
    return model


def discrete(seed: int = 0) -> AutoEncoderStack:
    """2³ states of x, 2² of h_1, 2 groups' worth of h_2, 2² of the top."""
    layers = (("binary", 2), ("one-hot:3", 3))
    return tiny(layers, FactorialBernoulli(2), Bernoulli(3), seed=seed, scale=1.0)


def states(model: AutoEncoderStack) -> list[Tensor]:
    """All states of x, h_1 ... h_L of a discrete stack: every combination a row."""
    units = [model.observed, *(model.layer(number).unit for number in range(1, model.num_layers + 1))]
    each = [unit.states(torch.arange(unit.num_states)).double() for unit in units]
    index = torch.cartesian_prod(*(torch.arange(len(layer)) for layer in each))
    return [layer[index[:, column]] for column, layer in enumerate(each)]


class SignNoise:
    """Draws of normal layers with noise ±1, all combinations of signs in turn a row: the means of quadratics are exact."""

    def __init__(self, num_rows: int, sizes: Sequence[int]):
        signs = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=sum(sizes))), dtype=torch.float64)
        self.copies = len(signs)
        self._noise = list(signs.repeat_interleave(num_rows, 0).split(list(sizes), 1))
        self._next = 0

    def draw_for(self):
        """What stands for `DiagonalNormal.draw`."""
        return lambda factor, generator: self.draw(factor)

    def draw(self, factor: DiagonalNormal) -> Tensor:
        noise = self._noise[self._next % len(self._noise)]
        self._next += 1
        return factor.mean + factor.log_std.exp() * noise


@torch.no_grad()
def linear_gaussian(off: float = 0.0) -> AutoEncoderStack:
    """3, 2 and 1 real units, where Q(h_2 | h_1) is the posterior of P(h_2) P(h_1 | h_2), its mean moved by `off`."""
    model = tiny((("linear", 2),), StandardGaussian(1), Gaussian(3, variance=0.6), seed=5)
    loading, offset = model.decoders[1][0].weight[:, 0], model.decoders[1][0].bias
    precision = torch.exp(-2 * model.layer(1).log_error)
    variance = 1 / (1 + (loading.square() * precision).sum())
    gain = variance * loading * precision
    model.encoders[1][0].weight.copy_(gain[None])
    model.encoders[1][0].bias.copy_(off - (gain * offset).sum()[None])
    model.layer(2).log_noise.copy_(0.5 * variance.log())
    return model
