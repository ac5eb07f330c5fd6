"""Conditionals of binary layers as one Triton kernel: product, random numbers, sigmoid and comparison."""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from samplers.fused.one_pass import OnePass, check_shape, vector
from samplers.fused.products import SlicedProduct

_INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
_SITES = tl.constexpr(64)


def _config(chains: int, outputs: int, inputs: int, warps: int, stages: int) -> triton.Config:
    blocks = {"BLOCK_CHAINS": chains, "BLOCK_OUTPUTS": outputs, "BLOCK_INPUTS": inputs}
    return triton.Config(blocks, num_warps=warps, num_stages=stages)


# For Hopper's shared memory and registers; the interpreter has neither and no clock to choose by.
_CONFIGS = [_config(1024, 16, 64, 4, 2)]
if not _INTERPRETED:
    _CONFIGS = [
        _config(64, 64, 128, 4, 3),
        _config(64, 128, 128, 4, 3),
        _config(128, 64, 128, 4, 3),
        _config(128, 128, 64, 8, 4),
        _config(128, 128, 128, 8, 3),
        _config(128, 256, 64, 8, 3),
    ]


@triton.jit
def _sums(
    states, stride, weight, size, outputs, chains, chain, output, high, low, BLOCK_INPUTS: tl.constexpr
):  # fmt: skip
    """Adds the products of one neighbour's states with both slices of its weights."""
    for start in range(0, size, BLOCK_INPUTS):
        i = start + tl.arange(0, BLOCK_INPUTS)
        inside = (chain[:, None] < chains) & (i[None, :] < size)
        x = tl.load(states + chain[:, None].to(tl.int64) * stride + i[None, :], mask=inside, other=0)
        x = (x != 0).to(tl.int8)
        place = output[None, :].to(tl.int64) * size + i[:, None]
        known = (output[None, :] < outputs) & (i[:, None] < size)
        high = tl.dot(x, tl.load(weight + place, mask=known, other=0), high, out_dtype=tl.int32)
        lower = weight + size.to(tl.int64) * outputs
        low = tl.dot(x, tl.load(lower + place, mask=known, other=0), low, out_dtype=tl.int32)
    return high, low


@triton.jit
def _decide(field, word):
    """1 where the site's number u < sigmoid(field); above 0, 1 - u is compared: either tail keeps its digits."""
    e = tl.exp(-tl.abs(field))
    word = tl.where(field > 0, ~word, word)
    u = word.to(tl.float32) * 2.0**-32 + 2.0**-33
    return (u + u * e < e) != (field > 0)


@triton.jit
def _words(key, chain, output, BLOCK_CHAINS: tl.constexpr, BLOCK_OUTPUTS: tl.constexpr):
    """Word j mod 4 of the counter (chain, j // 4, 0, 0) for every chain and output j."""
    four = output // 4 + tl.arange(0, BLOCK_OUTPUTS // 4)
    c = (chain[:, None] + tl.zeros((1, BLOCK_OUTPUTS // 4), tl.int32)).to(tl.uint32)
    q = (four[None, :] + tl.zeros((BLOCK_CHAINS, 1), tl.int32)).to(tl.uint32)
    a, b, d, e = tl.philox(tl.load(key), c, q, c * 0, c * 0)
    return tl.reshape(tl.join(tl.join(a, d), tl.join(b, e)), (BLOCK_CHAINS, BLOCK_OUTPUTS))


@triton.autotune(_CONFIGS, key=["size", "other_size", "outputs", "num_blocks", "DRAW"])
@triton.jit
def _half_sweep(
    states, stride, weight, step, size,
    other_states, other_stride, other_weight, other_step, other_size,
    beta, slope, base, key, out, chains, outputs, num_blocks,
    DRAW: tl.constexpr, BLOCK_CHAINS: tl.constexpr, BLOCK_OUTPUTS: tl.constexpr, BLOCK_INPUTS: tl.constexpr,
):  # fmt: skip
    first = tl.program_id(1) * BLOCK_OUTPUTS
    chain = tl.program_id(0) * BLOCK_CHAINS + tl.arange(0, BLOCK_CHAINS)
    output = first + tl.arange(0, BLOCK_OUTPUTS)
    zero = tl.zeros((BLOCK_CHAINS, BLOCK_OUTPUTS), tl.int32)
    high, low = _sums(states, stride, weight, size, outputs, chains, chain, output, zero, zero, BLOCK_INPUTS)
    total = (high * 256 + low).to(tl.float32) * tl.load(step)
    if other_size > 0:
        high, low = _sums(
            other_states,
            other_stride,
            other_weight,
            other_size,
            outputs,
            chains,
            chain,
            output,
            zero,
            zero,
            BLOCK_INPUTS,
        )
        total += (high * 256 + low).to(tl.float32) * tl.load(other_step)
    known = output < outputs
    inside = (chain[:, None] < chains) & known[None, :]
    total += tl.load(slope + output, mask=known, other=0)[None, :]
    field = tl.load(beta + chain, mask=chain < chains, other=0)[:, None] * total
    field += tl.load(base + output, mask=known, other=0)[None, :]
    target = out + chain[:, None].to(tl.int64) * outputs + output[None, :]
    if DRAW:
        state = _decide(field, _words(key, chain, first, BLOCK_CHAINS, BLOCK_OUTPUTS))
        tl.store(target, state.to(out.dtype.element_ty), mask=inside)
    else:
        tl.store(target, field, mask=inside)


@triton.jit
def _draw_sites(fields, beta, key, out, rows, width, BLOCK: tl.constexpr):
    first = tl.program_id(1) * BLOCK
    row = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    column = first + tl.arange(0, BLOCK)
    inside = (row[:, None] < rows) & (column[None, :] < width)
    place = row[:, None].to(tl.int64) * width + column[None, :]
    field = beta * tl.load(fields + place, mask=inside, other=0)
    tl.store(out + place, _decide(field, _words(key, row, first, BLOCK, BLOCK)).to(tl.float32), mask=inside)


class TritonConditional(OnePass):
    """The half-sweep as one kernel on tensor cores: states and two slices of the weights in int8, sums in int32.

    Sums keep the promise of `SlicedProduct`: each weight is off by at most max|W| / 65,024, the same way in both
    directions, so a logit with m active inputs by at most m times that, and a chain of two layers is exact for the rounded
    weights. States of any type count as 1 if they are not 0; drawn ones have the type of the first input, so that chains
    that start in int8 stay in it. At most two neighbouring layers.
    """

    def __init__(self, weights: Sequence[Tensor]):
        self._sizes = [len(weight) for weight in weights]
        self._outputs = weights[0].shape[1]
        # The inputs of an output are neighbours in memory, as the tensor cores' int8 products want them.
        self._slices = [SlicedProduct(weight.detach().T).slices() for weight in weights]
        self._device = weights[0].device

    @property
    def device(self):
        return self._device

    def field(self, inputs, beta, slope, base):
        out = torch.empty(len(inputs[0]), self._outputs, device=self._device)
        return self._run(inputs, beta, slope, base, None, out)

    def draw(self, inputs, beta, slope, base, key):
        out = torch.empty(len(inputs[0]), self._outputs, dtype=inputs[0].dtype, device=self._device)
        return self._run(inputs, beta, slope, base, key, out)

    def draw_sites(self, fields, beta, key):
        fields = fields.contiguous()
        out, (rows, width) = torch.empty_like(fields), fields.shape
        if rows > 0:
            grid = (triton.cdiv(rows, _SITES.value), triton.cdiv(width, _SITES.value))
            _draw_sites[grid](fields, float(beta), key.view(torch.int64), out, rows, width, BLOCK=_SITES)
        return out

    def log_partition(self, fields, beta):
        return torch.nn.functional.softplus(beta * fields).sum(-1, dtype=torch.float64)

    def _run(self, inputs, beta, slope, base, key: Tensor | None, out: Tensor) -> Tensor:
        num = len(out)
        if num == 0:
            return out
        arguments: list[object] = []
        for x, size, (both, step) in zip(inputs, self._sizes, self._slices, strict=True):
            check_shape(x, num, size)
            x = x.view(torch.int8) if x.dtype == torch.bool else x
            x = x if x.stride(1) == 1 or size == 1 else x.contiguous()
            arguments += [x, x.stride(0), both, step, size]
        if len(inputs) == 1:
            arguments += [*arguments[:4], 0]
        vectors = [vector(beta, num, self._device), *(vector(v, self._outputs, self._device) for v in (slope, base))]
        words = out if key is None else key.view(torch.int64)

        def grid(meta):
            return triton.cdiv(num, meta["BLOCK_CHAINS"]), triton.cdiv(self._outputs, meta["BLOCK_OUTPUTS"])

        target = out.view(torch.int8) if out.dtype == torch.bool else out
        num_blocks = triton.cdiv(num, 1024)
        _half_sweep[grid](*arguments, *vectors, words, target, num, self._outputs, num_blocks, DRAW=key is not None)
        return out


@functools.cache
def works(device: torch.device) -> bool:
    """Whether the kernel compiles on this device and gives the right fields and frequencies on a small problem."""
    if torch.cuda.get_device_capability(device) < (8, 0):
        return False
    generator = torch.Generator(device).manual_seed(0)
    weight = torch.randn(300, 70, device=device, generator=generator)
    x = (torch.rand(500, 300, device=device, generator=generator) < 0.3).float()
    slope, base = torch.randn(2, 70, device=device, generator=generator)
    try:
        fused = TritonConditional([weight])
        field = fused.field([x], 0.1, slope, base)
        drawn = fused.draw([x], 0.1, slope, base, fused.key(generator))
    except Exception:  # Whatever the compiler or the driver dislikes, the plain path still works.
        return False
    exact = 0.1 * (x.double() @ weight.double() + slope) + base
    p = torch.sigmoid(exact)
    z = (drawn - p).sum() / (p * (1 - p)).sum().sqrt()
    return bool(((field - exact).abs().max() < 1e-3) & (z.abs() < 6))
