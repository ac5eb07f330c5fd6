"""Checkpoints: one safetensors file with JSON in its header, written atomically, checked when read. No pickle."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from genmodels.errors import BadInput

FORMAT = "genmodels"
FORMAT_VERSION = 1


def save_checkpoint(path: Path, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
    """Write tensors and JSON-ready `meta` to `path`; an existing file is replaced whole or left as it was."""
    held = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    text = json.dumps(meta, sort_keys=True)
    header = {
        "format": FORMAT,
        "format_version": str(FORMAT_VERSION),
        "meta": text,
        "digest": _digest(held, text),
        "versions": json.dumps({name: version(name) for name in ("genmodels", "torch")}),
    }
    write_atomically(path, save(held, header))


def load_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and meta of a checkpoint, after its format, version and digest are checked."""
    if not path.is_file():
        raise BadInput(f"There is no checkpoint at {path}; train one with `genmodels train`.")
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            if header.get("format") != FORMAT:
                raise BadInput(f"{path} is a safetensors file of another program, not a genmodels checkpoint.")
            if int(header.get("format_version", "0")) > FORMAT_VERSION:
                raise BadInput(
                    f"{path} has checkpoint format {header['format_version']}, newer than this genmodels reads "
                    f"({FORMAT_VERSION}); upgrade genmodels."
                )
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except (SafetensorError, OSError, ValueError) as error:
        if isinstance(error, BadInput):
            raise
        raise BadInput(
            f"{path} is truncated or no checkpoint ({error}); restore it from a copy or train again."
        ) from error
    if header.get("digest") != _digest(tensors, header.get("meta", "")):
        raise BadInput(f"{path} was altered after it was written (its digest does not match); restore it from a copy.")
    return tensors, json.loads(header["meta"])


def write_atomically(path: Path, content: bytes) -> None:
    """Write beside, flush to disk, rename: at no moment is there a half-written `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(beside, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except OSError as error:
        beside.unlink(missing_ok=True)
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise BadInput(f"No room on disk for {path}; free {len(content) >> 20} MiB and resume.") from error
        raise


def _digest(tensors: Mapping[str, Tensor], text: str) -> str:
    hasher = hashlib.blake2b(text.encode(), digest_size=16)
    for name in sorted(tensors):
        tensor = tensors[name]
        hasher.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        hasher.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy())
    return hasher.hexdigest()
