"""Networks whose parameters lie split over the processes, for models that fit no single device."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.distributed import DeviceMesh
from torch.distributed.tensor import DTensor, distribute_tensor

from genmodels.errors import BadInput
from genmodels.networks import MLP, Upended


def split_networks(model: nn.Module, mesh: DeviceMesh) -> None:
    """Leave every process a share of each network's parameters, which the network gathers while it computes, and no longer.

    Gradients come back split, as means over the processes. All else in the model stays whole. Rajbhandari et al. (2020),
    stage 3, as torch's `fully_shard` does it.
    """
    # Imported only now, because it takes long.
    from torch.distributed.fsdp import fully_shard

    networks = [module for module in model.modules() if isinstance(module, MLP)]
    if not networks:
        raise BadInput("This model has no networks whose parameters could be split: train it with --strategy ddp.")
    if any(isinstance(module, Upended) for module in model.modules()):
        raise BadInput("Tied weights are needed whole by two networks: train this model with --strategy ddp.")
    for network in networks:
        fully_shard(network, mesh=mesh)


class Together:
    """A split model put together, in the first process's main memory, for whoever is to look at it there."""

    def __init__(self, model: nn.Module, here: bool):
        self._copy = copy.deepcopy(model).cpu() if here else None

    def of(self, model: nn.Module) -> nn.Module:
        """The model with all its parameters in the first process; all must ask together, and the others get it as it is."""
        tensors = whole_state(model.state_dict())
        if self._copy is None:
            return model
        self._copy.load_state_dict(tensors)
        return self._copy


def is_split(tensor: Tensor) -> bool:
    """Whether a process holds a share of it only."""
    return isinstance(tensor, DTensor)


def whole(tensor: Tensor) -> Tensor:
    """The whole of a tensor; if it is split, all processes must ask together."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def whole_state(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The whole of each tensor; what is split comes to the main memory, one tensor after the other."""
    return {name: whole(tensor).cpu() if is_split(tensor) else tensor for name, tensor in tensors.items()}


def split_like(tensor: Tensor, other: Tensor) -> Tensor:
    """A whole tensor, which all processes have, split as another is."""
    if not isinstance(other, DTensor):
        return tensor
    return distribute_tensor(tensor.to(other.device), other.device_mesh, other.placements, src_data_rank=None)


@torch.no_grad()
def lerp_(tensors: list[Tensor], ends: list[Tensor], weight: float) -> None:
    """Move tensors towards the ends, in place."""
    if not any(map(is_split, tensors)):
        torch._foreach_lerp_(tensors, ends, weight)
        return
    for tensor, end in zip(tensors, ends, strict=True):
        tensor.lerp_(end, weight)


def load_whole(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """`load_state_dict` of whole tensors, where the module's may be split."""
    module.load_state_dict({name: split_like(tensors[name], held) for name, held in module.state_dict().items()})
