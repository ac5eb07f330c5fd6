"""`genmodels evaluate`: how likely data are under a trained model."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import torch

from genmodels.data import DataSet, load
from genmodels.errors import BadInput
from genmodels.families import FAMILIES
from genmodels.families.common import scored_rows
from genmodels.flags import Evaluate
from genmodels.flags.arguments import command_line
from genmodels.likelihood import LikelihoodReport
from genmodels.pictures import write_estimates
from genmodels.processes import launch
from genmodels.run_config import RunConfig
from genmodels.runs import load_model, stored_step
from genmodels.tables import print_estimates


def run(flags: Evaluate) -> None:
    """Print the likelihood, and keep it in the run's folder for `genmodels plot`."""
    model, config = load_model(flags.path)
    step = stored_step(flags.path)
    data = load(config.data, key=config.key) if flags.data is None else load(flags.data, key=flags.key)
    processes = launch(flags.device, "32-true", flags.devices, flags.num_nodes)
    flags = replace(flags, group_size=processes.group_size(flags.group_size))
    report = _report(flags, model, config, data, processes.fabric.device)
    if not processes.is_first:
        return
    result = {"model": config.model, "data": data.name, "split": flags.split, **report.to_dict()}
    made = {"step": step, "command": command_line(["evaluate"], flags, positional="path")}
    if flags.json:
        print(json.dumps(result))
    else:
        _print_report(f"{config.model} on {data.name}, {flags.split}, {report.num_examples} examples", report)
    write_estimates(flags.path if flags.path.is_dir() else flags.path.parent, report.rows(), result | made)


def _report(flags: Evaluate, model: Any, config: RunConfig, data: DataSet, device: torch.device) -> LikelihoodReport:
    if flags.num_examples is not None and flags.num_examples < 1:
        raise BadInput(f"--num-examples must be at least 1, not {flags.num_examples}.")
    x = data.split(flags.split).fixed()[scored_rows(data, flags)].to(device)
    return FAMILIES[config.model].evaluate(model.to(device), x, data, flags)


def _print_report(title: str, report: LikelihoodReport) -> None:
    print_estimates(title, {**report.rows(), "log Z": report.log_z})
    if report.lower is not None and report.upper is not None:
        print(f"The bracket, upper minus lower side, is {report.bracket_width:.3f} nats wide.")
    for warning in report.warnings:
        print(f"Beware: {warning}")
    print(f"Took {report.seconds:.1f} s.")
