"""A kernel whose update is one compiled program."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from samplers.kernel import Info, Kernel

Program = Callable[[Any, Any], tuple[Any, Info]]


def compiled(kernel: Kernel) -> Kernel:
    """The same kernel, its update compiled: all gradients, leapfrog steps and the acceptance in one native program.

    On the same noise it returns the same numbers but for rounding. Torch compiles at the first step, and again for every new
    shape, dtype or device of the position; that takes seconds, more for more leapfrog steps, since their loop is unrolled.
    All else that the kernel refers to is fixed by then, its step size and the tensors in its energy among them: warm up
    first, compile the tuned kernel, and compile anew what has been trained since. It needs a C++ compiler, as `torch.compile`
    does, and an energy without Python branches on values.

    For kernels whose state is a tuple of tensors, chains as their leading axis, and whose noise is a tensor or several.
    """
    programs: dict[Any, Program] = {}

    def update(state: Any, noise: Any) -> tuple[Any, Info]:
        first = state[0]
        kind = first.shape, first.dtype, first.device
        if kind not in programs:
            programs[kind] = _compile(kernel.update, state, noise)
        return programs[kind](state, noise)

    return kernel._replace(update=update)


@torch.no_grad()
def _compile(update: Program, state: Any, noise: Any) -> Program:
    """One program for the shapes of these arguments, from tensors to tensors; Dynamo's guards would cost more than a step."""
    from torch._inductor import compile as compile_graph  # these two take a second to import
    from torch.fx.experimental.proxy_tensor import make_fx

    num, rebuild = len(state), getattr(type(state), "_make", tuple)
    names: list[str] = []

    def flat(*tensors: Tensor) -> tuple[Tensor, ...]:
        new, info = update(rebuild(tensors[:num]), tensors[num] if isinstance(noise, Tensor) else tensors[num:])
        names[:] = info
        return (*new, *info.values())

    def tensors_of(state: Any, noise: Any) -> list[Tensor]:
        every = (*state, noise) if isinstance(noise, Tensor) else (*state, *noise)
        return [tensor.contiguous() for tensor in every]

    example: list[Any] = tensors_of(state, noise)
    graph = make_fx(flat, tracing_mode="fake", _allow_non_fake_inputs=True)(*example)
    # A wrapper in C++ halves the time of a step of one chain; on a GPU it would ask for CUDA's headers.
    program: Any = compile_graph(graph, example, options={"cpp_wrapper": example[0].device.type == "cpu"})

    def call(state: Any, noise: Any) -> tuple[Any, Info]:
        out = program(*tensors_of(state, noise))
        return rebuild(out[:num]), dict(zip(names, out[num:], strict=True))

    return call
