"""Supervised target propagation: Algorithm 5 of Bengio (2014), and back-propagation through the same network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from genmodels.errors import BadInput
from genmodels.interface import require
from genmodels.labelled_stack import LabelledStack
from genmodels.objectives.objective import Objective, ObjectiveState

Losses = dict[str, Tensor]


@dataclass(frozen=True)
class Steps:
    """Where targets come from, and how layers learn from them."""

    alpha: float = 0.0
    """Weight of log P(h_{L−1}, y) in the top's target, beside 1 − alpha of log P(y | h_{L−1}) (Eq. 19): 0 is discriminant, 1
    joint. (The caption of Algorithm 5 counts the other way.) Without a label it is the weight of log P(h_{L−1})."""
    step: float = 0.1
    """How far the top's target lies: h + step × the direction."""
    noise: float = 0.6
    """Deviation of the corruption of h_{L−1} that the top auto-encoder learns to undo."""
    reconstruction: float = 0.1
    """Weight of the reconstruction of h_{L−1} in the top auto-encoder, beside 1 of the label's."""
    missing: Literal["filled", "masked"] = "filled"
    """The reconstruction without the label, h̃: "masked", from a missing label, as in the paper; "filled", from the
    label that the top auto-encoder itself infers, put in as if observed, as Algorithm 6 does after its first step."""
    top: Literal["auto-encoder", "gradient"] = "auto-encoder"
    """The direction at h_{L−1}: of the top auto-encoder's reconstructions, or ∂ log P(y | h_{L−1}), by derivatives within the
    top layer (Lee et al., 2015)."""
    difference: bool = True
    """Targets h_l + g(ĥ_{l+1}) − g(h_{l+1}) (Lee et al., 2015, Eq. 15), instead of g(ĥ_{l+1})."""
    inverse_noise: float = 0.3
    """Deviation around h_{l−1} where g_l learns to be the inverse of f_l."""
    unsupervised: float = 0.0
    """Weight of each layer's own denoising auto-encoder in its encoder, with gradients inside the pair."""
    input_noise: float = 0.0
    """Deviation of the noise added to x."""
    sure: float | None = None
    """Rows without a label whose most probable class has at least this probability, without noise on x, take it as their
    label: the most probable y, as in Algorithm 6 (pseudo-labels; Lee, 2013). None: never."""

    def __post_init__(self) -> None:
        if not 0 <= self.alpha <= 1:
            raise BadInput(f"alpha weighs the joint against the discriminant target: from 0 to 1, not {self.alpha}.")
        if self.noise <= 0 or self.step <= 0:
            raise BadInput(f"The top's noise and step must be positive, not {self.noise} and {self.step}.")
        if min(self.reconstruction, self.inverse_noise, self.unsupervised, self.input_noise) < 0:
            raise BadInput("Deviations of noise and weights of losses must not be negative.")


def supervised_target_propagation(model: LabelledStack, steps: Steps = Steps()) -> Objective:
    """Algorithm 5 of Bengio (2014) on rows of x, label and mask: no gradient crosses a layer.

    The sum of `supervised_losses`, each with a gradient in one layer's parameters alone. Metric `error`: the share of the
    batch's labels that Algorithm 4 misses, of a distribution over classes.
    """
    require(model, LabelledStack, by="supervised target propagation")

    def init(x: Tensor, generator: torch.Generator) -> ObjectiveState:
        return {}

    def step(x: Tensor, state: ObjectiveState, generator: torch.Generator):
        losses, error = supervised_losses(model, x, steps, generator)
        return torch.stack(list(losses.values())).sum(), state, {"error": error}

    return Objective(init, step)


def back_propagation(model: LabelledStack, *, input_noise: float = 0.0) -> Objective:
    """−log P(y | x) of Algorithm 4's prediction, mean over rows, nats, differentiated through all layers.

    Through signs goes the derivative of tanh ("straight-through"; Bengio, Léonard and Courville, 2013). The yardstick of
    `supervised_target_propagation`, with its metric.
    """
    require(model, LabelledStack, by="back-propagation of the label's log-likelihood")

    def init(x: Tensor, generator: torch.Generator) -> ObjectiveState:
        return {}

    def step(rows: Tensor, state: ObjectiveState, generator: torch.Generator):
        x, y, m = model.split(rows)
        h = _noisy(x, input_noise, generator)
        for layer in range(1, model.num_hidden + 1):
            field = model.up(layer, h)
            soft = torch.tanh(field)
            h = soft + (model.state(field) - soft).detach()
        label = model.infer_label(h)
        return _cross_entropy(model, label, y, m), state, {"error": _error(label, y, m)}

    return Objective(init, step)


def supervised_losses(
    model: LabelledStack, rows: Tensor, steps: Steps, generator: torch.Generator
) -> tuple[Losses, Tensor]:
    """The losses of Algorithm 5, sums over units and means over rows, by name and layer; and the share of errors.

    Each belongs to one layer's encoder, decoder or both; its other inputs and its target are constants:

        top          (h_{L−1}, y) is a target for the top auto-encoder, of h_{L−1} with noise, with the label and without;
        encoder_l    ĥ_l is a target for f_l(h_{l−1}): half the squared error of tanh units; signs, for which any ĥ_l may be
                     too near to flip them, move by (ĥ_l − h_l) · tanh of their field;
        decoder_l    h_{l−1} + noise is a target for g_l(f_l(h_{l−1} + noise)), l > 1: g_l is f_l's inverse near the data;
                     where it is that everywhere, there is nothing to learn;
        pair_l       h_{l−1} is a target for g_l(f_l(h_{l−1}) + noise); for g_1, on which no target depends, only here.
    """
    x, y, m = model.split(rows)
    if steps.sure is not None:
        y, m = fill_in(model, x, y, m, steps.sure)
    fields, states = pass_up(model, _noisy(x, steps.input_noise, generator))
    top, error = _top_loss(model, states[-1], y, m, steps, generator)
    losses = {"top": top}
    targets = top_down(model, states, top_target(model, states[-1], y, m, steps), steps)
    for layer in range(1, model.num_hidden + 1):
        below, h, soft = states[layer - 1], states[layer], torch.tanh(fields[layer - 1])
        if model.kind == "sign":
            losses[f"encoder_{layer}"] = -((targets[layer] - h) * soft).sum(1).mean()
        else:
            losses[f"encoder_{layer}"] = _half_square(soft, targets[layer])
        if layer > 1 and not model.invertible:
            losses[f"decoder_{layer}"] = _inverse_loss(model, layer, below, steps, generator)
        if steps.unsupervised > 0:
            again = model.down(layer, _noisy(soft, steps.inverse_noise, generator))
            losses[f"pair_{layer}"] = steps.unsupervised * _half_square(again, x if layer == 1 else below)
    return losses, error


@torch.no_grad()
def fill_in(model: LabelledStack, x: Tensor, y: Tensor, m: Tensor, sure: float) -> tuple[Tensor, Tensor]:
    """Labels and masks, where rows without a label have their most probable class if it is at least so probable."""
    probability, best = model.label.mean(model.predict(x)).max(1, keepdim=True)
    inferred = torch.zeros_like(y).scatter_(1, best, 1.0)
    return torch.where(m > 0, y, inferred), torch.maximum(m, (probability >= sure).to(m.dtype))


def pass_up(model: LabelledStack, x: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """The fields of h_1 ... h_{L−1}, each with gradients in its own encoder alone; and x, h_1 ... h_{L−1}, without any."""
    fields, states = [], [x]
    for layer in range(1, model.num_hidden + 1):
        fields.append(model.up(layer, states[-1]))
        states.append(model.state(fields[-1].detach()))
    return fields, states


def top_target(model: LabelledStack, h: Tensor, y: Tensor, m: Tensor, steps: Steps) -> Tensor:
    """ĥ_{L−1}: h moved along α ∂ log P(h, y) + (1 − α) ∂ log P(y | h); unlabelled rows along α ∂ log P(h) (Eqs. 16–19).

    A reconstruction less h stands for noise² ∂ log P(h | ...), exactly so for the best one of Gaussian h, where P is the
    density of h with the corruption's noise in it (Alain and Bengio, 2013).
    """
    if steps.top == "gradient":
        with torch.enable_grad():
            leaf = h.detach().requires_grad_(True)
            log_prob = model.label.log_prob(model.infer_label(leaf), y)
            direction = m * torch.autograd.grad(log_prob.sum(), leaf)[0]
    else:
        with torch.no_grad():
            given, alone = model.top(h, y, torch.ones_like(m)).h, model.top(h, y, torch.zeros_like(m))
            filled = model.top(h, model.label.mean(alone.label), torch.ones_like(m)).h
            without = filled if steps.missing == "filled" else alone.h
            joint = torch.where(m > 0, given, without) - h
            discriminant = m * (given - without)
            direction = (steps.alpha * joint + (1 - steps.alpha) * discriminant) / steps.noise**2
    return h + steps.step * direction


@torch.no_grad()
def top_down(model: LabelledStack, states: list[Tensor], target: Tensor, steps: Steps) -> list[Tensor]:
    """ĥ_l for l = 1 ... L − 1 from that of the highest layer, in the places of their layers; that of x is x itself."""
    targets = [states[0], *([target] * model.num_hidden)]
    for layer in range(model.num_hidden, 1, -1):
        down = model.down(layer, targets[layer])
        corrected = states[layer - 1] + down - model.down(layer, states[layer])
        targets[layer - 1] = corrected if steps.difference else down
    return targets


def _top_loss(
    model: LabelledStack, h: Tensor, y: Tensor, m: Tensor, steps: Steps, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    label = model.infer_label(h)
    loss = _cross_entropy(model, label, y, m)
    if steps.top == "auto-encoder":
        noisy = _noisy(h, steps.noise, generator)
        given, alone = model.top(noisy, y, m), model.top(noisy, y, torch.zeros_like(m))
        loss = loss + steps.reconstruction * (_half_square(given.h, h) + _half_square(alone.h, h))
    return loss, _error(label, y, m)


def _inverse_loss(model: LabelledStack, layer: int, below: Tensor, steps: Steps, generator: torch.Generator) -> Tensor:
    near = _noisy(below, steps.inverse_noise, generator)
    with torch.no_grad():
        code = model.state(model.up(layer, near))
    return _half_square(model.down(layer, code), near)


def _cross_entropy(model: LabelledStack, label: Tensor, y: Tensor, m: Tensor) -> Tensor:
    return -(m[:, 0] * model.label.log_prob(label, y)).mean()


@torch.no_grad()
def _error(label: Tensor, y: Tensor, m: Tensor) -> Tensor:
    wrong = (label.argmax(1) != y.argmax(1)).to(label.dtype)
    return (m[:, 0] * wrong).sum() / m.sum().clamp(min=1)


def _half_square(found: Tensor, target: Tensor) -> Tensor:
    return 0.5 * len(target[0]) * mse_loss(found, target)


def _noisy(x: Tensor, deviation: float, generator: torch.Generator) -> Tensor:
    if deviation == 0:
        return x
    return x + deviation * torch.randn(x.shape, generator=generator, dtype=x.dtype, device=x.device)
