"""Learned inference for sparse codes: PSD's encoders and LISTA, and how far from the optimum they end."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from jaxtyping import Float
from matplotlib.figure import Figure
from torch import Tensor

from genmodels.code_encoders import CodeEncoder, Lista, StepLista
from genmodels.data import DataSet
from genmodels.fit import Settings, fit
from genmodels.lasso import fista, ista, solve
from genmodels.objectives import amortised_map, psd
from genmodels.progress import training_bar
from genmodels.psd import PSD
from genmodels.sparse_coding import SparseCoding


class Excess(NamedTuple):
    """Mean energy of some codes beside the mean optimum."""

    share: float
    """Of the optimum."""
    nats: float


def learn_psd(
    data: DataSet,
    start: SparseCoding,
    encoder: CodeEncoder,
    joint: Settings,
    amortised: Settings,
    out: Path,
    config: Mapping[str, Any],
) -> tuple[PSD, PSD]:
    """PSD from the learned dictionary on, all learned together; and its encoder after learning on its own energy."""
    found = []
    for name, objective, settings in (("psd", psd, joint), ("amortised", amortised_map, amortised)):
        generative = SparseCoding.from_config(start.config())
        generative.load_state_dict(start.state_dict())
        model = PSD(generative, encoder, closeness=1.0)
        if not found:
            encoder.start_from(generative.dictionary, generative.noise_variance, generative.factors.scale)
        else:
            model.load_state_dict(found[0].state_dict())
            generative.requires_grad_(False)
        with training_bar(f"{out.name}, {name}") as progress:
            fit(model, objective(model), data.train, settings, out=out / name, config=config, progress=progress)
        found.append(PSD.from_config(model.config()))
        found[-1].load_state_dict(model.state_dict())
    return found[0].requires_grad_(False), found[1].requires_grad_(False)


def learn_amortised(
    data: DataSet,
    generative: SparseCoding,
    encoder: Lista | StepLista,
    settings: Settings,
    out: Path,
    config: Mapping[str, Any],
) -> PSD:
    """LISTA for a dictionary that stays, from the weights of ISTA or FISTA, on the energy of its own codes."""
    encoder.start_from(generative.dictionary, generative.noise_variance, generative.factors.scale)
    model = PSD(generative, encoder)
    with training_bar(f"{out.name}, {encoder.layers} layers") as progress:
        fit(model, amortised_map(model), data.train, settings, out=out, config=config, progress=progress)
    return model.requires_grad_(False)


def excess_of(model: PSD, x: Float[Tensor, "n d"], code: Float[Tensor, "n k"]) -> Excess:
    """How far the energies of `code` are above the optimum."""
    problem, code = model.generative.lasso(x), code.double()
    energy, _ = problem.measure(code, code @ problem.gram - problem.correlation)
    optimum = solve(problem).objective.mean()
    excess = float(energy.mean() - optimum)
    return Excess(excess / float(optimum), excess)


def curves(
    steps: tuple[int, ...], model: SparseCoding, x: Tensor, learned: Mapping[str, Mapping[int, PSD]]
) -> dict[str, dict[int, float]]:
    """Mean excess energy, nats, of ISTA and FISTA after some steps and of LISTA by its layers.

    FISTA stands twice: as published (Beck and Teboulle, 2009), with the step 1 / L, and as `fista` restarts it.
    """
    problem = model.lasso(x)
    optimum = solve(problem, tolerance=1e-10).objective.mean()
    plain = StepLista(
        x.shape[1], model.factors.size, layers=max(steps), non_negative=model.factors.non_negative
    ).double()
    plain.start_from(model.dictionary.double(), model.noise_variance.double(), model.factors.scale.double())
    trajectory = plain.requires_grad_(False).trajectory((x - model.visible_bias).double())
    ends: dict[str, dict[int, Tensor]] = {
        "ISTA": {n: ista(problem, max_steps=n, tolerance=0.0).objective for n in steps},
        "FISTA": {
            n: problem.measure(z, z @ problem.gram - problem.correlation)[0] for n, z in enumerate(trajectory, 1)
        },
        "FISTA restarted": {n: fista(problem, max_steps=n, tolerance=0.0).objective for n in steps},
    }
    found = {name: {n: float(end.mean() - optimum) for n, end in curve.items()} for name, curve in ends.items()}
    for name, machines in learned.items():
        found[name] = {layers: excess_of(machine, x, machine.transform(x)).nats for layers, machine in machines.items()}
    return found


def steps_to(curve: Mapping[int, float], excess: float) -> int:
    """The first step at which `curve` is not above `excess`; the last one if there is none."""
    return next((n for n, value in curve.items() if value <= excess), max(curve))


def draw_curves(found: dict[str, dict[int, float]], encoders: dict[str, float]) -> Figure:
    """Excess energy against steps or layers; one-layer encoders as points."""
    figure = Figure(figsize=(5.6, 3.8), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    for name, curve in found.items():
        axes.plot(list(curve), list(curve.values()), "o-", ms=3 if len(curve) < 20 else 0, lw=1.2, label=name)
    for marker, (name, excess) in zip("s^Dv", encoders.items(), strict=False):
        axes.plot(1, excess, marker, ms=6, mfc="none", label=name)
    axes.set(xscale="log", yscale="log", xlabel="steps or layers", ylabel="mean energy above the optimum, nats")
    axes.legend(fontsize=8, edgecolor="none")
    axes.grid(alpha=0.25)
    return figure
