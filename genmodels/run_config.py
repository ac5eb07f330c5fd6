"""The configuration of a run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from genmodels.errors import BadInput
from genmodels.monitor import MonitorOptions
from genmodels.settings import Settings


@dataclass(frozen=True)
class RunConfig:
    """Everything that decides a run: on a CPU, the same configuration gives the same bits."""

    model: str
    """A name in `families.FAMILIES`."""
    model_options: dict[str, Any]
    """What the model's `from_config` takes."""
    data: str
    """A named data set, or the path of a user's own."""
    key: str | None = None
    """Which array of an .npz or .mat file to use."""
    row_options: dict[str, Any] = field(default_factory=dict)
    """How the rows of the training are made from the data, for the family's `rows`."""
    objective: str = "pcd"
    """A name in `runs.OBJECTIVES`."""
    objective_options: dict[str, Any] = field(default_factory=dict)
    settings: Settings = field(default_factory=Settings)
    monitor: MonitorOptions = field(default_factory=MonitorOptions)
    image_shape: tuple[int, int] | None = None
    """Height and width of an example; `start` takes it from the data."""

    def to_dict(self) -> dict[str, Any]:
        """As JSON gives it back."""
        return json.loads(json.dumps(asdict(self)))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> RunConfig:
        """Undo `to_dict`."""
        try:
            shape = values["image_shape"]
            parts = {
                "settings": Settings(**values["settings"]),
                "monitor": MonitorOptions(**values["monitor"]),
                "image_shape": None if shape is None else (shape[0], shape[1]),
            }
            return cls(**{**values, **parts})
        except (TypeError, KeyError) as error:
            raise BadInput(
                f"This is no configuration of a run ({error}): give a run that `genmodels train` made."
            ) from error
