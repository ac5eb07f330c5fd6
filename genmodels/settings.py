"""How to train."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from genmodels.errors import BadInput

Schedule = Literal["linear", "cosine", "constant"]
Precision = Literal["32-true", "64-true", "bf16-mixed"]
Strategy = Literal["ddp", "fsdp"]


@dataclass(frozen=True)
class Settings:
    """How to train. The learning rate follows `schedule` from `learning_rate` towards 0 over all steps."""

    epochs: int = 60
    batch_size: int = 100
    optimizer: str = "SGD"
    """Name of any optimizer in torch.optim whose step needs no closure."""
    learning_rate: float = 0.05
    optimizer_options: dict[str, Any] = field(default_factory=dict)
    schedule: Schedule = "linear"
    average: float = 0.999
    """Decay per step of the exponential moving average of the weights, which is what training returns; 0 for none."""
    seed: int = 0
    device: str = "auto"
    precision: Precision = "32-true"
    """Of the arithmetic. With bf16-mixed, networks alone compute in bfloat16: their parameters and gradients, densities,
    energies and log-weights stay in float32, and sums over rows and epochs in float64."""
    accumulate: int = 1
    """Parts in which every batch is gone through, one after the other: less memory, the same step."""
    checkpoint_every: int = 1
    """Epochs between checkpoints."""
    snapshots: int = 0
    """About how many copies of the weights to keep on the way, evenly spaced in the logarithm of the step."""
    keep_last: int = 1
    """Checkpoints to keep: above 1, the last ones stand in the folder `checkpoints` too, by their steps."""
    best_by: str | None = None
    """A metric of the epoch's record: the checkpoint in which it is highest is kept as `best.safetensors`."""

    def __post_init__(self) -> None:
        if min(self.epochs, self.batch_size, self.checkpoint_every, self.accumulate) < 1:
            raise BadInput("epochs, batch_size, checkpoint_every and accumulate must be at least 1.")
        if self.keep_last < 1:
            raise BadInput(f"At least one checkpoint must be kept, not {self.keep_last}.")
        if self.snapshots < 0:
            raise BadInput(f"snapshots must be at least 0, not {self.snapshots}.")
        if not (self.learning_rate > 0 and math.isfinite(self.learning_rate)):
            raise BadInput(f"The learning rate must be a positive number, not {self.learning_rate}.")
        if not 0 <= self.average < 1:
            raise BadInput(f"The averaging decay must lie in [0, 1), not {self.average}.")
        chosen = getattr(torch.optim, self.optimizer, None)
        known = isinstance(chosen, type) and issubclass(chosen, torch.optim.Optimizer)
        if not known or chosen is torch.optim.LBFGS:
            raise BadInput(f"torch.optim has no optimizer {self.optimizer!r} that needs no closure: try SGD or Adam.")

    def learning_rate_at(self, done: float) -> float:
        """The learning rate when the fraction `done` of all steps is done."""
        factors = {"linear": 1 - done, "cosine": 0.5 * (1 + math.cos(math.pi * done)), "constant": 1.0}
        return self.learning_rate * factors[self.schedule]

    def snapshot_steps(self, num_steps: int) -> frozenset[int]:
        """Steps after which the weights are kept, the last one among them.

        >>> sorted(Settings(snapshots=6).snapshot_steps(1000))
        [3, 10, 32, 100, 316, 1000]
        """
        return frozenset(round(num_steps ** (i / self.snapshots)) for i in range(1, self.snapshots + 1))

    def make_optimizer(self, parameters: list[Tensor]) -> torch.optim.Optimizer:
        """The optimizer over `parameters`."""
        kind = getattr(torch.optim, self.optimizer)
        try:
            return kind(parameters, lr=self.learning_rate, **self.optimizer_options)
        except (TypeError, ValueError) as error:
            raise BadInput(f"The optimizer {self.optimizer} refuses its options ({error}): change them.") from error
