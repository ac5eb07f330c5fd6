"""Layered Boltzmann machines: one energy for every number of layers and every pair of unit types."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from copy import copy
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Distribution

from genmodels.interface import BlockGibbs, Latents, State
from genmodels.units import Bernoulli, Unit
from samplers.fused import SMALLEST, OnePass, Precision, conditional, product, takes_slices


class LayeredBoltzmann(BlockGibbs):
    """Layers s_0 = x, s_1, ... with couplings between neighbours only:

        E = −Σ_l [b_l · t(s_l) + log_base_l(s_l)] − Σ_l t(s_l)ᵀ W_l t(s_{l+1}).

    Given the odd layers the even ones are independent, and the other way round. Subclasses say what the layers are.
    """

    @property
    @abstractmethod
    def weights(self) -> tuple[Tensor, ...]:
        """W_l, shape (size of layer l, size of layer l + 1)."""

    @property
    @abstractmethod
    def biases(self) -> tuple[Tensor, ...]:
        """b_l, shape (size of layer l,)."""

    @property
    def blocks(self) -> tuple[tuple[int, ...], ...]:
        return odd_then_even(len(self.units))

    def energy(self, x: Float[Tensor, "n d"], z: Latents) -> Float[Tensor, " n"]:
        state = (x, *z)
        statistics = [unit.statistic(s) for unit, s in zip(self.units, state, strict=True)]
        log_density = x.new_zeros(len(x))
        for unit, s, t, bias in zip(self.units, state, statistics, self.biases, strict=True):
            log_density = log_density + t @ bias + unit.log_base(s)
        for weight, (below, above) in zip(self.weights, pairwise(statistics), strict=True):
            log_density = log_density + ((below @ weight) * above).sum(-1)
        return -log_density

    def conditional(self, layer: int, state: State) -> Distribution:
        return self.units[layer].distribution(self.field(layer, state))

    def field(self, layer: int, state: State) -> Float[Tensor, "n d"]:
        """The natural parameter of a layer given its neighbours: bias plus what comes from below and above."""
        return self.anneal().field(layer, state)

    def anneal(
        self,
        beta: float | Tensor = 1.0,
        base: tuple[Tensor, ...] | None = None,
        *,
        precision: Precision = "float32",
    ) -> Layers:
        return Layers(self.units, self.weights, self.biases, beta=beta, base=base, precision=precision)


class Layers:
    """Couplings and biases prepared for many sweeps, at one inverse temperature or one a chain.

    The density is exp(−β E) times exp(Σ_l (1 − β) base_l · t(s_l)) with the reference measures left as they are, so that
    β = 0 is a layer of independent sites with fields `base` whatever the unit types. Satisfies `samplers.Conditionals`.
    """

    def __init__(
        self,
        units: Sequence[Unit],
        weights: Sequence[Tensor],
        biases: Sequence[Tensor],
        *,
        beta: float | Tensor = 1.0,
        base: Sequence[Tensor] | None = None,
        precision: Precision = "float32",
    ):
        self.units = tuple(units)
        self._biases = tuple(biases)
        self._weights = tuple(weights)
        is_binary = [unit.is_binary for unit in self.units]
        self._fused = [
            conditional(
                self._incoming(layer), binary=all(is_binary[i] for i in self._neighbours(layer)), precision=precision
            )
            for layer in range(len(self.units))
        ]
        self._products = {
            below: product(weight, binary=is_binary[below] and is_binary[below + 1], precision=precision)
            for below, weight in enumerate(weights)
            if self._fused[below] is None or self._fused[below + 1] is None
        }
        self._set(beta, base)

    def at(self, beta: float | Tensor, base: Sequence[Tensor] | None = None) -> Layers:
        """The same couplings, prepared once, at another inverse temperature."""
        other = copy(self)
        other._set(beta, base)
        return other

    def _set(self, beta: float | Tensor, base: Sequence[Tensor] | None) -> None:
        self._beta = None if isinstance(beta, float) and beta == 1.0 else beta
        self._base = tuple(torch.zeros_like(bias) for bias in self._biases) if base is None else tuple(base)
        self._sites = self._biases
        if self._beta is not None:
            self._sites = tuple(
                self._beta * bias + (1 - self._beta) * zero for bias, zero in zip(self._biases, self._base, strict=True)
            )

    @property
    def blocks(self) -> tuple[tuple[int, ...], ...]:
        return odd_then_even(len(self.units))

    def noise(self, layer: int, num: int, generator: torch.Generator | None) -> Tensor:
        fused = self._one_pass(layer)
        if fused is not None:
            return fused.key(generator)
        return self.units[layer].noise(num, self._biases[layer], generator)

    def draw(self, layer: int, state: State, noise: Tensor) -> Tensor:
        fused = self._one_pass(layer)
        if fused is not None:
            return fused.draw(*self._arguments(layer, state), noise)
        return self.units[layer].draw(self.field(layer, state), noise)

    def mean(self, layer: int, state: State) -> Tensor:
        """Expected state of a layer given the others; as `draw`, without the noise."""
        return self.units[layer].mean(self.field(layer, state))

    def field(self, layer: int, state: State) -> Tensor:
        """The layer's natural parameter at this inverse temperature."""
        fused = self._fused[layer]
        if fused is not None:
            return fused.field(*self._arguments(layer, state))
        inputs = self._inputs(layer, state)
        if self._beta is not None:
            inputs = inputs * self._beta
        return inputs + self._sites[layer]

    def draw_given(self, layer: int, field: Tensor, generator: torch.Generator | None, *, beta: float = 1.0) -> Tensor:
        """A draw of a layer whose natural parameter is β times `field`."""
        fused = self._one_pass(layer)
        if fused is not None:
            return fused.draw_sites(field, beta, fused.key(generator))
        unit = self.units[layer]
        return unit.draw(beta * field, unit.noise(len(field), field, generator))

    def log_partition_given(self, layer: int, field: Tensor, *, beta: float = 1.0) -> Tensor:
        """The layer's log-partition at β times `field`, shape (n,), float64, nats."""
        fused = self._one_pass(layer)
        if fused is not None:
            return fused.log_partition(field, beta)
        return self.units[layer].log_partition(beta * field).double()

    def _one_pass(self, layer: int) -> OnePass | None:
        """What draws the layer in one pass, if anything does."""
        return self._fused[layer] if isinstance(self.units[layer], Bernoulli) else None

    def _arguments(self, layer: int, state: State) -> tuple[list[Tensor], float | Tensor, Tensor, Tensor]:
        """Of a fused conditional: β (inputs + bias − base) + base."""
        inputs = [state[i] for i in self._neighbours(layer)]
        bias, base = self._biases[layer], self._base[layer]
        return (
            (inputs, 1.0, bias, torch.zeros_like(bias))
            if self._beta is None
            else (inputs, self._beta, bias - base, base)
        )

    def _neighbours(self, layer: int) -> list[int]:
        return [i for i in (layer - 1, layer + 1) if 0 <= i < len(self.units)]

    def _incoming(self, layer: int) -> list[Tensor]:
        """The couplings of a layer's neighbours to it, in the order of `_neighbours`."""
        return [self._weights[i] if i < layer else self._weights[layer].T for i in self._neighbours(layer)]

    def _inputs(self, layer: int, state: State) -> Tensor:
        inputs = []
        if layer > 0:
            inputs.append(self._products[layer - 1].up(self.units[layer - 1].statistic(state[layer - 1])))
        if layer + 1 < len(self.units):
            inputs.append(self._products[layer].down(self.units[layer + 1].statistic(state[layer + 1])))
        return inputs[0] if len(inputs) == 1 else inputs[0] + inputs[1]


def odd_then_even(num_layers: int) -> tuple[tuple[int, ...], ...]:
    """The two blocks of a layered machine; a sweep starts from the observed layer and so draws the odd layers first."""
    layers = range(num_layers)
    return tuple(layers[1::2]), tuple(layers[0::2])


def is_narrow(model: LayeredBoltzmann, precision: Precision) -> bool:
    """Whether "auto" may take weights of 16 bits and statistics of 8 where noise or a correction leaves their rounding no say.

    For large float32 weights between states in {0, 1}, on a CPU with kernels for them.
    """
    weight = model.weights[0]
    binary = all(unit.is_binary for unit in model.units)
    large = weight.dtype == torch.float32 and weight.numel() >= SMALLEST
    return precision == "auto" and binary and large and takes_slices(weight.device)
