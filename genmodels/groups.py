"""Who has which rows: chains or examples in groups, so that memory does not grow with them and processes can share them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import torch
from jaxtyping import Int
from torch import Tensor, distributed

from genmodels.errors import BadInput
from genmodels.interface import default_generator

MAX_PARALLEL_CHAINS = 4096

Rows = tuple[Tensor, ...]
Work = Callable[[Int[Tensor, " g"], torch.Generator], Rows]
"""work(numbers, generator) -> tensors with a row for each of these chains or examples."""


def share(num: int, part: int, parts: int) -> slice:
    """Which of `num` rows belong to one of so many parts: consecutive ones, one more or less than another's.

    >>> [share(5, part, 3) for part in range(3)]
    [slice(0, 1, None), slice(1, 3, None), slice(3, 5, None)]
    """
    return slice(num * part // parts, num * (part + 1) // parts)


def in_groups(num: int, group_size: int | None, generator: torch.Generator, work: Work) -> Rows:
    """What `work` finds for `num` chains or examples: tensors with a row for each, in order, on every process.

    With a `group_size`, each group draws from a generator of its own, seeded by one number of `generator` and the group's
    number: which process of torch.distributed runs it changes nothing, to the bit. All of them must then call together, with
    `generator` in one state. Without one, all draw from `generator`, in this process.
    """
    numbers = torch.arange(num, device=generator.device)
    if group_size is None:
        return _joined([work(some, generator) for some in numbers.split(MAX_PARALLEL_CHAINS)])
    if not 1 <= group_size <= MAX_PARALLEL_CHAINS:
        raise BadInput(f"A group has 1 to {MAX_PARALLEL_CHAINS} chains or examples, not {group_size}.")
    seed = int(torch.randint(2**62, (), generator=generator, device=generator.device))
    together = distributed.is_available() and distributed.is_initialized()
    rank, size = (distributed.get_rank(), distributed.get_world_size()) if together else (0, 1)
    groups = list(enumerate(numbers.split(group_size)))[rank::size]
    found = [work(some, default_generator(_seed_of(seed, group), generator.device)) for group, some in groups]
    if not together:
        return _joined(found)
    return _collected(found, [some for _, some in groups], num)


def _joined(parts: list[Rows]) -> Rows:
    return tuple(torch.cat(column) for column in zip(*parts, strict=True))


def _collected(parts: list[Rows], numbers: list[Tensor], num: int) -> Rows:
    """The rows of all processes, each of which has found those with its numbers."""
    mine = _joined(parts)
    # The first process has a group for certain, the others may have none.
    kinds = [[(rows.shape[1:], rows.dtype, rows.device.type) for rows in mine]]
    distributed.broadcast_object_list(kinds)
    collected = []
    for i, (shape, dtype, device) in enumerate(kinds[0]):
        rows = torch.zeros(num, *shape, dtype=dtype, device=device)
        if parts:
            rows[torch.cat(numbers)] = mine[i]
        # Every row is 0 but on one process, so the sum is exact.
        distributed.all_reduce(rows)
        collected.append(rows)
    return tuple(collected)


def _seed_of(seed: int, group: int) -> int:
    """Seeds that differ in one bit must not give related streams."""
    return int.from_bytes(hashlib.blake2b(f"{seed} {group}".encode(), digest_size=8).digest(), "big") >> 1
