"""A recurrent network and the recurrent network that runs it backwards: what target propagation through time trains."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from genmodels.errors import BadInput
from genmodels.interface import Configured
from genmodels.units import Unit, unit_from_config


class Back(NamedTuple):
    """What the backward network makes of s_t."""

    state: Float[Tensor, "*n d"]
    """Of s_{t−1}."""
    inputs: Float[Tensor, "*n i"]
    """Of x_t."""


class RecurrentNet(nn.Module, Configured):
    """s_t = f(s_{t−1}, x_t) = tanh(W s_{t−1} + U x_t + b), s_0 = 0, a label from s_T, and g(s_t) that gives (s_{t−1}, x_t) back.

    After Bengio (2014, section 5). g has no inputs: from any s_t it runs backwards by itself. The state that it gives is
    tanh(A s_t + a), the inputs that it gives are affine. W and A start as one orthogonal matrix and its transpose. Rows are
    n × (T i + k): x_1 ... x_T one after the other, and the label; T may differ from call to call.

    >>> from genmodels import Categorical
    >>> model = RecurrentNet(3, 5, Categorical(1, 4))
    >>> model.predict(torch.zeros(7, 6 * 3)).shape
    torch.Size([7, 4])
    """

    def __init__(self, inputs: int, size: int, label: Unit, *, generator: torch.Generator | None = None):
        super().__init__()
        if min(inputs, size) < 1:
            raise BadInput(f"A recurrent network needs at least one input and one unit, not {inputs} and {size}.")
        self.label, self.inputs, self.size = label, inputs, size
        self.recurrent, self.input = nn.Linear(size, size), nn.Linear(inputs, size, bias=False)
        self.back_state, self.back_input = nn.Linear(size, size), nn.Linear(size, inputs)
        self.readout = nn.Linear(size, label.size)
        for linear in (self.input, self.back_input, self.readout):
            nn.init.xavier_uniform_(linear.weight, generator=generator)
        nn.init.orthogonal_(self.recurrent.weight, generator=generator)
        with torch.no_grad():
            self.back_state.weight.copy_(self.recurrent.weight.T)
        for linear in (self.recurrent, self.back_state, self.back_input, self.readout):
            nn.init.zeros_(linear.bias)

    def split(self, rows: Float[Tensor, "n r"]) -> tuple[Float[Tensor, "t n i"], Float[Tensor, "n k"]]:
        """x_1 ... x_T, time first, and the label of rows."""
        x, y = rows[:, : rows.shape[1] - self.label.size], rows[:, rows.shape[1] - self.label.size :]
        return self.in_time(x), y

    def in_time(self, x: Float[Tensor, "n r"]) -> Float[Tensor, "t n i"]:
        """x_1 ... x_T, time first, of rows without labels."""
        if x.shape[1] < self.inputs or x.shape[1] % self.inputs:
            raise BadInput(f"Rows of {x.shape[1]} numbers are no whole time steps of {self.inputs}: cut or fill them.")
        return x.unflatten(1, (-1, self.inputs)).transpose(0, 1)

    def step(self, state: Float[Tensor, "*n d"], x: Float[Tensor, "*n i"]) -> Float[Tensor, "*n d"]:
        """f(s_{t−1}, x_t)."""
        return torch.tanh(self.recurrent(state) + self.input(x))

    def back(self, state: Float[Tensor, "*n d"]) -> Back:
        """g(s_t)."""
        return Back(torch.tanh(self.back_state(state)), self.back_input(state))

    def run(self, x: Float[Tensor, "t n i"]) -> Float[Tensor, "t1 n d"]:
        """s_0 ... s_T."""
        states = [x.new_zeros(x.shape[1], self.size)]
        for now in x:
            states.append(self.step(states[-1], now))
        return torch.stack(states)

    @torch.no_grad()
    def predict(self, x: Float[Tensor, "n r"]) -> Float[Tensor, "n k"]:
        """The field of P(y | x_1 ... x_T)."""
        return self.readout(self.run(self.in_time(x))[-1])

    def config(self) -> dict[str, Any]:
        return {"inputs": self.inputs, "size": self.size, "label": self.label.config()}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> RecurrentNet:
        return cls(**{**config, "label": unit_from_config(config["label"])})
