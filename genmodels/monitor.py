"""What to watch while a model trains: callbacks for `fit`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from genmodels.data import DataSet, Examples
from genmodels.dbm import DBM
from genmodels.dbn import DBN
from genmodels.errors import BadInput
from genmodels.fit import Callback
from genmodels.interface import FreeEnergy, JointDensity, Recognition, default_generator
from genmodels.likelihood import ais_log_z, elbo, pseudo_likelihood
from genmodels.likelihood.exact import mean_free_energy
from genmodels.metrics import Record
from genmodels.rbm import RBM
from genmodels.units import Bernoulli
from samplers import salakhutdinov_murray_schedule

_PSEUDO_SITES = 8000


@dataclass(frozen=True)
class MonitorOptions:
    """What is measured after an epoch, and on how many rows."""

    ais_every: int = 10
    """Epochs between short AIS runs, with one more after the last epoch; 0 for none at all."""
    ais_chains: int = 100
    ais_temperatures: int = 1000
    max_rows: int = 2000
    tensorboard: bool = False

    def __post_init__(self) -> None:
        if self.ais_every < 0 or self.ais_chains < 2 or self.ais_temperatures < 3 or self.max_rows < 1:
            raise BadInput(
                "Monitoring needs ais_every ≥ 0, ais_chains ≥ 2, ais_temperatures ≥ 3 and max_rows ≥ 1, "
                f"not {self.ais_every}, {self.ais_chains}, {self.ais_temperatures} and {self.max_rows}."
            )


def monitor(data: DataSet, *, epochs: int, seed: int = 0, options: MonitorOptions | None = None) -> Callback:
    """A callback that adds, as far as the model allows, in nats per example:

    - `free_energy_gap`: mean F over validation rows minus mean F over as many training rows. It grows with overfitting,
      and no log Z is needed (Hinton, 2010, section 6).
    - `pseudo_likelihood` of the validation rows: a proxy and no bound (Bernoulli visible units).
    - `valid_elbo`, the variational bound of the validation rows by one draw of q a row (normalised models with a recognition).
    - `log_likelihood` of the validation rows and its `log_likelihood_std_error`, by a short AIS every `ais_every` epochs:
      an upper bound in expectation, and the looser the fewer temperatures. With several latent layers it is the
      `variational_bound` instead, less the same log Z: no bound.

    The rows are a fixed draw of at most `max_rows`. The random numbers come from generators of their own, so that watching
    never changes training.
    """
    options = MonitorOptions() if options is None else options
    valid = _fixed_rows(data.valid, options.max_rows, seed)
    train = _fixed_rows(data.train, len(valid), seed)

    def watch(record: Record, model: nn.Module) -> dict[str, float]:
        like = next(model.parameters())
        x, seen = valid.to(like), train.to(like)
        epoch = int(record["epoch"])
        metrics: dict[str, float] = {}
        if isinstance(model, FreeEnergy):
            metrics["free_energy_gap"] = float(model.free_energy(x).mean() - model.free_energy(seen).mean())
        if isinstance(model, RBM) and isinstance(model.visible, Bernoulli):
            # The same sites in every epoch, and many of them: what changes from epoch to epoch is then the model.
            rows = x.repeat(math.ceil(_PSEUDO_SITES / len(x)), 1)
            generator = default_generator(seed, like.device)
            metrics["pseudo_likelihood"] = pseudo_likelihood(model, rows, generator=generator).value
        if isinstance(model, JointDensity) and isinstance(model, Recognition):
            # The same draws in every epoch, for the same reason.
            metrics["valid_elbo"] = elbo(model, x, generator=default_generator(seed, like.device)).value
        is_due = options.ais_every > 0 and (epoch % options.ais_every == 0 or epoch == epochs)
        if is_due and isinstance(model, (RBM, DBM, DBN)):
            generator = default_generator(seed * 1_000_003 + epoch, like.device)
            metrics |= _short_ais(model, x, seen, options, generator)
        return metrics

    return watch


def tensorboard(folder: Path) -> Callback:
    """A callback that writes every metric of the record to TensorBoard files in `folder`; give it last."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise BadInput("TensorBoard is not installed: pip install 'genmodels[tensorboard]'.") from error
    writer: Any = None

    def write(record: Record, model: nn.Module) -> None:
        nonlocal writer
        epoch = int(record["epoch"])
        if writer is None:
            # A run that is taken up again replaces what was written after its checkpoint.
            writer = SummaryWriter(str(folder), purge_step=epoch)
        for name, value in record.items():
            if name != "epoch":
                writer.add_scalar(name, value, epoch)
        writer.flush()

    return write


def _short_ais(
    model: RBM | DBM | DBN, x: Tensor, seen: Tensor, options: MonitorOptions, generator: torch.Generator
) -> dict[str, float]:
    top = model.top if isinstance(model, DBN) else model
    if isinstance(model, DBN):
        seen = model.encode(seen).draw(generator)[-1]
    log_z = ais_log_z(
        top,
        top.units[0].bias_from_data(seen),
        salakhutdinov_murray_schedule(options.ais_temperatures),
        num_chains=options.ais_chains,
        generator=generator,
    )
    if isinstance(model, DBN):
        bound = elbo(model, x, num_samples=2, log_z=log_z, generator=generator)
        return {"variational_bound": bound.value, "variational_bound_std_error": bound.std_error}
    value = -mean_free_energy(model, x)[0] - log_z.value
    name = "log_likelihood" if model.exact_posterior else "variational_bound"
    return {name: value, f"{name}_std_error": log_z.std_error}


def _fixed_rows(examples: Examples, max_rows: int, seed: int) -> Float[Tensor, "n d"]:
    generator = default_generator(seed)
    return examples.batch(torch.randperm(len(examples), generator=generator)[:max_rows], generator)
