"""Feed-forward approximations of the most probable code."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from genmodels.errors import BadInput
from genmodels.lasso import Lasso


class CodeEncoder(nn.Module, ABC):
    """A network from examples (n, d), less their mean, to codes (n, k)."""

    @abstractmethod
    def config(self) -> dict[str, Any]:
        """The arguments that build this encoder again."""

    @abstractmethod
    def start_from(self, dictionary: Float[Tensor, "d k"], variance: Float[Tensor, " d"], scale: Float[Tensor, " k"]):
        """Set the weights by a linear model's: atoms, noise variances and the scales of its prior."""


class GainTanh(CodeEncoder):
    """f(x) = g · tanh(W x + c), with a gain for every code (Kavukcuoglu, Ranzato and LeCun, 2008, eq. 3)."""

    def __init__(self, size: int, codes: int, *, generator: torch.Generator | None = None):
        super().__init__()
        self.filters = nn.Parameter(torch.randn(size, codes, generator=generator) / math.sqrt(size))
        self.bias = nn.Parameter(torch.zeros(codes))
        self.gain = nn.Parameter(torch.ones(codes))

    def forward(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n k"]:
        return self.gain * torch.tanh(x @ self.filters + self.bias)

    @torch.no_grad()
    def start_from(self, dictionary, variance, scale):
        self.filters.copy_(dictionary / dictionary.norm(dim=0))

    def config(self):
        return {"type": "GainTanh", "size": self.filters.shape[0], "codes": self.filters.shape[1]}


class Lista(CodeEncoder):
    """Learned ISTA: z_t = shrink(x W_t + z_{t−1} S_t, θ_t), z_0 = 0 (Gregor and LeCun, 2010, section 3).

    With one layer it is the soft threshold of a linear map. All layers share W, S and θ if `tied`. Codes are non-negative
    where `non_negative`.
    """

    def __init__(
        self,
        size: int,
        codes: int,
        *,
        layers: int = 1,
        tied: bool = True,
        non_negative: bool = False,
        generator: torch.Generator | None = None,
    ):
        super().__init__()
        if layers < 1:
            raise BadInput(f"LISTA needs at least one layer, not {layers}.")
        self.layers, self.tied, self.non_negative = layers, tied, non_negative
        num = 1 if tied else layers
        self.filters = nn.Parameter(torch.randn(num, size, codes, generator=generator) / math.sqrt(size))
        # The first layer has no code before it.
        self.lateral = nn.Parameter(torch.zeros(min(num, layers - 1) if tied else layers - 1, codes, codes))
        self.log_threshold = nn.Parameter(torch.full((num, codes), math.log(0.5)))

    def forward(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n k"]:
        return self.trajectory(x)[-1]

    def trajectory(self, x: Float[Tensor, "n d"]) -> list[Float[Tensor, "n k"]]:
        """The code after every layer."""
        codes: list[Tensor] = []
        for layer in range(self.layers):
            at = 0 if self.tied else layer
            drive = x @ self.filters[at]
            if codes:
                drive = drive + codes[-1] @ self.lateral[0 if self.tied else layer - 1]
            threshold = self.log_threshold[at].exp()
            shrunk = drive - threshold
            codes.append(shrunk.clamp_min(0) if self.non_negative else drive - drive.clamp(-threshold, threshold))
        return codes

    @torch.no_grad()
    def start_from(self, dictionary, variance, scale):
        """The weights of ISTA: every layer is one of its steps."""
        problem = Lasso(torch.zeros_like(dictionary.T), dictionary / variance.sqrt()[:, None], 1 / scale)
        step_size = 1 / torch.linalg.matrix_norm(problem.gram, 2)
        self.filters.copy_(step_size * dictionary / variance[:, None])
        self.lateral.copy_(torch.eye(len(problem.gram)).to(problem.gram) - step_size * problem.gram)
        self.log_threshold.copy_((step_size / scale).log())

    def config(self):
        _, size, codes = self.filters.shape
        shape = {"layers": self.layers, "tied": self.tied, "non_negative": self.non_negative}
        return {"type": "Lista", "size": size, "codes": codes, **shape}


def encoder_from_config(config: Mapping[str, Any]) -> CodeEncoder:
    """Build the encoder that `CodeEncoder.config` describes."""
    kinds: dict[str, type[CodeEncoder]] = {"GainTanh": GainTanh, "Lista": Lista}
    arguments = dict(config)
    name = arguments.pop("type", None)
    if name not in kinds:
        raise BadInput(f"Unknown encoder {name!r}; known are {', '.join(kinds)}.")
    return kinds[name](**arguments)
