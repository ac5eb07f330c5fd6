"""The C++ beside this file, compiled once a machine and kept in the user's cache."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import torch

_SOURCE = Path(__file__).parent / "lookup.cpp"
_FLAGS = ("-std=c++17", "-O3", "-shared", "-fPIC", "-pthread", "-Wno-ignored-attributes")
# Named one by one rather than as the building machine's own: a cache may be shared between machines.
_INSTRUCTIONS = ("-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mfma", "-mbmi2")
_TIMEOUT = 60


@functools.cache
def library() -> ctypes.CDLL | None:
    """The compiled look-ups; None where the processor lacks AVX-512 or no compiler is found.

    The first call on a machine compiles for some seconds; later ones load the result from the cache.
    """
    if not torch.cpu._is_avx512_supported():
        return None
    compiler = shutil.which(os.environ.get("CXX", "c++")) or shutil.which("g++") or shutil.which("clang++")
    try:
        return ctypes.CDLL(str(_built(compiler)))
    except (OSError, subprocess.SubprocessError):
        return None


def _built(compiler: str | None) -> Path:
    """Path of the library, built if it is not there."""
    recipe = " ".join((*_FLAGS, *_INSTRUCTIONS)).encode() + _SOURCE.read_bytes()
    path = _folder() / f"lookup-{hashlib.sha256(recipe).hexdigest()[:16]}.so"
    if not path.exists():
        if compiler is None:
            raise OSError("There is no C++ compiler.")
        path.parent.mkdir(parents=True, exist_ok=True)
        # Built aside and moved: another process may be building or loading the same file.
        with tempfile.TemporaryDirectory(dir=path.parent) as aside:
            built = Path(aside) / path.name
            command = [compiler, *_FLAGS, *_INSTRUCTIONS, "-o", str(built), str(_SOURCE)]
            subprocess.run(command, check=True, capture_output=True, timeout=_TIMEOUT)
            os.replace(built, path)
    return path


def _folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "genmodels"
