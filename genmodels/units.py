"""Unit types: layers of independent sites as exponential families.

A layer with field η (its natural parameter) has the density

    p(s) ∝ exp(η · t(s) + log_base(s)),

with the coupling statistic t and the reference measure exp(log_base). All unit types below are such families, so energies,
conditionals, free energies and annealing paths are written once, for every pair of them (the exponential-family
harmonium of Welling, Rosen-Zvi and Hinton, 2004).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Bernoulli as BernoulliDistribution
from torch.distributions import (
    Distribution,
    Independent,
    Normal,
    OneHotCategorical,
    ReshapeTransform,
    TransformedDistribution,
)
from torch.nn.functional import softplus

from genmodels.errors import BadInput
from samplers.fused import uniform


class Unit(nn.Module, ABC):
    """A layer of independent sites with a field each."""

    def __init__(self, size: int):
        super().__init__()
        if size < 1:
            raise BadInput(f"A layer needs at least one unit, not {size}.")
        self.size = size

    @property
    @abstractmethod
    def num_states(self) -> int | None:
        """Number of joint states of the layer; None where the support is continuous."""

    @property
    @abstractmethod
    def num_draws(self) -> int:
        """Noise numbers that one joint draw of the layer consumes."""

    @abstractmethod
    def log_partition(self, field: Float[Tensor, "*n d"]) -> Float[Tensor, "*n"]:
        """log Σ_s exp(field · t(s) + log_base(s)), summed over the sites, in nats; exact."""

    @abstractmethod
    def mean(self, field: Float[Tensor, "*n d"]) -> Float[Tensor, "*n d"]:
        """Expected state of each site given its field."""

    @abstractmethod
    def noise(self, num: int, like: Tensor, generator: torch.Generator | None) -> Tensor:
        """The random numbers that `draw` turns into `num` joint states, of the dtype and device of `like`."""

    @abstractmethod
    def draw(self, field: Float[Tensor, "n d"], noise: Tensor) -> Float[Tensor, "n d"]:
        """An exact draw of every site: a deterministic function of field and noise."""

    @abstractmethod
    def distribution(self, field: Float[Tensor, "*n d"]) -> Distribution:
        """The layer given its field, as a torch distribution with event shape (d,)."""

    @abstractmethod
    def bias_from_data(self, x: Float[Tensor, "n d"]) -> Float[Tensor, " d"]:
        """The field at which the sites alone, uncoupled, have the mean of the data (slightly smoothed where bounded)."""

    @abstractmethod
    def check(self, x: Tensor) -> None:
        """Raise `BadInput`, naming the first row and column, where `x` leaves the support."""

    @abstractmethod
    def config(self) -> dict[str, object]:
        """The arguments that build this layer again."""

    def statistic(self, state: Float[Tensor, "*n d"]) -> Float[Tensor, "*n d"]:
        """t(s), what the layer's neighbours and its bias couple to."""
        return state

    def log_base(self, state: Float[Tensor, "*n d"]) -> Float[Tensor, "*n"]:
        """Log of the reference measure, summed over the sites, in nats."""
        return state.new_zeros(state.shape[:-1])

    def log_prob(self, field: Float[Tensor, "*n d"], state: Float[Tensor, "*n d"]) -> Float[Tensor, "*n"]:
        """log p(s | field), summed over the sites, in nats; exact."""
        return (field * self.statistic(state)).sum(-1) + self.log_base(state) - self.log_partition(field)

    def states(self, index: Tensor) -> Float[Tensor, "n d"]:
        """The joint states with the given numbers, 0 ≤ index < num_states."""
        raise BadInput(f"{type(self).__name__} units are continuous: their states cannot be enumerated.")


class Bernoulli(Unit):
    """Binary sites in {0, 1}: t(s) = s, counting measure; the field is the logit."""

    @property
    def num_states(self) -> int:
        return 2**self.size

    @property
    def num_draws(self) -> int:
        return self.size

    def log_partition(self, field):
        return softplus(field).sum(-1)

    def mean(self, field):
        return torch.sigmoid(field)

    def noise(self, num, like, generator):
        return uniform(num, self.size, dtype=like.dtype, device=like.device, generator=generator)

    def draw(self, field, noise):
        mean = torch.sigmoid(field)
        return torch.lt(noise, mean, out=mean)

    def distribution(self, field):
        return Independent(BernoulliDistribution(logits=field), 1)

    def bias_from_data(self, x):
        mean = (x.sum(0) + 0.5) / (len(x) + 1)
        return torch.log(mean) - torch.log1p(-mean)

    def check(self, x):
        _refuse(x, (x != 0) & (x != 1), "outside {0, 1}, the support of Bernoulli units; make the data binary")

    def states(self, index):
        shifts = torch.arange(self.size, device=index.device)
        return ((index[:, None] >> shifts) & 1).to(torch.get_default_dtype())

    def config(self):
        return {"type": "Bernoulli", "size": self.size}


class Gaussian(Unit):
    """Real sites with log_base(s) = −s²/(2σ²) and t(s) = s/σ²: given its field η a site is N(η, σ²).

    The parametrisation of Cho, Ilin and Raiko (2011, eq. 3), without the constant bias²/(2σ²): the weights have the unit
    of the data and the conditional mean is bias + W h. σ² = exp(log_variance) is learned, one a site.
    """

    def __init__(self, size: int, *, variance: float = 1.0):
        super().__init__(size)
        if not variance > 0:
            raise BadInput(f"The variance of Gaussian units must be positive, not {variance}.")
        self.log_variance = nn.Parameter(torch.full((size,), math.log(variance)))
        self._initial_variance = variance

    @property
    def num_states(self) -> None:
        return None

    @property
    def num_draws(self) -> int:
        return self.size

    def statistic(self, state):
        return state * torch.exp(-self.log_variance)

    def log_base(self, state):
        return -0.5 * (state.square() * torch.exp(-self.log_variance)).sum(-1)

    def log_partition(self, field):
        normaliser = 0.5 * (math.log(2 * math.pi) + self.log_variance).sum()
        return 0.5 * (field.square() * torch.exp(-self.log_variance)).sum(-1) + normaliser

    def log_prob(self, field, state):
        # The square of the difference, where the difference of squares would lose all digits at small variances.
        normaliser = 0.5 * (math.log(2 * math.pi) + self.log_variance).sum()
        return -0.5 * ((state - field).square() * torch.exp(-self.log_variance)).sum(-1) - normaliser

    def mean(self, field):
        return field

    def noise(self, num, like, generator):
        return torch.randn(num, self.size, generator=generator, dtype=like.dtype, device=like.device)

    def draw(self, field, noise):
        return field + torch.exp(0.5 * self.log_variance) * noise

    def distribution(self, field):
        return Independent(Normal(field, torch.exp(0.5 * self.log_variance).expand_as(field)), 1)

    def bias_from_data(self, x):
        return x.mean(0)

    def check(self, x):
        _refuse(x, ~torch.isfinite(x), "not a finite number; remove or fill such entries")

    def config(self):
        return {"type": "Gaussian", "size": self.size, "variance": self._initial_variance}


class FlatOneHot(TransformedDistribution):
    """Independent one-hot groups with the given logits, (..., groups, levels), as one flat event."""

    def __init__(self, logits: Float[Tensor, "*n g k"]):
        groups, levels = logits.shape[-2:]
        flatten = ReshapeTransform(torch.Size((groups, levels)), torch.Size((groups * levels,)))
        super().__init__(Independent(OneHotCategorical(logits=logits), 1), flatten)

    @property
    def mean(self) -> Tensor:
        return self.base_dist.mean.flatten(-2)

    def entropy(self) -> Tensor:
        return self.base_dist.entropy()


class Categorical(Unit):
    """`groups` one-hot sites of `levels` levels each (Potts units), laid out flat: size = groups · levels."""

    def __init__(self, groups: int, levels: int):
        if levels < 2:
            raise BadInput(f"Categorical units need at least two levels, not {levels}.")
        super().__init__(groups * levels)
        self.groups, self.levels = groups, levels

    def _grouped(self, flat: Tensor) -> Tensor:
        return flat.unflatten(-1, (self.groups, self.levels))

    @property
    def num_states(self) -> int:
        return self.levels**self.groups

    @property
    def num_draws(self) -> int:
        return self.groups

    def log_partition(self, field):
        return torch.logsumexp(self._grouped(field), -1).sum(-1)

    def mean(self, field):
        return torch.softmax(self._grouped(field), -1).flatten(-2)

    def noise(self, num, like, generator):
        return torch.rand(num, self.groups, generator=generator, dtype=like.dtype, device=like.device)

    def draw(self, field, noise):
        # Inverse CDF: one uniform number a group. Rounding may leave the last sum below 1, hence only levels − 1 sums.
        cdf = torch.softmax(self._grouped(field), -1).cumsum(-1)[..., :-1]
        level = (noise[..., None] >= cdf).sum(-1)
        return nn.functional.one_hot(level, self.levels).flatten(-2).to(field.dtype)

    def distribution(self, field):
        return FlatOneHot(self._grouped(field))

    def bias_from_data(self, x):
        counts = self._grouped(x).sum(0) + 1 / self.levels
        return torch.log(counts / counts.sum(-1, keepdim=True)).flatten()

    def check(self, x):
        _refuse(x, (x != 0) & (x != 1), "outside {0, 1}; one-hot encode the data")
        bad = (self._grouped(x).sum(-1) != 1).repeat_interleave(self.levels, -1)
        _refuse(x, bad, f"in a group of {self.levels} columns that is not one-hot; encode one level per group")

    def states(self, index):
        powers = self.levels ** torch.arange(self.groups, device=index.device)
        level = (index[:, None] // powers) % self.levels
        return nn.functional.one_hot(level, self.levels).flatten(-2).to(torch.get_default_dtype())

    def config(self):
        return {"type": "Categorical", "groups": self.groups, "levels": self.levels}


def unit_from_config(config: dict) -> Unit:
    """Build the layer that `Unit.config` describes."""
    kinds = {"Bernoulli": Bernoulli, "Gaussian": Gaussian, "Categorical": Categorical}
    arguments = dict(config)
    kind = arguments.pop("type", None)
    if kind not in kinds:
        raise BadInput(f"Unknown unit type {kind!r}; known are {', '.join(kinds)}.")
    return kinds[kind](**arguments)


def _refuse(x: Tensor, bad: Tensor, why: str) -> None:
    if bool(bad.any()):
        row, column = (int(i) for i in bad.nonzero()[0])
        raise BadInput(f"Row {row}, column {column} holds {float(x[row, column]):g}, {why} (counted from 0).")
