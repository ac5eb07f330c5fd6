"""What a launcher says in the environment; light, so that it can be asked before torch is imported."""

from __future__ import annotations

import os


def was_restarted() -> bool:
    """Whether torchrun has started this process again after a worker failed."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0)) > 0


def speaks() -> bool:
    """Whether this process is the one of its launch that prints."""
    return int(os.environ.get("RANK", os.environ.get("LOCAL_RANK", 0))) == 0
