"""The command line: parses, runs one verb, and turns errors into one sentence and an exit status."""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr
from importlib import import_module
from typing import Annotated

import tyro
from tyro.conf import subcommand

from genmodels.errors import BadInput
from genmodels.flags import Evaluate, List, Plot, Report, Sample, Train
from genmodels.ranks import speaks
from genmodels.signals import Terminated

Flags = (
    Annotated[Train, subcommand("train")]
    | Annotated[Sample, subcommand("sample")]
    | Annotated[Evaluate, subcommand("evaluate")]
    | Annotated[Plot, subcommand("plot")]
    | Annotated[Report, subcommand("report")]
    | Annotated[List, subcommand("list")]
)
MODULES = {Train: "train", Sample: "sample", Evaluate: "evaluate", Plot: "plot", Report: "report", List: "listing"}

BAD_INPUT, INTERRUPTED, TERMINATED = 2, 130, 143


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    return exit_status(lambda: _run(sys.argv[1:] if arguments is None else arguments))


def exit_status(work: Callable[[], object]) -> int:
    """Do the work: 0, 2 for what the user can mend, 130 for Ctrl-C, 143 for SIGTERM; with one sentence on standard error."""
    try:
        work()
    except BadInput as error:
        return _say(str(error), BAD_INPUT)
    except BrokenPipeError:
        # Whoever read our output, such as `head`, has seen enough.
        sys.stdout = None
        return 0
    except OSError as error:
        return _say(f"{error.strerror or error}: {error.filename or 'no file named'}.", BAD_INPUT)
    except KeyboardInterrupt as stop:
        return _say(str(stop) or "Stopped.", TERMINATED if isinstance(stop, Terminated) else INTERRUPTED)
    return 0


def _run(arguments: Sequence[str]) -> None:
    flags = _parse(arguments)
    # Imported only now, because torch takes seconds, and help should not.
    import_module(f"genmodels.commands.{MODULES[type(flags)]}").run(flags)


def _parse(arguments: Sequence[str]) -> Train | Sample | Evaluate | Plot | Report | List:
    said = io.StringIO()
    try:
        with redirect_stderr(said):
            return tyro.cli(
                Flags,  # pyright: ignore[reportArgumentType]
                prog="genmodels",
                description="Probabilistic generative models with likelihoods one can trust.",
                args=arguments,
                config=(tyro.conf.OmitArgPrefixes,),
            )
    except SystemExit as end:
        if end.code:
            raise BadInput(_one_sentence(said.getvalue())) from None
        raise


def _one_sentence(box: str) -> str:
    """The text of tyro's error box without its frame: a colon after the title, semicolons for its rules."""
    title, *parts = (" ".join(part.split()) for part in re.split("[─╭╮╰╯]+", box.replace("│", " ")) if part.strip())
    text = "; ".join(part.rstrip(".:") for part in parts) + "."
    return text if text.startswith(title) else f"{title}: {text}"


def _say(sentence: str, status: int) -> int:
    if speaks():
        print(sentence, file=sys.stderr)
    return status
