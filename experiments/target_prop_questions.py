"""Bengio's (2014, section 9) questions about target propagation in generative stacks, each answered by a measurement.

Small stacks on part of binarized MNIST, all with the same number of updates: what the matching target is worth, where targets
should come from, whether back-propagation can be avoided, which top, which maps, how deep. The number is always the same: the
importance-weighted bound on the mean log-likelihood of test images under the explicit prior, nats, a lower bound in
expectation. Question numbers are the paper's. Questions 7, 12 and 13 have experiments of their own (`target_prop_top_chain`,
`target_prop_halves`, `target_prop_image_label`, `target_prop_recurrent`), whose result files the page reads.

    python -m experiments.target_prop_questions            # all models
    python -m experiments.target_prop_questions --smoke    # the same code on `digits`, in seconds
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import tyro
from torch import Tensor

from experiments.results import FOLDER, Result
from experiments.target_prop_mnist import kept
from experiments.target_prop_page import ANSWERS, page
from genmodels import Bernoulli
from genmodels.checkpoint import write_atomically
from genmodels.data import DataSet, load
from genmodels.data.examples import Examples
from genmodels.fit import Settings, fit
from genmodels.interface import default_generator
from genmodels.likelihood import importance_bound
from genmodels.objectives import Objective, algorithm1, elbo, target_propagation
from genmodels.stack_layers import StackLayer
from genmodels.target_prop import AutoEncoderStack
from genmodels.top_priors import PRIORS

OBJECTIVES: dict[str, Callable[..., Objective]] = {
    "target propagation": target_propagation,
    "Algorithm 1": algorithm1,
    "back-propagation": elbo,
}


@dataclass(frozen=True)
class Model:
    """One stack, and how it learns."""

    objective: str = "target propagation"
    options: dict[str, Any] = field(default_factory=dict)
    depth: int = 3
    kind: str = "linear"
    inner: bool = True
    """Whether maps have tanh units within."""
    prior: str = "StandardGaussian"
    lower_noise: float | None = None
    """Deviation of the codes below the top, where it is fixed instead of learned."""
    pairs: str = "networks"
    """Of encoders and decoders."""
    square: bool = False
    """Whether all layers have one size, and maps above the lowest nothing within."""


MODELS: dict[str, Model] = {
    "base": Model(),
    "base_backprop": Model(objective="back-propagation"),
    "algorithm1": Model(objective="Algorithm 1"),
    "match_0": Model(options={"match": 0.0}),
    "match_0.3": Model(options={"match": 0.3}),
    "match_3": Model(options={"match": 3.0}),
    "noise_free": Model(options={"noise_free": True}),
    "long_loop": Model(options={"reach": "top"}),
    "long_loop_noise_free_difference": Model(options={"reach": "top", "noise_free": True, "difference": True}),
    "recirculation": Model(options={"recirculation": True}),
    "full_gaussian": Model(prior="FullGaussian"),
    "binary_top": Model(prior="FactorialBernoulli"),
    "lower_noise_0.1": Model(lower_noise=0.1),
    "lower_noise_0.02": Model(lower_noise=0.02),
    "contract": Model(options={"contract": 1.0}),
    "passes_3": Model(options={"passes": 3}),
    "moving_average": Model(options={"passes": 3, "trace": 0.5}),
    "affine": Model(inner=False, kind="tanh"),
    "affine_backprop": Model(objective="back-propagation", inner=False, kind="tanh"),
    "square": Model(kind="tanh", square=True),
    "triangular": Model(kind="tanh", square=True, pairs="triangular"),
    "orthogonal": Model(kind="tanh", square=True, pairs="orthogonal"),
    "depth_1": Model(depth=1),
    "depth_1_backprop": Model(objective="back-propagation", depth=1),
    "depth_6": Model(depth=6),
    "depth_6_backprop": Model(objective="back-propagation", depth=6),
}


@dataclass(frozen=True)
class Config:
    """Everything that decides the result."""

    data: str = "mnist-binarized"
    rows: int = 20_000
    lowest: int = 60
    top: int = 20
    """Units of h_1 and h_L; those between in even steps."""
    square: int = 40
    """Units of every layer of a square stack."""
    inner: int = 150
    batch_size: int = 100
    epochs: int = 5
    learning_rate: float = 0.003
    num_test: int = 1000
    num_samples: int = 100
    seed: int = 0


SMOKE = Config(data="digits", rows=300, lowest=7, top=3, square=5, inner=5, epochs=1, num_test=20, num_samples=3)


def build(config: Config, model: Model, data: DataSet) -> AutoEncoderStack:
    """The stack, initialised."""
    steps = max(1, model.depth - 1)
    sizes = [round(config.lowest + (config.top - config.lowest) * number / steps) for number in range(model.depth - 1)]
    top, inner = config.top, [config.inner if model.inner else 0] * model.depth
    if model.square:
        sizes, top = [config.square] * (model.depth - 1), config.square
        inner[1:] = [0] * (model.depth - 1)
    fixed = {} if model.lower_noise is None else {"noise": model.lower_noise}
    hidden = [StackLayer(model.kind, size, **fixed) for size in sizes]
    for layer in hidden if fixed else []:
        layer.log_noise.requires_grad_(False)
    return AutoEncoderStack(
        Bernoulli(data.num_features),
        hidden,
        PRIORS[model.prior](top),
        inner=inner,
        pairs=model.pairs,
        generator=default_generator(config.seed),
    )


def train(config: Config, model: Model, data: DataSet, out: Path) -> AutoEncoderStack:
    """One trained stack; a finished one is taken up."""
    stack, rows = build(config, model, data), data.train.fixed()[: config.rows]
    stack.initialise_from_data(rows)
    settings = Settings(
        epochs=config.epochs,
        batch_size=config.batch_size,
        optimizer="Adam",
        optimizer_options={"fused": True},
        learning_rate=config.learning_rate,
        average=0.998,
        seed=config.seed,
        device="cpu",
        checkpoint_every=config.epochs,
    )
    fit(stack, OBJECTIVES[model.objective](stack, **model.options), Examples(rows), settings, out=out)
    return stack.requires_grad_(False)


def found_and_searched(stack: AutoEncoderStack, x: Tensor) -> dict[str, float]:
    """Mean log P(x | h_1), nats, at the code that the lowest encoder gives and at the best one (Eq. 20), and what that costs."""
    seconds = []
    for encode in (lambda: stack.up(1, x).mean, lambda: stack.layer(1).code(stack.optimum(1, x).at).mean):
        started = time.perf_counter()
        code = encode()
        seconds.append((code, time.perf_counter() - started))
    (given, cheap), (best, dear) = seconds
    return {
        "reconstruction_network": float(stack.down(1, given).log_prob(x).sum(-1).mean()),
        "reconstruction_optimum": float(stack.down(1, best).log_prob(x).sum(-1).mean()),
        "optimum_over_network_seconds": dear / cheap,
    }


def main(
    smoke: bool = False,
    out: Path = Path("runs/target_prop_questions"),
    results: Path = FOLDER,
    others: Path = FOLDER,
) -> Path:
    """Train and evaluate every stack, then write the result file and the page.

    Args:
        smoke: run the same code on a tiny problem, in seconds.
        out: folder for the runs; what was cut short is taken up again.
        results: folder for the result file and the page.
        others: folder of the result files of other experiments that answer questions.
    """
    config = SMOKE if smoke else Config()
    data = load(config.data)
    test = data.test.fixed()[: config.num_test]
    command = "python -m experiments.target_prop_questions"
    description = f"{config.data}: the first {config.rows} training and {config.num_test} test examples"
    result = Result("target_prop_questions", command, description, (config.seed,), config, {})
    started = time.perf_counter()
    for name, model in MODELS.items():
        stack = train(config, model, data, out / name)
        generator = default_generator(1000 + config.seed)
        bound = partial(importance_bound, stack, test, num_samples=config.num_samples, generator=generator)
        result.add(name, kept(out / name / "bound.json", lambda bound=bound: {"": bound()})[""])
        print(f"{name}: {result.metrics[name]['value']:.2f}", file=sys.stderr, flush=True)
        if name == "base":
            for metric, value in found_and_searched(stack, test).items():
                result.add_number(metric, value)
            generator.manual_seed(2000 + config.seed)
            used = stack.rate_distortion(test, generator)[1][-1].mean(0) > 0.05
            result.add_number("top_dimensions_used", float(used.sum()))
    result.seconds = time.perf_counter() - started
    head = (
        f"Made by `{command}`: {description}, {config.epochs} epochs each, one seed. "
        "The ± is the error of the draws of Q alone."
    )
    files = {name: others / f"{name}.json" for name in ANSWERS}
    found = {name: json.loads(path.read_text())["metrics"] for name, path in files.items() if path.exists()}
    text = page(head, result.metrics, found, config.top)
    write_atomically(results / "target_prop_questions.md", text.encode())
    return result.write(results)


if __name__ == "__main__":
    print(tyro.cli(main))
