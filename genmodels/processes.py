"""The processes that share one training or one estimate: who has which rows and chains, and sums over all of them.

Lightning Fabric starts them and connects them; a launcher such as torchrun may have started them already.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from lightning_fabric import Fabric
from torch import Tensor, distributed
from torch.distributed import DeviceMesh, init_device_mesh

from genmodels.device import choose_device
from genmodels.errors import BadInput
from genmodels.groups import share
from genmodels.settings import Precision, Strategy

T = TypeVar("T")
GROUP_SIZE = 20


class Processes:
    """All processes of a Fabric, seen from one of them; alone, everything stays as it is."""

    def __init__(self, fabric: Fabric, strategy: Strategy = "ddp"):
        self.fabric = fabric
        self.rank, self.size = fabric.global_rank, fabric.world_size
        self.split = strategy == "fsdp" and self.size > 1
        """Whether each has only a share of the parameters of networks."""

    def mesh(self) -> DeviceMesh:
        """All of them in a row."""
        return init_device_mesh(self.fabric.device.type, (self.size,))

    @property
    def is_first(self) -> bool:
        """Whether this one writes and speaks."""
        return self.rank == 0

    def share(self, num: int) -> slice:
        """Which of `num` rows are this process's: consecutive ones, one more or less than another's."""
        return share(num, self.rank, self.size)

    def deal(self, rows: Tensor) -> Tensor:
        """This process's rows of what all processes hold."""
        return rows if self.size == 1 else rows[self.share(len(rows))].clone()

    def collect(self, rows: Tensor) -> Tensor:
        """Undo `deal`: the rows of all processes, in order, on each of them."""
        if self.size == 1:
            return rows
        counts = [torch.zeros(1, dtype=torch.int64, device=rows.device) for _ in range(self.size)]
        distributed.all_gather(counts, counts[0].new_tensor([len(rows)]))
        lengths = [int(count) for count in counts]
        padded = rows.new_zeros(max(lengths), *rows.shape[1:])
        padded[: len(rows)] = rows
        parts = [torch.empty_like(padded) for _ in lengths]
        distributed.all_gather(parts, padded)
        return torch.cat([part[:length] for part, length in zip(parts, lengths, strict=True)])

    def sum_(self, *groups: Sequence[Tensor]) -> None:
        """Replace tensors by their sums over the processes, with one message for each group, whose tensors have one dtype."""
        if self.size == 1:
            return
        groups = tuple(filter(None, groups))
        flats = [torch.cat([tensor.flatten() for tensor in tensors]) for tensors in groups]
        # All messages travel at once: what they wait for is mostly each other's process.
        for message in filter(None, [distributed.all_reduce(flat, async_op=True) for flat in flats]):
            message.wait()
        for tensors, flat in zip(groups, flats, strict=True):
            parts = flat.split([tensor.numel() for tensor in tensors])
            for tensor, part in zip(tensors, parts, strict=True):
                tensor.copy_(part.view_as(tensor))

    def from_first(self, value: T) -> T:
        """What the first process has for `value`."""
        return value if self.size == 1 else self.fabric.broadcast(value)

    def on_first(self, work: Callable[[], T]) -> T:
        """Do the work in the first process alone; all get its result, or its BadInput."""
        if self.size == 1:
            return work()
        result, problem = None, None
        if self.is_first:
            try:
                result = work()
            except BadInput as error:
                problem = str(error)
        result, problem = self.fabric.broadcast((result, problem))
        if problem is not None:
            raise BadInput(problem)
        return result  # pyright: ignore[reportReturnType]

    def group_size(self, wanted: int | None) -> int | None:
        """Chains or examples in a group: as wanted, 20 unless told where several processes share them."""
        return GROUP_SIZE if wanted is None and self.size > 1 else wanted

    def stream_seed(self, *what: object) -> int:
        """A seed for random numbers of this process's own, a hash of `what` it is for and of the process."""
        words = " ".join(map(str, (*what, self.rank, self.size)))
        return int.from_bytes(hashlib.blake2b(words.encode(), digest_size=8).digest(), "big") >> 1


def one_process(device: str, precision: Precision) -> Processes:
    """This process alone, on the wanted device; a missing one is an error, not a fallback."""
    chosen = choose_device(device)
    devices = [chosen.index or 0] if chosen.type == "cuda" else 1
    return Processes(Fabric(accelerator=chosen.type, devices=devices, precision=precision))


def launch(
    device: str, precision: Precision, devices: int = 1, num_nodes: int = 1, strategy: Strategy = "ddp"
) -> Processes:
    """`devices` processes on each of `num_nodes` machines, or those that torchrun has started: data parallel, one model.

    By "ddp" each of them has all parameters, by "fsdp" a share of those of networks. The processes but the first are this
    very command once more, started by Fabric.
    """
    if devices < 1 or num_nodes < 1:
        raise BadInput(f"--devices and --num-nodes must be at least 1, not {devices} and {num_nodes}.")
    if distributed.is_torchelastic_launched():
        _refuse_shared_store()
        devices = int(os.environ["LOCAL_WORLD_SIZE"])
        num_nodes = int(os.environ["WORLD_SIZE"]) // devices
    if devices * num_nodes == 1:
        return one_process(device, precision)
    chosen = choose_device(device)
    if chosen.index is not None:
        raise BadInput(f"Several processes take one device each: give --device {chosen.type}, not {device}.")
    # It tells who takes part on standard error, where errors alone belong.
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    fabric = Fabric(accelerator=chosen.type, devices=devices, num_nodes=num_nodes, strategy="ddp", precision=precision)
    fabric.launch()
    return Processes(fabric, strategy)


def _refuse_shared_store() -> None:
    """Refuse restarts on torchrun's own store: a worker that is early finds there where a lost one listened."""
    restarts = int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", 0))
    if restarts > 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        raise BadInput(
            "torchrun restarts workers safely only with a new store each time: export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 "
            "before it, or leave --max-restarts out."
        )
