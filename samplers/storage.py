"""Chains and traces on disk, as safetensors files, each of which is written whole or not at all. No pickle."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from jaxtyping import Int
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

State = TypeVar("State")

_FORMAT = "samplers"
_GENERATOR = "generator"
_SUFFIX = ".safetensors"


def save_chains(path: str | Path, state: Any, generator: torch.Generator, step: int) -> None:
    """Write all that a run needs to go on: its state, its random numbers, and how many steps it has made.

    The state may be any tensors and numbers in tuples, named tuples, lists and dicts. The file names each by its place, such as
    state.position or state[0], holds the generator's state beside them, and has the step in its header.

    >>> from samplers.kernel import run
    >>> from samplers.langevin import mala
    >>> path, start = getfixture("tmp_path") / "chains.safetensors", torch.zeros(7, 3)
    >>> kernel, generator = mala(lambda x: x.square().sum(-1) / 2, 0.5), torch.Generator().manual_seed(0)
    >>> def keep(step, state):
    ...     if step % 100 == 0:
    ...         save_chains(path, state, generator, step)
    >>> _ = run(kernel, start, 250, generator=generator, observe=keep)

    Were this run killed on its way to step 500, this would end it as if it had not been:

    >>> state, step = load_chains(path, like=kernel.init(start), generator=generator)
    >>> step
    200
    >>> _ = run(kernel, state, 500, generator=generator, steps_done=step, observe=keep)
    """
    leaves = {name: _tensor(name, leaf) for name, leaf in _leaves(state)}
    header = {"step": step, "device": generator.device.type}
    _write(Path(path), leaves | {_GENERATOR: generator.get_state()}, header)


def load_chains(path: str | Path, *, like: State, generator: torch.Generator) -> tuple[State, int]:
    """The state and the step that `save_chains` wrote; `generator` goes on from where it was.

    `like` is any state of the same kernel and number of chains, for instance kernel.init(start): what comes back is of its types
    and on its devices. On the same kind of device the run goes on with the same bits.
    """
    tensors, header = _read(Path(path))
    if header.get("device") != generator.device.type:
        raise ValueError(f"{path} was saved with a generator on {header.get('device')}: load it with one on the same.")
    randoms = tensors.pop(_GENERATOR)
    wanted = {name: _kind(_tensor(name, leaf)) for name, leaf in _leaves(like)}
    held = {name: _kind(tensor) for name, tensor in tensors.items()}
    for name in sorted(wanted.keys() | held.keys()):
        has, needs = held.get(name, "nothing"), wanted.get(name, "nothing")
        if has != needs:
            raise ValueError(f"{path} has {has} as {name}, `like` {needs}: give a state of the kernel that was saved.")
    generator.set_state(randoms)
    return _filled(like, tensors), header["step"]


class Block(NamedTuple):
    """Consecutive observations of a `DiskTrace`."""

    steps: Int[Tensor, " t"]
    values: Tensor
    """Shape (t, chains, ...)."""


class DiskTrace:
    """Observer that keeps select(state) on disk: one file in `folder` for every `block_size` observations.

    Memory holds the observations of one block at most, whatever the length of the run. Full blocks are written by themselves,
    the last one by `flush`, which belongs after the run and before each `save_chains`. What is written survives a kill.

    To go on with a trace, give the `steps_done` of the run: what was kept after that step is dropped.
    """

    def __init__(
        self, folder: str | Path, select: Callable[[Any], Tensor], *, block_size: int = 256, steps_done: int = 0
    ):
        self._folder, self._select, self._block_size = Path(folder), select, block_size
        self._steps: list[int] = []
        self._values: list[Tensor] = []
        self._drop_after(steps_done)

    def __call__(self, step: int, state: Any) -> None:
        if self._is_full():
            self._steps, self._values = [], []
        self._steps.append(step)
        self._values.append(self._select(state).detach().to("cpu", copy=True))
        if self._is_full():
            self.flush()

    def flush(self) -> None:
        """Write what is only in memory yet."""
        if self._steps:
            block = {"steps": torch.tensor(self._steps), "values": torch.stack(self._values)}
            _write(self._folder / f"{self._steps[0]:012}{_SUFFIX}", block, {})

    def stacked(self) -> Tensor:
        """All that was kept, shape (times, chains, ...), in memory."""
        self.flush()
        return torch.cat([block.values for block in read_blocks(self._folder)])

    def _is_full(self) -> bool:
        return len(self._steps) >= self._block_size

    def _drop_after(self, step: int) -> None:
        files = _block_files(self._folder)
        if step == 0 and files:
            raise ValueError(f"{self._folder} holds a trace: give its steps_done to go on with it, or another folder.")
        while files and int(files[-1].stem) > step:
            files.pop().unlink()
        if files:
            last = Block(**_read(files[-1])[0])
            num = int((last.steps <= step).sum())
            self._steps, self._values = last.steps[:num].tolist(), list(last.values[:num])
            self.flush()


def read_blocks(folder: str | Path) -> Iterator[Block]:
    """The blocks that a `DiskTrace` has written to `folder`, in order, one at a time in memory."""
    for file in _block_files(Path(folder)):
        yield Block(**_read(file)[0])


def _block_files(folder: Path) -> list[Path]:
    return sorted(folder.glob(f"[0-9]*{_SUFFIX}"))


def _leaves(tree: Any, name: str = "state") -> Iterator[tuple[str, Any]]:
    parts = _parts(tree)
    if parts is None:
        yield name, tree
    else:
        for place, part in parts.items():
            yield from _leaves(part, name + place)


def _filled(like: Any, tensors: Mapping[str, Tensor], name: str = "state") -> Any:
    parts = _parts(like)
    if parts is None:
        return tensors[name].to(like.device) if isinstance(like, Tensor) else tensors[name].item()
    filled = [_filled(part, tensors, name + place) for place, part in parts.items()]
    if isinstance(like, Mapping):
        return dict(zip(like, filled, strict=True))
    return type(like)(*filled) if hasattr(like, "_fields") else type(like)(filled)


def _parts(tree: Any) -> dict[str, Any] | None:
    """The parts of a container by their place in it, None for a leaf."""
    if hasattr(tree, "_asdict"):
        return {f".{field}": part for field, part in tree._asdict().items()}
    if isinstance(tree, Mapping):
        return {f"[{key!r}]": part for key, part in tree.items()}
    if isinstance(tree, tuple | list):
        return {f"[{index}]": part for index, part in enumerate(tree)}
    return None


def _tensor(name: str, leaf: Any) -> Tensor:
    if isinstance(leaf, Tensor):
        return leaf
    if not isinstance(leaf, bool | int | float):
        raise ValueError(f"{name} is of type {type(leaf).__name__}: only tensors and numbers can be saved.")
    return torch.tensor(leaf, dtype=torch.float64 if isinstance(leaf, float) else None)


def _kind(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"


def _write(path: Path, tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> None:
    """Write beside, flush to disk, rename: at no moment is there a half-written `path`."""
    held = {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}
    beside = path.with_name(f".{path.name}.tmp")
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(beside, "wb") as file:
        file.write(save(held, {_FORMAT: json.dumps(header)}))
        file.flush()
        os.fsync(file.fileno())
    os.replace(beside, path)


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {})[_FORMAT])
            return {name: file.get_tensor(name) for name in file.keys()}, header  # noqa: SIM118 (no mapping)
    except (SafetensorError, KeyError) as error:
        raise ValueError(f"{path} is damaged or not of this library ({error}): take a file that it wrote.") from error
