"""The flags of the command line, one dataclass a verb and one a model to train; light, so that help is quick."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg, subcommand

from genmodels.flags.common import Off, OptionalInt, OptionalPath, OptionalText
from genmodels.flags.dae import TrainDae
from genmodels.flags.dbm import TrainDbm
from genmodels.flags.dbn import TrainDbn
from genmodels.flags.gsn import TrainGsn
from genmodels.flags.labelled import TrainLabelled
from genmodels.flags.noise_dae import TrainNoiseDae
from genmodels.flags.psd import TrainPsd
from genmodels.flags.rbm import TrainRbm
from genmodels.flags.s3c import TrainS3c
from genmodels.flags.sparse_coding import TrainSparseCoding
from genmodels.flags.target_prop import TrainTargetProp
from genmodels.flags.vae import TrainVae

Half = Literal["upper", "lower", "left", "right"]
Run = Annotated[Positional[Path], arg(metavar="RUN")]


@dataclass(frozen=True)
class StoredModel:
    """The model of the run that --resume names."""


@dataclass(frozen=True)
class Train:
    """Train a model, or go on with a run."""

    model: (
        Annotated[TrainRbm, subcommand("rbm")]
        | Annotated[TrainDbm, subcommand("dbm")]
        | Annotated[TrainDbn, subcommand("dbn")]
        | Annotated[TrainVae, subcommand("vae")]
        | Annotated[TrainDae, subcommand("dae")]
        | Annotated[TrainGsn, subcommand("gsn")]
        | Annotated[TrainNoiseDae, subcommand("noise-dae")]
        | Annotated[TrainSparseCoding, subcommand("sparse-coding")]
        | Annotated[TrainPsd, subcommand("psd")]
        | Annotated[TrainS3c, subcommand("s3c")]
        | Annotated[TrainTargetProp, subcommand("target-prop")]
        | Annotated[TrainLabelled, subcommand("labelled-stack")]
        | Annotated[StoredModel, subcommand("stored")]
    ) = StoredModel()
    resume: Annotated[Path | None, arg(metavar="RUN", help_behavior_hint="")] = None
    """Go on with the run in this folder, from its last checkpoint to its end. Of as many processes as you like: put their
    number before, as in --devices 2 --resume RUN."""
    devices: int = 1
    """With --resume: processes that share the training, on this machine."""
    num_nodes: int = 1
    """With --resume: machines that share the training."""
    strategy: Literal["ddp", "fsdp"] = "ddp"
    """With --resume: whether each process has the whole model (ddp), or a share of its networks' parameters (fsdp)."""


@dataclass(frozen=True)
class Sample:
    """Draw from a trained model: independently where it can, else where its Markov chains end."""

    path: Run
    """The run: its folder, or its checkpoint file."""
    num: int = 100
    """Number of draws or chains."""
    num_steps: int = 1000
    """Steps of each chain (Gibbs sweeps of a Boltzmann machine), where draws need one."""
    out: Path = Path("samples.png")
    """The picture (.png, .pdf or .svg); it shows the mean of each pixel in the last sweep, which has less noise."""
    save: OptionalPath = None
    """Write the drawn states and their means to this .npz file too."""
    from_data: Off = False
    """Start at rows of the data; otherwise at independent draws of the visible biases."""
    inpaint: Annotated[Half | None, arg(metavar="{upper,lower,left,right}", help_behavior_hint="")] = None
    """The half of each image to fill in; the other half is held at rows of the data."""
    split: Literal["train", "valid", "test"] = "test"
    """The rows to start at or to fill in."""
    group_size: OptionalInt = None
    """Draws or chains in a group: a group has random numbers of its own, so that the draws are the same on any number of
    processes; by default 20 on several, and on one all together."""
    devices: int = 1
    """Processes that share the draws or chains, on this machine; on GPUs one each."""
    num_nodes: int = 1
    """Machines that share them, each with so many processes; start the same command on all of them."""
    seed: int = 0
    """Seed of the chains."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1 (and so on) or mps."""


@dataclass(frozen=True)
class Evaluate:
    """Estimate the mean log-likelihood of data, with its error and both sides of the bracket."""

    path: Run
    """The run: its folder, or its checkpoint file."""
    data: OptionalText = None
    """Data set, by name or path; by default the run's own."""
    key: OptionalText = None
    """Which array of your own .npz or .mat file to use."""
    split: Literal["train", "valid", "test"] = "test"
    """The rows whose likelihood is wanted."""
    num_examples: OptionalInt = None
    """Use only the first so many rows."""
    method: Literal["auto", "exact", "ais", "raise", "elbo", "iwae"] = "auto"
    """Boltzmann machines: enumerate the smaller side (exact), bracket log Z by AIS and its reverse (ais) or by AIS and
    RAISE (raise). Models with a recognition distribution: the variational bound (elbo), its importance-weighted
    tightening (iwae), or annealing over the latents (ais). Denoising auto-encoders and GSNs: auto, from their chains
    or, at all noise levels, by the probability flow."""
    num_samples: int = 1000
    """Draws of the latents per example, for elbo and iwae; states of the chains, for a GSN or a denoising auto-encoder
    of one noise."""
    num_chains: OptionalInt = None
    """Annealing chains; by default 100, or 16 an example for annealing over latents."""
    num_temperatures: OptionalInt = None
    """Intermediate temperatures: the bias of annealing falls with their number; by default 14,500, or 1,000 for annealing
    over latents."""
    schedule: Literal["salakhutdinov-murray", "uniform"] = "salakhutdinov-murray"
    """How the temperatures are spaced."""
    num_steps: int = 1
    """Gibbs sweeps per temperature."""
    group_size: OptionalInt = None
    """Annealing chains in a group, or examples where each has its own draws: a group has random numbers of its own, so that
    the estimate is the same on any number of processes; by default 20 on several, and on one all together."""
    devices: int = 1
    """Processes that share the chains or examples, on this machine; on GPUs one each."""
    num_nodes: int = 1
    """Machines that share them, each with so many processes; start the same command on all of them."""
    seed: int = 0
    """Seed of the annealing chains."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1 (and so on) or mps."""
    json: Off = False
    """Print one JSON object instead of the table, and nothing else, to standard output."""


@dataclass(frozen=True)
class Plot:
    """Draw a run's samples, filters, training curves, chains and stored likelihoods, and print the paths."""

    path: Run
    """Folder of the run."""
    seed: int = 0
    """Seed of the chains."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1 (and so on) or mps."""


@dataclass(frozen=True)
class Report:
    """Write one page on a run, or on several side by side: it needs no network and nothing beside it."""

    paths: Annotated[Positional[tuple[Path, ...]], arg(metavar="RUN [RUN ...]")]
    """Folders of the runs."""
    out: Path = Path("report.html")
    """The page (.html)."""
    seed: int = 0
    """Seed of the chains, where pictures are missing or older than the run's checkpoint."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1 (and so on) or mps."""


@dataclass(frozen=True)
class List:
    """List models with their capabilities, objectives, samplers, estimators, and data sets and whether they are here."""
