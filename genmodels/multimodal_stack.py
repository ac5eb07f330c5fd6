"""Stacks of auto-encoders, one a modality, under an auto-encoder of all their codes that may miss some."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from genmodels.errors import BadInput
from genmodels.interface import Configured, check_width
from genmodels.networks import MLP
from genmodels.units import Unit, unit_from_config


class MultimodalStack(nn.Module, Configured):
    """x = (x^(1), ..., x^(T)), each with encoders up to a code h^(t), and an auto-encoder of all codes (Bengio, 2014, section 4).

    Encoders h_l = tanh(affine(h_{l−1})) and decoders are affine; those of x^(t) end in its unit's field. The auto-encoder
    at the top, of tanh layers `within`, sees h^(t) m^(t) and m^(t), m^(t) = 0 where the modality is missing, and gives
    all codes back. Codes and modalities stand next to each other in one row.

    >>> from genmodels import Bernoulli
    >>> model = MultimodalStack([Bernoulli(5), Bernoulli(3)], hidden=[4, 2], within=[6])
    >>> h, observed = model.encode(torch.zeros(7, 8)), torch.tensor([[1.0, 0.0]]).expand(7, 2)
    >>> model.reconstruct(h, observed).shape, model.decode(h).shape
    (torch.Size([7, 4]), torch.Size([7, 8]))
    """

    def __init__(
        self,
        modalities: Sequence[Unit],
        hidden: Sequence[int],
        within: Sequence[int],
        *,
        generator: torch.Generator | None = None,
    ):
        super().__init__()
        if len(modalities) < 2 or not hidden:
            raise BadInput("Several modalities need at least two units of data, and a hidden layer each.")
        self.modalities, self._hidden, self._within = nn.ModuleList(modalities), list(hidden), list(within)
        self.sizes = [modality.size for modality in modalities]
        self.encoders = nn.ModuleList(_maps([size, *hidden], generator) for size in self.sizes)
        self.decoders = nn.ModuleList(_maps([*reversed(hidden), size], generator) for size in self.sizes)
        codes = hidden[-1] * len(modalities)
        self.top = MLP((codes + len(modalities), *within, codes), generator=generator)

    @property
    def num_modalities(self) -> int:
        """T."""
        return len(self.sizes)

    @property
    def num_hidden(self) -> int:
        """Layers h_1 ... h_{L−1} of each modality."""
        return len(self._hidden)

    def split(self, x: Float[Tensor, "n d"]) -> tuple[Tensor, ...]:
        """The modalities of rows."""
        check_width(x, sum(self.sizes), "rows of all modalities")
        return x.split(self.sizes, 1)

    def up(self, modality: int, layer: int, below: Float[Tensor, "n d"]) -> Float[Tensor, "n e"]:
        """f_layer of a modality, from 1."""
        return torch.tanh(self.encoders[modality][layer - 1](below))  # pyright: ignore[reportIndexIssue]

    def down(self, modality: int, layer: int, above: Float[Tensor, "n d"]) -> Float[Tensor, "n e"]:
        """g_layer of a modality: h_{layer−1}, or the field of x."""
        field = self.decoders[modality][self.num_hidden - layer](above)  # pyright: ignore[reportIndexIssue]
        return field if layer == 1 else torch.tanh(field)

    def encode(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n c"]:
        """The codes of all modalities."""
        codes = []
        for modality, h in enumerate(self.split(x)):
            for layer in range(1, self.num_hidden + 1):
                h = self.up(modality, layer, h)
            codes.append(h)
        return torch.cat(codes, 1)

    def reconstruct(self, h: Float[Tensor, "n c"], observed: Float[Tensor, "n t"]) -> Float[Tensor, "n c"]:
        """ĥ of all modalities from those that are observed, m^(t) = 1."""
        return self.top(torch.cat([h * self.spread(observed), observed], 1))

    def spread(self, observed: Float[Tensor, "n t"]) -> Float[Tensor, "n c"]:
        """The masks of modalities as masks of codes."""
        return observed.repeat_interleave(self._hidden[-1], 1)

    def decode(self, h: Float[Tensor, "n c"]) -> Float[Tensor, "n d"]:
        """The fields of all modalities."""
        fields = []
        for modality, code in enumerate(h.chunk(self.num_modalities, 1)):
            for layer in range(self.num_hidden, 0, -1):
                code = self.down(modality, layer, code)
            fields.append(code)
        return torch.cat(fields, 1)

    def mean(self, fields: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        """E[x] from the fields of all modalities."""
        parts = zip(self.modalities, self.split(fields), strict=True)
        return torch.cat([unit.mean(field) for unit, field in parts], 1)  # pyright: ignore[reportCallIssue]

    def config(self) -> dict[str, Any]:
        return {
            "modalities": [unit.config() for unit in self.modalities],  # pyright: ignore[reportCallIssue]
            "hidden": self._hidden,
            "within": self._within,
        }

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> MultimodalStack:
        return cls(**{**config, "modalities": [unit_from_config(unit) for unit in config["modalities"]]})


@torch.no_grad()
def complete(
    model: MultimodalStack,
    x: Float[Tensor, "n d"],
    observed: Float[Tensor, "n t"],
    *,
    num_steps: int,
    noise: float = 0.0,
    keep: int = 1,
    generator: torch.Generator | None = None,
) -> Float[Tensor, "k n c"]:
    """Codes with the missing modalities filled in, of the last `keep` steps; what x holds in their places has no effect.

    Algorithm 6 of Bengio (2014): the first step says which are missing, and gives the answer of one pass; each later one
    reconstructs the missing codes from all, the observed ones clamped. `noise`, the deviation of what is added to all
    codes before they are reconstructed, is the dial between a climb to a mode (0) and a Markov chain (section 7.5).
    """
    if not 1 <= keep <= num_steps:
        raise BadInput(f"Of {num_steps} steps at least one and at most all can be kept, not {keep}.")
    mask = model.spread(observed)
    clamped = model.encode(x) * mask
    h, seen, kept = clamped, observed, []
    for step in range(num_steps):
        corrupted = h
        if noise > 0:
            draw = torch.randn(h.shape, generator=generator, dtype=h.dtype, device=h.device)
            corrupted = h + noise * draw
        h = clamped + (1 - mask) * model.reconstruct(corrupted, seen)
        seen = torch.ones_like(observed)
        if step >= num_steps - keep:
            kept.append(h)
    return torch.stack(kept)


def _maps(sizes: Sequence[int], generator: torch.Generator | None) -> nn.ModuleList:
    return nn.ModuleList(MLP(pair, generator=generator) for pair in pairwise(sizes))
