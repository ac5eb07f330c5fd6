"""What a model can be asked: small nominal classes, each a contract. A model's class header is its feature list.

Everywhere x is the observed layer, shape (n, d), and z a tuple of latent layers, also where there is one. Energies and
log-densities are in nats per example, shape (n,).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.distributions import Distribution

from genmodels.errors import BadInput
from genmodels.units import Unit

Latents = tuple[Tensor, ...]
State = tuple[Tensor, ...]


class Capability(ABC):  # noqa: B024 (a marker: its subclasses bring the methods)
    """Marks the classes that a capability table lists."""


class JointEnergy(Capability):
    """−log p̃(x, z): the joint density up to the constant log Z."""

    @abstractmethod
    def energy(self, x: Float[Tensor, "n d"], z: Latents) -> Float[Tensor, " n"]:
        """E(x, z) = −log p̃(x, z), nats, not normalised."""


class JointDensity(JointEnergy):
    """A normalised joint density: log Z = 0."""

    @abstractmethod
    def log_joint(self, x: Float[Tensor, "n d"], z: Latents) -> Float[Tensor, " n"]:
        """log p(x, z), nats."""

    def energy(self, x: Float[Tensor, "n d"], z: Latents) -> Float[Tensor, " n"]:
        return -self.log_joint(x, z)


class Ancestral(Capability):
    """Independent exact draws, top down."""

    @abstractmethod
    def sample(self, num: int, *, generator: torch.Generator | None = None) -> State:
        """`num` independent draws of all layers, the observed one first."""

    @abstractmethod
    def observed_mean(self, z: Latents) -> Float[Tensor, "n d"]:
        """E[x | z]: the same picture as a draw of x, with less noise."""


class Recognition(Capability):
    """Draws from a distribution q(z | x) of known density: an encoder, and a proposal for estimators."""

    @abstractmethod
    def recognise(
        self, x: Float[Tensor, "n d"], *, generator: torch.Generator | None = None
    ) -> tuple[Latents, Float[Tensor, " n"]]:
        """One draw z ~ q(z | x) per row, and log q(z | x), nats.

        Both are differentiable in q's parameters where the latents are continuous (reparametrised draws).
        """


@runtime_checkable
class Code(Protocol):
    """A distribution over the latents of n rows, of known density: a proposal, a prior, a start of annealing."""

    def draw(self, generator: torch.Generator | None) -> Latents:
        """One draw per row; for continuous latents reparametrised, so differentiable in the distribution's parameters."""
        ...

    def log_prob(self, z: Latents) -> Float[Tensor, " n"]:
        """Log-density at z, one a row, nats; differentiable in z where the latents are continuous."""
        ...

    def repeat(self, num: int) -> Code:
        """The same for `num` copies of all rows, one copy after the other, as `x.repeat(num, 1)`."""
        ...


class Encoder(Recognition):
    """A recognition whose density can be evaluated anywhere, not only at its own draws."""

    @abstractmethod
    def encode(self, x: Float[Tensor, "n d"]) -> Code:
        """q(z | x)."""

    def recognise(
        self, x: Float[Tensor, "n d"], *, generator: torch.Generator | None = None
    ) -> tuple[Latents, Float[Tensor, " n"]]:
        code = self.encode(x)
        z = code.draw(generator)
        return z, code.log_prob(z)


class TopDown(JointDensity, Ancestral):
    """p(x, z) = p(z) p(x | z), where p(z) can be drawn and evaluated and x is a layer of units given z."""

    observed: Unit
    """The observed layer."""

    @abstractmethod
    def prior(self, num: int) -> Code:
        """p(z), for `num` rows."""

    @abstractmethod
    def decode(self, z: Latents) -> Float[Tensor, "n d"]:
        """The field of the observed layer given z."""

    def log_joint(self, x: Float[Tensor, "n d"], z: Latents) -> Float[Tensor, " n"]:
        return self.prior(len(x)).log_prob(z) + self.observed.log_prob(self.decode(z), x)

    def observed_mean(self, z: Latents) -> Float[Tensor, "n d"]:
        return self.observed.mean(self.decode(z))

    @torch.no_grad()
    def sample(self, num: int, *, generator: torch.Generator | None = None) -> State:
        z = self.prior(num).draw(generator)
        field = self.decode(z)
        return self.observed.draw(field, self.observed.noise(num, field, generator)), *z


class RateDistortion(Capability):
    """A bound that falls into what the reconstruction costs and what the code costs."""

    @abstractmethod
    def rate_distortion(
        self, x: Float[Tensor, "n d"], generator: torch.Generator | None
    ) -> tuple[Float[Tensor, " n"], tuple[Tensor, ...]]:
        """Distortion −log p(x | z) at one draw of q(z | x), shape (n,), and the rate of each layer in groups, (n, groups).

        A rate is log q − log p of a group of latents, in closed form where there is one and else at the draw, so that
        distortion plus all rates is an unbiased estimate of −ELBO, nats.
        """


class Optimum(NamedTuple):
    """Latents of low energy, and how low."""

    z: Latents
    energy: Float[Tensor, " n"]
    """E(x, z), nats."""
    gap: Float[Tensor, " n"]
    """At least E(x, z) − min E, nats; infinite where nothing is known, as for an energy with several minima."""


class MapInference(JointEnergy):
    """The most probable latents: argmin_z E(x, z)."""

    @abstractmethod
    def infer(self, x: Float[Tensor, "n d"]) -> Optimum:
        """argmin_z E(x, z), and how far from the optimum it is at most."""


class FreeEnergy(Capability):
    """−log Σ_z p̃(x, z): the latents summed out exactly."""

    @abstractmethod
    def free_energy(self, x: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
        """F(x) = −log Σ_z exp(−E(x, z)), nats, so that log p(x) = −F(x) − log Z."""


class Posterior(Capability):
    """A distribution q(z | x) over the latents."""

    exact_posterior: bool
    """Whether q(z | x) is the model's own p(z | x)."""

    @abstractmethod
    def posterior(self, x: Float[Tensor, "n d"]) -> tuple[Distribution, ...]:
        """q(z | x), one factor a latent layer."""


class BlockGibbs(JointEnergy):
    """Layers that can be drawn in blocks, each given the others: what Gibbs, mean field, AIS and tempering need.

    A state is the tuple of all layers, the observed one first. `anneal` gives the model at another inverse temperature,
    prepared for many sweeps: chains run on that.
    """

    @property
    @abstractmethod
    def units(self) -> tuple[Unit, ...]:
        """The layers' unit types, the observed one first."""

    @property
    @abstractmethod
    def blocks(self) -> tuple[tuple[int, ...], ...]:
        """Layers that are independent given all others, in the order of a sweep."""

    @abstractmethod
    def conditional(self, layer: int, state: State) -> Distribution:
        """p(layer | the other layers), exact."""

    @abstractmethod
    def anneal(self, beta: float | Tensor = 1.0, base: tuple[Tensor, ...] | None = None) -> Any:
        """The model with energy β E + (1 − β) E_0, where E_0 has only the fields `base` (zero unless given).

        `beta` is a number or one per chain, shape (n, 1). What comes back draws layers (`samplers.gibbs.Conditionals`).
        """


class Denoiser(Capability):
    """A corruption C(x̃ | x) and a reconstruction P(x | x̃): a Markov transition, and no density of its own.

    Each is drawn by a deterministic function of its noise, so that `samplers.walk_back` takes the model as it is. The
    chain's invariant distribution is the data's where P is the exact posterior under C, and unknown otherwise.

    Where x̃ = x + σ ξ with ξ standard normal, the reconstruction holds a score: (E[x | x̃] − x̃) / σ² is that of the data
    smoothed by σ (Vincent, 2011; Alain and Bengio, 2014).
    """

    @abstractmethod
    def corruption_noise(self, x: Float[Tensor, "n d"], generator: torch.Generator | None) -> Any:
        """The random numbers of one corruption of every row, of the dtype and device of `x`."""

    @abstractmethod
    def corrupt(self, x: Float[Tensor, "n d"], noise: Any) -> Float[Tensor, "n d"]:
        """A draw of x̃ from C(x̃ | x)."""

    @abstractmethod
    def reconstruct(self, x_noisy: Float[Tensor, "n d"]) -> Float[Tensor, "n f"]:
        """The parameters of P(x | x̃), what `draw` takes: for a layer of `units`, its field."""

    @abstractmethod
    def reconstruction_noise(self, x: Float[Tensor, "n d"], generator: torch.Generator | None) -> Any:
        """The random numbers of one draw of every row, of the dtype and device of `x`."""

    @abstractmethod
    def draw(self, parameters: Float[Tensor, "n f"], noise: Any) -> Float[Tensor, "n d"]:
        """An exact draw of x from the P(x | x̃) with these parameters."""

    # What the chain carries beside x from step to step: nothing, unless a model says otherwise by overriding all four.

    def start(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n s"]:
        """The chain's states at x that know nothing else."""
        return x

    def join(self, x: Float[Tensor, "n d"], carried: Float[Tensor, "n h"]) -> Float[Tensor, "n s"]:
        """The state that holds x and what is carried beside it."""
        return x

    def apart(self, state: Float[Tensor, "n s"]) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n h"]]:
        """x, or of a reconstruction's parameters those of x, and what is carried beside it."""
        return state, state[:, :0]

    def clamp(self, held: Bool[Tensor, "*n d"]) -> Bool[Tensor, "*n s"]:
        """The mask of a state whose x has held sites."""
        return held


class NoisyScore(Capability):
    """The score of the data smoothed by Gaussian noise of any amount: a density by the probability flow, and chains."""

    @abstractmethod
    def score(self, x: Float[Tensor, "n d"], sigma: float | Float[Tensor, "n 1"]) -> Float[Tensor, "n d"]:
        """An estimate of ∇ log p_σ(x), p_σ being the density of x + σ ξ with ξ standard normal."""


class Configured(ABC):
    """A model that can be stored: its configuration builds it again, its state_dict fills it."""

    @abstractmethod
    def config(self) -> dict[str, Any]:
        """JSON-ready arguments of `from_config`."""

    @classmethod
    @abstractmethod
    def from_config(cls, config: Mapping[str, Any]) -> Any:
        """The model that `config` describes, freshly initialised."""


def require(model: object, *capabilities: type, by: str) -> None:
    """Check a function's needs at the door.

    >>> require(object(), FreeEnergy, by="pseudo_likelihood")
    Traceback (most recent call last):
    genmodels.errors.BadInput: pseudo_likelihood needs FreeEnergy, which object does not have.
    """
    missing = [capability.__name__ for capability in capabilities if not isinstance(model, capability)]
    if missing:
        raise BadInput(f"{by} needs {' and '.join(missing)}, which {type(model).__name__} does not have.")


def capabilities(model_class: type) -> tuple[str, ...]:
    """Names of the capabilities in a model's class header, in the order of inheritance."""
    return tuple(
        base.__name__
        for base in model_class.__mro__
        if issubclass(base, Capability) and base is not Capability and _is_interface(base)
    )


def _is_interface(base: type) -> bool:
    return base.__module__ == __name__


def check_width(x: Tensor, width: int, name: str = "x") -> None:
    """Refuse anything but a non-empty matrix with `width` columns."""
    if x.ndim != 2 or x.shape[1] != width:
        raise BadInput(f"{name} has shape {tuple(x.shape)}, but the model takes (n, {width}).")
    if len(x) == 0:
        raise BadInput(f"{name} is empty; give at least one row.")


def default_generator(seed: int, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator on `device` with the given seed."""
    return torch.Generator(device=device).manual_seed(seed)
