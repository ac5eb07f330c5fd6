"""Predictive sparse decomposition: sparse coding with an encoder that predicts its codes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from genmodels.code_encoders import CodeEncoder, encoder_from_config
from genmodels.errors import BadInput
from genmodels.interface import Configured, MapInference, Optimum, check_width
from genmodels.lasso import TOLERANCE, solve
from genmodels.priors import ExponentialPrior, LaplacePrior
from genmodels.sparse_coding import SparseCoding


class PSD(nn.Module, MapInference, Configured):
    """E(x, z) = −log p(x, z) + (α/2) |z − f(x − b)|² (Kavukcuoglu, Ranzato and LeCun, 2008, eq. 4).

    p is the `generative` part, sparse coding with a Laplace or exponential prior and mean b; f is the `encoder`, and
    α = `closeness`. The energy has no known normaliser: likelihoods are those of the generative part.
    """

    def __init__(self, generative: SparseCoding, encoder: CodeEncoder, *, closeness: float = 1.0):
        super().__init__()
        if not isinstance(generative.factors, LaplacePrior | ExponentialPrior):
            raise BadInput("PSD needs the codes of a Laplace or an exponential prior: choose one of them.")
        if closeness < 0:
            raise BadInput(f"closeness must be at least 0, not {closeness}.")
        self.generative, self.encoder, self.closeness = generative, encoder, closeness

    def predict(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n k"]:
        """f(x − b), the encoder's code: non-negative where the prior is."""
        code = self.encoder(x - self.generative.visible_bias)
        return code.clamp_min(0) if self.generative.factors.non_negative else code

    def energy(self, x, z):
        distance = (z[0] - self.predict(x)).square().sum(-1)
        return self.generative.energy(x, z) + 0.5 * self.closeness * distance

    @torch.no_grad()
    def infer(self, x: Float[Tensor, "n d"], *, tolerance: float = TOLERANCE) -> Optimum:
        """argmin_z E(x, z), a lasso, to a gap of at most `tolerance` nats, from the encoder's code as start."""
        check_width(x, self.generative.observed.size)
        problem, predicted = self.generative.lasso(x), self.predict(x)
        solution = solve(problem.pulled(predicted.double(), self.closeness), start=predicted, tolerance=tolerance)
        code = solution.code.to(x.dtype)
        return Optimum((code,), self.energy(x, (code,)), solution.gap)

    @torch.no_grad()
    def transform(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n k"]:
        """The encoder's codes, as features; for scikit-learn's pipelines and as examples of a next layer."""
        return self.predict(x)

    @torch.no_grad()
    def initialise_from_data(self, x: Float[Tensor, "n d"]) -> None:
        """Atoms at rows of `x`, the bias at its mean, and the encoder's weights by them."""
        self.generative.initialise_from_data(x)
        generative = self.generative
        self.encoder.start_from(generative.dictionary, generative.noise_variance, generative.factors.scale)

    def config(self) -> dict[str, Any]:
        parts = {"generative": self.generative.config(), "encoder": self.encoder.config()}
        return {**parts, "closeness": self.closeness}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> PSD:
        generative = SparseCoding.from_config(config["generative"])
        return cls(generative, encoder_from_config(config["encoder"]), closeness=config["closeness"])
