"""Several processes of one launch, as torchrun would start them, but forked in milliseconds."""

from __future__ import annotations

import multiprocessing
import os
import socket
from collections.abc import Callable
from typing import Any

import torch


def together(size: int, function: Callable[..., Any], *arguments: Any, restarts: int = 0) -> list[int | None]:
    """The exit codes of `size` processes that call the function together; its result, an int or None, becomes the code."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["genmodels.runs", "genmodels.commands.train", "genmodels.commands.evaluate", __name__]
    )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = [
        context.Process(target=_work, args=(rank, size, port, restarts, function, arguments)) for rank in range(size)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(600)
    return [process.exitcode for process in processes]


def _work(
    rank: int, size: int, port: int, restarts: int, function: Callable[..., Any], arguments: tuple[Any, ...]
) -> None:
    torch.set_num_threads(1)
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(size),
        "LOCAL_WORLD_SIZE": str(size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "TORCHELASTIC_RUN_ID": "tests",
        "TORCHELASTIC_RESTART_COUNT": str(restarts),
    }
    raise SystemExit(function(*arguments))
