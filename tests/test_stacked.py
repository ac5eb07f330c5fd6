"""DBMs stacked of RBMs that saw their outer layers twice, against sums over all states."""

from __future__ import annotations

import pytest
import torch
from test_dbm import all_energies, close, log_evidence
from torch import Tensor
from zoo import combinations, flipped, generator, grid, some_states

from genmodels import RBM, BadInput, Bernoulli
from genmodels.data import Examples
from genmodels.greedy import Copied, HiddenRows, next_rbm, stacked
from genmodels.units import Binomial, Unit


def random_rbm(visible: Unit, hidden: Unit, seed: int) -> RBM:
    model = RBM(visible, hidden).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.7, generator=generator(seed))
    return model


def pair() -> tuple[RBM, RBM]:
    return random_rbm(Binomial(5), Bernoulli(3), 0), random_rbm(Bernoulli(3), Binomial(2), 1)


def log_p_hidden(rbm: RBM) -> Tensor:
    """log p(h) of every state of the hidden layer."""
    return (-flipped(rbm).free_energy(grid(rbm.hidden)[0])).log_softmax(0)


@torch.no_grad()
def test_a_binomial_layer_is_the_sum_of_copies_that_share_their_weights():
    bottom, _ = pair()
    tied = RBM(Bernoulli(10), Bernoulli(3)).double()
    tied.weight.copy_(bottom.weight.repeat(2, 1))
    tied.visible_bias.copy_(bottom.visible_bias.repeat(2))
    tied.hidden_bias.copy_(bottom.hidden_bias)
    copies = grid(tied.visible)[0]
    sums, _ = grid(bottom.visible)
    log_p = -tied.free_energy(copies)
    each = torch.stack([log_p[(copies[:, :5] + copies[:, 5:] == s).all(1)].logsumexp(0) for s in sums])
    close(each, -bottom.free_energy(sums))
    # Both copies the same x: their hidden field has doubled weights.
    x = some_states(Bernoulli(5), 7)
    close(bottom.field(1, (2 * x, x)), bottom.hidden_bias + 2 * x @ bottom.weight)


@torch.no_grad()
def test_the_stack_has_the_geometric_mean_of_both_distributions_of_the_hidden_layer():
    bottom, top = pair()
    model = stacked(bottom, top)

    def hidden() -> Tensor:
        x = grid(Bernoulli(5))[0]
        log_joint, z, _ = all_energies(model, x)
        states = grid(Bernoulli(3))[0]
        rows = torch.stack([(z[0] == h).all(1) for h in states])
        return torch.stack([log_joint[:, row].flatten().logsumexp(0) for row in rows]).log_softmax(0)

    mean = ((log_p_hidden(bottom) - top.free_energy(grid(top.visible)[0])) / 2).log_softmax(0)
    close(hidden(), mean)
    model.bias[1].copy_(bottom.hidden_bias + top.visible_bias)
    assert float((hidden() - mean).abs().max()) > 1e-2


@torch.no_grad()
def test_a_stack_of_an_rbm_and_the_next_one_has_the_distribution_of_one_copy():
    bottom, _ = pair()
    model = stacked(bottom, next_rbm(bottom, 5).double())
    x = grid(Bernoulli(5))[0]
    h = grid(bottom.hidden)[0]
    xs, hs = combinations(x, h)
    given = Bernoulli(5).log_prob(bottom.visible_bias + hs @ bottom.weight.T, xs).reshape(len(x), len(h))
    expected = (given + log_p_hidden(bottom)).logsumexp(1)
    close(log_evidence(model, x).log_softmax(0), expected)
    model.weight[1].mul_(0.5)
    assert float((log_evidence(model, x).log_softmax(0) - expected).abs().max()) > 1e-2


def test_copied_rows_are_sums():
    data = Examples(torch.tensor([[1, 0, 1], [0, 0, 1]], dtype=torch.uint8))
    rows = Copied(data)
    assert len(rows) == 2
    assert rows.batch(torch.tensor([1, 0]), generator()).tolist() == [[0, 0, 2], [2, 0, 2]]
    drawn = HiddenRows(rows, RBM(Binomial(3), Bernoulli(2)).requires_grad_(False)).batch(torch.arange(2), generator())
    assert drawn.shape == (2, 2)


def test_what_makes_no_stack_is_refused():
    bottom, top = pair()
    with pytest.raises(BadInput, match="must be Binomial with two trials"):
        stacked(random_rbm(Bernoulli(5), Bernoulli(3), 0), top)
    with pytest.raises(BadInput, match="hidden layer of the one below"):
        stacked(bottom, random_rbm(Bernoulli(2), Binomial(2), 0))
