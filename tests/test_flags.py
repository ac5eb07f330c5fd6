"""A command line made from flags parses to the same flags."""

import shlex
from dataclasses import replace
from pathlib import Path

import pytest

from genmodels.cli import _parse
from genmodels.commands.train import FAMILY_OF
from genmodels.flags import Evaluate, Sample
from genmodels.flags.arguments import command_line
from genmodels.flags.dbm import TrainDbm
from genmodels.flags.rbm import TrainRbm
from genmodels.flags.vae import TrainVae

NEEDED = {"data": "my data.npy", "out": Path("runs/a b")}
CASES = [
    *(kind(**NEEDED) for kind in FAMILY_OF),
    TrainRbm(**NEEDED, hidden=7, centered=False, learning_rate=1e-5, tensorboard=True, num_chains=5, momentum=0.5),
    TrainDbm(**NEEDED, hidden=(3, 5, 7), seed=11),
    TrainVae(**NEEDED, latent=(5, 3), hidden=("7,7", "5"), objective="iwae"),
]


@pytest.mark.parametrize("flags", CASES, ids=lambda flags: type(flags).__name__)
def test_training(flags) -> None:
    verb, *rest = shlex.split(command_line(["train", FAMILY_OF[type(flags)].name], flags))
    assert verb == "genmodels"
    assert _parse(rest).model == flags  # pyright: ignore


@pytest.mark.parametrize("flags", [Evaluate(Path("a"), num_chains=3, json=True), Sample(Path("b"), inpaint="left")])
def test_verbs(flags) -> None:
    verb = type(flags).__name__.lower()
    rest = shlex.split(command_line([verb], flags, positional="path"))[1:]
    assert _parse(rest) == flags
    assert _parse(rest) != replace(flags, seed=1)
