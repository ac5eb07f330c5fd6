"""Checkpoints: one safetensors file with JSON in its header, written atomically, checked when read. No pickle."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from genmodels.errors import BadInput

FORMAT = "genmodels"
FORMAT_VERSION = 1
SNAPSHOTS = "snapshots"
"""Folder of a run with copies of its weights along training."""
KEPT = "checkpoints"
"""Folder of a run with its last checkpoints, where more than one is kept."""


class Checkpoint(NamedTuple):
    """What a checkpoint holds."""

    tensors: dict[str, Tensor]
    meta: dict[str, Any]
    versions: dict[str, str]
    """The versions of genmodels and torch that wrote it."""


def save_checkpoint(path: Path, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
    """Write tensors and JSON-ready `meta` to `path`; an existing file is replaced whole or left as it was.

    The bytes depend on the content and the versions alone.
    """
    held = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    header = {"format_version": FORMAT_VERSION, "versions": current_versions(), "meta": meta}
    header["digest"] = _digest(held, header)
    # One entry, because safetensors writes several in random order.
    write_atomically(path, save(held, {FORMAT: json.dumps(header, sort_keys=True)}))


def load_checkpoint(path: Path) -> Checkpoint:
    """What `save_checkpoint` wrote, after format, version and digest are checked."""
    if not path.is_file():
        raise BadInput(f"There is no checkpoint at {path}: train a model with `genmodels train`.")
    try:
        with safe_open(path, framework="pt") as file:
            header = _header(path, file.metadata() or {})
            # Copied: products may differ in their last bits with where in memory a tensor begins, in a file anywhere.
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118 (no mapping)
    except SafetensorError as error:
        raise BadInput(
            f"{path} is truncated or no checkpoint ({error}): restore it from a copy or train again."
        ) from error
    if header.pop("digest", None) != _digest(tensors, header):
        raise _altered(path)
    return Checkpoint(tensors, header["meta"], header["versions"])


def keep_last(path: Path, step: int, num: int) -> None:
    """Keep the checkpoint at `path`, written after `step` steps, in the folder beside it, and there the last `num` only."""
    folder = path.parent / KEPT
    if num == 1:
        return
    kept = folder / f"{step:09d}{path.suffix}"
    folder.mkdir(exist_ok=True)
    kept.unlink(missing_ok=True)
    try:
        # Another name for the same bytes: the next checkpoint replaces the first name alone.
        os.link(path, kept)
    except OSError:
        write_atomically(kept, path.read_bytes())
    steps = sorted(int(held.stem) for held in folder.glob(f"*{path.suffix}"))
    for other in {*steps} - {*[held for held in steps if held <= step][-num:]}:
        (folder / f"{other:09d}{path.suffix}").unlink()


def current_versions() -> dict[str, str]:
    """The versions on which a run's numbers depend."""
    return {name: version(name) for name in ("genmodels", "torch")}


def _header(path: Path, metadata: Mapping[str, str]) -> dict[str, Any]:
    if FORMAT not in metadata:
        raise BadInput(f"{path} is a safetensors file of another program: give a checkpoint that genmodels wrote.")
    try:
        header = json.loads(metadata[FORMAT])
        newer = header["format_version"] > FORMAT_VERSION
    except (ValueError, KeyError, TypeError) as error:
        raise _altered(path) from error
    if newer:
        raise BadInput(
            f"{path} has checkpoint format {header['format_version']}, and this genmodels reads up to "
            f"{FORMAT_VERSION}: upgrade genmodels."
        )
    return header


def _altered(path: Path) -> BadInput:
    return BadInput(f"{path} was altered after it was written (its digest does not match): restore it from a copy.")


def write_atomically(path: Path, content: bytes) -> None:
    """Write beside, flush to disk, rename: at no moment is there a half-written `path`."""
    # One name per target: what a killed process leaves behind is overwritten by the next.
    beside = path.with_name(f".{path.name}.tmp")
    with explained_if_full(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(beside, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(beside, path)
        except OSError:
            beside.unlink(missing_ok=True)
            raise


@contextmanager
def explained_if_full(path: Path) -> Iterator[None]:
    """Turn a full disk into one sentence; other errors pass."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise BadInput(f"There is no room on disk to write {path}: free some, then go on.") from error
        raise


def _digest(tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> str:
    hasher = hashlib.blake2b(json.dumps(header, sort_keys=True).encode(), digest_size=16)
    for name in sorted(tensors):
        tensor = tensors[name]
        hasher.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        hasher.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return hasher.hexdigest()
