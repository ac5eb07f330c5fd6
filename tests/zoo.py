"""Tiny RBMs, one for every pair of unit types, and exact sums over their states.

Continuous layers are summed as well: the trapezoid rule on a grid of step 0.8 σ integrates a Gaussian, tilted as an energy
tilts it, to about 1e-13 of its value.
"""

import math
from collections.abc import Sequence
from itertools import product

import torch
from scipy.stats import chisquare
from torch import Tensor

from genmodels import RBM, Bernoulli, Categorical, Gaussian
from genmodels.units import Unit
from samplers.gibbs import Clamp, Conditionals, update

KINDS = ("Bernoulli", "Categorical", "Gaussian")
PAIRS = tuple(product(KINDS, KINDS))
DISCRETE_PAIRS = tuple(product(KINDS[:2], KINDS[:2]))
Tensors = tuple[Tensor, ...]

_STEP, _REACH = 0.8, 26
_FALSE_ALARM = 1e-5
seed_shift = 0
"""Set by the option `--seed-shift`."""


def generator(seed: int = 0) -> torch.Generator:
    """Random numbers on the device of the suite."""
    return torch.Generator(torch.get_default_device()).manual_seed(seed + seed_shift)


def layer(kind: str, *, hidden: bool) -> Unit:
    """A layer of a few units; no two layers of a pair have the same size."""
    if kind == "Bernoulli":
        return Bernoulli(3 if hidden else 5)
    if kind == "Categorical":
        return Categorical(3, 2) if hidden else Categorical(2, 5)
    return Gaussian(3 if hidden else 2)


def tiny(visible: str, hidden: str, seed: int = 0, scale: float = 0.7) -> RBM:
    """A float64 RBM with random parameters: no bias is 0 and no variance 1."""
    model = RBM(layer(visible, hidden=False), layer(hidden, hidden=True)).double()
    randoms = generator(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(0, 0.3 if name.endswith("log_variance") else scale, generator=randoms)
        if visible == hidden == "Gaussian":
            couplings = model.weight / deviation(model.visible)[:, None] / deviation(model.hidden)
            model.weight *= 0.6 / torch.linalg.matrix_norm(couplings, 2)
    return model


def flipped(model: RBM) -> RBM:
    """The same machine with its two sides exchanged."""
    other = RBM(model.hidden, model.visible).double()
    with torch.no_grad():
        other.weight.copy_(model.weight.T)
        other.visible_bias.copy_(model.hidden_bias)
        other.hidden_bias.copy_(model.visible_bias)
    return other


def deviation(unit: Unit) -> Tensor:
    """σ of every Gaussian site."""
    assert isinstance(unit, Gaussian)
    return torch.exp(0.5 * unit.log_variance.detach())


def grid(unit: Unit) -> tuple[Tensor, float]:
    """States of a layer, and the log of the measure that each stands for: sums over them are exact sums or integrals."""
    if unit.num_states is not None:
        return unit.states(torch.arange(unit.num_states)).double(), 0.0
    points = torch.arange(-_REACH, _REACH + 1, dtype=torch.float64) * _STEP
    states = torch.cartesian_prod(*[points] * unit.size) * deviation(unit)
    return states, float((_STEP * deviation(unit)).log().sum())


def combinations(*layers: Tensor) -> Tensors:
    """Every combination of the rows of the given layers, the last one running fastest."""
    rows = torch.cartesian_prod(*[torch.arange(len(states)) for states in layers]).reshape(-1, len(layers))
    return tuple(states[index] for states, index in zip(layers, rows.T, strict=True))


def some_states(unit: Unit, num: int, seed: int = 0) -> Tensor:
    """States anywhere in the layer's support."""
    randoms = generator(seed)
    if unit.num_states is None:
        return 1.5 * torch.randn(num, unit.size, generator=randoms, dtype=torch.float64)
    return unit.states(torch.randint(unit.num_states, (num,), generator=randoms)).double()


def log_prob(unit: Unit, field: Tensor, state: Tensor) -> Tensor:
    """log p(state | field) by the definition of an exponential family."""
    return (field * unit.statistic(state)).sum(-1) + unit.log_base(state) - unit.log_partition(field)


def log_probs(model: RBM) -> tuple[Tensor, Tensor]:
    """All states x of the visible layer, with log p(x) times the measure of each."""
    x, log_measure = grid(model.visible)
    unnormalised = log_measure - model.free_energy(x)
    return x, unnormalised - unnormalised.logsumexp(0)


@torch.no_grad()
def exact_draws(model: RBM, num: int, randoms: torch.Generator) -> Tensor:
    """Independent exact draws of x: from all its states, or from those of h and then x given h, or from the joint Gaussian."""
    if model.visible.num_states is not None:
        x, log_p = log_probs(model)
        return x[torch.multinomial(log_p.exp(), num, replacement=True, generator=randoms)]
    if model.hidden.num_states is not None:
        h = exact_draws(flipped(model), num, randoms)
        field = model.visible_bias + model.hidden.statistic(h) @ model.weight.T
        return model.visible.draw(field, model.visible.noise(num, field, randoms))
    x, h = deviation(model.visible), deviation(model.hidden)
    coupling = model.weight / x[:, None] ** 2 / h**2
    precision = torch.cat(
        [torch.cat([torch.diag(x**-2), -coupling], 1), torch.cat([-coupling.T, torch.diag(h**-2)], 1)]
    )
    mean = torch.linalg.solve(precision, torch.cat([model.visible_bias / x**2, model.hidden_bias / h**2]))
    standard = torch.randn(num, len(mean), generator=randoms, dtype=torch.float64)
    return (mean + standard @ torch.linalg.cholesky(torch.linalg.inv(precision)).T)[:, : len(x)]


class Scripted:
    """Conditionals whose noise is the outcome itself, and which add up the log-probability of what they are told to draw.

    With all outcomes as rows, one deterministic update gives the exact transition probabilities of the real code.
    """

    def __init__(self, layers):
        self.blocks = layers.blocks
        self.log_prob: Tensor = torch.zeros(())
        self._layers = layers

    def noise(self, layer: int, num: int, generator: torch.Generator | None) -> Tensor:
        raise NotImplementedError

    def draw(self, layer: int, state: Tensors, noise: Tensor) -> Tensor:
        field = self._layers.field(layer, state)
        self.log_prob = self.log_prob + log_prob(self._layers.units[layer], field, noise)
        return noise


@torch.no_grad()
def sweep_matrix(layers, clamp: Clamp) -> tuple[Tensors, Tensor]:
    """All joint states of discrete layers, and the exact transition matrix of one sweep between them."""
    scripted: Conditionals = Scripted(layers)
    spaces = [grid(unit)[0] for unit in layers.units]
    states = combinations(*spaces)
    free = [i for i in range(len(spaces)) if clamp.get(i) is not True]
    outcomes = combinations(*[spaces[i] for i in free])
    start, end = (index.flatten() for index in torch.meshgrid(*map(_range, (states, outcomes)), indexing="ij"))
    noise = {i: outcome[end] for i, outcome in zip(free, outcomes, strict=True)}
    after = update(scripted, tuple(s[start] for s in states), noise, clamp)
    matrix = torch.zeros(len(states[0]), len(states[0]), dtype=torch.float64)
    matrix.index_put_((start, number(after, states)), scripted.log_prob.exp(), accumulate=True)
    return states, matrix


def _range(states: Tensors) -> Tensor:
    return torch.arange(len(states[0]))


def number(state: Sequence[Tensor], among: Sequence[Tensor]) -> Tensor:
    """The index of every row of `state` in the list `among` of all discrete states."""
    listed, found = (torch.cat(list(layers), 1).double() for layers in (among, state))
    powers = (listed.max() + 1) ** torch.arange(listed.shape[1], dtype=torch.float64)
    codes, wanted = listed @ powers, found @ powers
    ordered, order = codes.sort()
    return order[torch.searchsorted(ordered, wanted)]


def chi_square(index: Tensor, probabilities: Tensor) -> float:
    """p-value of the hypothesis that the numbers in `index` are draws from `probabilities`; rare ones share a cell."""
    counts = torch.bincount(index, minlength=len(probabilities)).double()
    expected = probabilities / probabilities.sum() * len(index)
    rare = expected < 10
    assert not bool((counts[expected == 0] > 0).any())
    observed, predicted = (torch.cat([t[~rare], t[rare].sum()[None]]) for t in (counts, expected))
    keep = predicted > 0
    return float(chisquare(observed[keep].cpu().numpy(), predicted[keep].cpu().numpy()).pvalue)


def accepted(p_value: float) -> bool:
    """Whether a test does not reject, at a false-alarm rate of 1e-5."""
    return p_value > _FALSE_ALARM


def rejected(p_value: float) -> bool:
    """Whether a negative control is caught beyond doubt."""
    return p_value < 1e-12


def z_scores(draws: Tensor, expected: Tensor | float) -> Tensor:
    """How many standard errors the mean over the leading axis lies from what is expected."""
    return (draws.mean(0) - expected) / (draws.std(0) / math.sqrt(len(draws)))
