"""A compiled kernel is the kernel."""

import math
import shutil

import pytest
import torch
from torch import Tensor
from zoo import generator

from samplers.compiled import compiled
from samplers.hmc import hmc
from samplers.kernel import run

METRIC = torch.tensor([0.6, 1.3, 2.1], dtype=torch.float64)


def walled(x: Tensor) -> Tensor:
    """Quartic, coupled, and infinite where a coordinate is below −2."""
    wall = torch.where(x[:, 0] > -2, 0.0, math.inf)
    return 0.3 * (x - 0.4).pow(4).sum(-1) + (x[:, 0] * x[:, 1]).sin() + wall


@pytest.mark.skipif(shutil.which("g++") is None, reason="compiling needs a C++ compiler")
def test_a_compiled_run_is_the_run():
    """Over several steps, through rejections and an infinite energy."""
    kernel = hmc(walled, 0.5, 2, persistence=0.8, metric=METRIC)
    start = torch.randn(1009, 3, dtype=torch.float64, generator=generator()).clamp(min=-1.9)
    program = compiled(kernel)
    plain, fast = (run(each, start, 7, generator=generator()) for each in (kernel, program))
    assert type(fast) is type(plain)
    for one, two in zip(fast, plain, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-9, atol=1e-9)

    noise = kernel.noise(plain, generator(1))
    (_, expected), (_, info) = kernel.update(plain, noise), program.update(plain, noise)
    assert expected["accept_prob"].min() == 0
    assert 0.2 < expected["accept_prob"].mean() < 0.99
    assert info.keys() == expected.keys()
    torch.testing.assert_close(info["accept_prob"], expected["accept_prob"], rtol=1e-9, atol=1e-9)
