"""Progress bars on standard error."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn, track
from rich.progress import Progress as RichProgress

from genmodels.ranks import speaks

T = TypeVar("T")
Progress = Callable[[Iterable[int], str], Iterable[int]]

console = Console(stderr=True)
_HIDDEN = frozenset({"step", "seconds", "learning_rate", "energy_difference", "log_likelihood_std_error"})


def _is_shown() -> bool:
    return console.is_terminal and speaks()


def no_progress(numbers: Iterable[int], description: str) -> Iterable[int]:
    """The numbers as they are, without a bar."""
    return numbers


def bar(numbers: Iterable[int], description: str) -> Iterable[int]:
    """The numbers with a bar that vanishes at the end; silent where standard error is no terminal."""
    return track(numbers, description, console=console, transient=True, disable=not _is_shown())


@contextmanager
def training_bar(description: str) -> Iterator[Callable[[int, int, Mapping[str, float | int]], None]]:
    """A bar for `fit`: step of all steps, time left, and the latest metrics."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=12),
        TaskProgressColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[metrics]}"),
    )
    with RichProgress(*columns, console=console, transient=True, disable=not _is_shown()) as shown:
        task = shown.add_task(description, metrics="")
        latest: dict[str, float] = {}

        def update(step: int, total: int, record: Mapping[str, float | int]) -> None:
            # What is measured in some epochs only stays in sight until it is measured again.
            latest.update((name, value) for name, value in record.items() if name not in _HIDDEN)
            metrics = "  ".join(f"{name.replace('_', ' ')} {value:.4g}" for name, value in latest.items())
            shown.update(task, completed=step, total=total, metrics=metrics[: console.width - len(description) - 30])

        yield update
