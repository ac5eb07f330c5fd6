"""Labelled stacks on the command line."""

from __future__ import annotations

import time
from dataclasses import asdict, fields
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from genmodels import plots
from genmodels.data import DataSet
from genmodels.data.examples import Examples
from genmodels.data.labelled import LabelledRows, all_labelled, few_labelled
from genmodels.errors import BadInput
from genmodels.families.common import scored_rows, settings_from
from genmodels.families.family import Drawn, Family, Wanted
from genmodels.flags import Evaluate, Sample
from genmodels.flags.labelled import TrainLabelled
from genmodels.interface import check_width
from genmodels.labelled_stack import LabelledStack
from genmodels.likelihood import Estimate, LikelihoodReport
from genmodels.objectives.labelled import Steps
from genmodels.progress import Progress
from genmodels.run_config import RunConfig
from genmodels.units import Categorical

_LEARNING_RATE = 0.002


def run_config(flags: TrainLabelled, data: DataSet) -> RunConfig:
    """The run of a labelled stack on `data` that the flags describe."""
    if flags.unlabelled and flags.labels is None:
        raise BadInput("All examples show their class: say how many do, as in --labels 100, or leave --unlabelled out.")
    classes = int(classes_of(data.train).max()) + 1
    objective, options = _objective(flags)
    return RunConfig(
        model="labelled-stack",
        model_options={
            "inputs": data.num_features,
            "hidden": flags.hidden,
            "within": flags.within,
            "label": Categorical(1, classes).config(),
            "kind": flags.kind,
            "maps": flags.maps,
            "tied": flags.tied,
        },
        data=flags.data,
        key=flags.key,
        row_options={} if flags.labels is None else {"labels": flags.labels, "unlabelled": flags.unlabelled},
        objective=objective,
        objective_options=options,
        settings=settings_from(flags, len(data.train), learning_rate=_LEARNING_RATE),
    )


def _objective(flags: TrainLabelled) -> tuple[str, dict[str, Any]]:
    given = {step.name: getattr(flags, step.name) for step in fields(Steps) if hasattr(flags, step.name)}
    if flags.objective == "target-propagation":
        return "supervised_target_propagation", {"steps": asdict(Steps(**given))}
    plain = {name: getattr(TrainLabelled, name) for name in given if name != "input_noise"}
    if any(given[name] != value for name, value in plain.items()):
        names = ", ".join(name.replace("_", "-") for name in plain)
        raise BadInput(f"Only target-propagation has the options {names}: leave them out.")
    return "back_propagation", {"input_noise": flags.input_noise}


def classes_of(examples: Examples) -> Tensor:
    """The class of every example."""
    labels = getattr(examples, "labels", None)  # data read in blocks have none
    if labels is None:
        raise BadInput("These examples have no labels: choose data with classes.")
    return labels


def rows(config: RunConfig, data: DataSet) -> LabelledRows:
    """Rows of x, label and mask: all with labels, or the wanted number, read as often as half of all examples are."""
    classes = config.model_options["label"]["levels"]
    if not config.row_options:
        return all_labelled(data.train, classes)
    labels, unlabelled = config.row_options["labels"], config.row_options["unlabelled"]
    half = len(data.train) // 2
    return few_labelled(data.train, classes, labels, config.settings.seed, unlabelled=unlabelled, steps_rows=half)


def sample(model: LabelledStack, config: RunConfig, flags: Sample, wanted: Wanted) -> Drawn:
    """A classifier draws nothing."""
    raise BadInput("A labelled stack says which class an example has and draws none: use evaluate or plot.")


@torch.no_grad()
def evaluate(model: LabelledStack, x: Tensor, data: DataSet, flags: Evaluate) -> LikelihoodReport:
    """Mean log P(y | x) of the labels, nats, exact, and the share of them that Algorithm 4 misses, per cent."""
    check_width(x, len(model.centre), data.name)
    started = time.perf_counter()
    labels = classes_of(data.split(flags.split))[scored_rows(data, flags)].to(x.device)
    if int(labels.max()) >= model.label.size:
        raise BadInput(f"{data.name} has more classes than the {model.label.size} of this model: choose other data.")
    field = model.predict(x)
    wrong = 100 * (field.argmax(1) != labels).double().mean().item()
    value = torch.log_softmax(field.double(), 1).gather(1, labels[:, None]).mean().item()
    found = Estimate(value, 0.0, "exact", f"log P(label | x); {wrong:.2f} % of the labels are missed", 0)
    log_z = Estimate(0.0, 0.0, "exact", "normalised by its making", 1)
    seconds = time.perf_counter() - started
    return LikelihoodReport(found, None, None, log_z, len(x), seconds, {"error_percent": wrong})


def pictures(
    model: LabelledStack, config: RunConfig, generator: torch.Generator, progress: Progress
) -> dict[str, Figure]:
    """The filters of the lowest encoder."""
    weight = model.encoders[0].weight
    assert isinstance(weight, Tensor)
    return {"filters.png": plots.filter_grid(weight.T, config.image_shape)}


LABELLED_FAMILY = Family(
    name="labelled-stack",
    model=LabelledStack,
    run_config=run_config,
    initialise=LabelledStack.initialise_from_data,
    sample=sample,
    evaluate=evaluate,
    pictures=pictures,
    rows=rows,
)
