"""Greedy layer-wise training: each RBM of a stack learns the hidden states of the one below."""

from __future__ import annotations

import copy

import torch
from jaxtyping import Float
from torch import Tensor

from genmodels.dbm import DBM
from genmodels.errors import BadInput
from genmodels.rbm import RBM
from genmodels.rows import Rows
from genmodels.units import Bernoulli, Binomial


class HiddenRows:
    """The rows of `data` as an RBM's hidden layer sees them: every read draws h ~ p(h | x) anew.

    What the next RBM of a stack trains on (Hinton, Osindero and Teh, 2006, section 4). Columns of the data beyond those
    that `rbm` sees, such as labels, stand next to the draws as they are.
    """

    def __init__(self, data: Rows, rbm: RBM):
        self._data, self._rbm = data, rbm

    def __len__(self) -> int:
        return len(self._data)

    @torch.no_grad()
    def batch(self, index: Tensor, generator: torch.Generator) -> Float[Tensor, "b h"]:
        """Draws of the hidden layer given the rows at `index`."""
        rows = self._data.batch(index, generator).to(self._rbm.weight)
        size = self._rbm.visible.size
        x, rest = rows[:, :size], rows[:, size:]
        noise = self._rbm.hidden.noise(len(x), x, generator)
        return torch.cat([self._rbm.hidden.draw(self._rbm.field(1, (x, x)), noise), rest], 1)


class Copied:
    """The rows of `data` seen by several copies of the visible layer at once, as their sum: what a Binomial layer observes."""

    def __init__(self, data: Rows, copies: int = 2):
        self._data, self._copies = data, copies

    def __len__(self) -> int:
        return len(self._data)

    def batch(self, index: Tensor, generator: torch.Generator) -> Float[Tensor, "b d"]:
        """The rows at `index`, times the number of copies."""
        return self._copies * self._data.batch(index, generator)


@torch.no_grad()
def next_rbm(rbm: RBM, num_hidden: int, *, generator: torch.Generator | None = None) -> RBM:
    """An RBM on the hidden layer of `rbm` with nearly the distribution of that layer under `rbm` itself.

    Its first hidden units are the visible units of `rbm`; the others, of the same kind, start all but uncoupled. So training
    begins where the lower RBM stands, and every gain in log-likelihood of the hidden states raises the bound of the stack
    (Hinton, Osindero and Teh, 2006, section 5 and appendix A). Bernoulli or Binomial units, at least as many of them as the
    visible layer has.
    """
    visible = rbm.visible
    size = visible.size
    if not isinstance(visible, Bernoulli | Binomial) or num_hidden < size:
        raise BadInput(
            f"The next RBM starts from {size} Bernoulli or Binomial units and needs at least as many, not {num_hidden}."
        )
    hidden = Bernoulli(num_hidden) if isinstance(visible, Bernoulli) else Binomial(num_hidden, visible.trials)
    upper = RBM(copy.deepcopy(rbm.hidden), hidden, generator=generator).to(rbm.weight)
    upper.weight[:, :size] = rbm.weight.T
    upper.visible_bias.copy_(rbm.hidden_bias)
    upper.hidden_bias[:size] = rbm.visible_bias
    return upper


@torch.no_grad()
def stacked(bottom: RBM, top: RBM) -> DBM:
    """The DBM of two RBMs that share h, of which each has seen its outer layer twice (Salakhutdinov and Hinton, 2009).

    `bottom` is an RBM from Binomial(d, 2) to h, trained on `Copied` rows; `top` one from h to Binomial(m, 2), trained on
    `HiddenRows` of them. In the DBM each outer layer stands once, and the biases of h are the mean of both: then its p(h) is
    the normalised geometric mean of theirs (Salakhutdinov and Hinton, 2012, section 4), and p(x | h) that of one copy.
    """
    x, h, above = bottom.visible, bottom.hidden, top.hidden
    if not all(isinstance(unit, Binomial) and unit.trials == 2 for unit in (x, above)):
        raise BadInput(
            "The outer layers of two RBMs that make a DBM must be Binomial with two trials: each is seen twice."
        )
    if h.config() != top.visible.config():
        raise BadInput("The visible layer of the top RBM must be the hidden layer of the one below.")
    model = DBM(Bernoulli(x.size), copy.deepcopy(h), Bernoulli(above.size)).to(bottom.weight)
    parameters = {
        model.weight[0]: bottom.weight,
        model.weight[1]: top.weight,
        model.bias[0]: bottom.visible_bias,
        model.bias[1]: (bottom.hidden_bias + top.visible_bias) / 2,
        model.bias[2]: top.hidden_bias,
    }
    for own, value in parameters.items():
        own.copy_(value)
    return model


@torch.no_grad()
def deepened(
    rbm: RBM,
    num_top: int,
    *,
    scale: float = 0.01,
    mean: Float[Tensor, " h"] | None = None,
    generator: torch.Generator | None = None,
) -> DBM:
    """A DBM that starts as `rbm` with a further layer of Bernoulli units g above: weights W of about `scale`.

    With a small scale its marginal of x is nearly that of `rbm`, so joint learning begins where the RBM stands. Choose it by
    what the mean field loses: log p(x) less the bound is Σ_ij W_ij² var(h_i | x) var(g_j | x) / 2 nats to second order, the
    sum over all weights whether they help or not, and learning takes long to shrink those that do not.

    With `mean`, E[h] of the data, and Bernoulli units h, the coupling is of deviations, (h − mean)ᵀ W (g − 1/2), and what it
    adds to log p(h), (h − mean)ᵀ W Wᵀ (h − mean) / 8 to second order, is without its diagonal, which the biases take.
    """
    units = copy.deepcopy(rbm.units)
    model = DBM(*units, Bernoulli(num_top), generator=generator).to(rbm.weight)
    weight = scale * torch.randn(rbm.hidden.size, num_top, generator=generator).to(rbm.weight)
    model.weight[0].copy_(rbm.weight)
    model.weight[1].copy_(weight)
    for bias, own in zip(model.biases, rbm.biases, strict=False):
        bias.copy_(own)
    if mean is not None:
        model.bias[1].sub_(weight.sum(1) / 2 + (1 - 2 * mean) * weight.square().sum(1) / 8)
        model.bias[2].copy_(-(mean @ weight))
    return model
