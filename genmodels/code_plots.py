"""Pictures of what a code holds."""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Float
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from genmodels.errors import BadInput

USED = 0.05
"""Nats above which a dimension of the code is called used: most are far above or far below."""


def rate_bars(rates: Sequence[Float[Tensor, " _"]]) -> Figure:
    """Draw the mean rate of each group of latents in nats, largest first, one panel a stochastic layer, and count the used.

    A dimension whose rate is 0 has a posterior that is the prior for every example: it tells the decoder nothing.
    """
    if not rates:
        raise BadInput("There are no rates to draw.")
    figure = Figure(figsize=(4.2 * len(rates), 2.8), dpi=150, layout="constrained")
    for layer, rate in enumerate(rates, start=1):
        axes = figure.add_subplot(1, len(rates), layer)
        values = rate.detach().float().cpu().sort(descending=True).values.numpy()
        used = int((values > USED).sum())
        axes.bar(
            range(1, len(values) + 1), values, color=["#0072b2"] * used + ["#bbbbbb"] * (len(values) - used), width=0.9
        )
        groups = "dimensions" if len(values) > 1 else "layer as a whole"
        axes.set_title(f"$z_{layer}$: {values.sum():.1f} nats, {used} of {len(values)} {groups} used", fontsize=9)
        axes.set_xlabel("dimension, largest rate first", fontsize=8.5)
        axes.set_ylabel("rate, nats per example", fontsize=8.5)
        axes.tick_params(labelsize=7.5)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True))
        axes.spines[["top", "right"]].set_visible(False)
    return figure
