"""What sparse coding costs beside scikit-learn: the lasso for many examples, and learning a dictionary."""

from __future__ import annotations

import math
import statistics
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from sklearn.decomposition import MiniBatchDictionaryLearning, sparse_encode
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor

from genmodels.lasso import Lasso, solve
from genmodels.objectives import dictionary_learning
from genmodels.priors import LaplacePrior
from genmodels.psd import PSD
from genmodels.sparse_coding import SparseCoding
from genmodels.units import Gaussian


class Race(NamedTuple):
    """Medians over alternating repeats, processor seconds, and the ratio of ours to theirs."""

    ours: float
    theirs: float
    ratio: float


class LassoRace(NamedTuple):
    race: Race
    largest_gap: float
    """Of our codes: at least the distance of their objective from the optimum."""
    largest_excess: float
    """Of scikit-learn's objective over ours, of one example."""


class DictionaryRace(NamedTuple):
    race: Race
    objective: float
    """Mean validation objective that scikit-learn ended at, and that we had to reach."""
    reached: float
    """Ours, after the first update that reached it."""


class EncoderRace(NamedTuple):
    """Of every encoder, medians over repeats."""

    over_exact: dict[str, float]
    """Time of exact inference, to a gap of 1e-6, over that of the encoder."""
    over_sklearn: dict[str, float]
    """Time of scikit-learn's coordinate descent over that of the encoder."""
    seconds: dict[str, float]


def seconds(work: Callable[[], Any]) -> tuple[float, Any]:
    """The processor's seconds, which other programs do not lengthen as they do those of the clock, and what came out."""
    started = time.process_time()
    found = work()
    return time.process_time() - started, found


def _each(work: Callable[[Tensor], Any], batches: Sequence[Tensor]) -> None:
    """One batch after the other, of which nothing is kept."""
    for batch in batches:
        work(batch)


def _race(pairs: list[tuple[float, float]]) -> Race:
    ours, theirs = (statistics.median(side) for side in zip(*pairs, strict=True))
    return Race(ours, theirs, statistics.median(our / their for our, their in pairs))


def lasso_race(x: Float[Tensor, "n d"], dictionary: Float[Tensor, "d k"], penalty: float, repeats: int) -> LassoRace:
    """`solve` to a gap of 1e-6 beside `sparse_encode(algorithm="lasso_cd")`, which both get the same float64 arrays."""
    x, dictionary = x.double(), dictionary.double()
    rows, atoms = x.numpy(), np.ascontiguousarray(dictionary.T.numpy())
    solve(Lasso(x[:5], dictionary, penalty))  # compiles on a new machine
    pairs, ours, theirs = [], None, None
    for _ in range(repeats):
        slow, theirs = seconds(lambda: sparse_encode(rows, atoms, algorithm="lasso_cd", alpha=penalty))
        fast, ours = seconds(lambda: solve(Lasso(x, dictionary, penalty)))
        pairs.append((fast, slow))
    assert ours is not None
    assert theirs is not None
    problem, code = Lasso(x, dictionary, penalty), torch.from_numpy(theirs)
    objective, _ = problem.measure(code, code @ problem.gram - problem.correlation)
    return LassoRace(_race(pairs), float(ours.gap.max()), float((objective - ours.objective).max()))


def encoder_race(
    model: PSD,
    encoders: Mapping[str, Callable[[Tensor], Tensor]],
    x: Float[Tensor, "n d"],
    repeats: int,
    batch_size: int,
) -> EncoderRace:
    """Encoders beside exact inference for the generative part of `model`: the same batches of the same examples, in turns.

    scikit-learn gets all examples at once.
    """
    batches = x.split(batch_size)
    generative = model.generative
    whiten = generative.noise_variance.rsqrt()
    rows = ((x - generative.visible_bias) * whiten).double().numpy()
    atoms = np.ascontiguousarray((generative.dictionary * whiten[:, None]).T.double().numpy())
    penalty = float(1 / generative.factors.scale[0])
    exact, theirs, spent = [], [], {name: [] for name in encoders}
    for _ in range(repeats):
        exact.append(seconds(lambda: _each(lambda batch: solve(generative.lasso(batch)), batches))[0])
        theirs.append(seconds(lambda: sparse_encode(rows, atoms, algorithm="lasso_cd", alpha=penalty))[0])
        for name, encoder in encoders.items():
            times = [seconds(lambda encoder=encoder: _each(encoder, batches))[0] for _ in range(21)]
            spent[name].append(statistics.median(times))
    medians = {name: statistics.median(times) for name, times in spent.items()}
    over_exact, over_sklearn = (
        {name: statistics.median(slow / fast for slow, fast in zip(slower, spent[name], strict=True)) for name in spent}
        for slower in (exact, theirs)
    )
    return EncoderRace(over_exact, over_sklearn, medians)


def validation_objective(x: Float[Tensor, "n d"], dictionary: Float[Tensor, "d k"], penalty: float) -> float:
    """Mean of min_z ½|x − D z|² + λ|z|₁."""
    return float(solve(Lasso(x.double(), dictionary.double(), penalty), tolerance=1e-4).objective.mean())


def dictionary_race(
    x: Float[Tensor, "n d"],
    valid: Float[Tensor, "m d"],
    codes: int,
    penalty: float,
    *,
    passes: int,
    batch_size: int,
    repeats: int,
    seed: int,
) -> DictionaryRace:
    """Ours to the validation objective of `MiniBatchDictionaryLearning` after some passes, from the same first atoms.

    Both learn from the same rows in batches of their own best size: 256, scikit-learn's default, and `batch_size`. Ours is
    validated after every update, whose time is not counted.
    """
    start = torch.nn.functional.normalize(x[:codes], dim=1)
    pairs, objective, reached = [], 0.0, 0.0
    for _ in range(repeats):
        slow, atoms = seconds(lambda: _scikit_learn(x, start, penalty, passes, seed))
        objective = validation_objective(valid, atoms, penalty)
        fast, reached = _ours(x, valid, start, penalty, objective, passes, batch_size, seed)
        pairs.append((fast, slow))
    return DictionaryRace(_race(pairs), objective, reached)


def _scikit_learn(x: Tensor, start: Tensor, penalty: float, passes: int, seed: int) -> Tensor:
    # No early stop, so that it makes all of its passes.
    options: dict[str, Any] = {"alpha": penalty, "tol": 0.0, "max_no_improvement": None}
    learner = MiniBatchDictionaryLearning(
        n_components=len(start),
        max_iter=passes,
        batch_size=256,
        fit_algorithm="cd",
        dict_init=start.double().numpy(),
        random_state=seed,
        **options,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        learner.fit(x.double().numpy())
    return torch.from_numpy(learner.components_).T


def _ours(
    x: Tensor, valid: Tensor, start: Tensor, penalty: float, wanted: float, passes: int, batch_size: int, seed: int
) -> tuple[float, float]:
    """Seconds and objective after the first update that is as good, or after the last of twice as many passes."""
    model = SparseCoding(Gaussian(x.shape[1], variance=penalty), LaplacePrior(len(start)), learn_noise=False)
    with torch.no_grad():
        model.dictionary.copy_(start.T)
    randoms = torch.Generator().manual_seed(seed)
    objective, optimizer = (
        dictionary_learning(model, forgetting=1.0, tolerance=2.0),
        torch.optim.SGD(model.parameters(), lr=1.0),
    )
    state, spent, reached = objective.init(x[:batch_size], randoms), 0.0, math.inf

    def update(rows: Tensor) -> None:
        nonlocal state
        loss, state, _ = objective.step(rows, state, randoms)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    for _ in range(2 * passes):
        for rows in x[torch.randperm(len(x), generator=randoms)].split(batch_size):
            spent += seconds(lambda rows=rows: update(rows))[0]
            reached = validation_objective(valid, model.dictionary.detach(), penalty)
            if reached <= wanted:
                return spent, reached
    return spent, reached
