"""A denoising auto-encoder as the top of a stack: plain, with walk-back, and with nearest-neighbour reconstruction.

Bengio (2014), section 2.2.8 and question 7: on the codes h_{L−1} of the first stack of `target_prop_questions`, auto-encoders
with noise σ in their code learn three ways, and their chains (Algorithm 3), which start at codes of training examples, go on
for as many steps; from there the stack's decoders lead down to images. For every way and σ: CSL of the images, a lower bound in
expectation on the log-likelihood under the chain's own distribution, and how far one step of the chain goes: the mean squared
distance of consecutive states, as a share of that between two independent ones. Beside them the stack's own top, as a
chain and as the explicit prior, by the same number of draws.

    python -m experiments.target_prop_top_chain            # all auto-encoders
    python -m experiments.target_prop_top_chain --smoke    # the same code on `digits`, in seconds
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
import tyro
from torch import Tensor

from experiments import target_prop_questions
from experiments.results import FOLDER, Result
from genmodels import DAE, Gaussian
from genmodels.corruptions import NoCorruption
from genmodels.data import load
from genmodels.data.examples import Examples
from genmodels.fit import Settings, fit
from genmodels.interface import default_generator
from genmodels.likelihood import csl
from genmodels.objectives import Objective, denoising, nearest_neighbour
from genmodels.stack_chain import StackChain
from genmodels.target_prop import AutoEncoderStack
from samplers import run, walk_back

WAYS: dict[str, Callable[[DAE], Objective]] = {
    "plain": denoising,
    "walk_back": partial(denoising, walk_back=3),
    "nearest": nearest_neighbour,
}


@dataclass(frozen=True)
class Config:
    """Everything that decides the result."""

    stack: target_prop_questions.Config = target_prop_questions.Config()  # noqa: RUF009 (frozen)
    hidden: int = 200
    noise: tuple[float, ...] = (0.5, 1.0, 2.0)
    """σ of the code."""
    epochs: int = 20
    batch_size: int = 500
    learning_rate: float = 3e-3
    chains: int = 200
    steps: int = 50
    """Of each chain, after as many that are thrown away."""


SMOKE = Config(stack=target_prop_questions.SMOKE, hidden=6, noise=(1.0,), epochs=1, batch_size=100, chains=5, steps=3)


@torch.no_grad()
def codes(model: AutoEncoderStack, x: Tensor, generator: torch.Generator) -> Tensor:
    """Draws of h_{L−1}."""
    return model.encode(x).draw(generator)[-2]


def train(config: Config, way: str, noise: float, rows: Tensor, out: Path) -> DAE:
    """One auto-encoder of codes; a finished one is taken up."""
    size = rows.shape[1]
    generator = default_generator(config.stack.seed)
    model = DAE(Gaussian(size), NoCorruption(), (config.hidden,), hidden_noise=noise, generator=generator)
    model.initialise_from_data(rows)
    settings = Settings(
        epochs=config.epochs,
        batch_size=config.batch_size,
        optimizer="Adam",
        optimizer_options={"fused": True},
        learning_rate=config.learning_rate,
        average=0.99,
        seed=config.stack.seed,
        device="cpu",
        checkpoint_every=config.epochs,
    )
    fit(model, WAYS[way](model), Examples(rows), settings, out=out)
    return model.requires_grad_(False)


@torch.no_grad()
def walk(step: Callable[[Tensor], Tensor], start: Tensor, num_steps: int) -> Tensor:
    """The second half of 2 × `num_steps` states of chains, (steps, chains, d)."""
    states = [start]
    for _ in range(2 * num_steps):
        states.append(step(states[-1]))
    return torch.stack(states[-num_steps:])


@torch.no_grad()
def measure(
    result: Result, name: str, model: AutoEncoderStack, states: Tensor, apart: float, test: Tensor, seed: int
) -> None:
    """Add CSL of the images below codes, and how far a step of the chain goes."""
    generator, h = default_generator(3000 + seed), states.flatten(0, 1)
    for layer in range(model.num_layers - 1, 1, -1):
        h = model.down(layer, h).draw(generator)
    result.add(f"{name}_csl", csl(model.observed, test, model.decode((h,))[None]))
    if len(states) > 1:
        result.add_number(f"{name}_step", (states[1:] - states[:-1]).square().sum(-1).mean().item() / apart)
    print(f"{name}: {result.metrics[f'{name}_csl']['value']:.2f}", file=sys.stderr, flush=True)


def main(
    smoke: bool = False,
    out: Path = Path("runs/target_prop_top_chain"),
    stack_out: Path = Path("runs/target_prop_questions"),
    results: Path = FOLDER,
) -> Path:
    """Train and measure every auto-encoder, then write the result file.

    Args:
        smoke: run the same code on a tiny problem, in seconds.
        out: folder for the runs; what was cut short is taken up again.
        stack_out: the folder of `target_prop_questions`; what is not there is trained.
        results: folder for the result file.
    """
    config = SMOKE if smoke else Config()
    seed, data = config.stack.seed, load(config.stack.data)
    command = "python -m experiments.target_prop_top_chain"
    number = config.chains * config.steps
    description = f"codes of {config.stack.rows} examples of {config.stack.data}, {number} states of each chain"
    result = Result("target_prop_top_chain", command, description, (seed,), config, {})
    started = time.perf_counter()
    model = target_prop_questions.train(config.stack, target_prop_questions.MODELS["base"], data, stack_out / "base")
    generator, test = default_generator(2000 + seed), data.test.fixed()[: config.stack.num_test]
    rows = codes(model, data.train.fixed()[: config.stack.rows], generator)
    start, apart = rows[: config.chains], 2 * rows.var(0).sum().item()
    score = partial(measure, result, model=model, apart=apart, test=test, seed=seed)
    prior = model.sample(number, generator=generator)[-2]
    score("prior", states=prior[None])
    own = partial(StackChain(model).step, layer=model.num_layers - 1, generator=generator)
    score("own_chain", states=walk(own, start, config.steps))
    for noise in config.noise:
        for way in WAYS:
            name = f"{way}_{noise:g}"
            top = train(config, way, noise, rows, out / name)
            step = partial(run, walk_back(top), num_steps=1, generator=generator)
            score(name, states=walk(step, start, config.steps))
    result.seconds = time.perf_counter() - started
    return result.write(results)


if __name__ == "__main__":
    print(tyro.cli(main))
