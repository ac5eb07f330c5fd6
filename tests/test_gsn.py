"""The deep generative stochastic network: its step written out, its gradients by differences, its chain on few states."""

from __future__ import annotations

import json
from functools import cache

import pytest
import torch
import zoo
from torch import Tensor

from genmodels import GSN, BadInput, Bernoulli
from genmodels.corruptions import SaltAndPepper
from genmodels.data.examples import Examples
from genmodels.fit import Settings, fit
from genmodels.objectives import denoising
from samplers import run, walk_back

SITES = 5
STATES = Bernoulli(SITES).states(torch.arange(2**SITES)).double()
PATTERNS = torch.softmax(-2.5 * torch.cdist(STATES[[3, 28]], STATES, p=1), 1)
SOURCE = (torch.tensor([0.55, 0.45]).double() @ PATTERNS).float()


def model_of(hidden: tuple[int, ...] = (4, 3, 2), sites: int = 6) -> GSN:
    model = GSN(Bernoulli(sites), SaltAndPepper(0.4), hidden=hidden, noise=0.7, generator=zoo.generator(1)).double()
    for i, parameter in enumerate(model.parameters()):
        torch.nn.init.normal_(parameter, 0, 0.8, generator=zoo.generator(2 + i))
    model.centre.fill_(0.3)
    return model


def some_state(model: GSN, num: int = 7) -> Tensor:
    h = torch.randn(num, model.num_hidden, dtype=torch.float64, generator=zoo.generator(3))
    return model.join(zoo.some_states(model.observed, num), h)


def test_a_step_is_odd_layers_then_even_ones_then_the_field_of_x() -> None:
    model = model_of()
    state = some_state(model)
    spoil, fresh = model.corruption_noise(state, zoo.generator(4))
    (x, h), xi = model.apart(state), fresh.split([4, 3, 2], 1)
    _, h2, _ = h.split([4, 3, 2], 1)
    (w1, w2, w3), (b1, b2, b3) = model.weights, model.biases
    spoilt = model.corruption.apply(x, spoil) - 0.3
    new1 = torch.tanh(spoilt @ w1.T + h2 @ w2 + b1 + 0.7 * xi[0])
    new3 = torch.tanh(h2 @ w3.T + b3 + 0.7 * xi[2])
    new2 = torch.tanh(new1 @ w2.T + new3 @ w3 + b2 + 0.7 * xi[1])
    found = model.corrupt(state, (spoil, fresh))
    torch.testing.assert_close(found, torch.cat([new1, new2, new3], 1))
    field, kept = model.apart(model.reconstruct(found))
    torch.testing.assert_close(field, model.observed_bias + new1 @ w1)
    assert torch.equal(kept, found)
    # What the chain carries matters: from the same x and the same noise, other hidden layers lead elsewhere.
    other = model.corrupt(model.join(x, h.roll(1, 0)), (spoil, fresh))
    assert float((model.reconstruct(other) - model.reconstruct(found))[:, :6].detach().abs().max()) > 0.1


def test_noise_after_activations_and_none_in_the_lowest_layer() -> None:
    model, options = model_of(), {"noise": 0.7, "noise_after": 0.3, "clean_first": True}
    noisy = GSN(Bernoulli(6), SaltAndPepper(0.4), hidden=(4, 3, 2), **options).double()
    noisy.load_state_dict(model.state_dict())
    state = some_state(noisy)
    spoil, fresh = noisy.corruption_noise(state, zoo.generator(4))
    (x, h), xi = noisy.apart(state), fresh.split([4, 3, 2, 4, 3, 2], 1)
    _, h2, _ = h.split([4, 3, 2], 1)
    (w1, w2, w3), (b1, b2, b3) = noisy.weights, noisy.biases
    new1 = torch.tanh((noisy.corruption.apply(x, spoil) - 0.3) @ w1.T + h2 @ w2 + b1)
    new3 = torch.tanh(h2 @ w3.T + b3 + 0.7 * xi[2]) + 0.3 * xi[5]
    new2 = torch.tanh(new1 @ w2.T + new3 @ w3 + b2 + 0.7 * xi[1]) + 0.3 * xi[4]
    torch.testing.assert_close(noisy.corrupt(state, (spoil, fresh)), torch.cat([new1, new2, new3], 1))
    assert GSN.from_config(noisy.config()).config() == noisy.config()


@pytest.mark.parametrize("name", ["weights.0", "weights.1", "biases.1", "observed_bias"])
def test_gradients_go_through_the_hidden_layers_of_all_steps(name: str) -> None:
    model, x = model_of((4, 3)), zoo.some_states(Bernoulli(6), 5)
    parameter = dict(model.named_parameters())[name]

    def loss() -> Tensor:
        return denoising(model, walk_back=3).step(x, {}, zoo.generator(6))[0]

    (slope,) = torch.autograd.grad(loss(), parameter)
    numeric, flat = torch.zeros_like(slope), parameter.data.view(-1)
    for i in range(len(flat)):
        at, values = float(flat[i]), []
        for side in (1e-6, -1e-6):
            flat[i] = at + side
            values.append(float(loss().detach()))
        flat[i] = at
        numeric.view(-1)[i] = (values[0] - values[1]) / 2e-6
    torch.testing.assert_close(slope, numeric, rtol=1e-5, atol=1e-7)


def test_without_them_it_is_another_gradient() -> None:
    model, x, randoms = model_of((4, 3)), zoo.some_states(Bernoulli(6), 5), zoo.generator(6)
    whole = torch.autograd.grad(denoising(model, walk_back=3).step(x, {}, zoo.generator(6))[0], model.weights[1])[0]
    at, total = model.start(x), torch.zeros(())
    for _ in range(3):
        field, h = model.apart(model.reconstruct(model.corrupt(at, model.corruption_noise(at, randoms))))
        total = total - model.observed.log_prob(field, x).mean() / 3
        drawn = model.observed.draw(field.detach(), model.reconstruction_noise(at, randoms))
        at = model.join(drawn, h.detach())
    assert float((torch.autograd.grad(total, model.weights[1])[0] - whole).abs().max()) > 1e-3


@cache
def stages() -> list[GSN]:
    """Before and after training; made inside a test, so that its marks hold here too."""
    rows = torch.multinomial(SOURCE, 5000, replacement=True, generator=torch.Generator().manual_seed(1))
    data, found = Examples(STATES[rows].to(torch.uint8)), []
    for epochs in (0, 12):
        model = GSN(Bernoulli(SITES), SaltAndPepper(0.4), hidden=(20, 10), noise=0.5, generator=zoo.generator(3))
        model.initialise_from_data(data.fixed())
        if epochs:
            settings = Settings(epochs, 100, "Adam", 0.01, average=0.98, device="cpu")
            fit(model, denoising(model, walk_back=6), data, settings)
        found.append(model.requires_grad_(False))
    return found


def occupied(model: GSN, x: Tensor, num_steps: int, clamp: Tensor | None = None) -> Tensor:
    """How often chains are in each state of x, over every fifth step after the first fifty."""
    counts = torch.zeros(2**SITES)

    def count(step: int, state: Tensor) -> None:
        index = zoo.number((model.apart(state)[0].double(),), (STATES,))
        counts.add_(torch.bincount(index, minlength=2**SITES))

    held = None if clamp is None else model.clamp(clamp)
    kernel, randoms = walk_back(model, clamp=held), zoo.generator(8)
    run(kernel, model.start(x), num_steps, generator=randoms, burn_in=50, thin=5, observe=count)
    return counts / counts.sum()


@pytest.mark.many_steps
def test_training_brings_the_chain_to_the_data() -> None:
    start = STATES[torch.multinomial(SOURCE, 800, replacement=True, generator=zoo.generator(7))].float()
    before, after = (float((occupied(model, start, 100) - SOURCE).abs().sum()) / 2 for model in stages())
    assert after < before - 0.15


def with_held(distribution: Tensor, held: Tensor, values: Tensor) -> Tensor:
    """The distribution after the held sites have been set to their values."""
    index = zoo.number((torch.where(held, values, STATES),), (STATES,))
    return torch.zeros(len(STATES)).index_add_(0, index, distribution)


@pytest.mark.many_steps
def test_clamped_chains_fill_in_what_goes_with_the_held_sites() -> None:
    """Two sites held, one way and the other: the rest is nearer to what the data have with these than with the others."""
    held = torch.tensor([False, True, True, False, False])
    ways = [torch.tensor([0, 0, 1, 0, 0]).double(), torch.tensor([0, 1, 0, 0, 0]).double()]
    fits = [(STATES[:, held] == values[held]).all(1) for values in ways]
    given = [torch.where(fit, SOURCE, torch.zeros(())) / SOURCE[fit].sum() for fit in fits]
    for i, values in enumerate(ways):
        found = occupied(stages()[1], values.float().repeat(800, 1), 100, held)
        assert float(found[~fits[i]].sum()) == 0
        right, wrong = (float((found - with_held(law, held, values)).abs().sum()) for law in (given[i], given[1 - i]))
        assert right < wrong


def test_the_configuration_builds_it_again() -> None:
    model = model_of()
    again = GSN.from_config(json.loads(json.dumps(model.config()))).double()
    again.load_state_dict(model.state_dict())
    h = torch.rand(3, 9, dtype=torch.float64)
    assert torch.equal(again.reconstruct(h), model.reconstruct(h))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: GSN(Bernoulli(3), SaltAndPepper(0.3), hidden=()), "at least one unit"),
        (lambda: GSN(Bernoulli(3), SaltAndPepper(0.3), noise=-0.1), "at least 0"),
        (lambda: GSN(Bernoulli(3), SaltAndPepper(0.3), noise_after=-0.1), "at least 0"),
        (lambda: GSN(Bernoulli(3), SaltAndPepper(0.3), activation="step"), "no activation"),
        (lambda: denoising(model_of(), walk_back=0), "at least 1"),
    ],
)
def test_bad_input_is_named(make, words: str) -> None:
    with pytest.raises(BadInput, match=words):
        make()
