"""Unit types: layers of independent sites as exponential families.

A layer with field η (its natural parameter) has the density

    p(s) ∝ exp(η · t(s) + log_base(s)),

with the coupling statistic t and the reference measure exp(log_base). All unit types below are such families, so energies,
conditionals, free energies and annealing paths are written once, for every pair of them (the exponential-family
harmonium of Welling, Rosen-Zvi and Hinton, 2004).
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Bernoulli as BernoulliDistribution
from torch.distributions import Binomial as BinomialDistribution
from torch.distributions import (
    Independent,
    Normal,
    OneHotCategorical,
    ReshapeTransform,
    TransformedDistribution,
)
from torch.nn.functional import softplus

from genmodels.errors import BadInput
from genmodels.joined import Joined
from genmodels.unit import Unit
from samplers.fused import uniform


class Bernoulli(Unit):
    """Binary sites in {0, 1}: t(s) = s, counting measure; the field is the logit."""

    is_binary = True

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
        if not torch.equal(x * x, x):  # faster than what says where
            _refuse(x, (x != 0) & (x != 1), "outside {0, 1}, the support of Bernoulli units; make the data binary")

    def states(self, index):
        shifts = torch.arange(self.size, device=index.device)
        return ((index[:, None] >> shifts) & 1).to(torch.get_default_dtype())

    def config(self):
        return {"type": "Bernoulli", "size": self.size}


class Binomial(Unit):
    """Sites in {0, ..., trials}: t(s) = s, log_base(s) = log C(trials, s); the field is the logit of each trial.

    The sum of `trials` binary copies of a layer that share their biases and couplings (Teh and Hinton, 2001): with two, the
    layer of the RBMs from which a DBM is stacked (Salakhutdinov and Hinton, 2009).
    """

    def __init__(self, size: int, trials: int = 2):
        if trials < 1:
            raise BadInput(f"Binomial units need at least one trial, not {trials}.")
        super().__init__(size)
        self.trials = trials

    @property
    def num_states(self) -> int:
        return (self.trials + 1) ** self.size

    @property
    def num_draws(self) -> int:
        return self.trials * self.size

    def log_base(self, state):
        ways = math.lgamma(self.trials + 1) - torch.lgamma(state + 1) - torch.lgamma(self.trials - state + 1)
        return ways.sum(-1)

    def log_partition(self, field):
        return self.trials * softplus(field).sum(-1)

    def mean(self, field):
        return self.trials * torch.sigmoid(field)

    def noise(self, num, like, generator):
        return uniform(num, self.num_draws, dtype=like.dtype, device=like.device, generator=generator)

    def draw(self, field, noise):
        mean = torch.sigmoid(field)
        trials = noise.split(self.size, -1)
        return torch.stack([trial < mean for trial in trials]).sum(0).to(field.dtype)

    def distribution(self, field):
        return Independent(BinomialDistribution(self.trials, logits=field), 1)

    def bias_from_data(self, x):
        mean = (x.sum(0) + 0.5) / (self.trials * len(x) + 1)
        return torch.log(mean) - torch.log1p(-mean)

    def check(self, x):
        bad = (x < 0) | (x > self.trials) | (x != x.round())
        _refuse(x, bad, f"none of 0 to {self.trials}, the support of Binomial units; count successes")

    def states(self, index):
        powers = (self.trials + 1) ** torch.arange(self.size, device=index.device)
        return ((index[:, None] // powers) % (self.trials + 1)).to(torch.get_default_dtype())

    def config(self):
        return {"type": "Binomial", "size": self.size, "trials": self.trials}


class Gaussian(Unit):
    """Real sites with log_base(s) = −s²/(2σ²) and t(s) = s/σ²: given its field η a site is N(η, σ²).

    The parametrisation of Cho, Ilin and Raiko (2011, eq. 3), without the constant bias²/(2σ²): the weights have the unit
    of the data and the conditional mean is bias + W h. σ² = exp(log_variance) is learned, one a site, or kept where not
    `learned`.
    """

    def __init__(self, size: int, *, variance: float = 1.0, learned: bool = True):
        super().__init__(size)
        if not variance > 0:
            raise BadInput(f"The variance of Gaussian units must be positive, not {variance}.")
        self.log_variance = nn.Parameter(torch.full((size,), math.log(variance)), requires_grad=learned)
        self._initial_variance, self._learned = variance, learned

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
        kept = {} if self._learned else {"learned": False}
        return {"type": "Gaussian", "size": self.size, "variance": self._initial_variance, **kept}


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

    is_binary = True

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
    kinds = {"Bernoulli": Bernoulli, "Binomial": Binomial, "Gaussian": Gaussian, "Categorical": Categorical}
    arguments = dict(config)
    kind = arguments.pop("type", None)
    if kind == "Joined":
        return Joined(*(unit_from_config(part) for part in arguments["parts"]))
    if kind not in kinds:
        raise BadInput(f"Unknown unit type {kind!r}; known are {', '.join(kinds)} and Joined.")
    return kinds[kind](**arguments)


def _refuse(x: Tensor, bad: Tensor, why: str) -> None:
    if bool(bad.any()):
        row, column = (int(i) for i in bad.nonzero()[0])
        raise BadInput(f"Row {row}, column {column} holds {float(x[row, column]):g}, {why} (counted from 0).")
