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
from genmodels.units import Bernoulli


class HiddenRows:
    """The rows of `data` as an RBM's hidden layer sees them: every read draws h ~ p(h | x) anew.

    What the next RBM of a stack trains on (Hinton, Osindero and Teh, 2006, section 4).
    """

    def __init__(self, data: Rows, rbm: RBM):
        self._data, self._rbm = data, rbm

    def __len__(self) -> int:
        return len(self._data)

    @torch.no_grad()
    def batch(self, index: Tensor, generator: torch.Generator) -> Float[Tensor, "b h"]:
        """Draws of the hidden layer given the rows at `index`."""
        x = self._data.batch(index, generator).to(self._rbm.weight)
        noise = self._rbm.hidden.noise(len(x), x, generator)
        return self._rbm.hidden.draw(self._rbm.field(1, (x, x)), noise)


@torch.no_grad()
def next_rbm(rbm: RBM, num_hidden: int, *, generator: torch.Generator | None = None) -> RBM:
    """An RBM on the hidden layer of `rbm` with nearly the distribution of that layer under `rbm` itself.

    Its first hidden units are the visible units of `rbm`; the others start all but uncoupled. So training begins where the
    lower RBM stands, and every gain in log-likelihood of the hidden states raises the bound of the stack (Hinton, Osindero
    and Teh, 2006, section 5 and appendix A). Bernoulli units, at least as many of them as the visible layer has.
    """
    size = rbm.visible.size
    if not isinstance(rbm.visible, Bernoulli) or num_hidden < size:
        raise BadInput(f"The next RBM starts from {size} Bernoulli units and needs at least as many, not {num_hidden}.")
    upper = RBM(copy.deepcopy(rbm.hidden), Bernoulli(num_hidden), generator=generator).to(rbm.weight)
    upper.weight[:, :size] = rbm.weight.T
    upper.visible_bias.copy_(rbm.hidden_bias)
    upper.hidden_bias[:size] = rbm.visible_bias
    return upper


@torch.no_grad()
def deepened(rbm: RBM, num_top: int, *, scale: float = 0.01, generator: torch.Generator | None = None) -> DBM:
    """A DBM that starts as `rbm` with a further layer of Bernoulli units above, all but uncoupled: weights of about `scale`.

    Its marginal of x is nearly that of `rbm` and its mean field nearly exact, so joint learning begins where the RBM stands.
    """
    units = copy.deepcopy(rbm.units)
    model = DBM(*units, Bernoulli(num_top), generator=generator).to(rbm.weight)
    model.weight[0].copy_(rbm.weight)
    model.weight[1].copy_(scale * torch.randn(rbm.hidden.size, num_top, generator=generator))
    for bias, own in zip(model.biases, rbm.biases, strict=False):
        bias.copy_(own)
    return model
