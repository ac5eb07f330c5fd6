"""The flags of the command line, one dataclass a verb; light, so that help is quick."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import FlagCreatePairsOff, Positional, arg, subcommand

OptionalInt = Annotated[int | None, arg(metavar="INT", help_behavior_hint="")]
OptionalFloat = Annotated[float | None, arg(metavar="FLOAT", help_behavior_hint="")]
OptionalText = Annotated[str | None, arg(metavar="TEXT", help_behavior_hint="")]
OptionalPath = Annotated[Path | None, arg(metavar="PATH", help_behavior_hint="")]
Half = Literal["upper", "lower", "left", "right"]
Kind = Annotated[str, arg(metavar="KIND")]
Run = Annotated[Positional[Path], arg(metavar="RUN")]
Off = FlagCreatePairsOff[bool]


@dataclass(frozen=True)
class TrainRbm:
    """Train a restricted Boltzmann machine."""

    data: str
    """Data set: a name that `genmodels list` shows, or the path of your own file or folder."""
    out: Path
    """Folder for the run: checkpoint, metrics, configuration, pictures."""
    key: OptionalText = None
    """Which array of your own .npz or .mat file to use."""
    hidden: int = 500
    """Number of hidden units (of groups, for categorical ones)."""
    hidden_units: Kind = "bernoulli"
    """Hidden units: bernoulli, gaussian or categorical:LEVELS."""
    visible_units: Kind = "auto"
    """Visible units: bernoulli, gaussian or categorical:LEVELS; auto: bernoulli for binary data, else gaussian."""
    objective: Literal["cd", "pcd", "fpcd", "ptt"] = "pcd"
    """Contrastive divergence, with chains from the data (cd), persistent ones (pcd), these on fast weights (fpcd), or
    kept at equilibrium by trajectory tempering (ptt)."""
    num_steps: int = 1
    """Gibbs sweeps of the chains per update."""
    num_chains: OptionalInt = None
    """Persistent chains; by default as many as rows in a batch."""
    centered: bool = True
    """Centered (enhanced) gradient instead of the plain one."""
    l1: float = 0.0
    """Weight decay: the gradient of this times the sum of all |w|."""
    l2: float = 0.0
    """Weight decay: the gradient of this times half the sum of all w²."""
    sparsity_target: float = 0.1
    """Wanted mean activation of the hidden units, where there is a sparsity cost."""
    sparsity_cost: float = 0.0
    """Pull of the hidden biases towards the sparsity target; 0 for none."""
    epochs: OptionalInt = None
    """Passes through the training data; by default 60, or more where these are few updates."""
    batch_size: int = 100
    """Rows per update."""
    optimizer: str = "SGD"
    """Any optimizer of torch.optim, by its name."""
    learning_rate: OptionalFloat = None
    """Learning rate at the start; by default 0.2, or 0.005 for gaussian visible units."""
    momentum: float = 0.0
    """Momentum of the optimizer, where it has one."""
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    """How the learning rate falls to 0."""
    average: float = 0.999
    """Decay per update of the running average of the weights, which becomes the model; 0 for none."""
    precision: Literal["32-true", "64-true"] = "32-true"
    """Precision of the arithmetic, in bits."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1 (and so on) or mps."""
    seed: int = 0
    """Seed of everything random: initial weights, order of the data, chains."""
    ais_every: OptionalInt = None
    """Epochs between short AIS estimates of the log-likelihood; by default a tenth of all; 0 for none."""
    checkpoint_every: OptionalInt = None
    """Epochs between checkpoints; by default a hundredth of all."""
    snapshots: int = 0
    """About how many copies of the weights to keep along training, for trajectory tempering."""
    tensorboard: Off = False
    """Write the metrics for TensorBoard too, to the folder tensorboard in the run's."""


@dataclass(frozen=True)
class StoredModel:
    """The model of the run that --resume names."""


@dataclass(frozen=True)
class Train:
    """Train a model, or go on with a run."""

    model: Annotated[TrainRbm, subcommand("rbm")] | Annotated[StoredModel, subcommand("stored")] = StoredModel()
    resume: Annotated[Path | None, arg(metavar="RUN", help_behavior_hint="")] = None
    """Go on with the run in this folder, from its last checkpoint to its end."""


@dataclass(frozen=True)
class Sample:
    """Run block Gibbs chains of a trained model and draw where they end."""

    path: Run
    """The run: its folder, or its checkpoint file."""
    num: int = 100
    """Number of chains."""
    num_steps: int = 1000
    """Gibbs sweeps of each chain."""
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
    method: Literal["auto", "exact", "ais", "raise"] = "auto"
    """Enumerate the smaller side (exact), bracket log Z by AIS and its reverse (ais) or by AIS and RAISE (raise)."""
    num_chains: int = 100
    """Annealing chains."""
    num_temperatures: int = 14_500
    """Intermediate temperatures: the bias of annealing falls with their number."""
    schedule: Literal["salakhutdinov-murray", "uniform"] = "salakhutdinov-murray"
    """How the temperatures are spaced."""
    num_steps: int = 1
    """Gibbs sweeps per temperature."""
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
class List:
    """List models with their capabilities, objectives, samplers, estimators, and data sets and whether they are here."""
