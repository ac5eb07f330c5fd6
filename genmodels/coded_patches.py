"""Stacks of sparse codes over images: codes of patches, rectified and pooled, are the image of the next layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import max_pool2d, unfold

from genmodels.errors import BadInput
from genmodels.interface import check_width

_ROWS = 500  # images whose patches are held at once


@runtime_checkable
class Coder(Protocol):
    """What turns examples into codes: a PSD by its encoder, a SparseCoding exactly, a QuantisedEncoder in small integers."""

    def transform(self, x: Tensor) -> Tensor:
        """Codes (n, k) of examples (n, d)."""
        ...


def patches(
    x: Float[Tensor, "n d"], shape: tuple[int, int, int], *, side: int, stride: int = 1
) -> Float[Tensor, "n_places size"]:
    """All patches of `side` × `side` pixels, every `stride` pixels, of images with channels × height × width numbers."""
    channels, height, width = shape
    check_width(x, channels * height * width)
    columns = unfold(x.reshape(-1, *shape), side, stride=stride)
    return columns.transpose(1, 2).reshape(-1, columns.shape[1])


class CodedPatches:
    """Codes of the patches of an image, positive and negative parts apart, and the largest of each in every pool.

    The layer of Kavukcuoglu, Ranzato, Fergus and LeCun (2009), with one part for each sign instead of the absolute value.
    An image is a row of channels × height × width numbers (`shape`), and its patches are those of `patches`; what does not
    fill a patch or a pool of `pool` × `pool` places is left out.
    """

    def __init__(self, coder: Coder, shape: tuple[int, int, int], *, side: int, stride: int = 1, pool: int = 1):
        if min(side, stride, pool) < 1:
            raise BadInput(f"Sides, strides and pools are at least 1, not {side}, {stride} and {pool}.")
        places = tuple((length - side) // stride + 1 for length in shape[1:])
        if min(places) < pool:
            raise BadInput(
                f"Patches of {side} pixels every {stride} do not fill a pool of {pool} in {shape}: lower them."
            )
        self.coder, self.shape, self.places = coder, shape, places
        self.side, self.stride, self.pool = side, stride, pool

    def transform(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n e"]:
        """Pooled codes, (2 k) × height × width of them, non-negative: an image for the next layer, and features."""
        return torch.cat([self._pooled(rows) for rows in x.split(_ROWS)])

    def pooled_shape(self, codes: int) -> tuple[int, int, int]:
        """Channels, height and width of what comes out, for a coder of that many codes."""
        return (2 * codes, self.places[0] // self.pool, self.places[1] // self.pool)

    def _pooled(self, x: Tensor) -> Tensor:
        code = self.coder.transform(patches(x, self.shape, side=self.side, stride=self.stride))
        parts = torch.cat([code.clamp_min(0), (-code).clamp_min(0)], 1)
        maps = parts.reshape(len(x), *self.places, -1).permute(0, 3, 1, 2)
        return max_pool2d(maps, self.pool).flatten(1)


class CodeStack:
    """Layers of `CodedPatches`, each on what the one below makes of an image."""

    def __init__(self, layers: Sequence[CodedPatches]):
        if not layers:
            raise BadInput("A stack needs at least one layer.")
        self.layers = tuple(layers)

    def transform(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n e"]:
        """The top layer's features."""
        for layer in self.layers:
            x = layer.transform(x)
        return x
