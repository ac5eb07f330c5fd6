"""Draws that a part of every weight decides: the same states as by look-up, bit for bit, whatever the weights."""

import pytest
import torch
from torch import Tensor
from zoo import generator

from samplers.fused import LookupConditional, native

SIZES = (1, 3, 17, 784, 1000, 2049)

needs_bytes = pytest.mark.skipif(not native.has_slices(), reason="needs AVX2, or AVX-512 with VNNI, and a C++ compiler")


class Problem:
    """Layers with inputs of the given sizes, and everything that a draw of `outputs` sites needs."""

    def __init__(self, inputs: tuple[int, ...], outputs: int, num: int, scale: float = 0.05):
        randoms = generator(sum(inputs) + outputs + num)
        self.weights = [scale * torch.randn(size, outputs, generator=randoms) for size in inputs]
        self.states = [(torch.rand(num, size, generator=randoms) < 0.3).float() for size in inputs]
        self.slope, self.base = torch.randn(2, outputs, generator=randoms) - 1
        self.beta = torch.rand(num, 1, generator=randoms)
        self.key = LookupConditional([torch.zeros(1, 1)]).key(randoms)

    def draw(self, fused: LookupConditional) -> Tensor:
        return fused.draw(self.states, self.beta, self.slope, self.base, self.key)

    def by_look_up(self) -> Tensor:
        fused = LookupConditional(self.weights)
        fused._screening = False
        return self.draw(fused)


@needs_bytes
@pytest.mark.parametrize("outputs", SIZES)
@pytest.mark.parametrize("inputs", SIZES)
def test_the_states_are_those_of_look_up(inputs: int, outputs: int):
    for num, scale in ((0, 0.05), (1, 0.05), (37, 0.5), (100, 0.05)):
        problem = Problem((inputs,), outputs, num, scale)
        assert torch.equal(problem.draw(LookupConditional(problem.weights)), problem.by_look_up())


@needs_bytes
@pytest.mark.parametrize("scale", [0.0, 1e-30, 1e-3, 3.0, 1e30, float("nan")])
def test_whatever_the_size_of_the_weights(scale: float):
    problem = Problem((300,), 70, 50, scale)
    assert torch.equal(problem.draw(LookupConditional(problem.weights)), problem.by_look_up())


@needs_bytes
def test_layers_on_both_sides_and_many_threads():
    problem = Problem((333, 501), 259, 1500)
    wanted, before = problem.by_look_up(), torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        assert torch.equal(problem.draw(LookupConditional(problem.weights)), wanted)
    finally:
        torch.set_num_threads(before)


@needs_bytes
def test_it_is_the_bounds_that_make_them_so():
    """Taken for exact, the leading digits decide some states wrongly; with AVX-512 one byte does, and so do two."""
    problem = Problem((784,), 500, 1024)
    wanted = problem.by_look_up()
    stages = ((2,), (2, 5)) if native.instructions() == "AVX512" else ((2,),)
    for exact_rows in stages:  # the radius after one byte, after two
        fused = LookupConditional(problem.weights)
        numbers = fused._screen[1][2]
        numbers[list(exact_rows)] = 0
        if exact_rows == (2, 5):
            numbers[2] = 1.0  # everything is left to the second byte, whose centre is moved
            numbers[4] += 0.01
        assert not torch.equal(problem.draw(fused), wanted)


@needs_bytes
def test_weights_of_unequal_sizes_go_back_to_look_up():
    """Few digits beside one large weight say little of the others."""
    problem = Problem((200,), 300, 64)
    problem.weights[0][0] *= 300_000
    fused = LookupConditional(problem.weights)
    assert fused._screening
    first = problem.draw(fused)
    assert not fused._screening
    assert torch.equal(first, problem.draw(fused))
    ordinary = Problem((200,), 300, 64)
    fused = LookupConditional(ordinary.weights)
    ordinary.draw(fused)
    assert fused._screening
