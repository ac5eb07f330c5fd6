"""Target propagation through time: locality, targets that lower the cost, the gradient where g is f's inverse, learning."""

# Layers of a network are reached into, which have wider types.
# pyright: reportArgumentType=false

from __future__ import annotations

from pathlib import Path
from types import MethodType

import pytest
import torch
import zoo
from torch import Tensor

from genmodels import BadInput, Categorical
from genmodels.data.examples import Examples
from genmodels.fit import Settings, fit
from genmodels.objectives.recurrent import (
    Loops,
    back_propagation_through_time,
    in_time,
    recurrent_losses,
    recurrent_target_propagation,
    top_target,
)
from genmodels.recurrent import Back, RecurrentNet

INPUTS, SIZE, CLASSES, TIMES = 2, 5, 3, 4
WAYS = {
    "short": Loops(),
    "plain": Loops(difference=False, noise=0.3),
    "long": Loops(reach=3),
    "match": Loops(reach=2, match=0.7),
}
OWN = {
    "readout": {"readout"},
    "forward": {"recurrent", "input"},
    "match": {"recurrent", "input"},
    "backward": {"back_state", "back_input"},
    "long": {"back_state", "back_input"},
}


def tiny(scale: float = 0.6) -> RecurrentNet:
    model = RecurrentNet(INPUTS, SIZE, Categorical(1, CLASSES)).double()
    randoms = zoo.generator(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, scale, generator=randoms)
    return model


def rows(num: int = 7) -> Tensor:
    randoms = zoo.generator(1)
    x = torch.randn(num, TIMES * INPUTS, generator=randoms, dtype=torch.float64)
    return torch.cat([x, torch.eye(CLASSES, dtype=torch.float64)[torch.randint(CLASSES, (num,), generator=randoms)]], 1)


def gradients(model: RecurrentNet, loss: Tensor) -> dict[str, Tensor]:
    names, parameters = zip(*model.named_parameters(), strict=True)
    found = torch.autograd.grad(loss, parameters, allow_unused=True, retain_graph=True)
    return {name: g for name, g in zip(names, found, strict=True) if g is not None}


@pytest.mark.parametrize("way", WAYS)
def test_every_loss_has_a_gradient_in_its_own_net_alone(way: str) -> None:
    model = tiny()
    losses = recurrent_losses(model, rows(), WAYS[way], zoo.generator(2))
    reached = {name: {part.split(".")[0] for part in gradients(model, loss)} for name, loss in losses.items()}
    assert reached == {name: OWN[name] for name in losses}
    assert set().union(*reached.values()) == {name for name, _ in model.named_children()} - {"label"}


def test_back_propagation_through_time_reaches_the_network_from_the_label() -> None:
    model = tiny()
    loss, _, _ = back_propagation_through_time(model).step(rows(), {}, zoo.generator(2))
    assert {name.split(".")[0] for name in gradients(model, loss)} == {"readout", "recurrent", "input"}


def test_the_update_of_f_is_a_delta_rule_at_every_time() -> None:
    """Σ_t (s_t − ŝ_t)(1 − s_t²) s_{t−1}ᵀ, written out: no derivative goes from one time step to another."""
    model, loops = tiny(), Loops(step=0.2)
    x, y = model.split(rows())
    states = model.run(x).detach()
    targets = in_time(model, states, top_target(model, states[-1], y, loops), loops)
    delta = (states - targets)[1:] * (1 - states[1:].square()) / (loops.step * len(y))
    found = gradients(model, recurrent_losses(model, rows(), loops, zoo.generator(2))["forward"])
    zoo_close(found["recurrent.weight"], torch.einsum("tnd,tne->de", delta, states[:-1]))
    zoo_close(found["input.weight"], torch.einsum("tnd,tni->di", delta, x))
    off_by_one = torch.einsum("tnd,tne->de", delta, states[1:])
    assert not torch.allclose(found["recurrent.weight"], off_by_one, rtol=0, atol=1e-4)


def zoo_close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


# Targets.


def with_exact_inverse(model: RecurrentNet, rows: Tensor) -> list[Tensor]:
    """Let g be the inverse of f at the inputs of these rows, one time step after the other from the last; f's W is invertible."""
    x, _ = model.split(rows)
    left: list[Tensor] = []

    def back(model: RecurrentNet, state: Tensor) -> Back:
        if state.ndim == 3:  # all times at once
            return Back(torch.stack([inverse(model, s, now) for s, now in zip(state, x, strict=True)]), x)
        now = left.pop()
        return Back(inverse(model, state, now), now)

    model.back = MethodType(back, model)  # pyright: ignore[reportAttributeAccessIssue]
    left += list(x)
    return left


def inverse(model: RecurrentNet, state: Tensor, x: Tensor) -> Tensor:
    field = torch.atanh(state) - model.input(x) - model.recurrent.bias
    return torch.linalg.solve(model.recurrent.weight, field.T).T


@torch.no_grad()
def gentle() -> RecurrentNet:
    """A net whose states stay so far within (−1, 1) that no target leaves it."""
    model = tiny(0.1)
    torch.nn.init.orthogonal_(model.recurrent.weight, generator=zoo.generator(3))
    return model


def costs(model: RecurrentNet, targets: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """−log P(y | s_T) of every row, when the state at each time in turn is set to its target and the net runs on."""
    found = []
    for time in range(len(targets)):
        state = targets[time]
        for now in x[time:]:
            state = model.step(state, now)
        found.append(-model.label.log_prob(model.readout(state), y))
    return torch.stack(found)


@pytest.mark.parametrize("difference", [True, False])
@torch.no_grad()
def test_with_an_exact_inverse_the_target_of_every_time_lowers_the_cost_as_the_last_one_does(difference: bool) -> None:
    """Figure 3 of Bengio (2014), through time: f(ŝ_{t−1}, x_t) = ŝ_t; the difference correction is 0, as g(s_t) = s_{t−1}."""
    model, loops = gentle(), Loops(step=0.05, difference=difference)
    x, y = model.split(rows())
    states = model.run(x)
    without = costs(model, states, x, y)
    last = top_target(model, states[-1], y, loops)
    with_exact_inverse(model, rows())
    found = costs(model, in_time(model, states, last, loops), x, y)
    zoo_close(found, found[-1].expand_as(found))
    assert bool((found < without).all())


@torch.no_grad()
def test_targets_through_another_inverse_do_not() -> None:
    model, loops = gentle(), Loops(step=0.05)
    x, y = model.split(rows())
    states = model.run(x)
    found = costs(model, in_time(model, states, top_target(model, states[-1], y, loops), loops), x, y)
    assert not torch.allclose(found, found[-1].expand_as(found), rtol=0, atol=1e-6)


@pytest.mark.parametrize("orthogonal", [True, False])
def test_of_a_linear_net_with_orthogonal_weights_the_update_is_the_gradient(orthogonal: bool) -> None:
    """There the inverse of f is its transpose, so that going back by g is going back by derivatives; else it is not."""
    model = tiny()
    if orthogonal:
        torch.nn.init.orthogonal_(model.recurrent.weight, generator=zoo.generator(3))
    with torch.no_grad():
        model.back_state.weight.copy_(torch.linalg.inv(model.recurrent.weight))
    model.step = MethodType(lambda net, s, x: net.recurrent(s) + net.input(x), model)  # pyright: ignore
    model.back = MethodType(lambda net, s: Back(net.back_state(s), net.back_input(s)), model)  # pyright: ignore
    local = recurrent_losses(model, rows(), Loops(step=0.3), zoo.generator(2))
    found = gradients(model, local["forward"] + local["readout"])
    expected = gradients(model, back_propagation_through_time(model).step(rows(), {}, zoo.generator(2))[0])
    same = {name: torch.allclose(found[name], expected[name], rtol=0, atol=1e-10) for name in expected}
    assert all(same[name] for name in ("readout.weight", "readout.bias"))
    assert all(same[name] == orthogonal for name in ("recurrent.weight", "recurrent.bias", "input.weight"))


@torch.no_grad()
def test_states_that_are_their_own_targets_stay() -> None:
    model = tiny()
    states = model.run(model.split(rows())[0])
    zoo_close(in_time(model, states, states[-1], Loops()), states)
    assert not torch.allclose(in_time(model, states, states[-1], Loops(difference=False)), states)


# Long loops.


@torch.no_grad()
def test_long_loops_start_at_every_time() -> None:
    """Written out one start after the other."""
    model, loops = tiny(), Loops(reach=3, match=1.0)
    x, _ = model.split(rows())
    states = model.run(x)
    loss, reached = torch.zeros((), dtype=torch.float64), [[] for _ in states]
    for start in range(1, TIMES + 1):
        at = states[start]
        for time in range(start - 1, max(-1, start - 1 - loops.reach), -1):
            found = model.back(at)
            for one, target in ((found.state, states[time]), (found.inputs, x[time])):
                loss += 0.5 * (one - target).square().sum(1).mean() / loops.reach
            at = found.state
            reached[time].append(at)
    means = [torch.stack(each).mean(0) if each else states[time] for time, each in enumerate(reached)]
    match = sum(0.5 * (states[time] - means[time]).square().sum(1).mean() for time in range(1, TIMES + 1))
    losses = recurrent_losses(model, rows(), loops, zoo.generator(2))
    zoo_close(losses["long"], loss)
    zoo_close(losses["match"], match)


def test_one_step_of_the_long_loops_is_the_short_one_without_noise() -> None:
    losses = recurrent_losses(tiny(), rows(), Loops(reach=1, noise=0.0), zoo.generator(2))
    zoo_close(losses["long"], losses["backward"])


# Use.


@pytest.mark.many_steps
@pytest.mark.parametrize("way", ["targets", "gradients"])
def test_it_learns_which_symbol_came_first(way: str, tmp_path: Path) -> None:
    """Chance is 50 %; the first of four symbols is the label."""
    randoms = zoo.generator(4)
    symbols = torch.randint(2, (200, 4), generator=randoms)
    x, y = torch.eye(2)[symbols].flatten(1), torch.eye(2)[symbols[:, 0]]
    model = RecurrentNet(2, 11, Categorical(1, 2), generator=zoo.generator(5))
    assert (model.predict(x).argmax(1) != symbols[:, 0]).float().mean() > 0.2
    objective = recurrent_target_propagation(model) if way == "targets" else back_propagation_through_time(model)
    settings = Settings(epochs=12, batch_size=20, optimizer="Adam", learning_rate=1e-2, average=0, device="cpu")
    fit(model, objective, Examples(torch.cat([x, y], 1)), settings, out=tmp_path)
    assert (model.predict(x).argmax(1) != symbols[:, 0]).float().mean() < 0.02


def test_bad_input_is_named() -> None:
    model = tiny()
    with pytest.raises(BadInput, match="positive"):
        Loops(step=0.0)
    with pytest.raises(BadInput, match="long loops"):
        Loops(match=1.0)
    with pytest.raises(BadInput, match="at least one"):
        RecurrentNet(0, 3, Categorical(1, 2))
    with pytest.raises(BadInput, match="whole time"):
        model.predict(torch.zeros(2, 5, dtype=torch.float64))


def test_a_configuration_builds_the_net_again() -> None:
    model = tiny()
    again = RecurrentNet.from_config(model.config()).double()
    again.load_state_dict(model.state_dict())
    assert torch.equal(again.predict(rows()[:, :-CLASSES]), model.predict(rows()[:, :-CLASSES]))
