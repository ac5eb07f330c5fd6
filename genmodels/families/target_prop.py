"""Stacks of auto-encoders on the command line."""

from __future__ import annotations

from dataclasses import asdict, fields
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from genmodels import plots
from genmodels.data import DataSet, load
from genmodels.errors import BadInput
from genmodels.families import directed
from genmodels.families.common import device_of, settings_from
from genmodels.families.family import Drawn, Family, Wanted
from genmodels.flags import Evaluate, Sample
from genmodels.flags.target_prop import TrainTargetProp
from genmodels.layers import visible_layer
from genmodels.likelihood import LikelihoodReport, chain_fields
from genmodels.objectives.target_prop import Loops
from genmodels.progress import Progress, bar
from genmodels.run_config import RunConfig
from genmodels.stack_chain import StackChain
from genmodels.target_prop import AutoEncoderStack
from samplers import run, walk_back

_LEARNING_RATE = 0.003
FILM_STEPS, FILM_CHAINS = (1, 2, 5, 10, 30, 100), 10
PRIORS = {
    "standard-gaussian": "StandardGaussian",
    "full-gaussian": "FullGaussian",
    "factorial-bernoulli": "FactorialBernoulli",
}


def run_config(flags: TrainTargetProp, data: DataSet) -> RunConfig:
    """The run of a stack on `data` that the flags describe."""
    if not flags.sizes:
        raise BadInput("A stack needs at least one layer: give --sizes, as in --sizes 100 60 30.")
    *below, top = flags.sizes
    kinds = list(flags.kinds) * (len(below) if len(flags.kinds) == 1 else 1)
    if len(kinds) != len(below):
        raise BadInput(f"Give one kind of units for all layers below the top or {len(below)}, not {len(flags.kinds)}.")
    if flags.pairs == "optimised" and flags.strategy == "fsdp":
        raise BadInput("Processes search for different times, and split networks keep step: use --strategy ddp.")
    objective, options = _objective(flags)
    return RunConfig(
        model="target-prop",
        model_options={
            "observed": visible_layer(data, flags.visible_units).config(),
            "hidden": [{"kind": kind, "size": size} for kind, size in zip(kinds, below, strict=True)],
            "prior": {"type": PRIORS[flags.prior], "size": top},
            "inner": flags.inner,
            "pairs": flags.pairs,
        },
        data=flags.data,
        key=flags.key,
        objective=objective,
        objective_options=options,
        settings=settings_from(flags, len(data.train), learning_rate=_LEARNING_RATE),
    )


def _objective(flags: TrainTargetProp) -> tuple[str, dict[str, Any]]:
    loops = Loops(**{option.name: getattr(flags, option.name) for option in fields(Loops)})
    if flags.objective != "target-propagation" and loops != Loops():
        options = ", ".join(option.name.replace("_", "-") for option in fields(Loops))
        raise BadInput(f"Only target-propagation has the options {options}: leave them out.")
    if flags.objective != "algorithm1" and flags.alpha != 1:
        raise BadInput("Only algorithm1 has an alpha: leave it out.")
    if flags.objective == "backprop":
        if flags.prior == "factorial-bernoulli" or any(
            kind.partition(":")[0] in ("binary", "one-hot") for kind in flags.kinds
        ):
            raise BadInput("No gradient passes through discrete units: train them with target-propagation.")
        if flags.pairs == "optimised":
            raise BadInput("No gradient passes through a search: train optimised pairs with target-propagation.")
        return "elbo", {}
    if flags.objective == "algorithm1":
        return "algorithm1", {"alpha": flags.alpha}
    return "target_propagation", asdict(loops)


@torch.no_grad()
def sample(model: AutoEncoderStack, config: RunConfig, flags: Sample, wanted: Wanted) -> Drawn:
    """Independent draws; chains up and down the stack from rows of the data; or the missing halves of images."""
    if wanted.rows is None or flags.inpaint is not None:
        return directed.sample(model, config, flags, wanted)
    generator, chain = wanted.generator, StackChain(model)
    x = wanted.rows
    x = run(walk_back(chain), x, flags.num_steps - 1, generator=generator, track=lambda n: bar(n, "up and down"))
    field = chain.reconstruct(chain.corrupt(x, chain.corruption_noise(x, generator)))
    x = chain.draw(field, chain.reconstruction_noise(x, generator))
    title = f"{flags.num} chains after {flags.num_steps:,} times up and down the stack"
    return Drawn(x, model.observed.mean(field), title)


def evaluate(model: AutoEncoderStack, x: Tensor, data: DataSet, flags: Evaluate) -> LikelihoodReport:
    """A lower bound in expectation: the ELBO, the importance-weighted bound, or annealing over real latents."""
    if flags.method == "ais" and not model.differentiable:
        raise BadInput(
            "Annealing over the latents needs real units and derivatives of all encoders: use --method iwae."
        )
    return directed.evaluate(model, x, data, flags)


@torch.no_grad()
def pictures(
    model: AutoEncoderStack, config: RunConfig, generator: torch.Generator, progress: Progress
) -> dict[str, Figure]:
    """Samples, a film strip of chains up and down from test examples, and the rates of the layers."""
    shape, data = config.image_shape, load(config.data, key=config.key)
    x = data.test.fixed().to(device_of(model))
    _, *z = model.sample(directed.NUM_SAMPLES, generator=generator)
    figures = {"samples.png": directed.samples_figure(model, tuple(z), config, data)}
    if shape is not None:
        chain, start = StackChain(model), x[:FILM_CHAINS]
        fields = chain_fields(chain, start, max(FILM_STEPS), generator=generator, progress=progress)
        means = directed.shown(model.observed.mean(fields[torch.tensor(FILM_STEPS) - 1]), data)
        figures["film_strip.png"] = plots.film_strip(torch.cat([start[None], means]), (0, *FILM_STEPS), shape)
    figures["rates.png"] = directed.rates_figure(model, x, generator)
    return figures


TARGET_PROP_FAMILY = Family(
    name="target-prop",
    model=AutoEncoderStack,
    run_config=run_config,
    initialise=AutoEncoderStack.initialise_from_data,
    sample=sample,
    evaluate=evaluate,
    pictures=pictures,
)
