"""The highest points of a function of every row, side by side."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

TOLERANCE, MAX_STEPS = 1.0, 100
_ENOUGH = 1e-4
"""Share of the gain that the slope promises which a step must bring (Armijo, 1966)."""


class Peak(NamedTuple):
    """Where a climb ended."""

    at: Float[Tensor, "n d"]
    height: Float[Tensor, " n"]
    slope: Float[Tensor, " n"]
    """The norm of the gradient there: what a unit's step promises to add."""
    steps: int
    """Evaluations of the function and its gradient, after the first."""


@torch.enable_grad()
def climb(
    function: Callable[[Tensor], Tensor],
    start: Float[Tensor, "n d"],
    *,
    tolerance: float = TOLERANCE,
    max_steps: int = MAX_STEPS,
) -> Peak:
    """A maximum of `function`, (n, d) → (n,), for every row, near `start`: the highest of all, where it is concave.

    Steps up the gradient of the length of Barzilai and Borwein (1988), a quarter of it when one does not gain enough, so that
    no row ever falls. A row stops where the norm of its gradient is at most `tolerance`; all stop after `max_steps` steps.
    Where −function has curvature of at least λ, it is then within tolerance / λ of the maximum, and tolerance² / 2λ below it.
    """

    def look(at: Tensor) -> tuple[Tensor, Tensor]:
        leaf = at.detach().requires_grad_(True)
        height = function(leaf)
        (gradient,) = torch.autograd.grad(height.sum(), leaf)
        return height.detach(), gradient

    at = start.detach()
    height, gradient = look(at)
    slope = gradient.norm(dim=1)
    length, steps = 1 / slope.clamp(min=1e-12), 0
    while steps < max_steps and bool((slope > tolerance).any()):
        climbing = slope > tolerance
        move = (length * climbing)[:, None] * gradient
        there, then = look(at + move)
        blur = 8 * torch.finfo(at.dtype).eps * height.abs()
        gained = climbing & (there >= height + _ENOUGH * length * slope.square() - blur)
        bend = (move * (gradient - then)).sum(1)
        longer = torch.where(bend > 0, move.square().sum(1) / bend, 4 * length)
        length = torch.where(gained, longer, torch.where(climbing, length / 4, length))
        at = torch.where(gained[:, None], at + move, at)
        height, gradient = torch.where(gained, there, height), torch.where(gained[:, None], then, gradient)
        slope = gradient.norm(dim=1)
        steps += 1
    return Peak(at, height, slope, steps)
