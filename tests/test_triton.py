"""The Triton kernels, on a GPU where there is one and in Triton's interpreter elsewhere: `triton_checks.py`, run apart.

Apart, because Triton decides when it is first imported whether it interprets, and without the shape checker, whose wrappers
hide a kernel's helpers from the interpreter.
"""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

HERE = Path(__file__).parent


@pytest.mark.skipif(find_spec("triton") is None, reason="triton is not installed")
def test_the_kernels_pass_their_checks() -> None:
    interpreted = {} if torch.cuda.is_available() else {"TRITON_INTERPRET": "1"}
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-o",
        "addopts=",
        "-p",
        "no:cacheprovider",
        str(HERE / "triton_checks.py"),
    ]
    done = subprocess.run(
        command, env=os.environ | interpreted, cwd=HERE.parent, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stdout
