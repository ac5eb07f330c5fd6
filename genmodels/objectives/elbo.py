"""Learning a directed model and its recognition together: the ELBO, IWAE, DReG and reweighted wake-sleep."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from genmodels.errors import BadInput
from genmodels.interface import Ancestral, Encoder, JointDensity, Latents, RateDistortion, require
from genmodels.objectives.objective import Objective, ObjectiveState


def elbo(model: RateDistortion, *, warm_up: int = 0, free_bits: float = 0.0) -> Objective:
    """Descends −ELBO = E_q[−log p(x | z)] + Σ rates, by one draw, each rate in closed form where there is one.

    During the first `warm_up` steps the rates have a weight that rises linearly from 0 to 1 (Sønderby et al., 2016). A group of
    latents whose rate, averaged over the batch, is below `free_bits` nats is not pressed further (Kingma et al., 2016,
    appendix C.8). Both change what is descended; the metric `elbo` is the plain bound, nats per example. Kingma and
    Welling (2014, eq. 10).
    """
    require(model, RateDistortion, by="the ELBO objective")
    if warm_up < 0 or free_bits < 0:
        raise BadInput("warm_up and free_bits must be at least 0.")

    def init(x: Tensor, generator: torch.Generator) -> ObjectiveState:
        return {"step": torch.zeros((), dtype=torch.int64, device=x.device)} if warm_up else {}

    def step(x: Tensor, state: ObjectiveState, generator: torch.Generator):
        distortion, rates = model.rate_distortion(x, generator)
        groups = [rate.mean(0) for rate in rates]
        pressed = sum((group.clamp(min=free_bits) if free_bits else group).sum() for group in groups)
        weight = 1.0
        if warm_up:
            weight = (state["step"] / warm_up).clamp(max=1)
            state = {"step": state["step"] + 1}
        reconstruction = distortion.mean()
        rate = torch.stack([group.sum() for group in groups]).sum()
        metrics = {"elbo": -reconstruction - rate, "rate": rate, "distortion": reconstruction}
        return reconstruction + weight * pressed, state, metrics

    return Objective(init, step)


def iwae(model: JointDensity, *, num_samples: int) -> Objective:
    """Descends −log (1/k) Σ_k p(x, z_k) / q(z_k | x), a tighter bound than the ELBO for k > 1 (Burda et al., 2016, eq. 8).

    The encoder's gradient has a signal-to-noise ratio that falls as 1/√k (Rainforth et al., 2018); `dreg` has not.
    """
    _check(model, num_samples, "IWAE")
    assert isinstance(model, Encoder)

    def step(x: Tensor, state: ObjectiveState, generator: torch.Generator):
        code = model.encode(x).repeat(num_samples)
        z = code.draw(generator)
        log_weight = (model.log_joint(x.repeat(num_samples, 1), z) - code.log_prob(z)).view(num_samples, -1)
        bound = (torch.logsumexp(log_weight, 0) - math.log(num_samples)).mean()
        return -bound, state, {"bound": bound}

    return Objective(_stateless, step)


def dreg(model: JointDensity, *, num_samples: int) -> Objective:
    """The bound of `iwae` with the doubly reparametrised gradient of the encoder (Tucker et al., 2019, eq. 8).

    Its encoder gradient is Σ_k w̃_k² ∂ log w_k/∂z_k · ∂z_k/∂φ: the same expectation as that of `iwae`, and a variance that
    does not swamp it as k grows. For k = 1 it is the path derivative of Roeder, Wu and Duvenaud (2017). The gradient of
    all that p has is that of `iwae`. For reparametrised draws of continuous latents.
    """
    _check(model, num_samples, "DReG")
    assert isinstance(model, Encoder)

    def step(x: Tensor, state: ObjectiveState, generator: torch.Generator):
        code = model.encode(x).repeat(num_samples)
        drawn = code.draw(generator)
        z = tuple(layer.detach().requires_grad_() for layer in drawn)
        log_p = model.log_joint(x.repeat(num_samples, 1), z)
        log_weight = log_p - code.log_prob(z)
        slopes = torch.autograd.grad(log_weight.sum(), z, retain_graph=True)
        log_weight = log_weight.detach().view(num_samples, -1)
        share = torch.softmax(log_weight, 0)
        bound = (torch.logsumexp(log_weight, 0) - math.log(num_samples)).mean()
        pull = _along(drawn, slopes).view(num_samples, -1)
        surrogate = (share * log_p.view(num_samples, -1) + share.square() * pull).sum(0).mean()
        return _with_value(-bound, -surrogate), state, {"bound": bound}

    return Objective(_stateless, step)


def reweighted_wake_sleep(model: JointDensity, *, num_samples: int, sleep: bool = True, wake: bool = True) -> Objective:
    """Reweighted wake-sleep (Bornschein and Bengio, 2015), for continuous and for discrete latents.

    p follows Σ_k w̃_k ∇ log p(x, z_k), the gradient of the bound of `iwae`. q follows, with `wake`, Σ_k w̃_k ∇ log q(z_k | x),
    down an estimate of KL(p(z | x) ‖ q(z | x)) whose bias falls with k, and, with `sleep`, ∇ log q(z | x) at the model's own
    draws, down E_p(x) of the same, without bias. Two objectives of two players: not the gradient of one function.
    """
    _check(model, num_samples, "reweighted wake-sleep")
    assert isinstance(model, Encoder)
    if not (sleep or wake):
        raise BadInput("Reweighted wake-sleep needs a wake phase, a sleep phase, or both, to learn q.")
    if sleep:
        require(model, Ancestral, by="the sleep phase")

    def step(x: Tensor, state: ObjectiveState, generator: torch.Generator):
        code = model.encode(x).repeat(num_samples)
        with torch.no_grad():
            z = code.draw(generator)
        log_p, log_q = model.log_joint(x.repeat(num_samples, 1), z), code.log_prob(z)
        log_weight = (log_p - log_q).detach().view(num_samples, -1)
        share = torch.softmax(log_weight, 0).flatten() / len(x)
        bound = (torch.logsumexp(log_weight, 0) - math.log(num_samples)).mean()
        surrogate = (share * (log_p + log_q if wake else log_p)).sum()
        if sleep:
            assert isinstance(model, Ancestral)
            dream, *dreamt = model.sample(len(x), generator=generator)
            surrogate = surrogate + model.encode(dream).log_prob(tuple(dreamt)).mean()
        return _with_value(-bound, -surrogate), state, {"bound": bound}

    return Objective(_stateless, step)


def _stateless(x: Tensor, generator: torch.Generator) -> ObjectiveState:
    return {}


def _check(model: object, num_samples: int, by: str) -> None:
    require(model, JointDensity, Encoder, by=by)
    if num_samples < 1:
        raise BadInput(f"num_samples must be at least 1, not {num_samples}.")


def _along(z: Latents, slopes: tuple[Tensor, ...]) -> Float[Tensor, " n"]:
    """Σ of slope · z over all layers, whose gradient in what z depends on is the slope carried there."""
    return torch.stack([(layer * slope).sum(-1) for layer, slope in zip(z, slopes, strict=True)]).sum(0)


def _with_value(value: Tensor, surrogate: Tensor) -> Tensor:
    """The gradient of `surrogate` under the number `value`."""
    return surrogate + (value - surrogate).detach()
