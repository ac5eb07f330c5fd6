"""Stacks of coded patches, by hand: which pixels make which feature."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from genmodels.code_encoders import Lista
from genmodels.coded_patches import CodedPatches, CodeStack
from genmodels.errors import BadInput
from genmodels.priors import LaplacePrior
from genmodels.psd import PSD
from genmodels.sparse_coding import SparseCoding
from genmodels.units import Gaussian
from tests import zoo

SHAPE = (2, 11, 7)


def coder(size: int, codes: int, seed: int = 0) -> PSD:
    generative = SparseCoding(Gaussian(size, variance=0.3), LaplacePrior(codes), generator=zoo.generator(seed))
    generative.visible_bias.data.normal_(0, 0.5, generator=zoo.generator(seed + 1))
    return PSD(generative, Lista(size, codes, generator=zoo.generator(seed + 2)))


def images(num: int = 3) -> Tensor:
    return torch.randn(num, 2 * 11 * 7, generator=zoo.generator(9))


@pytest.mark.parametrize("exact", [False, True])
def test_features_are_the_largest_parts_of_the_codes_in_each_pool(exact: bool):
    model = coder(2 * 3 * 3, 5)
    layer = CodedPatches(model.generative if exact else model, SHAPE, side=3, stride=2, pool=2)
    x = images()
    found = layer.transform(x).reshape(3, *layer.pooled_shape(5))
    assert found.shape == (3, 10, 2, 1)
    grid = x.reshape(3, *SHAPE)
    for image, row, column in ((0, 0, 0), (2, 1, 0)):
        codes = torch.cat(
            [
                (model.generative if exact else model).transform(
                    grid[image, :, top : top + 3, left : left + 3].reshape(1, -1)
                )
                for top in (4 * row, 4 * row + 2)
                for left in (4 * column, 4 * column + 2)
            ]
        )
        wanted = torch.cat([codes, -codes], 1).clamp_min(0).amax(0)
        torch.testing.assert_close(found[image, :, row, column], wanted, rtol=1e-4, atol=1e-5)
        assert float((found[image, :, 1 - row, column] - wanted).abs().max()) > 1e-2


def test_one_patch_of_the_whole_image_gives_the_codes_themselves():
    layer, x = CodedPatches(coder(2 * 49, 13), (2, 7, 7), side=7), images()[:, :98]
    assert layer.pooled_shape(13) == (26, 1, 1)
    code = layer.coder.transform(x)
    torch.testing.assert_close(layer.transform(x), torch.cat([code, -code], 1).clamp_min(0))


def test_a_stack_is_one_layer_after_the_other():
    first = CodedPatches(coder(18, 5), SHAPE, side=3, stride=2)
    shape = first.pooled_shape(5)
    assert shape == (10, 5, 3)
    second = CodedPatches(coder(10 * 4, 13, seed=5), shape, side=2, pool=2)
    x = images(num=5)
    found = CodeStack([first, second]).transform(x)
    assert found.shape == (5, 26 * 2 * 1)
    torch.testing.assert_close(found, second.transform(first.transform(x)))
    assert bool((found >= 0).all())
    assert not torch.allclose(found, second.transform(first.transform(x.flip(1))))


def test_what_does_not_fit_is_refused():
    for options in ({"side": 8}, {"side": 3, "pool": 6}, {"side": 3, "stride": 0}):
        with pytest.raises(BadInput):
            CodedPatches(coder(18, 5), SHAPE, **options)
    with pytest.raises(BadInput, match="at least one layer"):
        CodeStack([])
    with pytest.raises(BadInput, match=r"\(n, 154\)"):
        CodedPatches(coder(18, 5), SHAPE, side=3).transform(torch.zeros(2, 153))
