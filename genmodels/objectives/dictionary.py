"""Learning a linear model's dictionary from the most probable codes."""

from __future__ import annotations

import ctypes
import functools
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from genmodels.errors import BadInput
from genmodels.objectives.objective import Objective, ObjectiveState, with_gradient
from genmodels.sparse_coding import SparseCoding
from samplers.fused import native

_LANES = 8  # to whole vectors, as dictionary.cpp needs them
_DEAD = 1e-6  # of the mean squared code, below which an atom is of no use


def dictionary_learning(model: SparseCoding, *, forgetting: float = 2.0, tolerance: float = 1e-2) -> Objective:
    """Online dictionary learning (Mairal, Bach, Ponce and Sapiro, 2009): E at the most probable codes, over unit atoms.

    The statistics A = Σ z zᵀ and B = Σ (x − b) zᵀ of all batches, of which the s-th of t has the weight
    (s / t)^`forgetting`, make a surrogate of the mean energy, and one pass of coordinate descent over the atoms lowers it
    (algorithm 2 there). Only the dictionary learns: noise and scales are the penalty. An atom that no code uses is set to
    an example of the batch that costs much energy.

    The gradient is D minus what that pass makes of D: `torch.optim.SGD` with a constant learning rate of 1 and no average
    does the paper's steps. `tolerance` is the gap, in nats, to which codes are found.
    """
    if forgetting < 0:
        raise BadInput(f"forgetting must be at least 0, not {forgetting}.")
    variance = model.noise_variance.detach()
    if bool((variance.amax() > 1.0001 * variance.amin()) | (variance.isnan().any())):
        raise BadInput("Dictionary learning needs one noise variance for all of x: start from a model that has.")

    def init(x: Tensor, generator: torch.Generator) -> ObjectiveState:
        size, num = model.dictionary.shape
        return {"step": x.new_zeros(()), "second": x.new_zeros(num, num), "cross": x.new_zeros(size, num)}

    def step(x: Tensor, state: ObjectiveState, generator: torch.Generator):
        optimum = model.infer(x, tolerance=tolerance)
        (z,) = optimum.z
        with torch.no_grad():
            centred = x - model.visible_bias
            count = state["step"] + 1
            keep = (1 - 1 / count) ** forgetting
            second = keep * state["second"] + z.T @ z
            cross = keep * state["cross"] + centred.T @ z
            usage = second.diagonal()
            dead = usage <= _DEAD * usage.mean()
            better = improved_atoms(model.dictionary, second, cross)
            better = _reseeded(better, dead, centred, optimum.energy)
            kept = (~dead).to(x)
            new = {"step": count, "second": second * kept * kept[:, None], "cross": cross * kept}
        energy = optimum.energy.mean()
        metrics = {"energy": energy, "active": (z != 0).to(x).mean(), "reseeded": dead.to(x).sum()}
        return with_gradient(energy, [model.dictionary], [model.dictionary.detach() - better]), new, metrics

    # The atoms are found from the statistics of all rows.
    return Objective(init, step, chains=None)


def improved_atoms(
    dictionary: Float[Tensor, "d k"], second: Float[Tensor, "k k"], cross: Float[Tensor, "d k"]
) -> Float[Tensor, "d k"]:
    """One pass over the atoms, each set to the unit vector that minimises ½ tr(DᵀD A) − tr(Dᵀ B) given all others.

    An atom whose code was always 0 stays as it is.
    """
    atoms, wanted = _rows(dictionary), _rows(cross)
    weights, library = second.to("cpu", torch.float64).contiguous(), _library()
    if library is None:
        for j in weights.diagonal().nonzero()[:, 0].tolist():
            atom = wanted[j] - weights[j] @ atoms + weights[j, j] * atoms[j]
            atoms[j] = atom / atom.norm().clamp_min(1e-30)
    else:
        library.improve_atoms.argtypes = [ctypes.c_void_p] * 3 + [ctypes.c_int64] * 2
        library.improve_atoms.restype = None
        library.improve_atoms(*(t.data_ptr() for t in (weights, wanted, atoms)), *atoms.shape)
    return atoms[:, : len(dictionary)].T.to(dictionary)


def _rows(matrix: Float[Tensor, "d k"]) -> Float[Tensor, "k padded"]:
    """Its columns as rows of whole vectors, a copy in float64."""
    size, num = matrix.shape
    rows = torch.zeros(num, size + -size % _LANES, dtype=torch.float64)
    rows[:, :size] = matrix.T
    return rows


@functools.cache
def _library() -> ctypes.CDLL | None:
    return native.compiled(
        [Path(__file__).with_suffix(".cpp")], options=("-fassociative-math", "-fno-signed-zeros", "-fno-trapping-math")
    )


def _reseeded(
    dictionary: Float[Tensor, "d k"], dead: Tensor, x: Float[Tensor, "n d"], energy: Float[Tensor, " n"]
) -> Float[Tensor, "d k"]:
    """The dictionary with its dead atoms at the examples of the highest energy, as far as these go."""
    which = dead.nonzero()[:, 0][: len(x)]
    rows = x[energy.topk(len(which)).indices]
    dictionary[:, which] = (rows / rows.norm(dim=1, keepdim=True).clamp_min(1e-30)).T
    return dictionary
