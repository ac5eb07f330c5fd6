"""Deep Boltzmann machine, with any unit type in any layer."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.distributions import Distribution

from genmodels.boltzmann import LayeredBoltzmann
from genmodels.errors import BadInput
from genmodels.interface import Configured, Encoder, Latents, Posterior, check_width
from genmodels.units import Unit, unit_from_config

Fields = tuple[Tensor, ...]
CERTAIN = 40.0
"""A logit that leaves no doubt: log(1 + exp(−40)) is 4e-18 nats."""


class Factors(NamedTuple):
    """q(z) = Π_l q_l(h_l) with the given fields. Satisfies `Code`."""

    units: tuple[Unit, ...]
    fields: Fields

    @torch.no_grad()
    def draw(self, generator: torch.Generator | None) -> Latents:
        layers = zip(self.units, self.fields, strict=True)
        return tuple(unit.draw(field, unit.noise(len(field), field, generator)) for unit, field in layers)

    def log_prob(self, z: Latents) -> Float[Tensor, " n"]:
        layers = zip(self.units, self.fields, z, strict=True)
        return torch.stack([unit.log_prob(field, state) for unit, field, state in layers]).sum(0)

    def repeat(self, num: int) -> Factors:
        return Factors(self.units, tuple(field.repeat(num, 1) for field in self.fields))


class DBM(nn.Module, LayeredBoltzmann, Posterior, Encoder, Configured):
    """Deep Boltzmann machine: p(x, h_1, ..., h_L) ∝ exp(−E) with couplings between neighbouring layers only

        E = −Σ_l [b_l · t(s_l) + log_base_l(s_l)] − Σ_l t(s_l)ᵀ W_l t(s_{l+1}),    s_0 = x, s_l = h_l

    (Salakhutdinov and Hinton, 2009). With one hidden layer it is the RBM, and its posterior is exact; with more, the
    posterior is the mean field, q(z | x) = Π_l q_l(h_l), each q_l of its layer's own family.

    Parameters: `weight.l` (size of layer l, size of layer l + 1), `bias.l` (size of layer l,), and `layers.l.log_variance`
    for Gaussian layers, of which no two may be neighbours.

    >>> from genmodels import Bernoulli
    >>> model = DBM(Bernoulli(6), Bernoulli(4), Bernoulli(3))
    >>> [tuple(field.shape) for field in model.mean_field(torch.zeros(2, 6))]
    [(2, 4), (2, 3)]
    """

    def __init__(self, visible: Unit, *hiddens: Unit, generator: torch.Generator | None = None):
        super().__init__()
        if not hiddens:
            raise BadInput("A DBM needs at least one hidden layer.")
        units = (visible, *hiddens)
        if any(below.num_states is None and above.num_states is None for below, above in pairwise(units)):
            raise BadInput(
                "Two neighbouring layers of a DBM have Gaussian units: put a layer of another kind between them."
            )
        self.exact_posterior = len(hiddens) == 1
        self.layers = nn.ModuleList(units)
        sizes = [unit.size for unit in units]
        # Small enough to start near independent units (Hinton, 2010, section 8).
        self.weight = nn.ParameterList(
            0.1 / math.sqrt(below + above) * torch.randn(below, above, generator=generator)
            for below, above in pairwise(sizes)
        )
        self.bias = nn.ParameterList(torch.zeros(size) for size in sizes)

    @property
    def units(self) -> tuple[Unit, ...]:
        return tuple(self.layers)  # pyright: ignore[reportReturnType]

    @property
    def weights(self) -> tuple[Tensor, ...]:
        return tuple(self.weight)

    @property
    def biases(self) -> tuple[Tensor, ...]:
        return tuple(self.bias)

    def mean_field(
        self,
        x: Float[Tensor, "n d"],
        *,
        num_iterations: int = 100,
        tolerance: float = 1e-4,
        damping: float = 0.0,
        start: Fields | None = None,
    ) -> Fields:
        """The fields of q(z | x), one (n, size) a hidden layer: those at which the bound on log p(x) cannot be raised.

        Coordinate ascent on the bound: the even hidden layers are set to their optimum given the odd ones, then the odd
        ones, until no mean moves by more than `tolerance` or for `num_iterations`; without damping no step lowers the
        bound. `damping` keeps that fraction of the old fields. It starts at `start`, such as the fields found for the same
        rows before, or at a pass up with doubled weights, which stand for what is missing from above (Salakhutdinov and
        Hinton, 2009). Differentiable in the parameters. With one hidden layer, the exact posterior.
        """
        check_width(x, self.units[0].size)
        if not 0 <= damping < 1 or num_iterations < 0:
            raise BadInput(
                f"Mean field needs 0 ≤ damping < 1 and num_iterations ≥ 0, not {damping} and {num_iterations}."
            )
        from_x = self.units[0].statistic(x) @ self.weight[0] + self.bias[1]
        fields = list(self._pass_up(from_x) if start is None else start)
        means = [unit.mean(field) for unit, field in zip(self.units[1:], fields, strict=True)]
        if len(fields) == 1:
            return (from_x,)
        for _ in range(num_iterations):
            before = list(means)
            for i in [*range(1, len(fields), 2), *range(0, len(fields), 2)]:
                fields[i] = torch.lerp(self._hidden_field(i, from_x, means), fields[i], damping)
                means[i] = self.units[i + 1].mean(fields[i])
            if tolerance > 0 and _moved(before, means) < tolerance:
                break
        return tuple(fields)

    def fill_in(
        self,
        x: Float[Tensor, "n d"],
        held: Bool[Tensor, "*n d"],
        *,
        num_iterations: int = 100,
        tolerance: float = 1e-4,
    ) -> Fields:
        """The fields of q(missing sites, z | held sites), those of x first: the mean field of all that is not held.

        `held` marks the columns of x that are known, those of a site all or none; what x has in the others is not looked
        at. Coordinate ascent on the bound on log p(held sites) as in `mean_field`, from missing sites at their biases. A
        held site's field leaves no doubt of its value, so that `units[0].log_prob(fields[0], x)` is log q(missing sites),
        nats. Differentiable in the parameters. Bernoulli and Categorical sites. Goodfellow, Mirza, Courville and Bengio (2013).
        """
        visible = self.units[0]
        check_width(x, visible.size)
        if not visible.is_binary:
            raise BadInput("Only Bernoulli and Categorical sites can be filled in by the mean field.")
        known = CERTAIN * (2 * x - 1)
        fields = [torch.where(held, known, self.bias[0])]
        fields += self._pass_up(visible.mean(fields[0]) @ self.weight[0] + self.bias[1])
        means = [unit.mean(field) for unit, field in zip(self.units, fields, strict=True)]
        for _ in range(num_iterations):
            before, from_x = list(means), means[0] @ self.weight[0] + self.bias[1]
            for i in (*range(1, len(fields), 2), *range(0, len(fields), 2)):
                if i == 0:
                    above = self.units[1].statistic(means[1])
                    fields[0] = torch.where(held, known, above @ self.weight[0].T + self.bias[0])
                else:
                    fields[i] = self._hidden_field(i - 1, from_x, means[1:])
                means[i] = self.units[i].mean(fields[i])
            if tolerance > 0 and _moved(before, means) < tolerance:
                break
        return tuple(fields)

    def means(self, fields: Fields) -> tuple[Tensor, ...]:
        """E_q[h_l] of every hidden layer."""
        return tuple(unit.mean(field) for unit, field in zip(self.units[1:], fields, strict=True))

    def variational_free_energy(self, x: Float[Tensor, "n d"], fields: Fields | None = None) -> Float[Tensor, " n"]:
        """F_q(x) = E_q[E(x, z)] − H(q), nats per example, in closed form: an upper bound on F(x) = −log Σ_z exp(−E(x, z)).

        So −F_q(x) − log Z is the variational lower bound on log p(x), with equality where q is the posterior. `fields` are
        those of q, by default those that `mean_field` finds.
        """
        visible, *hiddens = self.units
        fields = self.mean_field(x) if fields is None else fields
        means = self.means(fields)
        below = visible.statistic(x)
        bound = below @ self.bias[0] + visible.log_base(x)
        for i, (unit, field, mean) in enumerate(zip(hiddens, fields, means, strict=True)):
            # Of E_q[−E] + H, what the layer adds to those below: A(η) + (field from below − η) · E[t].
            t = unit.statistic(mean)
            bound = (
                bound + unit.log_partition(field) + ((below @ self.weight[i] + self.bias[i + 1] - field) * t).sum(-1)
            )
            below = t
        return -bound

    def posterior(self, x: Float[Tensor, "n d"]) -> tuple[Distribution, ...]:
        """q(z | x), the mean field; exact with one hidden layer."""
        pairs = zip(self.units[1:], self.mean_field(x), strict=True)
        return tuple(unit.distribution(field) for unit, field in pairs)

    def encode(self, x: Float[Tensor, "n d"]) -> Factors:
        """q(z | x), the mean field, as a distribution to draw from."""
        return Factors(self.units[1:], self.mean_field(x))

    @torch.no_grad()
    def initialise_from_data(self, x: Float[Tensor, "n d"]) -> None:
        """Set the visible biases so that the uncoupled visible layer has the mean of `x`."""
        self.bias[0].copy_(self.units[0].bias_from_data(x))

    def config(self) -> dict[str, Any]:
        return {"layers": [unit.config() for unit in self.units]}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> DBM:
        return cls(*(unit_from_config(layer) for layer in config["layers"]))

    def _pass_up(self, from_x: Tensor) -> Fields:
        fields = []
        for i, bias in enumerate(self.biases[1:]):
            if i > 0:
                unit = self.units[i]
                from_x = unit.statistic(unit.mean(fields[-1])) @ self.weight[i] + bias
            is_top = i + 2 == len(self.units)
            fields.append(from_x if is_top else 2 * from_x - bias)
        return tuple(fields)

    def _hidden_field(self, i: int, from_x: Tensor, means: Sequence[Tensor]) -> Tensor:
        """The field of hidden layer i (from 0) given the means of its neighbours."""
        field = from_x
        if i > 0:
            field = self.units[i].statistic(means[i - 1]) @ self.weight[i] + self.bias[i + 1]
        if i + 1 < len(means):
            field = field + self.units[i + 2].statistic(means[i + 1]) @ self.weight[i + 1].T
        return field


def _moved(before: Sequence[Tensor], after: Sequence[Tensor]) -> float:
    """The largest change of a mean."""
    return max(float((a - b).detach().abs().max()) for a, b in zip(before, after, strict=True))
