"""The way that a layered Boltzmann machine took through training, as a ladder of models for tempering."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from genmodels.boltzmann import LayeredBoltzmann, odd_then_even
from genmodels.checkpoint import SNAPSHOTS, load_checkpoint
from genmodels.errors import BadInput
from genmodels.interface import State, require
from genmodels.units import Unit
from samplers import Kernel, gibbs, parallel_tempering


class Rungs:
    """One machine with k sets of parameters at once: rows come in k equal groups, each drawn with its own set.

    One batched product serves all of them. Satisfies `samplers.Conditionals`.
    """

    def __init__(
        self, units: Sequence[Unit], weights: Sequence[Float[Tensor, "k _ _"]], biases: Sequence[Float[Tensor, "k _"]]
    ):
        self.units = tuple(units)
        self._weights, self._biases = tuple(weights), tuple(biases)

    @property
    def blocks(self) -> tuple[tuple[int, ...], ...]:
        return odd_then_even(len(self.units))

    def noise(self, layer: int, num: int, generator: torch.Generator | None) -> Tensor:
        return self.units[layer].noise(num, self._biases[layer], generator)

    def draw(self, layer: int, state: State, noise: Tensor) -> Tensor:
        return self.units[layer].draw(self.field(layer, state), noise)

    def field(self, layer: int, state: State) -> Float[Tensor, "n d"]:
        """The layer's natural parameter in every row, by the parameters of its group."""
        total = self._biases[layer][:, None]
        if layer > 0:
            total = total + self._grouped(layer - 1, state) @ self._weights[layer - 1]
        if layer + 1 < len(self.units):
            total = total + self._grouped(layer + 1, state) @ self._weights[layer].mT
        return total.flatten(0, 1)

    def log_density(self, state: State) -> Float[Tensor, " n"]:
        """log f of the even layers with the odd ones summed out, float64, nats: −F(x) for one hidden layer."""
        odd, even = self.blocks
        total = torch.zeros(len(state[0]), dtype=torch.float64, device=state[0].device)
        for layer in even:
            linear = (self._grouped(layer, state) @ self._biases[layer][..., None]).flatten()
            total = total + linear.double() + self.units[layer].log_base(state[layer]).double()
        for layer in odd:
            total = total + self.units[layer].log_partition(self.field(layer, state)).double()
        return total

    def log_z_independent(self) -> Float[Tensor, " k"]:
        """log Z of every set of parameters as if the layers were uncoupled, float64."""
        pairs = zip(self.units, self._biases, strict=True)
        return torch.stack([unit.log_partition(bias.double()) for unit, bias in pairs]).sum(0)

    def _grouped(self, layer: int, state: State) -> Float[Tensor, "k c d"]:
        return self.units[layer].statistic(state[layer]).unflatten(0, (len(self._biases[0]), -1))


class Trajectory:
    """A path of models: uncoupled layers at 0, then snapshots along training, the trained model at `length`.

    At s between two whole numbers the parameters are interpolated linearly, so that a ladder may stand anywhere. Unlike a
    ladder of inverse temperatures it leads through the models by which the trained one came about, one mode after the
    other, and meets no first-order transition on its way (Béreux, Decelle, Furtlehner and Seoane, 2025).

    Units must have no parameters of their own (Bernoulli, Categorical).
    """

    def __init__(self, model: LayeredBoltzmann, snapshots: Sequence[Mapping[str, Tensor]]):
        require(model, LayeredBoltzmann, by="a trajectory")
        if any(True for unit in model.units for _ in unit.parameters()):
            raise BadInput("A trajectory needs units without parameters of their own: Bernoulli or Categorical.")
        if not snapshots:
            raise BadInput("A trajectory needs at least one snapshot: train with `snapshots` above 0.")
        self.units = model.units
        parts = [_parameters(model, snapshot) for snapshot in snapshots] + [_parameters(model, None)]
        weights, biases = zip(*parts, strict=True)
        first = ([torch.zeros_like(w) for w in weights[0]], biases[0])
        self._weights = [torch.stack(column) for column in zip(first[0], *weights, strict=True)]
        self._biases = [torch.stack(column) for column in zip(first[1], *biases, strict=True)]
        self.length = len(snapshots) + 1

    @classmethod
    def of_run(cls, model: LayeredBoltzmann, out: Path, num: int = 5) -> Trajectory:
        """The trajectory to `model` through `num` of the snapshots in the run folder `out`, evenly spread among them.

        Few are better than many: weights jitter from update to update, and a path through every snapshot follows that
        jitter, which only adds to what the rungs must bridge.
        """
        paths = sorted((out / SNAPSHOTS).glob("*.safetensors"))
        if len(paths) < num or num < 1:
            raise BadInput(
                f"{out} holds {len(paths)} snapshots of the {num} asked for: train with `snapshots` above that."
            )
        chosen = [paths[(2 * i + 1) * len(paths) // (2 * num)] for i in range(num)]
        return cls(model, [load_checkpoint(path).tensors for path in chosen])

    def rungs(self, ladder: Float[Tensor, " k"]) -> Rungs:
        """The models at the points of `ladder`, numbers in [0, length]."""
        return Rungs(self.units, *self.parameters(ladder))

    @torch.no_grad()
    def parameters(
        self, ladder: Float[Tensor, " k"]
    ) -> tuple[list[Float[Tensor, "k _ _"]], list[Float[Tensor, "k _"]]]:
        """Couplings and biases at the points of `ladder`, stacked."""
        if float(ladder.min()) < 0 or float(ladder.max()) > self.length:
            raise BadInput(f"Rungs must stand between 0 and {self.length}.")
        low = ladder.floor().long().clamp(max=self.length - 1)
        fraction = (ladder - low).to(self._biases[0].dtype)
        weights = [torch.lerp(w[low], w[low + 1], fraction[:, None, None]) for w in self._weights]
        return weights, [torch.lerp(b[low], b[low + 1], fraction[:, None]) for b in self._biases]

    def evenly(self, num_rungs: int) -> Float[Tensor, " k"]:
        """A ladder of evenly spaced points, where `samplers.adapt_ladder` may begin."""
        return torch.linspace(0, self.length, num_rungs, dtype=torch.float64, device=self._biases[0].device)

    @torch.no_grad()
    def climb(
        self, ladder: Float[Tensor, " k"], num_chains: int, *, num_steps: int = 1, generator: torch.Generator
    ) -> State:
        """States for every rung: exact draws of the uncoupled layers, carried up by `num_steps` sweeps on each rung."""
        bottom = self.rungs(ladder.new_zeros(1))
        empty = tuple(bias.new_zeros(num_chains, bias.shape[1]) for bias in bottom._biases)
        state = tuple(bottom.draw(i, empty, bottom.noise(i, num_chains, generator)) for i in range(len(self.units)))
        states = []
        for point in ladder:
            kernel = gibbs(self.rungs(point[None]))
            for _ in range(num_steps):
                state, _ = kernel.step(state, generator)
            states.append(state)
        return tuple(torch.cat(layer) for layer in zip(*states, strict=True))

    def tempering(self, ladder: Float[Tensor, " k"], num_chains: int) -> Kernel:
        """Trajectory tempering: replica exchange between the models at the points of `ladder`, which rises.

        A step is a sweep of block Gibbs of every chain on every rung, and swaps between alternate neighbours by their
        densities with the odd layers summed out. Its state is `samplers.tempering.TemperingState`, the hottest rung first;
        swap rates, round trips and ratios of Z are in there. A step costs k sweeps and as many products again for the swaps.
        Béreux, Decelle, Furtlehner and Seoane (2025), "Fast training and sampling of restricted Boltzmann machines".
        """
        rungs = self.rungs(ladder)

        def log_density(state: State, points: Float[Tensor, "n m"]) -> Float[Tensor, "n m"]:
            columns = torch.searchsorted(ladder, points[::num_chains].contiguous()).T
            return torch.stack([permuted_log_density(rungs, state, column, num_chains) for column in columns], 1)

        return parallel_tempering(lambda points: gibbs(rungs), log_density, ladder, num_chains)


def permuted_log_density(rungs: Rungs, state: State, partner: Tensor, num_chains: int) -> Float[Tensor, " n"]:
    """log f of the rows of each group under the parameters of its partner; `partner` is its own inverse.

    The groups of rows change places, which costs less than to move the parameters.
    """
    row = torch.arange(len(state[0]), device=partner.device).view(-1, num_chains)[partner].flatten()
    return rungs.log_density(tuple(layer[row] for layer in state))[row]


def _parameters(model: LayeredBoltzmann, snapshot: Mapping[str, Tensor] | None) -> tuple[list[Tensor], list[Tensor]]:
    """Couplings and biases of the model as it is, or with the parameters of a snapshot."""
    assert isinstance(model, nn.Module)
    if snapshot is None:
        return [w.detach() for w in model.weights], [b.detach() for b in model.biases]
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    weights, biases = ([snapshot[names[id(p)]] for p in group] for group in (model.weights, model.biases))
    for held, own in zip((*weights, *biases), (*model.weights, *model.biases), strict=True):
        if held.shape != own.shape:
            raise BadInput(
                f"A snapshot has parameters of shape {tuple(held.shape)} where the model has {tuple(own.shape)}."
            )
    return [w.to(model.weights[0]) for w in weights], [b.to(model.weights[0]) for b in biases]
