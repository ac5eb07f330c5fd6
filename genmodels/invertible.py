"""Square affine maps that are inverted exactly."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from genmodels.errors import BadInput

KINDS = ("triangular", "orthogonal")


class InvertibleAffine(nn.Module):
    """y = W x + b with square W that has an inverse whatever its parameters are (Bengio, 2014, section 6).

    "triangular": W = L Lᵀ, L lower triangular with positive diagonal, inverted by two substitutions; "orthogonal":
    W = exp(A − Aᵀ), inverted by Wᵀ.

    >>> layer, x = InvertibleAffine(3, "orthogonal"), torch.ones(2, 3)
    >>> torch.allclose(layer.inverse(layer(x)), x, atol=1e-5)
    True
    """

    def __init__(self, size: int, kind: str, *, generator: torch.Generator | None = None):
        super().__init__()
        if kind not in KINDS:
            raise BadInput(f"There is no invertible map {kind!r}: choose one of {', '.join(KINDS)}.")
        self.in_features = self.out_features = size
        self._kind = kind
        self.free = nn.Parameter(torch.randn(size, size, generator=generator) / (2 * size) ** 0.5)
        self.bias = nn.Parameter(torch.zeros(size))
        if kind == "triangular":
            nn.init.zeros_(self.free.data.diagonal())

    @property
    def _lower(self) -> Float[Tensor, "d d"]:
        return self.free.tril(-1) + torch.diag(self.free.diagonal().exp())

    @property
    def weight(self) -> Float[Tensor, "d d"]:
        """W."""
        if self._kind == "orthogonal":
            return torch.linalg.matrix_exp(self.free - self.free.T)
        return self._lower @ self._lower.T

    def forward(self, x: Float[Tensor, "*n d"]) -> Float[Tensor, "*n d"]:
        return nn.functional.linear(x, self.weight, self.bias)

    def inverse(self, y: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        """W⁻¹ (y − b)."""
        if self._kind == "orthogonal":
            return (y - self.bias) @ self.weight
        return torch.cholesky_solve((y - self.bias).T, self._lower).T
