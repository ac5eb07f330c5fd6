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


class StepLista(CodeEncoder):
    """ISTA with learned steps and momentum: z_t = shrink(y_t − η_t ∘ (G y_t − Wᵀx), η_t ∘ λ).

    y_t = z_{t−1} + β_t ∘ (z_{t−1} − z_{t−2}), z_0 = 0. Steps η_t and momenta β_t, one a layer and a code, are learned; W, G
    and λ are the linear model's, so that its optimum stays a fixed point of every layer: weights that depart from this
    cannot converge to the optimum (Ablin, Moreau, Massias and Gramfort, 2019, who learn one step a layer). It begins as FISTA
    without restarts (Beck and Teboulle, 2009). For a linear model that stays as `start_from` saw it.
    """

    def __init__(self, size: int, codes: int, *, layers: int = 10, non_negative: bool = False):
        super().__init__()
        if layers < 1:
            raise BadInput(f"LISTA needs at least one layer, not {layers}.")
        self.layers, self.non_negative = layers, non_negative
        self.log_step = nn.Parameter(torch.zeros(layers, codes))
        self.momentum = nn.Parameter(torch.zeros(layers, codes))
        self.register_buffer("filters", torch.zeros(size, codes))
        self.register_buffer("gram", torch.eye(codes))
        self.register_buffer("penalty", torch.ones(codes))

    def forward(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n k"]:
        return self.trajectory(x)[-1]

    def trajectory(self, x: Float[Tensor, "n d"]) -> list[Float[Tensor, "n k"]]:
        """The code after every layer."""
        pull, step = x @ self.get_buffer("filters"), self.log_step.exp()
        threshold = step * self.get_buffer("penalty")
        ahead = z = torch.zeros_like(pull)
        codes: list[Tensor] = []
        for layer in range(self.layers):
            drive = ahead - step[layer] * (ahead @ self.get_buffer("gram") - pull)
            kept = drive.clamp(None if self.non_negative else -threshold[layer], threshold[layer])
            codes.append(drive - kept)
            if layer + 1 < self.layers:
                ahead = codes[-1] + self.momentum[layer + 1] * (codes[-1] - z)
            z = codes[-1]
        return codes

    @torch.no_grad()
    def start_from(self, dictionary, variance, scale):
        """FISTA without restarts, its step the inverse of the Gram matrix's norm."""
        problem = Lasso(torch.zeros_like(dictionary.T), dictionary / variance.sqrt()[:, None], 1 / scale)
        self.get_buffer("filters").copy_(dictionary / variance[:, None])
        self.get_buffer("gram").copy_(problem.gram)
        self.get_buffer("penalty").copy_(problem.penalty)
        self.log_step.copy_(-torch.linalg.matrix_norm(problem.gram, 2).log())
        age = 1.0
        for layer in range(1, self.layers):
            older = 0.5 * (1 + math.sqrt(1 + 4 * age**2))
            self.momentum[layer] = (age - 1) / older
            age = older

    def config(self):
        size, codes = self.get_buffer("filters").shape
        return {
            "type": "StepLista",
            "size": size,
            "codes": codes,
            "layers": self.layers,
            "non_negative": self.non_negative,
        }


def encoder_from_config(config: Mapping[str, Any]) -> CodeEncoder:
    """Build the encoder that `CodeEncoder.config` describes."""
    kinds: dict[str, type[CodeEncoder]] = {"GainTanh": GainTanh, "Lista": Lista, "StepLista": StepLista}
    arguments = dict(config)
    name = arguments.pop("type", None)
    if name not in kinds:
        raise BadInput(f"Unknown encoder {name!r}; known are {', '.join(kinds)}.")
    return kinds[name](**arguments)
