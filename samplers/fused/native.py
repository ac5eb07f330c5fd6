"""C++ beside the Python that calls it, compiled once a machine and kept in the user's cache."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

_HERE = Path(__file__).parent
_KERNELS = ("lookup.cpp", "sliced.cpp", "sites.cpp", "correlation.cpp")
_SOURCES = {
    "AVX512": [_HERE / name for name in (*_KERNELS, "screen.cpp")],
    "AVX2": [_HERE / "avx2" / name for name in _KERNELS],
}
_HEADERS = [_HERE / name for name in ("jobs.h", "correlated.h", "binary.h", "avx2/binary.h", "avx2/tables.h")]
_FLAGS = ("-std=c++17", "-O3", "-shared", "-fPIC", "-fopenmp", "-Wno-ignored-attributes")
# Named one by one rather than as the building machine's own: a cache may be shared between machines.
_INSTRUCTIONS = {
    "AVX512": ("-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mfma", "-mbmi2"),
    "AVX2": ("-mavx2", "-mfma", "-mbmi2"),
}
# Torch's own OpenMP, so that there is one pool of threads: two would keep each other from the cores.
_POOL = tuple(str(path) for path in sorted((Path(torch.__file__).parent / "lib").glob("libgomp*.so*")))
_TIMEOUT = 60


def instructions() -> str:
    """The widest that torch uses here: "AVX512", "AVX2" or another name. ATEN_CPU_CAPABILITY=avx2 asks for narrower ones."""
    return torch.backends.cpu.get_cpu_capability()


@functools.cache
def library() -> ctypes.CDLL | None:
    """The kernels of this folder; None where the processor lacks AVX2 or no compiler is found."""
    sources = _SOURCES.get(instructions())
    return None if sources is None else compiled(sources, headers=_HEADERS)


def has_slices() -> bool:
    """Whether its kernels work with a part of every weight, too: with AVX-512 they multiply bytes, which takes VNNI."""
    return library() is not None and (instructions() == "AVX2" or torch.cpu._is_vnni_supported())


def compiled(
    sources: Sequence[Path], *, headers: Sequence[Path] = (), options: Sequence[str] = ()
) -> ctypes.CDLL | None:
    """C++ files as one loaded library, for AVX-512 or AVX2 where torch uses them; None where no compiler is found.

    The first call on a machine compiles for some seconds; later ones load the result from the cache.
    """
    compiler = shutil.which(os.environ.get("CXX", "c++")) or shutil.which("g++") or shutil.which("clang++")
    flags = (*_FLAGS, *options, *_INSTRUCTIONS.get(instructions(), ()))
    try:
        return ctypes.CDLL(str(_built(compiler, sources, headers, flags)))
    except (OSError, subprocess.SubprocessError):
        return None


def _built(compiler: str | None, sources: Sequence[Path], headers: Sequence[Path], flags: Sequence[str]) -> Path:
    """Path of the library, built if it is not there."""
    recipe = " ".join((*flags, *_POOL)).encode() + b"".join(path.read_bytes() for path in (*sources, *headers))
    path = _folder() / f"{sources[0].stem}-{hashlib.sha256(recipe).hexdigest()[:16]}.so"
    if not path.exists():
        if compiler is None:
            raise OSError("There is no C++ compiler.")
        path.parent.mkdir(parents=True, exist_ok=True)
        # Built aside and moved: another process may be building or loading the same file.
        with tempfile.TemporaryDirectory(dir=path.parent) as aside:
            built = Path(aside) / path.name
            command = [compiler, *flags, "-o", str(built), *map(str, sources), *_POOL]
            subprocess.run(command, check=True, capture_output=True, timeout=_TIMEOUT)
            os.replace(built, path)
    return path


def _folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "genmodels"
