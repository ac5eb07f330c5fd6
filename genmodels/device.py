"""Where to compute."""

from __future__ import annotations

import torch

from genmodels.errors import BadInput


def choose_device(name: str) -> torch.device:
    """The device with this name, "auto" being CUDA where there is one; a missing one is an error, never a fallback.

    >>> choose_device("cpu")
    device(type='cpu')
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise BadInput(
            f"There is no device called {name!r}: use auto, cpu, cuda, cuda:1 (and so on) or mps."
        ) from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise BadInput(f"There is no CUDA device {name!r} here: use --device cpu or auto.")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise BadInput("There is no MPS device here: use --device cpu or auto.")
    if device.type not in ("cpu", "cuda", "mps"):
        raise BadInput(f"Devices of type {device.type!r} are not supported: use auto, cpu, cuda or mps.")
    return device
