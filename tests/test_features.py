"""Networks that begin as a trained machine's own pass up."""

from __future__ import annotations

import pytest
import torch
from test_dbm import close, deep
from test_dbn import random_dbn
from zoo import some_states, tiny

from genmodels import DBN, RBM, BadInput, Bernoulli, Gaussian
from genmodels.features import to_mlp


@torch.no_grad()
def test_an_rbms_network_gives_the_means_of_its_hidden_layer():
    for visible in ("Bernoulli", "Gaussian", "Categorical"):
        model = tiny(visible, "Bernoulli")
        x = some_states(model.visible, 7)
        close(to_mlp(model)(x), model.posterior(x)[0].mean)


@torch.no_grad()
def test_a_dbns_network_passes_the_means_up():
    model = DBN([Bernoulli(5), Bernoulli(2)], RBM(Bernoulli(3), Bernoulli(7))).double()
    for parameter in model.parameters():
        parameter.normal_(generator=torch.Generator().manual_seed(0))
    x = some_states(model.units[0], 7)
    h = torch.sigmoid(model.field_up(1, torch.sigmoid(model.field_up(0, x))))
    close(to_mlp(model)(x), torch.sigmoid(h @ model.top.weight + model.top.hidden_bias))


@pytest.mark.parametrize("visible", [Bernoulli(5), Gaussian(2)])
def test_a_dbms_network_begins_with_its_mean_field(visible: Bernoulli | Gaussian):
    model = deep(visible, Bernoulli(3), Bernoulli(2))
    x = some_states(visible, 7)
    network = to_mlp(model)
    means = model.means(model.mean_field(x))
    close(network[:3](x), means[0], atol=1e-3)
    close(network(x), means[1], atol=1e-3)
    network(x).sum().backward()
    assert all((p.grad is not None) == p.requires_grad for p in network.parameters())
    assert all(p.grad is None for p in model.parameters())


@torch.no_grad()
def test_logits_begin_equal():
    model = deep(Bernoulli(5), Bernoulli(3), Bernoulli(2))
    logits = to_mlp(model, 11)(some_states(Bernoulli(5), 7))
    assert logits.shape == (7, 11)
    assert bool((logits == 0).all())


def test_other_layers_are_refused():
    with pytest.raises(BadInput, match="Bernoulli hidden layers"):
        to_mlp(random_dbn())
    with pytest.raises(BadInput, match="two hidden layers, not of 1"):
        to_mlp(deep(Bernoulli(5), Bernoulli(3)))
