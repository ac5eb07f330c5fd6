"""Bengio's (2014, section 9) questions about target propagation in generative stacks, each answered by a measurement.

Small stacks on part of binarized MNIST, all with the same number of updates: what the matching target is worth, where targets
should come from, whether back-propagation can be avoided, which top, which maps, how deep. The number is always the same: the
importance-weighted bound on the mean log-likelihood of test images under the explicit prior, nats, a lower bound in
expectation. Question numbers are the paper's.

    python -m experiments.target_prop_questions            # all models
    python -m experiments.target_prop_questions --smoke    # the same code on `digits`, in seconds
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tyro

from experiments.results import FOLDER, Result
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
    "affine": Model(inner=False, kind="tanh"),
    "affine_backprop": Model(objective="back-propagation", inner=False, kind="tanh"),
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
    inner: int = 150
    batch_size: int = 100
    epochs: int = 5
    learning_rate: float = 0.003
    num_test: int = 1000
    num_samples: int = 100
    seed: int = 0


SMOKE = Config(data="digits", rows=300, lowest=7, top=3, inner=5, epochs=1, num_test=20, num_samples=3)


def build(config: Config, model: Model, data: DataSet) -> AutoEncoderStack:
    """The stack, initialised."""
    steps = max(1, model.depth - 1)
    sizes = [round(config.lowest + (config.top - config.lowest) * number / steps) for number in range(model.depth - 1)]
    return AutoEncoderStack(
        Bernoulli(data.num_features),
        [StackLayer(model.kind, size) for size in sizes],
        PRIORS[model.prior](config.top),
        inner=[config.inner if model.inner else 0] * model.depth,
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


def page(value: dict[str, float], error: dict[str, float]) -> str:
    """The questions, their tables, and an answer each that the numbers give."""

    def table(**names: str) -> str:
        lines = [f"| {text} | {value[name]:.2f} ± {error[name]:.2f} |" for name, text in names.items() if name in value]
        return "\n".join(["| | log-likelihood, lower bound |", "| --- | --- |", *lines])

    def gap(first: str, second: str) -> str:
        """How much higher the first is."""
        difference = value[first] - value[second]
        return f"{abs(difference):.1f} nats {'higher' if difference >= 0 else 'lower'}"

    parts = [
        (
            "1. Do the level-wise targets help?",
            table(match_0="no matching target", **{"match_0.3": "weight 0.3"}, base="weight 1", match_3="weight 3"),
            f"The matching target at the weight that the learned error of the reconstruction gives it is "
            f"{gap('base', 'match_0')} than none, {gap('base', 'match_0.3')} than at 0.3 of it, and {gap('base', 'match_3')} "
            f"than at 3 times it.",
        ),
        (
            "2. Can back-propagation between levels be avoided altogether?",
            table(
                base="target propagation, each layer's pair as one unit",
                base_backprop="back-propagation of the bound",
                algorithm1="Algorithm 1, gradients inside its cost",
                recirculation="target propagation, encoders by recirculation",
            ),
            f"Between levels: target propagation is {gap('base', 'base_backprop')} than back-propagation. "
            f"Within a pair, plain recirculation is {gap('recirculation', 'base')}. Algorithm 1 is {gap('algorithm1', 'base')}.",
        ),
        (
            "Where should targets come from? (section 2.2.5)",
            table(
                base="the layer above, from the draw that the layer learns from",
                noise_free="the layer above, noise-free",
                long_loop="the top, from the draw",
                long_loop_noise_free_difference="the top, noise-free, difference correction",
            ),
            f"Than targets from the draw and the layer above, noise-free ones are {gap('noise_free', 'base')}, and those of the "
            f"long loop {gap('long_loop', 'base')}.",
        ),
        (
            "4. Which top level?",
            table(base="standard Gaussian", full_gaussian="full Gaussian", binary_top="factorial binary units"),
            f"A full Gaussian is {gap('full_gaussian', 'base')} than the standard one, as many binary units "
            f"{gap('binary_top', 'base')}.",
        ),
        (
            "10. Encoder or decoder as MLP, neither, or both?",
            table(
                base="both, linear codes",
                affine="neither, tanh codes",
                base_backprop="both, back-propagation",
                affine_backprop="neither, back-propagation",
            ),
            f"Both are {gap('base', 'affine')} than neither; by back-propagation, {gap('base_backprop', 'affine_backprop')}.",
        ),
        (
            "Depth",
            table(
                depth_1="1 layer, target propagation",
                depth_1_backprop="1 layer, back-propagation",
                base="3 layers, target propagation",
                base_backprop="3 layers, back-propagation",
                depth_6="6 layers, target propagation",
                depth_6_backprop="6 layers, back-propagation",
            ),
            f"Three layers are {gap('base', 'depth_1')} than one and {gap('base', 'depth_6')} than six; at six layers target "
            f"propagation is {gap('depth_6', 'depth_6_backprop')} than back-propagation.",
        ),
    ]
    return "\n\n".join(f"## {question}\n\n{rows}\n\n{answer}" for question, rows, answer in parts)


def main(smoke: bool = False, out: Path = Path("runs/target_prop_questions"), results: Path = FOLDER) -> Path:
    """Train and evaluate every stack, then write the result file and the page.

    Args:
        smoke: run the same code on a tiny problem, in seconds.
        out: folder for the runs; what was cut short is taken up again.
        results: folder for the result file and the page.
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
        result.add(name, importance_bound(stack, test, num_samples=config.num_samples, generator=generator))
        print(f"{name}: {result.metrics[name]['value']:.2f}", file=sys.stderr, flush=True)
        if name == "base":
            used = stack.rate_distortion(test, generator)[1][-1].mean(0) > 0.05
            result.add_number("top_dimensions_used", float(used.sum()))
    result.seconds = time.perf_counter() - started
    value = {name: metric["value"] for name, metric in result.metrics.items()}
    error = {name: metric["std_error"] for name, metric in result.metrics.items()}
    head = (
        f"Made by `{command}`: {description}, {config.epochs} epochs each, one seed. "
        "The ± is the error of the draws of Q alone."
    )
    used = (
        f"Question 9: the spectrum of the top's noise tells signal from noise: {value['top_dimensions_used']:.0f} of "
        f"{config.top} units of the first stack's top have a rate above 0.05 nats."
    )
    text = f"# Questions about target propagation, measured\n\n{head}\n\n{page(value, error)}\n\n{used}\n"
    write_atomically(results / "target_prop_questions.md", text.encode())
    return result.write(results)


if __name__ == "__main__":
    print(tyro.cli(main))
