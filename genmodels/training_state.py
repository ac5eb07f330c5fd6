"""What a run carries from step to step, and an optimizer's state as tensors and JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from torch import Tensor

from genmodels.settings import Settings
from genmodels.splitting import split_like, whole


@dataclass
class TrainingState:
    """Counters, the objective's state, and the sums of this epoch's metrics."""

    epoch: int = 0
    batch: int = 0
    step: int = 0
    objective: dict[str, Tensor] = field(default_factory=dict)
    sums: dict[str, Tensor] = field(default_factory=dict)

    def add(self, metrics: Mapping[str, Tensor]) -> None:
        """Add one step's metrics; nothing is read back from the device."""
        for name, value in metrics.items():
            total = self.sums.get(name)
            self.sums[name] = value.detach().double() if total is None else total + value.detach()

    def take_means(self, num_steps: int) -> dict[str, float]:
        """Means over the epoch's steps; the sums start anew."""
        means = {name: float(total) / num_steps for name, total in self.sums.items()}
        self.sums = {}
        return means


def flatten_optimizer(state: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """An optimizer's state_dict as named tensors, whole ones, and a JSON-ready rest."""
    tensors: dict[str, Tensor] = {}
    rest: dict[str, Any] = {}
    for index, entries in state["state"].items():
        for name, value in entries.items():
            if isinstance(value, Tensor):
                tensors[f"{index}.{name}"] = whole(value)
            elif value is not None:
                rest[f"{index}.{name}"] = value
    return tensors, {"state": rest, "groups": state["param_groups"]}


def restore_optimizer(optimizer: Any, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
    """Undo `flatten_optimizer`."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    entries: dict[int, dict[str, Any]] = {}
    for key, value in {**tensors, **meta["state"]}.items():
        index, name = key.split(".", 1)
        like = parameters[int(index)]
        own = isinstance(value, Tensor) and value.shape == like.shape
        entries.setdefault(int(index), {})[name] = split_like(value, like) if own else value
    optimizer.load_state_dict({"state": entries, "param_groups": meta["groups"]})


def with_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors under `prefix.name`, as one file holds several groups of them."""
    return {f"{prefix}.{name}": tensor for name, tensor in tensors.items()}


def part(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Undo `with_prefix` for one group.

    >>> import torch
    >>> part("model", {"model.weight": torch.ones(1), "average.weight": torch.zeros(1)})
    {'weight': tensor([1.])}
    """
    start = prefix + "."
    return {name.removeprefix(start): tensor for name, tensor in tensors.items() if name.startswith(start)}


def as_described_now(held: Mapping[str, Any]) -> dict[str, Any]:
    """What a stored run says of itself, with the defaults of the settings that it did not know yet."""
    defaults = json.loads(json.dumps(asdict(Settings())))
    config = dict(held["config"])
    if "settings" in config:
        config = {"row_options": {}, **config, "settings": defaults | config["settings"]}
    return {**defaults, **held, "config": config}
