"""Files of the named data sets: found in a local folder or the cache, else downloaded, and always checked."""

import hashlib
import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import pooch
from jaxtyping import UInt8

from genmodels.errors import BadInput

FOLDER_VARIABLE = "GENMODELS_DATA"


@dataclass(frozen=True)
class DataFile:
    """One file of a data set.

    Args:
        path: where it lies, relative to the folder that GENMODELS_DATA names and to the download cache.
        sha256: the accepted digests of its bytes, the public file's first; empty where the decoded contents are
            checked instead, because the bytes of the public file are not known.
        url: its public home, or None where it must be put into place by hand.
    """

    path: str
    sha256: tuple[str, ...] = ()
    url: str | None = None


def find(file: DataFile) -> Path | None:
    """The file in the local folder, else in the download cache, else None; touches no network."""
    folder = os.environ.get(FOLDER_VARIABLE)
    places = [Path(folder).expanduser()] if folder else []
    candidates = [place / file.path for place in [*places, _cache()]]
    return next((path for path in candidates if path.is_file()), None)


def fetch(file: DataFile) -> Path:
    """The file, downloaded if it is nowhere yet; BadInput if it cannot be had or its bytes are not as expected."""
    path = find(file) or _download(file)
    if file.sha256 and sha256_of(path) not in file.sha256:
        raise altered(path)
    return path


def altered(path: Path) -> BadInput:
    return BadInput(
        f"{path} is altered or truncated (its sha256 is not the expected one): delete it and fetch it again."
    )


def check_contents(array: UInt8[np.ndarray, "..."], sha256: str, path: Path) -> None:
    """BadInput unless the decoded array, in C order, has the expected digest."""
    if hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest() != sha256:
        raise altered(path)


def sha256_of(path: Path) -> str:
    """The digest of the file's bytes, computed once a process for as long as its time and size stay the same."""
    status = path.stat()
    return _digest(path, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=256)
def _digest(path: Path, mtime_ns: int, size: int) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _cache() -> Path:
    return Path(pooch.os_cache("genmodels"))


def _download(file: DataFile) -> Path:
    if file.url is None:
        raise _missing(file, "has no public address that could be downloaded")
    target = _cache() / file.path
    known_hash = f"sha256:{file.sha256[0]}" if file.sha256 else None
    try:
        pooch.retrieve(file.url, known_hash, fname=target.name, path=target.parent)
    except OSError as error:
        raise _missing(file, f"could not be downloaded from {file.url}") from error
    except ValueError as error:
        raise _missing(file, f"is not what {file.url} sends (the sha256 differs)") from error
    return target


def _missing(file: DataFile, why: str) -> BadInput:
    now = os.environ.get(FOLDER_VARIABLE)
    state = f"now {now}" if now else "now unset"
    return BadInput(
        f"The data file {file.path} {why}: put it at that path in a folder of your own and name the folder in the "
        f"environment variable {FOLDER_VARIABLE} ({state})."
    )
