"""Steps of a kernel recorded once as a CUDA graph: no launch costs, for few chains or small layers."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from samplers.kernel import Kernel

State = tuple[Tensor, ...]
_WARM_UP = 3


@torch.no_grad()
def graphed(kernel: Kernel, position: State, generator: torch.Generator) -> Callable[[int], State]:
    """A function of n that goes on by n steps from `position` and returns the state, all on one CUDA device.

    Replays draw new random numbers from `generator`, the ones that the steps would draw without a graph.
    """
    state = tuple(tensor.clone() for tensor in kernel.init(position))
    before = generator.get_state()
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # kernels compile and choose their blocks before anything is recorded
        for _ in range(_WARM_UP):
            kernel.step(state, generator)
    torch.cuda.current_stream().wait_stream(side)
    generator.set_state(before)
    graph = torch.cuda.CUDAGraph()
    graph.register_generator_state(generator)
    with torch.cuda.graph(graph):
        after, _ = kernel.step(state, generator)
        for old, new in zip(state, after, strict=True):
            old.copy_(new)

    def go_on(num_steps: int) -> State:
        for _ in range(num_steps):
            graph.replay()
        return tuple(tensor.clone() for tensor in state)

    return go_on
