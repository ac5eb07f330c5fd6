"""Block Gibbs sampling over any number of layers, with clamping."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from samplers.kernel import Kernel

State = tuple[Tensor, ...]
Clamp = Mapping[int, Tensor | bool]


@runtime_checkable
class Conditionals(Protocol):
    """Layers with exact conditionals; the inverse temperature, one number or one a chain, is theirs."""

    @property
    def blocks(self) -> tuple[tuple[int, ...], ...]:
        """Layers independent given all others, in the order of a sweep."""
        ...

    def noise(self, layer: int, num: int, generator: torch.Generator | None) -> Tensor:
        """The random numbers for `num` draws of a layer."""
        ...

    def draw(self, layer: int, state: State, noise: Tensor) -> Tensor:
        """An exact draw of the layer given the others: a deterministic function of the noise."""
        ...


def gibbs(conditionals: Conditionals, *, clamp: Clamp | None = None) -> Kernel:
    """Systematic-scan block Gibbs: one step draws every block once, in the order of `blocks`.

    The target is invariant under a step. `clamp` maps a layer to True (never drawn) or to a boolean mask, shape (d,) or
    (n, d), of the sites that keep their value: the step then leaves the conditional distribution given those invariant
    (in-painting). Geman and Geman (1984).
    """
    held: Clamp = {} if clamp is None else clamp

    return Kernel(
        init=tuple,
        noise=lambda state, generator: draw_noise(conditionals, state, held, generator),
        update=lambda state, noise: (update(conditionals, state, noise, held), {}),
    )


def draw_noise(conditionals: Conditionals, state: State, clamp: Clamp, generator: torch.Generator) -> dict[int, Tensor]:
    """All random numbers of one sweep, by layer."""
    layers = [layer for block in conditionals.blocks for layer in block if clamp.get(layer) is not True]
    return {layer: conditionals.noise(layer, len(state[layer]), generator) for layer in layers}


def update(conditionals: Conditionals, state: State, noise: Mapping[int, Tensor], clamp: Clamp) -> State:
    """One sweep, deterministic given its noise; layers without noise are held."""
    for block in conditionals.blocks:
        drawn = {layer: conditionals.draw(layer, state, noise[layer]) for layer in block if layer in noise}
        state = tuple(_hold(old, drawn.get(layer, old), clamp.get(layer)) for layer, old in enumerate(state))
    return state


def _hold(old: Tensor, new: Tensor, mask: Tensor | bool | None) -> Tensor:
    return torch.where(mask, old, new) if isinstance(mask, Tensor) else new
