"""A layer made of layers: units of several kinds next to each other, such as pixels and a label."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Distribution

from genmodels.errors import BadInput
from genmodels.unit import Unit


class JoinedDistribution(Distribution):
    """Independent distributions whose events stand next to each other."""

    def __init__(self, parts: tuple[Distribution, ...]):
        self.parts = parts
        self._sizes = [part.event_shape[0] for part in parts]
        super().__init__(parts[0].batch_shape, torch.Size([sum(self._sizes)]), validate_args=False)

    @property
    def mean(self) -> Tensor:
        return torch.cat([part.mean for part in self.parts], -1)

    @torch.no_grad()
    def sample(self, sample_shape=torch.Size()) -> Tensor:  # noqa: B008 (torch's own signature)
        return torch.cat([part.sample(sample_shape) for part in self.parts], -1)

    def log_prob(self, value: Tensor) -> Tensor:
        values = value.split(self._sizes, -1)
        return torch.stack([part.log_prob(own) for part, own in zip(self.parts, values, strict=True)]).sum(0)

    def entropy(self) -> Tensor:
        return torch.stack([part.entropy() for part in self.parts]).sum(0)


class Joined(Unit):
    """Sites of several kinds in one layer, each part as it would be alone: `Joined(Bernoulli(784), Categorical(1, 10))`.

    So a softmax label stands next to any layer, observed or hidden, and whatever is written for a layer takes it.
    """

    def __init__(self, *parts: Unit):
        if len(parts) < 2:
            raise BadInput(f"Joined takes at least two layers, not {len(parts)}.")
        super().__init__(sum(part.size for part in parts))
        self.layers = nn.ModuleList(parts)
        self.is_binary = all(part.is_binary for part in parts)

    @property
    def parts(self) -> tuple[Unit, ...]:
        """The layers, the first columns first."""
        return tuple(self.layers)  # pyright: ignore[reportReturnType]

    @property
    def sizes(self) -> list[int]:
        """Columns of each part."""
        return [part.size for part in self.parts]

    @property
    def num_states(self) -> int | None:
        counts = [part.num_states for part in self.parts]
        return None if None in counts else math.prod(count for count in counts if count is not None)

    @property
    def num_draws(self) -> int:
        return sum(part.num_draws for part in self.parts)

    def statistic(self, state):
        return self._beside("statistic", state)

    def log_base(self, state):
        return self._total("log_base", state)

    def log_partition(self, field):
        return self._total("log_partition", field)

    def log_prob(self, field, state):
        triples = zip(self.parts, field.split(self.sizes, -1), state.split(self.sizes, -1), strict=True)
        return torch.stack([part.log_prob(own, states) for part, own, states in triples]).sum(0)

    def mean(self, field):
        return self._beside("mean", field)

    def noise(self, num, like, generator):
        return torch.cat([part.noise(num, like, generator) for part in self.parts], -1)

    def draw(self, field, noise):
        noises = noise.split([part.num_draws for part in self.parts], -1)
        triples = zip(self.parts, field.split(self.sizes, -1), noises, strict=True)
        return torch.cat([part.draw(own, numbers) for part, own, numbers in triples], -1)

    def distribution(self, field) -> JoinedDistribution:
        fields = zip(self.parts, field.split(self.sizes, -1), strict=True)
        return JoinedDistribution(tuple(part.distribution(own) for part, own in fields))

    def bias_from_data(self, x):
        return self._beside("bias_from_data", x)

    def check(self, x):
        first = 0
        for part, own in zip(self.parts, x.split(self.sizes, -1), strict=True):
            try:
                part.check(own)
            except BadInput as error:
                raise BadInput(
                    f"Of columns {first} to {first + part.size - 1}, counted from {first}: {error}"
                ) from error
            first += part.size

    def states(self, index: Tensor) -> Float[Tensor, "n d"]:
        columns = []
        for part in self.parts:
            if part.num_states is None:
                return part.states(index)  # which refuses
            columns.append(part.states(index % part.num_states))
            index = index // part.num_states
        return torch.cat(columns, -1)

    def config(self):
        return {"type": "Joined", "parts": [part.config() for part in self.parts]}

    def _beside(self, method: str, values: Tensor) -> Tensor:
        own = zip(self.parts, values.split(self.sizes, -1), strict=True)
        return torch.cat([getattr(part, method)(value) for part, value in own], -1)

    def _total(self, method: str, values: Tensor) -> Tensor:
        own = zip(self.parts, values.split(self.sizes, -1), strict=True)
        return torch.stack([getattr(part, method)(value) for part, value in own]).sum(0)
