"""Target propagation in a stack of auto-encoders: Algorithms 1 and 2 of Bengio (2014)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from genmodels.directed_layers import UnitFactor
from genmodels.errors import BadInput
from genmodels.interface import require
from genmodels.networks import DiagonalNormal
from genmodels.objectives.objective import Objective, ObjectiveState
from genmodels.objectives.traces import recalled
from genmodels.stack_layers import LayerFactor
from genmodels.target_prop import AutoEncoderStack

Losses = dict[str, Tensor]
Reach = Literal["layer", "top"]


@dataclass(frozen=True)
class Loops:
    """Which loops train a layer, and how."""

    match: float = 1.0
    """Weight of "ĥ_l is a target for h_l", beside what the measured error of the reconstruction gives it."""
    reach: Reach = "layer"
    """Where the reconstruction ĥ_l comes down from: h_{l+1}, or by the long loop h_L; the latter trains decoders too."""
    noise_free: bool = False
    """Take targets from a loop without noise, as the paper does, instead of from the draws of Q that the layers learn from."""
    difference: bool = False
    """Correct targets of the long loop by what it would lose anyway: h + g(ĥ) − g(h) (Lee et al., 2015, Eq. 15)."""
    recirculation: bool = False
    """Train encoders by the up-down-up loop, as in the paper's sketch, instead of each layer's pair as one unit. Layers of
    discrete units always do, for want of a derivative."""
    contract: float = 0.0
    """Weight of "h_l is a target for f_l(corrupt(h_{l−1}))" (end of section 2.2.5), with another draw of Q(h_{l−1} | h_{l−2})
    as the corrupted h_{l−1}, l > 1."""
    passes: int = 1
    """How often the signals of a row go up and down for one update, each time by other draws."""
    trace: float = 0.0
    """What moving averages over the passes keep from one to the next. With it the present reconstruction is the target of the
    codes of all passes so far, and they are its targets: the delta rule with moving averages of section 8."""

    def __post_init__(self) -> None:
        if self.passes < 1 or not 0 <= self.trace <= 1:
            raise BadInput(f"Give at least one pass and a trace from 0 to 1, not {self.passes} and {self.trace}.")
        if (self.passes == 1 and self.trace > 0) or (self.passes > 1 and self.noise_free):
            raise BadInput(
                "A trace is of several passes, each with its own noise: give more, and leave noise-free out."
            )
        if min(self.match, self.contract) < 0:
            raise BadInput(f"Weights of targets must not be negative, but are {self.match} and {self.contract}.")
        if self.difference and self.reach == "layer":
            raise BadInput("The difference correction is for targets of the long loop: use it with reach top.")


def target_propagation(
    model: AutoEncoderStack,
    *,
    match: float = 1.0,
    reach: Reach = "layer",
    noise_free: bool = False,
    difference: bool = False,
    recirculation: bool = False,
    contract: float = 0.0,
    passes: int = 1,
    trace: float = 0.0,
) -> Objective:
    """Algorithm 2 of Bengio (2014), with the noise of Algorithm 1 in every layer: no gradient crosses a layer.

    The sum of `local_losses`, each of which has a gradient in one layer's parameters alone. With the defaults it is that of
    the variational bound, less one path: an encoder's gradient from the layers above comes through the target of its own
    draw only, and not through their encoders. What that leaves out is zero where the encoders above are the posteriors of
    the decoders above, since there the bound does not change, to first order, with how they move.

    The options are those of `Loops`. Metrics: `bound`, the one-draw estimate of the variational bound on log p(x) (nats); of
    each real layer below the top the means of its learned deviations, `noise_l` of the code, `error_l` of its reconstruction.
    """
    require(model, AutoEncoderStack, by="target propagation")
    loops = Loops(match, reach, noise_free, difference, recirculation, contract, passes, trace)
    if difference and not model.real:
        raise BadInput("Differences of discrete states are no states: use the difference correction with real units.")

    def init(x: Tensor, generator: torch.Generator) -> ObjectiveState:
        return {}

    def step(x: Tensor, state: ObjectiveState, generator: torch.Generator):
        losses, bound = local_losses(model, x, loops, generator)
        loss = torch.stack(list(losses.values())).sum()
        return loss, state, {"bound": bound, **_deviations(model)}

    return Objective(init, step)


def local_losses(model: AutoEncoderStack, x: Tensor, loops: Loops, generator: torch.Generator) -> tuple[Losses, Tensor]:
    """The losses of Algorithm 2, means over the rows in nats, by name and layer; and the estimate of the bound.

    Each belongs to one encoder f_l, one decoder g_l, or the pair; its other inputs and its target are constants; with a trace
    −log P(h_{l−1} | h_l) and −log P(h_l | ĥ_l) are means over the draws of h_{l−1} and h_l so far (`recalled`):

        pair_l       h_{l−1} is a target for g_l(h_l), where h_l = f_l(h_{l−1}) + noise, and the noise is as large as it may
                     be: −log P(h_{l−1} | h_l) − H(Q(h_l | h_{l−1})); at the top with the cost of the prior (Eq. 22);
        decoder_l, encoder_l    the same in two, where no gradient goes from g_l to f_l: h_l is a target for f_l(g_l(h_l));
        match_l      ĥ_l is a target for f_l(h_{l−1}): −log P(h_l | ĥ_l), where the error of the reconstruction that P has
                     learned is the weight;
        long_l       h_{l−1} is a target for g_l(ĥ_l + noise), with ĥ_l from the top;
        contract_l   Q(h_l | h_{l−1}) is a target for Q(h_l | h'_{l−1}), their cross-entropy, where h'_{l−1} is another draw.
    """
    losses: Losses = {}
    x = x.repeat(loops.passes, 1)
    below, drawn, codes, bound = x, [x], [], torch.zeros((), dtype=x.dtype, device=x.device)
    attached: list[Tensor] = []
    for layer in range(1, model.num_layers + 1):
        q = model.up(layer, below)
        h = q.draw(generator)
        pair = isinstance(q, DiagonalNormal) and not loops.recirculation
        p = model.down(layer, h if pair else h.detach())
        distortion = -recalled(p, below, passes=loops.passes, trace=loops.trace).mean()
        plain = -p.log_prob(below).sum(-1).mean() if loops.trace > 0 else distortion
        top = layer == model.num_layers
        spread = (-model.top.rate(q, h).sum(-1) if top else q.cross_entropy(q)).mean()  # pyright: ignore
        if pair:
            losses[f"pair_{layer}"] = distortion - spread
        else:
            losses[f"decoder_{layer}"] = distortion
            losses[f"encoder_{layer}"] = -spread + _recirculated(model, layer, p, h.detach(), generator)
        if loops.contract > 0 and codes:
            near = model.up(layer, codes[-1].draw(generator).detach())
            losses[f"contract_{layer}"] = loops.contract * q.detach().cross_entropy(near).mean()  # pyright: ignore
        bound = bound - plain.detach() + spread.detach()
        codes.append(q)
        attached.append(h)
        below = h.detach()
        drawn.append(below)
    if loops.match > 0 or loops.reach == "top":
        targets = reconstructions(model, drawn, loops)
        for layer in range(1, model.num_layers):
            losses |= _from_above(model, layer, drawn, codes[layer - 1], attached[layer - 1], targets, loops, generator)
    return losses, bound


@torch.no_grad()
def reconstructions(model: AutoEncoderStack, drawn: list[Tensor], loops: Loops) -> list[LayerFactor]:
    """P(h_l | what lies above) for l = 0 ... L − 1, its mean the target ĥ_l; from the drawn states or from noise-free ones."""
    states = drawn
    if loops.noise_free:
        states = [drawn[0]]
        for layer in range(1, model.num_layers + 1):
            states.append(model.up(layer, states[-1]).mean)
    found: list[LayerFactor] = []
    above = states[-1]
    for layer in range(model.num_layers, 0, -1):
        p = model.down(layer, above)
        if loops.difference and 1 < layer < model.num_layers:
            assert isinstance(p, DiagonalNormal)
            plain = model.down(layer, states[layer]).mean
            p = DiagonalNormal(states[layer - 1] + p.mean - plain, p.log_std)
        found.insert(0, p)
        above = states[layer - 1] if loops.reach == "layer" else p.mean
    return found


def algorithm1(model: AutoEncoderStack, *, alpha: float = 1.0) -> Objective:
    """Algorithm 1 of Bengio (2014): the criterion of every layer at once (Eq. 7), with gradients inside its cost.

    C = Σ_l [−H(Q(h_l | h_{l−1})) − log P(x | h_l)] − α Σ_l log P(h_l | h_L) − log P(h_L), with noise on the way up, and none on
    the ways down to x and to h_l. The gradient of −log P(h_l | h_L) goes into the layers above, which it makes a
    denoising auto-encoder, and into the encoders below, for which it stands for −∂ log P(h_l). `alpha` weighs the pressure
    to make Q(H) simple. For stacks of real units.

    Metric `bound`: the one-draw estimate of the variational bound on log p(x), nats.
    """
    require(model, AutoEncoderStack, by="Algorithm 1")
    if not model.differentiable:
        raise BadInput(
            "Algorithm 1 has gradients inside its cost: use it with real units, whose encoders are not optimised."
        )
    if alpha < 0:
        raise BadInput(f"alpha must not be negative, but is {alpha}.")

    def init(x: Tensor, generator: torch.Generator) -> ObjectiveState:
        return {}

    def step(x: Tensor, state: ObjectiveState, generator: torch.Generator):
        code = model.encode(x)
        z = code.draw(generator)
        factors = code.factors(z)
        cost = model.top.rate(factors[-1], z[-1]).sum(-1)
        for layer in range(1, model.num_layers + 1):
            cost = cost - _descend(model, z[layer - 1], layer, 0).log_prob(x).sum(-1)
            if layer < model.num_layers:
                q = factors[layer - 1]
                above = _descend(model, z[-1], model.num_layers, layer)
                cost = cost - q.cross_entropy(q) - alpha * above.log_prob(z[layer - 1]).sum(-1)
        with torch.no_grad():
            distortion, rates = model.rate_distortion(x, generator)
            bound = -distortion.mean() - sum(rate.sum(-1).mean() for rate in rates)
        return cost.mean(), state, {"bound": bound, **_deviations(model)}

    return Objective(init, step)


def _descend(model: AutoEncoderStack, h: Tensor, layer: int, to: int) -> LayerFactor:
    """P(h_to | h_layer) by the noise-free way down."""
    p = model.down(layer, h)
    for number in range(layer - 1, to, -1):
        p = model.down(number, p.mean)
    return p


def _recirculated(model: AutoEncoderStack, layer: int, p: LayerFactor, h: Tensor, generator: torch.Generator) -> Tensor:
    """−log Q(h_l | h̃_{l−1}) for the reconstruction h̃_{l−1} of h_l: what f_l(g_l(h_l)) is short of h_l."""
    discrete = isinstance(p, UnitFactor)
    again = p.draw(generator) if discrete else p.mean
    return -model.up(layer, again.detach()).log_prob(h).sum(-1).mean()


def _from_above(
    model: AutoEncoderStack,
    layer: int,
    drawn: list[Tensor],
    q: LayerFactor,
    h: Tensor,
    targets: list[LayerFactor],
    loops: Loops,
    generator: torch.Generator,
) -> Losses:
    """What the reconstruction of h_layer from above asks of its encoder, and of its decoder."""
    losses: Losses = {}
    target = targets[layer].detach()
    if loops.match > 0:
        if loops.noise_free:
            cost = q.cross_entropy(target)  # pyright: ignore
        else:
            cost = -recalled(target, q.mean if isinstance(q, UnitFactor) else h, passes=loops.passes, trace=loops.trace)
        losses[f"match_{layer}"] = loops.match * cost.mean()
    if loops.reach == "top":
        code = target.mean
        if isinstance(q, DiagonalNormal):
            code = DiagonalNormal(code, q.log_std.detach()).draw(generator)
        losses[f"long_{layer}"] = -model.down(layer, code).log_prob(drawn[layer - 1]).sum(-1).mean()
    return losses


def _deviations(model: AutoEncoderStack) -> dict[str, Tensor]:
    found = {}
    for number in range(1, model.num_layers):
        layer = model.layer(number)
        if layer.real:
            found[f"noise_{number}"] = layer.log_noise.detach().exp().mean()
            found[f"error_{number}"] = layer.log_error.detach().exp().mean()
    return found
