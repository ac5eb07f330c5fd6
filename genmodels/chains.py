"""Gibbs chains of a model: where they start, what they show, and parts of them held fixed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from genmodels.boltzmann import LayeredBoltzmann
from genmodels.errors import BadInput
from genmodels.interface import State, check_width, require
from genmodels.progress import Progress, no_progress
from samplers import gibbs, run
from samplers.fused import Precision

Half = Literal["upper", "lower", "left", "right"]


class Chains(NamedTuple):
    """Where chains stand after their last sweep."""

    states: Float[Tensor, "n d"]
    """The observed layer as it was drawn."""
    means: Float[Tensor, "n d"]
    """The mean of the distribution that it was drawn from, given the latent layers: the same picture with less noise."""


@torch.no_grad()
def independent_start(model: LayeredBoltzmann, num: int, *, generator: torch.Generator) -> State:
    """`num` draws of every layer from its biases alone, as if the layers were uncoupled: a start that knows no data."""
    require(model, LayeredBoltzmann, by="independent_start")
    if num < 1:
        raise BadInput(f"There must be at least one chain, not {num}.")
    layers = zip(model.units, model.biases, strict=True)
    return tuple(unit.draw(bias.expand(num, -1), unit.noise(num, bias, generator)) for unit, bias in layers)


@torch.no_grad()
def start_at(model: LayeredBoltzmann, x: Float[Tensor, "n d"]) -> State:
    """Chains that start at the rows of `x`; a sweep draws the latent layers before it reads them."""
    require(model, LayeredBoltzmann, by="start_at")
    check_width(x, model.units[0].size)
    model.units[0].check(x)
    return (x, *(x.new_zeros(len(x), unit.size) for unit in model.units[1:]))


@torch.no_grad()
def run_chains(
    model: LayeredBoltzmann,
    start: State,
    num_steps: int,
    *,
    generator: torch.Generator,
    held: Bool[Tensor, " d"] | None = None,
    precision: Precision = "auto",
    observe: Callable[[int, State], None] | None = None,
    progress: Progress = no_progress,
) -> Chains:
    """Run block Gibbs for `num_steps` sweeps; sites of the observed layer in `held` keep their value (in-painting).

    `precision` "float32" forgoes the fast paths, whose promises are in `samplers.fused`.
    """
    if num_steps < 1:
        raise BadInput(f"Chains need at least one sweep, not {num_steps}.")
    layers = model.anneal(precision=precision)
    kernel = gibbs(layers, clamp=None if held is None else {0: held})
    state = run(
        kernel, start, num_steps, generator=generator, observe=observe, track=lambda n: progress(n, "Gibbs sweeps")
    )
    means = layers.mean(0, state)
    return Chains(state[0], means if held is None else torch.where(held, state[0], means))


@torch.no_grad()
def film(
    model: LayeredBoltzmann,
    start: State,
    steps: Sequence[int],
    *,
    generator: torch.Generator,
    precision: Precision = "auto",
    progress: Progress = no_progress,
) -> Float[Tensor, "t n d"]:
    """The means of the chains after each of `steps` sweeps, shape (times, chains, d); the start shows as it is."""
    layers, wanted = model.anneal(precision=precision), frozenset(steps)
    frames: list[Tensor] = []

    def keep(step: int, state: State) -> None:
        if step in wanted:
            frames.append((layers.mean(0, state) if step > 0 else state[0]).cpu())

    run_chains(model, start, max(steps), generator=generator, precision=precision, observe=keep, progress=progress)
    return torch.stack(frames)


def half_to_fill(image_shape: tuple[int, int], half: Half, device: torch.device | str = "cpu") -> Bool[Tensor, " d"]:
    """The sites in one half of an image, as a mask over the row-major sites; an odd middle line is in none.

    >>> half_to_fill((2, 2), "upper").tolist()
    [True, True, False, False]
    """
    height, width = image_shape
    row = torch.arange(height, device=device)[:, None].expand(height, width)
    column = torch.arange(width, device=device).expand(height, width)
    masks = {
        "upper": row < height // 2,
        "lower": row >= height - height // 2,
        "left": column < width // 2,
        "right": column >= width - width // 2,
    }
    return masks[half].flatten()
