"""Metrics as JSON lines: one object an epoch."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from genmodels.checkpoint import explained_if_full, write_atomically
from genmodels.errors import BadInput

Record = dict[str, float | int]


class MetricsFile:
    """An append-only file of records."""

    def __init__(self, path: Path):
        self.path = path

    def append(self, record: Record) -> None:
        """Add one line."""
        with explained_if_full(self.path), open(self.path, "a") as file:
            file.write(json.dumps(record) + "\n")

    def read(self) -> list[Record]:
        """All complete records; a line that a killed run left half-written is not one."""
        if not self.path.exists():
            return []
        lines = self.path.read_text().split("\n")
        try:
            return [json.loads(line) for line in lines[:-1]]
        except ValueError as error:
            raise BadInput(f"{self.path} is damaged ({error}): delete it, or restore it from a copy.") from error

    def keep_first(self, count: int) -> list[Record]:
        """Drop what was written after the checkpoint with `count` records."""
        records = self.read()[:count]
        write_atomically(self.path, "".join(json.dumps(record) + "\n" for record in records).encode())
        return records


def is_best(records: Sequence[Record], name: str | None) -> bool:
    """Whether the last record has the highest value yet of the metric called `name`."""
    values = [record[name] for record in records if name is not None and name in record]
    return name is not None and name in records[-1] and all(values[-1] > value for value in values[:-1])
