"""Pictures of codes."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure
from torch import Tensor

from genmodels.priors import Prior

_DPI, _BINS, _REACH = 150, 121, 12.0


def code_histogram(code: Float[Tensor, "n k"], prior: Prior) -> Figure:
    """The density of all codes in units of their scales, beside that of their prior; those that are 0 only counted.

    The most probable codes are no draws of the prior: most are exactly 0, and the density of the others has their share as
    its integral.
    """
    standard = (code / prior.scale).detach().double().flatten().cpu()
    used = standard[standard != 0].numpy()
    edges = np.linspace(-_REACH, _REACH, _BINS + 1)
    counts, _ = np.histogram(used, edges)
    middle = 0.5 * (edges[1:] + edges[:-1])
    density = prior.standard_log_prob(standard.new_tensor(middle)).exp()
    figure = Figure(figsize=(5.2, 3.4), dpi=_DPI, layout="constrained")
    axes = figure.add_subplot()
    axes.stairs(counts / len(standard) / np.diff(edges), edges, fill=True, color="#56b4e9", label="codes, not 0")
    axes.plot(middle, density, color="#333333", lw=1.2, label=f"{type(prior).__name__}")
    axes.set(yscale="log", xlabel="code / scale", ylabel="density", ylim=(1e-7, 2))
    axes.set_title(f"{100 * (1 - len(used) / len(standard)):.1f} % of the codes are exactly 0", fontsize=10)
    axes.legend(fontsize=8, edgecolor="none")
    axes.spines[["top", "right"]].set_visible(False)
    return figure
