"""A stack of auto-encoders under a top auto-encoder that sees a label too: what supervised target propagation trains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from genmodels.errors import BadInput
from genmodels.interface import Configured, check_width
from genmodels.invertible import InvertibleAffine
from genmodels.units import Unit, unit_from_config

_KINDS = ("tanh", "sign")
_LARGEST = 1 - 1e-5
"""Of the tanh values that are inverted."""


class Reconstruction(NamedTuple):
    """What the top auto-encoder makes of its inputs."""

    h: Float[Tensor, "n d"]
    """g_L^h: the reconstruction of h_{L−1}."""
    label: Float[Tensor, "n k"]
    """g_L^y: the field of the label's distribution."""


class TopAutoEncoder(nn.Module):
    """h_L = f_L(h, m y, m) = tanh(W h + b + m (U y + v)), and g_L(h_L), which gives back h and the field of y, both affine.

    With `tied`, g_L has the transposes of W and U, so that its reconstruction is the gradient of a function (Vincent, 2011).
    With `linear`, f_L is affine too.
    """

    def __init__(
        self, size: int, label: int, within: int, *, tied: bool, linear: bool, generator: torch.Generator | None
    ):
        super().__init__()
        self._linear = linear
        self.up = _affine(size, within, generator)
        self.up_label = _affine(label, within, generator)
        self.down = None if tied else _affine(within, size, generator)
        self.down_label = None if tied else _affine(within, label, generator)
        if tied:
            self.offset, self.label_offset = nn.Parameter(torch.zeros(size)), nn.Parameter(torch.zeros(label))

    def code(self, h: Float[Tensor, "n d"], y: Float[Tensor, "n k"], m: Float[Tensor, "n 1"]) -> Float[Tensor, "n w"]:
        """h_L."""
        field = self.up(h) + m * self.up_label(y)
        return field if self._linear else torch.tanh(field)

    def forward(self, h: Float[Tensor, "n d"], y: Float[Tensor, "n k"], m: Float[Tensor, "n 1"]) -> Reconstruction:
        code = self.code(h, y, m)
        if self.down is None or self.down_label is None:
            return Reconstruction(
                nn.functional.linear(code, self.up.weight.T, self.offset),
                nn.functional.linear(code, self.up_label.weight.T, self.label_offset),
            )
        return Reconstruction(self.down(code), self.down_label(code))


class LabelledStack(nn.Module, Configured):
    """A classifier of layers h_0 = x ... h_{L−1} under an auto-encoder of h_{L−1} and its label (Bengio, 2014, section 3.1).

    Encoders h_l = f_l(h_{l−1}) and decoders g_l are affine maps and the layers' units: all of one `kind`, tanh units or signs
    in {−1, 1}, which have no useful derivative. g_l gives tanh values for either; g_1 gives real ones. f_1 sees x less
    `centre`, the data's mean once `initialise_from_data` has set it. Layer numbers are those of h_l: `up(l, h)` is
    the field of f_l at h = h_{l−1}, `down(l, h)` is g_l at h = h_l. With `maps` "triangular" or "orthogonal" all tanh layers
    are of one size, the affine maps between them are of that kind, and g_l, l > 1, is the inverse of f_l itself. Rows are
    n × (d + k + 1): x, the label, the mask m.

    >>> from genmodels import Categorical
    >>> model = LabelledStack(6, [5, 4], 3, Categorical(1, 2))
    >>> model.predict(torch.zeros(7, 6)).shape
    torch.Size([7, 2])
    """

    def __init__(
        self,
        inputs: int,
        hidden: Sequence[int],
        within: int,
        label: Unit,
        *,
        kind: str = "tanh",
        maps: str = "affine",
        tied: bool = True,
        linear_top: bool = False,
        generator: torch.Generator | None = None,
    ):
        super().__init__()
        if not hidden or min(hidden) < 1:
            raise BadInput(f"A stack under a label needs hidden layers of at least one unit each, not {tuple(hidden)}.")
        if kind not in _KINDS:
            raise BadInput(f"There are no hidden units {kind!r} under a label: choose one of {', '.join(_KINDS)}.")
        self.invertible = maps != "affine"
        """Whether g_l, l > 1, is the inverse of f_l, and has no parameters."""
        if self.invertible and (kind != "tanh" or len(set(hidden)) > 1):
            raise BadInput(f"Only tanh layers of one size have inverses, not {kind} ones of {tuple(hidden)} units.")
        self.label, self.kind = label, kind
        self._config = {"within": within, "maps": maps, "tied": tied, "linear_top": linear_top}
        sizes = [inputs, *hidden]
        pairs = list(pairwise(sizes))
        lowest = _affine(*pairs[0], generator)
        if self.invertible:
            above = [InvertibleAffine(size, maps, generator=generator) for size in hidden[1:]]
            self.encoders = nn.ModuleList([lowest, *above])
            self.decoders = nn.ModuleList([_affine(hidden[0], inputs, generator)])
        else:
            self.encoders = nn.ModuleList([lowest, *(_affine(*pair, generator) for pair in pairs[1:])])
            self.decoders = nn.ModuleList(_affine(above, below, generator) for below, above in pairs)
        self.top = TopAutoEncoder(hidden[-1], label.size, within, tied=tied, linear=linear_top, generator=generator)
        self.register_buffer("centre", torch.zeros(inputs))
        self.centre: Tensor

    @property
    def num_hidden(self) -> int:
        """L − 1."""
        return len(self.encoders)

    def split(
        self, rows: Float[Tensor, "n r"]
    ) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n k"], Float[Tensor, "n 1"]]:
        """x, y and the mask m of rows, m = 1 where there is a label."""
        check_width(rows, len(self.centre) + self.label.size + 1, "rows of x, label and mask")
        x, y, m = rows.split([len(self.centre), self.label.size, 1], 1)
        return x, y, m

    def up(self, layer: int, below: Float[Tensor, "n d"]) -> Float[Tensor, "n e"]:
        """The field of h_layer."""
        return self.encoders[layer - 1](below - self.centre if layer == 1 else below)

    def state(self, field: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        """h from its field: tanh, or the sign (1 at 0)."""
        return torch.tanh(field) if self.kind == "tanh" else torch.where(field >= 0, 1.0, -1.0).to(field.dtype)

    def down(self, layer: int, above: Float[Tensor, "n d"]) -> Float[Tensor, "n e"]:
        """g_layer: a reconstruction of h_{layer−1}."""
        encoder = self.encoders[layer - 1]
        if isinstance(encoder, InvertibleAffine):
            return encoder.inverse(torch.atanh(above.clamp(-_LARGEST, _LARGEST)))
        field = self.decoders[layer - 1](above)
        return field if layer == 1 else torch.tanh(field)

    def infer_label(self, h: Float[Tensor, "n d"]) -> Float[Tensor, "n k"]:
        """The field of P(y | h_{L−1}): what the top auto-encoder says of a label that is missing."""
        return self.top(h, h.new_zeros(len(h), self.label.size), h.new_zeros(len(h), 1)).label

    @torch.no_grad()
    def predict(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n k"]:
        """The field of P(y | x) by Algorithm 4 of Bengio (2014); for classes its largest entry is the class."""
        h = x
        for layer in range(1, self.num_hidden + 1):
            h = self.state(self.up(layer, h))
        return self.infer_label(h)

    @torch.no_grad()
    def initialise_from_data(self, x: Float[Tensor, "n d"]) -> None:
        """Centre the lowest encoder at the mean of `x`, and start the lowest decoder there."""
        self.centre.copy_(x.mean(0))
        self.decoders[0].bias.copy_(self.centre)  # pyright: ignore

    def config(self) -> dict[str, Any]:
        return {
            "inputs": len(self.centre),
            "hidden": [encoder.out_features for encoder in self.encoders],
            "label": self.label.config(),
            "kind": self.kind,
            **self._config,
        }

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> LabelledStack:
        return cls(**{**config, "label": unit_from_config(config["label"])})


def _affine(inputs: int, outputs: int, generator: torch.Generator | None) -> nn.Linear:
    linear = nn.Linear(inputs, outputs)
    nn.init.xavier_uniform_(linear.weight, generator=generator)
    nn.init.zeros_(linear.bias)
    return linear
