"""Small networks, built from plain numbers so that a configuration can hold them, and the normal layers they make."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import pairwise
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from genmodels.errors import BadInput

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "softplus": nn.Softplus,
    "silu": nn.SiLU,
}


_narrow = ContextVar("narrow", default=False)


@contextmanager
def narrow_networks(narrow: bool = True) -> Iterator[None]:
    """Context in which every `MLP` computes in bfloat16, from input to output, which are as they would be.

    Densities, energies and all that is summed over units stay in the precision of the data: an ELBO of hundreds of nats
    would lose whole nats in 8 bits.
    """
    token = _narrow.set(narrow)
    try:
        yield
    finally:
        _narrow.reset(token)


class MLP(nn.Sequential):
    """Linear layers of the given sizes with an activation between them; the output is linear.

    Weights start uniform with the variance 2 / (inputs + outputs) of Glorot and Bengio (2010), biases at 0.

    >>> MLP((5, 3, 2))(torch.zeros(7, 5)).shape
    torch.Size([7, 2])
    """

    def __init__(self, sizes: Sequence[int], activation: str = "tanh", *, generator: torch.Generator | None = None):
        if activation not in ACTIVATIONS:
            raise BadInput(f"There is no activation {activation!r}: choose {', '.join(ACTIVATIONS)}.")
        if len(sizes) < 2 or min(sizes) < 1:
            raise BadInput(
                f"A network needs an input and an output of at least one unit each, not sizes {tuple(sizes)}."
            )
        layers: list[nn.Module] = []
        for below, above in pairwise(sizes):
            linear = nn.Linear(below, above)
            nn.init.xavier_uniform_(linear.weight, generator=generator)
            nn.init.zeros_(linear.bias)
            layers += [linear, ACTIVATIONS[activation]()]
        super().__init__(*layers[:-1])

    def forward(self, input: Float[Tensor, "*n i"]) -> Float[Tensor, "*n o"]:
        if not _narrow.get():
            return super().forward(input)
        with torch.autocast(input.device.type, torch.bfloat16):
            return super().forward(input).to(input.dtype)

    @property
    def output_bias(self) -> nn.Parameter:
        """The bias of the last layer."""
        last = self[-1]
        assert isinstance(last, nn.Linear)
        return last.bias


class Upended(nn.Sequential):
    """An MLP upside down: its weights transposed, the very same parameters, and biases of its own, which start at 0."""

    def __init__(self, network: MLP, activation: str = "tanh"):
        linears = [layer for layer in reversed(network) if isinstance(layer, nn.Linear)]
        layers = [module for linear in linears for module in (_UpendedLinear(linear), ACTIVATIONS[activation]())]
        super().__init__(*layers[:-1])

    @property
    def output_bias(self) -> nn.Parameter:
        """The bias of the last layer."""
        last = self[-1]
        assert isinstance(last, _UpendedLinear)
        return last.bias


class _UpendedLinear(nn.Module):
    def __init__(self, linear: nn.Linear):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(linear.in_features))
        # In a tuple, because a module's module is its own, and these weights belong to the other network.
        self._linear = (linear,)

    def forward(self, input: Float[Tensor, "*n i"]) -> Float[Tensor, "*n o"]:
        return nn.functional.linear(input, self._linear[0].weight.T, self.bias)


class ResidualMLP(nn.Module):
    """h ← h + MLP(normalised h, c), `depth` times, between a linear layer in and one out; c conditions every block.

    The output starts at 0.
    """

    def __init__(
        self,
        inputs: int,
        condition: int,
        width: int,
        depth: int,
        outputs: int,
        activation: str = "silu",
        *,
        generator: torch.Generator | None = None,
    ):
        super().__init__()
        if depth < 0:
            raise BadInput(f"A residual network has at least 0 blocks, not {depth}.")
        self.first = MLP((inputs + condition, width), generator=generator)
        sizes = (width + condition, width, width)
        self.blocks = nn.ModuleList(MLP(sizes, activation, generator=generator) for _ in range(depth))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(depth + 1))
        self.act = ACTIVATIONS[activation]()
        self.last = MLP((width, outputs), generator=generator)
        for parameter in self.last.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Float[Tensor, "n i"], condition: Float[Tensor, "n c"]) -> Float[Tensor, "n o"]:
        h = self.first(torch.cat([x, condition], 1))
        for norm, block in zip(self.norms, self.blocks, strict=False):
            h = h + block(torch.cat([norm(h), condition], 1))
        return self.last(self.act(self.norms[-1](h)))


class DiagonalNormal(NamedTuple):
    """N(mean, exp(2 log_std)), independent coordinates."""

    mean: Float[Tensor, "n d"]
    log_std: Float[Tensor, "n d"]

    def draw(self, generator: torch.Generator | None) -> Float[Tensor, "n d"]:
        """One reparametrised draw per row."""
        mean = self.mean
        noise = torch.randn(mean.shape, generator=generator, dtype=mean.dtype, device=mean.device)
        return mean + self.log_std.exp() * noise

    def log_prob(self, z: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        """Log-density of each coordinate, nats."""
        standard = (z - self.mean) * torch.exp(-self.log_std)
        return -0.5 * (standard.square() + math.log(2 * math.pi)) - self.log_std

    def divergence_from_standard(self) -> Float[Tensor, "n d"]:
        """KL(this ‖ N(0, 1)) of each coordinate, nats: (μ² + σ² − 1)/2 − log σ (Kingma and Welling, 2014, appendix B)."""
        return 0.5 * (self.mean.square() + torch.exp(2 * self.log_std) - 1) - self.log_std

    def cross_entropy(self, other: DiagonalNormal) -> Float[Tensor, " n"]:
        """−E[log other(z)] under this one, nats; the entropy, where other is this one."""
        square = (self.mean - other.mean).square() + torch.exp(2 * self.log_std)
        return (0.5 * (square * torch.exp(-2 * other.log_std) + math.log(2 * math.pi)) + other.log_std).sum(-1)

    def detach(self) -> DiagonalNormal:
        """The same without gradients."""
        return DiagonalNormal(self.mean.detach(), self.log_std.detach())

    def repeat(self, num: int) -> DiagonalNormal:
        """The same for `num` copies of all rows, one copy after the other."""
        return DiagonalNormal(self.mean.repeat(num, 1), self.log_std.repeat(num, 1))


class NormalNetwork(nn.Module):
    """Mean and log-deviation of a diagonal normal as one network's output; the deviations start near 1."""

    def __init__(
        self,
        inputs: int,
        hidden: Sequence[int],
        size: int,
        activation: str = "tanh",
        *,
        generator: torch.Generator | None = None,
    ):
        super().__init__()
        self.network = MLP((inputs, *hidden, 2 * size), activation, generator=generator)

    def forward(self, x: Float[Tensor, "n i"]) -> DiagonalNormal:
        return DiagonalNormal(*self.network(x).chunk(2, -1))
