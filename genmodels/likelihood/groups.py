"""Chains in groups: memory does not grow with their number, and processes can share them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor, distributed

from genmodels.errors import BadInput
from genmodels.interface import default_generator

MAX_PARALLEL_CHAINS = 4096

Work = Callable[[Int[Tensor, " g"], torch.Generator], Float[Tensor, " g"]]
"""work(numbers of the chains, generator) -> their log-weights."""


def in_groups(num_chains: int, group_size: int | None, generator: torch.Generator, work: Work) -> Float[Tensor, " n"]:
    """The log-weights of all chains, float64, on every process.

    With a `group_size`, each group draws from a generator of its own, seeded by one number of `generator` and the group's
    number: which process runs it changes nothing, to the bit. `generator` must then be in one state on all processes.
    Without one, all chains draw from `generator`, in this process.
    """
    chains = torch.arange(num_chains, device=generator.device)
    if group_size is None:
        return torch.cat([work(numbers, generator) for numbers in chains.split(MAX_PARALLEL_CHAINS)])
    if not 1 <= group_size <= MAX_PARALLEL_CHAINS:
        raise BadInput(f"A group has 1 to {MAX_PARALLEL_CHAINS} chains, not {group_size}.")
    seed = int(torch.randint(2**62, (), generator=generator, device=generator.device))
    together = distributed.is_available() and distributed.is_initialized()
    rank, size = (distributed.get_rank(), distributed.get_world_size()) if together else (0, 1)
    log_weight = torch.zeros(num_chains, dtype=torch.float64, device=generator.device)
    for group, numbers in enumerate(chains.split(group_size)):
        if group % size == rank:
            log_weight[numbers] = work(numbers, default_generator(_seed_of(seed, group), generator.device))
    if together:
        # Every chain is 0 but on one process, so the sum is exact.
        distributed.all_reduce(log_weight)
    return log_weight


def _seed_of(seed: int, group: int) -> int:
    """Seeds that differ in one bit must not give related streams."""
    return int.from_bytes(hashlib.blake2b(f"{seed} {group}".encode(), digest_size=8).digest(), "big") >> 1
