"""Stopping between two steps when asked to."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any


class Terminated(KeyboardInterrupt):
    """SIGTERM, as a scheduler sends it before it takes a machine away."""


class StopRequest:
    """Context in which the first SIGINT or SIGTERM only sets `number`; a second one acts as usual."""

    def __init__(self) -> None:
        self.number = 0
        """The signal that asked to stop; 0 for none."""
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        # Only the main thread may install handlers.
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._request)
        return self

    def __exit__(self, *_: object) -> None:
        self._restore()

    def _request(self, number: int, frame: FrameType | None) -> None:
        self.number = number
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}


def stopped_by(number: int) -> KeyboardInterrupt:
    """What to raise after a stop that this signal asked for."""
    return Terminated() if number == signal.SIGTERM else KeyboardInterrupt()
