"""Stacks of several modalities: locality, the masks, Algorithm 6 and its chain."""

# Layers of a network are reached into, which have wider types.
# pyright: reportAttributeAccessIssue=false, reportIndexIssue=false, reportArgumentType=false, reportCallIssue=false

from __future__ import annotations

import pytest
import torch
import zoo
from torch import Tensor

from genmodels import BadInput, Bernoulli, Gaussian
from genmodels.data.examples import Examples
from genmodels.fit import Settings, fit
from genmodels.multimodal_stack import MultimodalStack, complete
from genmodels.objectives.multimodal import _subsets, multimodal_losses, multimodal_target_propagation

SIZES, HIDDEN = (5, 3), (4, 2)


def tiny() -> MultimodalStack:
    model = MultimodalStack([Bernoulli(SIZES[0]), Bernoulli(SIZES[1])], HIDDEN, [7]).double()
    randoms = zoo.generator(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.7, generator=randoms)
    return model


def data(num: int = 11) -> Tensor:
    half = torch.full((num, sum(SIZES)), 0.4, dtype=torch.float64)
    return torch.bernoulli(half, generator=zoo.generator(1))


def only_first(num: int = 11) -> Tensor:
    return torch.tensor([[1.0, 0.0]], dtype=torch.float64).repeat(num, 1)


def own(name: str) -> tuple[str, ...]:
    """The parameters of a loss, as the beginnings of their names."""
    part, _, place = name.partition("_")
    if part == "top":
        return ("top.",)
    modality, layer = map(int, place.split("_"))
    encoder = f"encoders.{modality}.{layer - 1}."
    return (encoder, f"decoders.{modality}.{len(HIDDEN) - layer}.") if part == "pair" else (encoder,)


def reached(model: MultimodalStack, loss: Tensor) -> set[str]:
    names, parameters = zip(*model.named_parameters(), strict=True)
    found = torch.autograd.grad(loss, parameters, allow_unused=True, retain_graph=True)
    return {name for name, gradient in zip(names, found, strict=True) if gradient is not None}


def test_no_gradient_crosses_a_layer_or_a_modality() -> None:
    model = tiny()
    losses = multimodal_losses(model, data(), zoo.generator(2), noise=0.3, match=0.5, walk=2)
    assert len(losses) == 1 + 2 * len(HIDDEN) * 2
    for name, loss in losses.items():
        assert all(parameter.startswith(own(name)) for parameter in reached(model, loss)), name
    trained = set().union(*(reached(model, loss) for loss in losses.values()))
    assert trained == {name for name, _ in model.named_parameters()}


def test_the_whole_reconstruction_crosses_layers() -> None:
    model = tiny()
    whole = model.decode(model.reconstruct(model.encode(data()), torch.ones(11, 2, dtype=torch.float64))).sum()
    assert not all(parameter.startswith(own("pair_0_1")) for parameter in reached(model, whole))


def test_targets_of_one_modality_come_from_both() -> None:
    """The lower half of the data changes the matching loss of the upper one, and not its pair's."""
    model, x = tiny(), data()
    other = x.clone()
    other[:, SIZES[0] :] = 1 - other[:, SIZES[0] :]
    first, second = (
        multimodal_losses(model, rows, zoo.generator(2), noise=0.3, match=0.5, walk=1) for rows in (x, other)
    )
    assert torch.equal(first["pair_0_1"], second["pair_0_1"])
    assert not torch.equal(first["match_0_1"], second["match_0_1"])


def test_what_is_missing_has_no_effect() -> None:
    model, x = tiny(), data()
    other = x.clone()
    other[:, SIZES[0] :] = 1 - other[:, SIZES[0] :]
    found = [complete(model, rows, only_first(), num_steps=4, keep=2) for rows in (x, other)]
    assert torch.equal(*found)
    seen = [complete(model, rows, 1 - only_first(), num_steps=4) for rows in (x, other)]
    assert not torch.equal(*seen)


def test_the_first_step_is_the_answer_of_one_pass() -> None:
    model, x = tiny(), data()
    (h,) = complete(model, x, only_first(), num_steps=1)
    codes = model.encode(x)
    answer = model.reconstruct(codes, only_first())
    torch.testing.assert_close(h, torch.cat([codes[:, : HIDDEN[-1]], answer[:, HIDDEN[-1] :]], 1))
    with_mask_ignored = model.reconstruct(codes, torch.ones_like(only_first()))
    assert not torch.allclose(answer, with_mask_ignored)


def test_algorithm_6_by_hand() -> None:
    """Two steps of a linear map: the second sees both codes as observed."""
    model, x = tiny(), data()
    codes, cut = model.encode(x), HIDDEN[-1]
    first = model.top(torch.cat([codes[:, :cut], 0 * codes[:, cut:], only_first()], 1))
    second = model.top(torch.cat([codes[:, :cut], first[:, cut:], torch.ones_like(only_first())], 1))
    (h,) = complete(model, x, only_first(), num_steps=2)
    torch.testing.assert_close(h, torch.cat([codes[:, :cut], second[:, cut:]], 1))


@torch.no_grad()
def linear_top(gain: float) -> MultimodalStack:
    """Codes of one unit; the reconstruction of the second is `gain` times it plus 0.3 times the first."""
    model = MultimodalStack([Gaussian(1), Gaussian(1)], [1], []).double()
    for parameter in model.parameters():
        parameter.zero_()
    model.encoders[0][0][0].weight.fill_(1.0)
    model.top[0].weight[1, :2] = torch.tensor([0.3, gain], dtype=torch.float64)
    return model


def test_without_noise_the_climb_ends_at_the_fixed_point() -> None:
    x = torch.tensor([[0.5, 9.0], [-1.0, 9.0]], dtype=torch.float64)
    (h,) = complete(linear_top(0.6), x, only_first(2), num_steps=100)
    torch.testing.assert_close(h[:, 1], 0.3 * torch.tanh(x[:, 0]) / 0.4, rtol=0, atol=1e-12)


def test_the_chain_has_the_stationary_law_of_its_steps() -> None:
    """h ← gain (h + s ξ) + 0.3 (h_1 + s ξ'): an autoregression, its mean and variance in closed form; 5 standard errors."""
    gain, noise, num = 0.6, 0.7, 40_000
    x = torch.tensor([[0.5, 9.0]], dtype=torch.float64).repeat(num, 1)
    randoms = zoo.generator(3)
    (h,) = complete(linear_top(gain), x, only_first(num), num_steps=60, noise=noise, generator=randoms)
    mean = 0.3 * torch.tanh(torch.tensor(0.5)).item() / (1 - gain)
    variance = (gain**2 + 0.09) * noise**2 / (1 - gain**2)
    assert abs(h[:, 1].mean().item() - mean) < 5 * (variance / num) ** 0.5
    assert abs(h[:, 1].var().item() / variance - 1) < 5 * (2 / num) ** 0.5
    assert abs(h[:, 1].var().item() / (variance * 1.1) - 1) > 5 * (2 / num) ** 0.5
    assert h[:, 0].unique().numel() == 1


def test_every_subset_but_none_is_seen() -> None:
    found = _subsets(7000, 3, torch.zeros(()), zoo.generator(4))
    counts = (found @ torch.tensor([4.0, 2.0, 1.0])).long().bincount(minlength=8)
    assert counts[0] == 0
    assert (counts[1:] - 1000).abs().max() < 150  # five standard deviations


@pytest.mark.many_steps
def test_a_half_is_learned_from_the_other() -> None:
    """The second modality is the first, its bits turned; 16 states, which the completion must tell apart."""
    bits = torch.bernoulli(torch.full((400, 4), 0.5), generator=zoo.generator(5))
    rows = torch.cat([bits, 1 - bits], 1)
    model = MultimodalStack([Bernoulli(4), Bernoulli(4)], [12], [24], generator=zoo.generator(6))
    settings = Settings(epochs=60, batch_size=50, optimizer="Adam", learning_rate=1e-2, average=0.9, device="cpu")
    fit(model, multimodal_target_propagation(model), Examples(rows), settings)
    for seen in range(2):
        observed = torch.eye(2)[[seen]].repeat(len(rows), 1)
        (h,) = complete(model, rows, observed, num_steps=1)
        wrong = ((model.decode(h) > 0).float() != rows).float().mean().item()
        assert wrong < 0.02


def test_bad_input_is_named() -> None:
    model = tiny()
    with pytest.raises(BadInput, match="at least two"):
        MultimodalStack([Bernoulli(2)], [3], [4])
    with pytest.raises(BadInput, match="kept"):
        complete(model, data(), only_first(), num_steps=2, keep=3)
    with pytest.raises(BadInput, match="walk"):
        multimodal_target_propagation(model, walk=0)


def test_a_configuration_builds_the_stack_again() -> None:
    model = tiny()
    again = MultimodalStack.from_config(model.config()).double()
    again.load_state_dict(model.state_dict())
    assert torch.equal(again.encode(data()), model.encode(data()))
