"""Target propagation through time (Bengio, 2014, section 5), and back-propagation through time."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from genmodels.errors import BadInput
from genmodels.interface import require
from genmodels.objectives.objective import Objective, ObjectiveState
from genmodels.recurrent import RecurrentNet

Losses = dict[str, Tensor]


@dataclass(frozen=True)
class Loops:
    """Which loops train the networks, and how."""

    step: float = 0.1
    """How far the target of the last state lies: s_T less step × the gradient of an example's loss in it."""
    noise: float = 0.1
    """Deviation around s_{t−1} where g learns to be the inverse of f."""
    difference: bool = True
    """Targets s_t + g(ŝ_{t+1}) − g(s_{t+1}) (Lee et al., 2015, Eq. 15), instead of g(ŝ_{t+1})."""
    reach: int = 0
    """Steps of the long loops: g runs backwards from every s_T at once, and is to find the states and inputs on its way."""
    match: float = 0.0
    """Weight of "the long loop's reconstruction of s_t is a target for f"."""

    def __post_init__(self) -> None:
        if self.step <= 0 or self.noise < 0:
            raise BadInput(f"The step must be positive and the noise not negative, not {self.step} and {self.noise}.")
        if self.reach < 0 or self.match < 0 or (self.match > 0 and self.reach == 0):
            raise BadInput(
                f"Loops of {self.reach} steps and weight {self.match}: give neither below 0, and a weight only to long loops."
            )


def recurrent_target_propagation(model: RecurrentNet, loops: Loops = Loops()) -> Objective:
    """Target propagation through time on rows of inputs and a label: no gradient crosses a time step.

    The sum of `recurrent_losses`. All states are needed, as in back-propagation through time, but no graph: they run once
    forwards and once backwards, and all time steps learn at once. Metric `loss`: −log P(y | x), nats, mean over rows.
    """
    require(model, RecurrentNet, by="target propagation through time")

    def init(x: Tensor, generator: torch.Generator) -> ObjectiveState:
        return {}

    def step(rows: Tensor, state: ObjectiveState, generator: torch.Generator):
        losses = recurrent_losses(model, rows, loops, generator)
        return torch.stack(list(losses.values())).sum(), state, {"loss": losses["readout"].detach()}

    return Objective(init, step)


def back_propagation_through_time(model: RecurrentNet) -> Objective:
    """−log P(y | x_1 ... x_T), mean over rows, nats, differentiated through all time steps: the yardstick, same metric."""
    require(model, RecurrentNet, by="back-propagation through time")

    def init(x: Tensor, generator: torch.Generator) -> ObjectiveState:
        return {}

    def step(rows: Tensor, state: ObjectiveState, generator: torch.Generator):
        x, y = model.split(rows)
        loss = -model.label.log_prob(model.readout(model.run(x)[-1]), y).mean()
        return loss, state, {"loss": loss.detach()}

    return Objective(init, step)


def recurrent_losses(model: RecurrentNet, rows: Tensor, loops: Loops, generator: torch.Generator) -> Losses:
    """The losses of all time steps, sums over units and time, means over rows; inputs and targets are constants:

    readout    −log P(y | s_T), of the readout alone;
    forward    ŝ_t is a target for f(s_{t−1}, x_t), t = 1 ... T, divided by the step: in f alone, and the gradient of
               back-propagation where going back by g is what going back by derivatives is;
    backward   (s_{t−1} + noise, x_t) is a target for g(f(s_{t−1} + noise, x_t)): in g alone;
    long       (s_t, x_{t+1}) is a target for g(s̃_{t+1}), where s̃ is what g alone makes of some later state: in g alone;
    match      the mean over later states of what g alone makes of them is a target for f(s_{t−1}, x_t): in f alone.
    """
    x, y = model.split(rows)
    with torch.no_grad():
        states = model.run(x)
    log_prob = model.label.log_prob(model.readout(states[-1]), y)
    targets = in_time(model, states, top_target(model, states[-1], y, loops), loops)
    losses = {"readout": -log_prob.mean()}
    found = model.step(states[:-1], x)
    losses["forward"] = _half_square(found, targets[1:]) / loops.step
    near = states[:-1] + loops.noise * torch.randn(
        states[:-1].shape, generator=generator, dtype=x.dtype, device=x.device
    )
    with torch.no_grad():
        after = model.step(near, x)
    state, inputs = model.back(after)
    losses["backward"] = _half_square(state, near) + _half_square(inputs, x)
    if loops.reach:
        losses |= _long_loops(model, states, x, found, loops)
    return losses


def top_target(model: RecurrentNet, last: Tensor, y: Tensor, loops: Loops) -> Tensor:
    """ŝ_T = s_T + step × ∂ log P(y | s_T) / ∂s_T."""
    with torch.enable_grad():
        leaf = last.detach().requires_grad_(True)
        slope = torch.autograd.grad(model.label.log_prob(model.readout(leaf), y).sum(), leaf)[0]
    return last + loops.step * slope


@torch.no_grad()
def in_time(model: RecurrentNet, states: Tensor, last: Tensor, loops: Loops) -> Tensor:
    """ŝ_0 ... ŝ_T from that of the last state."""
    targets, without = [last], model.back(states[1:]).state
    for time in range(len(states) - 2, -1, -1):
        down = model.back(targets[-1]).state
        targets.append(states[time] + down - without[time] if loops.difference else down)
    return torch.stack(targets[::-1])


def _long_loops(model: RecurrentNet, states: Tensor, x: Tensor, found: Tensor, loops: Loops) -> Losses:
    at, loss, total = states[1:], states.new_zeros(()), torch.zeros_like(states[1:])
    counts = states.new_zeros(len(x), 1, 1)
    for _ in range(1, min(loops.reach, len(x)) + 1):
        state, inputs = model.back(at)
        steps = len(state)
        loss = loss + (_half_square(state, states[:steps]) + _half_square(inputs, x[:steps])) / loops.reach
        at = state[1:].detach()
        total[: steps - 1] += at
        counts[: steps - 1] += 1
    losses = {"long": loss}
    if loops.match:
        mean = torch.where(counts > 0, total / counts.clamp(min=1), states[1:])
        losses["match"] = loops.match * _half_square(found, mean)
    return losses


def _half_square(found: Tensor, target: Tensor) -> Tensor:
    return 0.5 * (found - target).square().sum((0, 2)).mean()
