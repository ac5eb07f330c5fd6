"""Metrics as JSON lines: one object an epoch."""

from __future__ import annotations

import json
from pathlib import Path

Record = dict[str, float]


class MetricsFile:
    """An append-only file of records."""

    def __init__(self, path: Path):
        self._path = path

    def append(self, record: Record) -> None:
        """Add one line."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with open(self._path, "a") as file:
            file.write(json.dumps(record) + "\n")

    def read(self) -> list[Record]:
        """All complete records; a line that a killed run left half-written is not one."""
        if not self._path.exists():
            return []
        lines = self._path.read_text().split("\n")
        return [json.loads(line) for line in lines[:-1]]

    def keep_first(self, count: int) -> list[Record]:
        """Drop what was written after the checkpoint with `count` records."""
        records = self.read()[:count]
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._path.write_text("".join(json.dumps(record) + "\n" for record in records))
        return records
