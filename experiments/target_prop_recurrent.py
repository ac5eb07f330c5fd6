"""How far back in time do targets reach? The temporal order problem at growing lengths, against back-propagation through time.

Bengio (2014), section 5 and question 13. Of T symbols, all but two are distractors (four kinds); one in the second tenth and one
in the sixth are each of two other kinds, and after the last symbol the network is to say which two, in their order: four
classes (Hochreiter and Schmidhuber, 1997, task 6a). The same recurrent net of tanh units, from the same orthogonal weights,
learns from as many sequences by target propagation through time, by back-propagation through time, and by the first and
then the second, half of the sequences each. At one length, what the targets are made of: no difference correction, and
targets from long loops, which train the backward net too.

    python -m experiments.target_prop_recurrent            # all lengths
    python -m experiments.target_prop_recurrent --smoke    # tiny nets, in seconds
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Literal

import torch
import tyro
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn.functional import one_hot

from experiments.results import FOLDER, Result
from experiments.target_prop_supervised import with_error
from genmodels import Categorical, plots
from genmodels.data.examples import Examples
from genmodels.fit import Settings, fit
from genmodels.interface import default_generator
from genmodels.objectives.recurrent import Loops, back_propagation_through_time, recurrent_target_propagation
from genmodels.recurrent import RecurrentNet

Way = Literal["target_prop", "backprop", "then_backprop", "no_difference", "long_loop_targets"]
WAYS: tuple[Way, ...] = ("target_prop", "backprop", "then_backprop")
"""At all lengths."""
VARIANTS: tuple[Way, ...] = ("no_difference", "long_loop_targets")
"""At one length."""
LOOPS: dict[Way, Loops] = {
    "target_prop": Loops(),
    "no_difference": Loops(difference=False),
    "long_loop_targets": Loops(reach=5, match=0.1),
}
DISTRACTORS, MARKS = 4, 2
SYMBOLS, CLASSES = DISTRACTORS + MARKS, MARKS**2


@dataclass(frozen=True)
class Config:
    """Everything that decides the result."""

    lengths: tuple[int, ...] = (10, 20, 40)
    variants_at: int = 20
    """The length at which all that targets are made of is compared."""
    size: int = 64
    sequences: int = 10_000
    num_test: int = 5_000
    epochs: int = 5
    batch_size: int = 100
    learning_rate: float = 3e-3
    seeds: tuple[int, ...] = (0,)


SMOKE = Config(lengths=(6,), variants_at=6, size=7, sequences=100, num_test=30, epochs=1)


def temporal_order(num: int, length: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Sequences, one-hot, one a row, and their classes."""
    draw = partial(torch.randint, generator=generator)
    symbols, marks, row = draw(DISTRACTORS, (num, length)), draw(MARKS, (num, 2)), torch.arange(num)
    for which, tenth in enumerate((1, 5)):
        first, end = tenth * length // 10, (tenth + 1) * length // 10
        symbols[row, draw(first, max(end, first + 1), (num,))] = DISTRACTORS + marks[:, which]
    return one_hot(symbols, SYMBOLS).flatten(1), marks[:, 0] * MARKS + marks[:, 1]


def error(config: Config, way: Way, length: int, seed: int, out: Path) -> float:
    """Per cent of test sequences whose class the trained net misses; what an earlier attempt finished is taken up."""
    x, classes = temporal_order(config.sequences, length, default_generator(100 + seed))
    rows = torch.cat([x, one_hot(classes, CLASSES)], 1).to(torch.uint8)
    model = RecurrentNet(SYMBOLS, config.size, Categorical(1, CLASSES), generator=default_generator(seed))
    halves = ("target_prop", "backprop") if way == "then_backprop" else (way,)
    for number, part in enumerate(halves):
        settings = Settings(
            epochs=config.epochs,
            batch_size=config.batch_size,
            optimizer="Adam",
            optimizer_options={"fused": True},
            learning_rate=config.learning_rate,
            average=0.98,
            seed=seed,
            device="cpu",
            checkpoint_every=config.epochs,
        )
        backwards = part == "backprop"
        objective = (
            back_propagation_through_time(model) if backwards else recurrent_target_propagation(model, LOOPS[part])
        )
        share = rows[number :: len(halves)]
        fit(model, objective, Examples(share), settings, out=out / str(number))
    x, classes = temporal_order(config.num_test, length, default_generator(1000 + seed))
    return 100 * (model.predict(x.float()).argmax(1) != classes).float().mean().item()


def figure(config: Config, result: Result) -> Figure:
    """Error against length."""
    drawn = Figure(figsize=(5, 3.6), layout="constrained")
    axes = drawn.subplots()
    for way in WAYS:
        metrics = [result.metrics[f"test_error_{way}_length_{length}"] for length in config.lengths]
        values, errors = ([metric[key] for metric in metrics] for key in ("value", "std_error"))
        axes.errorbar(config.lengths, values, errors, marker="o", capsize=3, label=way.replace("_", " "))
    axes.set_xlabel("time steps")
    axes.set_ylabel("test error, %")
    axes.set_ylim(-2, 80)
    axes.legend(fontsize=8)
    return drawn


def main(smoke: bool = False, out: Path = Path("runs/target_prop_recurrent"), results: Path = FOLDER) -> Path:
    """Train and test every net, then write the result file and the plot.

    Args:
        smoke: run the same code on a tiny problem, in seconds.
        out: folder for the runs; what was cut short is taken up again.
        results: folder for the result file and the plot.
    """
    config = SMOKE if smoke else Config()
    command = "python -m experiments.target_prop_recurrent"
    description = f"temporal order, {config.sequences} training and {config.num_test} test sequences of each length"
    result = Result("target_prop_recurrent", command, description, config.seeds, config, {})
    started = time.perf_counter()
    for way, length in (*product(WAYS, config.lengths), *product(VARIANTS, (config.variants_at,))):
        name = f"test_error_{way}_length_{length}"
        errors = [error(config, way, length, seed, out / f"{name}_seed_{seed}") for seed in config.seeds]
        result.add_number(name, *with_error(errors, config.num_test))
        for seed, value in zip(config.seeds, errors, strict=True):
            result.add_number(f"{name}_seed_{seed}", value)
        print(f"{name}: {', '.join(f'{value:.2f}' for value in errors)} %", file=sys.stderr, flush=True)
    result.seconds = time.perf_counter() - started
    plots.save(figure(config, result), results / "target_prop_recurrent.png")
    return result.write(results)


if __name__ == "__main__":
    print(tyro.cli(main))
