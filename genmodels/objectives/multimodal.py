"""Target propagation in stacks of several modalities (Bengio, 2014, section 4)."""

from __future__ import annotations

import torch
from torch import Tensor

from genmodels.errors import BadInput
from genmodels.interface import require
from genmodels.multimodal_stack import MultimodalStack
from genmodels.objectives.objective import Objective, ObjectiveState

Losses = dict[str, Tensor]


def multimodal_target_propagation(
    model: MultimodalStack, *, noise: float = 0.2, match: float = 0.0, walk: int = 1
) -> Objective:
    """Local losses of every layer of every modality, and of the auto-encoder above them: no gradient crosses a layer.

    The sum of `multimodal_losses`. `noise` is the deviation of the corruption of codes; `match` weighs "the reconstruction of
    a modality's code is a target for it"; `walk` is the number of steps after which the top must find the codes again, each
    from its own last reconstruction of what was missing (walk-back; Bengio et al., 2013). Metric `top`: the top's loss.
    """
    require(model, MultimodalStack, by="target propagation over modalities")
    if noise <= 0 or match < 0 or walk < 1:
        raise BadInput(f"Noise must be positive, match not negative, walk at least 1, not {noise}, {match}, {walk}.")

    def init(x: Tensor, generator: torch.Generator) -> ObjectiveState:
        return {}

    def step(x: Tensor, state: ObjectiveState, generator: torch.Generator):
        losses = multimodal_losses(model, x, generator, noise=noise, match=match, walk=walk)
        return torch.stack(list(losses.values())).sum(), state, {"top": losses["top"].detach()}

    return Objective(init, step)


def multimodal_losses(
    model: MultimodalStack, x: Tensor, generator: torch.Generator, *, noise: float, match: float, walk: int
) -> Losses:
    """Sums over units and means over rows, by name, modality and layer; inputs and targets from elsewhere are constants:

    pair_t_l     h_{l−1} is a target for g_l(f_l(h_{l−1}) + noise), of x^(t) by its log-likelihood, else half the square;
    top          all codes are targets for their reconstruction from those of a random subset of the modalities, with noise;
    match_t_l    ĥ_l is a target for f_l(h_{l−1}), where ĥ comes down from the reconstruction of all codes from all.
    """
    losses: Losses = {}
    states: list[list[Tensor]] = []
    outputs: list[list[Tensor]] = []
    for modality, below in enumerate(model.split(x)):
        states.append([below])
        outputs.append([])
        for layer in range(1, model.num_hidden + 1):
            below = states[-1][-1]
            h = model.up(modality, layer, below)
            field = model.down(modality, layer, _noisy(h, noise, generator))
            unit = model.modalities[modality]
            likely = -unit.log_prob(field, below) if layer == 1 else _half_square(field, below)  # pyright: ignore
            losses[f"pair_{modality}_{layer}"] = likely.mean()
            outputs[-1].append(h)
            states[-1].append(h.detach())
    codes = torch.cat([h[-1] for h in states], 1)
    losses["top"] = _top_loss(model, codes, generator, noise, walk)
    if match > 0:
        with torch.no_grad():
            target = model.reconstruct(codes, codes.new_ones(len(codes), model.num_modalities))
        for modality, down in enumerate(target.chunk(model.num_modalities, 1)):
            for layer in range(model.num_hidden, 0, -1):
                losses[f"match_{modality}_{layer}"] = match * _half_square(outputs[modality][layer - 1], down).mean()
                with torch.no_grad():
                    down = model.down(modality, layer, down)
    return losses


def _top_loss(model: MultimodalStack, codes: Tensor, generator: torch.Generator, noise: float, walk: int) -> Tensor:
    observed = _subsets(len(codes), model.num_modalities, codes, generator)
    mask, seen, h, loss = model.spread(observed), observed, codes, codes.new_zeros(())
    for _ in range(walk):
        found = model.reconstruct(_noisy(h, noise, generator), seen)
        loss = loss + _half_square(found, codes).mean() / walk
        h, seen = mask * codes + (1 - mask) * found.detach(), torch.ones_like(observed)
    return loss


def _subsets(num: int, modalities: int, like: Tensor, generator: torch.Generator) -> Tensor:
    """Masks of subsets, at least one modality in each, all such subsets equally often."""
    number = torch.randint(1, 2**modalities, (num, 1), generator=generator, device=like.device)
    return ((number >> torch.arange(modalities, device=like.device)) & 1).to(like.dtype)


def _half_square(found: Tensor, target: Tensor) -> Tensor:
    return 0.5 * (found - target).square().sum(1)


def _noisy(h: Tensor, noise: float, generator: torch.Generator) -> Tensor:
    return h + noise * torch.randn(h.shape, generator=generator, dtype=h.dtype, device=h.device)
