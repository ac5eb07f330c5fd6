"""To and from Pyro: directed models as programs for `pyro.infer`, and a user's own programs for our estimators."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pyro
import torch
from jaxtyping import Float
from pyro import poutine
from pyro.distributions import TorchDistribution, constraints
from torch import Tensor

from genmodels.errors import BadInput
from genmodels.interface import Code, Encoder, JointDensity, Latents, Recognition, TopDown, require
from genmodels.units import Unit

Program = Callable[..., Any]


class _Code(TorchDistribution):
    """A code over all latent layers side by side."""

    has_rsample = True
    support = constraints.independent(constraints.real, 1)  # pyright: ignore
    arg_constraints: Any = {}  # noqa: RUF012  # pyright: ignore

    def __init__(self, code: Code, num: int, sizes: list[int]):
        self._code, self._sizes = code, sizes
        super().__init__(torch.Size((num,)), torch.Size((sum(sizes),)), validate_args=False)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        return torch.cat(self._code.draw(None), 1)

    def log_prob(self, value: Tensor) -> Tensor:
        return self._code.log_prob(value.split(self._sizes, -1))

    def expand(self, batch_shape: Any, _instance: Any = None) -> _Code:
        if torch.Size(batch_shape) != self.batch_shape:
            raise BadInput("The programs draw all particles one after the other: leave vectorize_particles out.")
        return self


class _Units(TorchDistribution):
    """A layer of units given its field."""

    arg_constraints: Any = {}  # noqa: RUF012  # pyright: ignore

    def __init__(self, unit: Unit, field: Tensor):
        self._unit, self._field = unit, field
        super().__init__(field.shape[:-1], field.shape[-1:], validate_args=False)

    @property
    def support(self) -> Any:
        return constraints.independent(constraints.real, 1)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        with torch.no_grad():
            return self._unit.draw(self._field, self._unit.noise(len(self._field), self._field, None))

    def log_prob(self, value: Tensor) -> Tensor:
        return self._unit.log_prob(self._field, value)

    def expand(self, batch_shape: Any, _instance: Any = None) -> _Units:
        return _Units(self._unit, self._field.expand(*batch_shape, -1))


class Programs(NamedTuple):
    """A directed model as Pyro's `model` and `guide`, both called with the rows x."""

    model: Program
    """model(x): p(x, z) with x observed; model(None, num): `num` draws of everything, as `Predictive` wants."""
    guide: Program
    """guide(x): q(z | x)."""


def pyro_programs(model: TopDown) -> Programs:
    """The model's p(x, z) and q(z | x) as Pyro programs, for SVI, `Predictive` and MCMC on the posterior.

    All latent layers are one site `z`, side by side, and the observed layer is the site `x`, both within a plate over the
    rows. Noise is Pyro's, which is torch's global one. The latents must be continuous. Any objective of `pyro.infer` that
    draws particles one after the other works as it stands: `Trace_ELBO`, `RenyiELBO`, `ReweightedWakeSleep`.
    """
    require(model, TopDown, Encoder, by="pyro_programs")
    assert isinstance(model, torch.nn.Module)
    assert isinstance(model, Encoder)
    with torch.no_grad(), torch.random.fork_rng():
        sizes = [layer.shape[1] for layer in model.prior(1).draw(None)]

    def program(x: Tensor | None, num: int | None = None) -> Tensor:
        rows = len(x) if x is not None else num
        if rows is None:
            raise BadInput("Without rows the program needs their number: call model(None, num).")
        pyro.module("genmodels", model)
        with pyro.plate("rows", rows):
            z = pyro.sample("z", _Code(model.prior(rows), rows, sizes))
            return pyro.sample("x", _Units(model.observed, model.decode(z.split(sizes, -1))), obs=x)

    def guide(x: Tensor | None, num: int | None = None) -> Tensor:
        if x is None:
            raise BadInput("The guide needs rows to encode.")
        pyro.module("genmodels", model)
        with pyro.plate("rows", len(x)):
            return pyro.sample("z", _Code(model.encode(x), len(x), sizes))

    return Programs(program, guide)


class PyroModel(JointDensity, Recognition):
    """A user's own Pyro `model` and `guide`, for `elbo`, `importance_bound` and `log_weights`.

    Both are called with the rows x, (n, d). Every site must hold one value a row: inside a plate over the rows, with all
    other dimensions declared as of the event (`to_event`). The latents are the guide's sites, in its order.
    """

    def __init__(self, model: Program, guide: Program):
        self._model, self._guide, self._names = model, guide, ()

    def recognise(
        self, x: Float[Tensor, "n d"], *, generator: torch.Generator | None = None
    ) -> tuple[Latents, Float[Tensor, " n"]]:
        with torch.random.fork_rng(devices=[x.device] if x.is_cuda else []):
            # Pyro draws from torch's global numbers, which are set for this draw alone.
            like = x.device if generator is None else generator.device
            torch.manual_seed(int(torch.randint(2**62, (), generator=generator, device=like)))
            sites = _latent_sites(poutine.trace(self._guide).get_trace(x))
        self._names = tuple(sites)
        z = tuple(site["value"] for site in sites.values())
        return z, _sum_of_rows(sites, len(x))

    def log_joint(self, x: Float[Tensor, "n d"], z: Latents) -> Float[Tensor, " n"]:
        if not self._names:
            self._names = tuple(_latent_sites(poutine.trace(self._guide).get_trace(x)))
        given = dict(zip(self._names, z, strict=True))
        trace: Any = poutine.trace(poutine.condition(self._model, data=given)).get_trace(x)
        sites = {name: site for name, site in trace.nodes.items() if _is_draw(site)}
        if free := [name for name, site in sites.items() if not site["is_observed"] and name not in given]:
            raise BadInput(f"The model draws {', '.join(free)}, which the guide does not: let the guide draw them too.")
        return _sum_of_rows(sites, len(x))


def _is_draw(site: Any) -> bool:
    return site["type"] == "sample" and not poutine.util.site_is_subsample(site)


def _latent_sites(trace: Any) -> dict[str, Any]:
    return {name: site for name, site in trace.nodes.items() if _is_draw(site) and not site["is_observed"]}


def _sum_of_rows(sites: dict[str, Any], num: int) -> Float[Tensor, " n"]:
    total = torch.zeros(())
    for name, site in sites.items():
        log_prob = site["fn"].log_prob(site["value"])
        if log_prob.shape != (num,):
            raise BadInput(
                f"The site {name} has log-densities of shape {tuple(log_prob.shape)}, not one a row, ({num},): put it into "
                "a plate over the rows and declare all other dimensions by to_event."
            )
        total = total + log_prob
    return total
