"""Learning to undo a corruption: the denoising criterion, from the data alone, along walk-back chains, or layer by layer."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from genmodels.dae import DAE
from genmodels.errors import BadInput
from genmodels.gsn import GSN
from genmodels.interface import Denoiser, require
from genmodels.objectives.objective import Objective, ObjectiveState


def denoising(
    model: DAE | GSN, *, walk_back: int = 1, contraction: float = 0.0, num_probes: int = 0, sparsity: float = 0.0
) -> Objective:
    """Descends −log P(x | x̃_t), averaged over t = 1, ..., `walk_back` corruptions of a chain that starts at x.

    x̃_1 is drawn from C(· | x), every later x̃_t from C(· | x_{t−1}) with x_{t−1} ~ P(· | x̃_{t−1}), and all of them are to give x
    back: spurious modes that the chain wanders to are learned away (walk-back: Bengio, Yao, Alain and Vincent, 2013,
    section 3, here with a fixed number of steps). For 1 it is the denoising criterion (Vincent et al., 2008). The draws
    carry no gradient. The metric `reconstruction` is the first term, nats per example: not a bound on log p(x).

    Of a `GSN` the chain carries hidden layers from step to step, with their gradients (the training of the deep GSN: Bengio,
    Laufer, Alain and Yosinski, 2014). What x tells the highest of L layers needs L steps up and L down: walk back 2 L or more.

    Of a `DAE` two penalties of the code of the uncorrupted x come on top: `contraction` times |∂h/∂x|² of the highest hidden
    layer, exact or by `num_probes` random projections (`squared_jacobian`; Rifai, Vincent, Muller, Glorot and Bengio, 2011),
    and `sparsity` times Σ |h| of all hidden layers.
    """
    require(model, Denoiser, by="denoising")
    if walk_back < 1:
        raise BadInput(f"walk_back must be at least 1, not {walk_back}.")
    if min(contraction, num_probes, sparsity) < 0:
        raise BadInput("contraction, num_probes and sparsity must be at least 0.")
    penalised = model if isinstance(model, DAE) and len(model.encoder) else None
    if (contraction or sparsity) and penalised is None:
        raise BadInput("There is no code to contract or to make sparse: that takes a DAE with hidden layers.")

    def init(x: Tensor, generator: torch.Generator) -> ObjectiveState:
        return {}

    def step(x: Tensor, state: ObjectiveState, generator: torch.Generator):
        losses, at = [], model.start(x)
        for _ in range(walk_back):
            field, carried = model.apart(model.reconstruct(model.corrupt(at, model.corruption_noise(at, generator))))
            losses.append(-model.observed.log_prob(field, x).mean())
            with torch.no_grad():
                drawn = model.observed.draw(field.detach(), model.reconstruction_noise(x, generator))
            at = model.join(drawn, carried)
        loss = torch.stack(losses).mean()
        metrics = {"reconstruction": -losses[0], "last_reconstruction": -losses[-1]}
        if penalised is not None and (contraction or sparsity):
            penalty, terms = _penalty(penalised, x, contraction, num_probes, sparsity, generator)
            return loss + penalty, state, metrics | terms
        return loss, state, metrics

    return Objective(init, step)


def _penalty(
    model: DAE, x: Tensor, contraction: float, num_probes: int, sparsity: float, generator: torch.Generator
) -> tuple[Tensor, dict[str, Tensor]]:
    """The penalties of the code, and each without its weight, by name."""
    terms: dict[str, Tensor] = {}
    if contraction:
        terms["squared_jacobian"] = squared_jacobian(
            lambda row: model.codes(row)[-1], x, num_probes=num_probes, generator=generator
        ).mean()
    if sparsity:
        terms["activity"] = torch.stack([code.abs().sum(1).mean() for code in model.codes(x)]).sum()
    weights = {"squared_jacobian": contraction, "activity": sparsity}
    return torch.stack([weights[name] * term for name, term in terms.items()]).sum(), terms


def greedy_denoising(model: DAE, *, layer: int) -> Objective:
    """Descends the denoising loss of one hidden layer, 1 for the lowest, as if it were alone on top of those below it.

    The lowest layer gives x back, −log P(x | x̃). A higher one gives back the layer h below, from its corruption by the model's
    own C, with loss |act(·) − h|² / 2; layers below are taken as they are and learn nothing (stacked denoising
    auto-encoders: Vincent, Larochelle, Lajoie, Bengio and Manzagol, 2010). One after the other they are where
    `denoising` of all layers begins. The metric `reconstruction` is minus the loss.
    """
    require(model, Denoiser, by="greedy_denoising")
    depth = len(model.codes(model.centre[None]))
    if not 1 <= layer <= depth:
        raise BadInput(f"There is no hidden layer {layer}: choose one of 1 to {depth}.")

    def init(x: Tensor, generator: torch.Generator) -> ObjectiveState:
        return {}

    def step(x: Tensor, state: ObjectiveState, generator: torch.Generator):
        with torch.no_grad():
            below = x if layer == 1 else model.codes(x)[layer - 2]
        noisy = model.corruption.apply(below, model.corruption.noise(below, generator))
        if layer == 1:
            loss = -model.observed.log_prob(model.by_way_of(1, noisy - model.centre), x).mean()
        else:
            loss = 0.5 * (model.by_way_of(layer, noisy) - below).square().sum(1).mean()
        return loss, state, {"reconstruction": -loss}

    return Objective(init, step)


def squared_jacobian(
    code: Callable[[Tensor], Tensor],
    x: Float[Tensor, "n d"],
    *,
    num_probes: int = 0,
    generator: torch.Generator | None = None,
) -> Float[Tensor, " n"]:
    """Σ_ij (∂h_j/∂x_i)² of the code h(x) of every row, which must depend on its own row alone; differentiable.

    Exact, by a pass for each code, or with `num_probes` the mean of |∂(u·h)/∂x|² over so many random signs u: without bias,
    and its variance falls as 1 / num_probes.
    """
    if num_probes == 0:
        jacobian = torch.func.vmap(torch.func.jacrev(lambda row: code(row[None])[0]))(x)
        return jacobian.square().sum((1, 2))
    leaf = x.detach().requires_grad_()
    h, total = code(leaf), x.new_zeros(len(x))
    for _ in range(num_probes):
        signs = 2 * torch.randint(0, 2, h.shape, generator=generator, device=h.device).to(h.dtype) - 1
        (along,) = torch.autograd.grad((signs * h).sum(), leaf, create_graph=True)
        total = total + along.square().sum(1)
    return total / num_probes


def nearest_neighbour(model: DAE, *, pull: float = 1.0) -> Objective:
    """−log P(x | f(x') + σ ξ), x' the example of the batch whose code is nearest to f(x) − σ ξ (Bengio, 2014, Eq. 15).

    With much noise no decoder finds x again; it is enough that every x is reached from some x'. Plus the logarithm of the
    batch's size it is, averaged over ξ, at least −log of the probability of x after one step from a row of the batch drawn
    at random (Eq. 14), nats. `pull` weighs "f(x) and f(x') are targets for each other": half their squared distance, in
    units of σ². For one hidden layer with noise.

    Metrics: `reconstruction` of the first term; `moved`, the share of rows whose neighbour is another one.
    """
    require(model, DAE, by="nearest-neighbour reconstruction")
    sizes, deviation = model.config()["hidden"], model.config()["hidden_noise"]
    if len(sizes) != 1 or not deviation or pull < 0:
        raise BadInput("Nearest-neighbour reconstruction needs one hidden layer with noise, and a pull of at least 0.")

    def init(x: Tensor, generator: torch.Generator) -> ObjectiveState:
        return {}

    def step(x: Tensor, state: ObjectiveState, generator: torch.Generator):
        noise = model.corruption_noise(x, generator)
        code = model.code(x)
        with torch.no_grad():
            nearest = torch.cdist(code - deviation * noise[1], code).argmin(1)
        field = model.reconstruct(model.corrupt(x[nearest], noise))
        reconstruction = model.observed.log_prob(field, x).mean()
        apart = 0.5 * ((code - code[nearest]) / deviation).square().sum(1).mean()
        moved = (nearest != torch.arange(len(x), device=x.device)).to(x.dtype).mean()
        return pull * apart - reconstruction, state, {"reconstruction": reconstruction.detach(), "moved": moved}

    return Objective(init, step)
