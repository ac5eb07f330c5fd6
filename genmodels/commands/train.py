"""`genmodels train`: a new run, or the rest of one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from torch import nn

from genmodels import runs
from genmodels.data import load
from genmodels.errors import BadInput
from genmodels.families import FAMILIES, Family
from genmodels.fit import CHECKPOINT, ShowProgress
from genmodels.flags import StoredModel, Train, TrainDae, TrainDbm, TrainRbm, TrainVae
from genmodels.flags.arguments import command_line
from genmodels.flags.common import TrainModel
from genmodels.flags.dbn import TrainDbn
from genmodels.flags.gsn import TrainGsn
from genmodels.flags.labelled import TrainLabelled
from genmodels.flags.noise_dae import TrainNoiseDae
from genmodels.flags.psd import TrainPsd
from genmodels.flags.s3c import TrainS3c
from genmodels.flags.sparse_coding import TrainSparseCoding
from genmodels.flags.target_prop import TrainTargetProp
from genmodels.pictures import write_pictures
from genmodels.processes import Processes, launch
from genmodels.progress import bar, training_bar
from genmodels.ranks import was_restarted

FAMILY_OF: dict[type[TrainModel], Family] = {
    TrainRbm: FAMILIES["rbm"],
    TrainDbm: FAMILIES["dbm"],
    TrainDbn: FAMILIES["dbn"],
    TrainVae: FAMILIES["vae"],
    TrainDae: FAMILIES["dae"],
    TrainGsn: FAMILIES["gsn"],
    TrainNoiseDae: FAMILIES["noise-dae"],
    TrainSparseCoding: FAMILIES["sparse-coding"],
    TrainPsd: FAMILIES["psd"],
    TrainS3c: FAMILIES["s3c"],
    TrainTargetProp: FAMILIES["target-prop"],
    TrainLabelled: FAMILIES["labelled-stack"],
}


def run(flags: Train) -> None:
    """Start the run that the flags describe, or go on with one; then draw its pictures."""
    if flags.resume is None:
        if isinstance(flags.model, StoredModel):
            raise BadInput("Name a model to train, as in `genmodels train rbm --data digits --out runs/rbm`.")
        if (flags.devices, flags.num_nodes, flags.strategy) != (1, 1, "ddp"):
            raise BadInput(
                "Put --devices, --num-nodes and --strategy behind the model; before it they go with --resume."
            )
        _start(flags.model)
        return
    if not isinstance(flags.model, StoredModel):
        raise BadInput("A run is taken up as it is: leave the model out after --resume, or start a new run.")
    settings = runs.stored_config(flags.resume).settings
    processes = launch(settings.device, settings.precision, flags.devices, flags.num_nodes, flags.strategy)
    _resume(flags.resume, processes)


def _resume(out: Path, processes: Processes) -> None:
    _train(out, processes, lambda progress: runs.resume(out, progress=progress, processes=processes))


def _start(flags: TrainModel) -> None:
    taken_up = was_restarted() and any((flags.out / name).exists() for name in (CHECKPOINT, runs.CONFIG))
    if not taken_up:
        runs.refuse_occupied(flags.out)
    data = load(flags.data, key=flags.key)
    config = FAMILY_OF[type(flags)].run_config(flags, data)
    processes = launch(flags.device, flags.precision, flags.devices, flags.num_nodes, flags.strategy)
    if processes.from_first(taken_up):
        _resume(flags.out, processes)
        return
    command = command_line(["train", FAMILY_OF[type(flags)].name], replace(flags, data=runs.lasting_name(flags.data)))
    _train(
        flags.out,
        processes,
        lambda progress: runs.start(
            config, flags.out, data=data, command=command, progress=progress, processes=processes
        ),
    )


def _train(out: Path, processes: Processes, work: Callable[[ShowProgress], nn.Module]) -> None:
    """Do the training with a bar, then draw the pictures; after Ctrl-C or SIGTERM, say how to go on."""
    try:
        with training_bar(out.name) as progress:
            work(progress)
    except KeyboardInterrupt as stop:
        if (out / CHECKPOINT).exists():
            raise type(stop)(f"Stopped and saved: go on with `genmodels train --resume {out}`.") from stop
        raise
    if processes.is_first:
        for path in write_pictures(out, progress=bar):
            print(path)
