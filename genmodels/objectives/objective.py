"""What an objective is, and a loss with a known gradient."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

ObjectiveState = dict[str, Tensor]
Metrics = dict[str, Tensor]


class Objective(NamedTuple):
    """How a model learns. Everything that must survive a restart is in its state, a flat dict of tensors."""

    init: Callable[[Tensor, torch.Generator], ObjectiveState]
    """init(x, generator) -> state, from a first batch x."""
    step: Callable[[Tensor, ObjectiveState, torch.Generator], tuple[Tensor, ObjectiveState, Metrics]]
    """step(x, state, generator) -> (loss, state, metrics); loss.backward() leaves the descent direction in .grad."""
    chains: tuple[str, ...] | None = ()
    """How the names of the state's chains begin: tensors with a row a chain, which processes that train together deal out.
    The rest must be linear in the batch's rows or the same for all batches. None where that does not hold: one process."""


class _WithGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, *parameters_and_gradients: Tensor) -> Tensor:
        ctx.gradients = parameters_and_gradients[len(parameters_and_gradients) // 2 :]
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        (factor,) = upstream
        # Given away, not copied: matrices of this size are worth touching once.
        gradients, ctx.gradients = ctx.gradients, None
        if gradients is None:
            raise RuntimeError("This loss has given its gradient away: it can be differentiated once.")
        if factor.device.type != "cpu" or factor != 1:
            torch._foreach_mul_(gradients, factor)
        return (None, *gradients, *(None for _ in gradients))


def with_gradient(value: Tensor, parameters: Sequence[Tensor], gradients: Sequence[Tensor]) -> Tensor:
    """A scalar with the given value whose gradient in `parameters` is `gradients`.

    For directions that are known in closed form and are not the gradient of anything cheap: half the cost of autograd
    through two free energies, and the only form that the centered gradient has. It owns `gradients` and can be
    differentiated once.
    """
    return _WithGradient.apply(value, *parameters, *gradients)  # pyright: ignore[reportReturnType]
