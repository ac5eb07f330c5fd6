"""Flags that every model's training has, and short names for their types; light, so that help is quick."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import FlagCreatePairsOff, arg

OptionalInt = Annotated[int | None, arg(metavar="INT", help_behavior_hint="")]
OptionalFloat = Annotated[float | None, arg(metavar="FLOAT", help_behavior_hint="")]
OptionalText = Annotated[str | None, arg(metavar="TEXT", help_behavior_hint="")]
OptionalPath = Annotated[Path | None, arg(metavar="PATH", help_behavior_hint="")]
Kind = Annotated[str, arg(metavar="KIND")]
Off = FlagCreatePairsOff[bool]


@dataclass(frozen=True, kw_only=True)
class TrainModel:
    """What a training needs whatever it trains; each model adds its own."""

    data: str
    """Data set: a name that `genmodels list` shows, or the path of your own file or folder."""
    out: Path
    """Folder for the run: checkpoint, metrics, configuration, pictures."""
    key: OptionalText = None
    """Which array of your own .npz or .mat file to use."""
    epochs: OptionalInt = None
    """Passes through the training data; by default 60, or more where these are few updates."""
    batch_size: int = 100
    """Rows per update."""
    optimizer: str = "Adam"
    """Any optimizer of torch.optim, by its name."""
    learning_rate: OptionalFloat = None
    """Learning rate at the start; by default what suits the model."""
    momentum: float = 0.0
    """Momentum of the optimizer, where it has one."""
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    """How the learning rate falls to 0."""
    average: float = 0.999
    """Decay per update of the running average of the weights, which becomes the model; 0 for none."""
    accumulate: int = 1
    """Parts in which every batch is gone through, one after the other: less memory, the same update."""
    precision: Literal["32-true", "64-true", "bf16-mixed"] = "32-true"
    """Precision of the arithmetic, in bits. With bf16-mixed, networks compute in bfloat16; densities, energies and
    log-weights stay in float32, and models without networks refuse it."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1 (and so on) or mps."""
    seed: int = 0
    """Seed of everything random: initial weights, order of the data, draws and chains."""
    devices: int = 1
    """Processes that share the training, on this machine; on GPUs one each. torchrun's own go before this."""
    num_nodes: int = 1
    """Machines that share the training, each with so many processes; start the same command on all of them."""
    strategy: Literal["ddp", "fsdp"] = "ddp"
    """Several processes have the whole model each (ddp), or a share of the parameters of its networks (fsdp)."""
    checkpoint_every: OptionalInt = None
    """Epochs between checkpoints; by default a hundredth of all."""
    snapshots: int = 0
    """About how many copies of the weights to keep along training."""
    keep_last: int = 1
    """Checkpoints to keep: above 1, earlier ones too, in the folder checkpoints of the run."""
    best_by: OptionalText = None
    """Keep the checkpoint in which this metric is highest as best.safetensors, such as valid_elbo or pseudo_likelihood."""
    tensorboard: Off = False
    """Write the metrics for TensorBoard too, to the folder tensorboard in the run's."""
