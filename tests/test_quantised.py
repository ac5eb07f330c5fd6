"""An encoder in small integers: the same as its formula in floating point, and as near to the encoder as rounding allows."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from genmodels import quantised
from genmodels.code_encoders import GainTanh, Lista
from genmodels.errors import BadInput
from genmodels.priors import ExponentialPrior, LaplacePrior
from genmodels.psd import PSD
from genmodels.quantised import QuantisedEncoder
from genmodels.sparse_coding import SparseCoding
from genmodels.units import Gaussian
from tests import zoo

LEVELS, COARSE = 127, 63


def machine(size: int, codes: int, *, non_negative: bool = False, seed: int = 0) -> PSD:
    prior = ExponentialPrior if non_negative else LaplacePrior
    generative = SparseCoding(Gaussian(size, variance=0.3), prior(codes), generator=zoo.generator(seed))
    encoder = Lista(size, codes, non_negative=non_negative, generator=zoo.generator(seed + 1))
    with torch.no_grad():
        generative.visible_bias.normal_(0, 0.5, generator=zoo.generator(seed + 2))
        encoder.log_threshold.normal_(-1, 0.5, generator=zoo.generator(seed + 3))
    return PSD(generative, encoder).requires_grad_(False)


def examples(num: int, size: int, seed: int = 5) -> Tensor:
    return torch.randn(num, size, generator=zoo.generator(seed)) * torch.rand(num, 1, generator=zoo.generator(seed + 1))


def both(encoder: QuantisedEncoder, x: Tensor) -> tuple[Tensor, Tensor]:
    """Codes of the compiled code and of the formula."""
    if quantised._library() is None:
        pytest.skip("This processor has neither AVX2 nor AVX-512 VNNI, or there is no compiler.")
    return encoder.transform(x), encoder._in_floats(x)


@pytest.mark.parametrize("non_negative", [False, True])
@pytest.mark.parametrize(("levels", "keep"), [(63, 1.0), (15, 0.4), (1, 0.1)])
@pytest.mark.parametrize(("num", "size", "codes"), [(5, 7, 11), (97, 16, 64), (193, 45, 131), (1, 144, 256)])
def test_compiled_codes_are_those_of_the_formula(
    num: int, size: int, codes: int, levels: int, keep: float, non_negative: bool
):
    encoder = QuantisedEncoder(machine(size, codes, non_negative=non_negative), levels=levels, keep=keep)
    x = examples(num, size)
    compiled, expected = both(encoder, x)
    if quantised._multiplies_bytes():
        torch.testing.assert_close(compiled, expected, rtol=1e-5, atol=1e-6)
    else:
        assert torch.equal(compiled, expected)
    assert 0 < float((compiled != 0).float().mean()) < 1
    assert bool((compiled >= 0).all()) == non_negative
    assert float((compiled - encoder.transform(x + 0.1)).abs().max()) > 1e-2


@pytest.mark.parametrize("levels", [63, 31, 7])
def test_no_sum_leaves_its_16_bits(levels: int, monkeypatch: pytest.MonkeyPatch):
    model, x = machine(144, 19), torch.ones(9, 144)
    model.encoder.get_parameter("filters").fill_(1.0)
    model.generative.visible_bias.zero_()
    compiled, expected = both(QuantisedEncoder(model, levels=levels), x)
    assert torch.equal(compiled, expected)
    torch.testing.assert_close(expected, model.transform(x))
    if not quantised._multiplies_bytes():
        monkeypatch.setattr(quantised, "_LARGEST", 10**9)
        compiled, expected = both(QuantisedEncoder(model, levels=levels), x)
        assert not torch.equal(compiled, expected)


@pytest.mark.parametrize("keep", [1.0, 0.4])
def test_only_the_largest_groups_of_inputs_are_kept(keep: float):
    model = machine(45, 131)
    filters = model.encoder.get_parameter("filters")[0]
    norm = torch.nn.functional.pad(filters.T, (0, 3)).reshape(131, 12, 4).norm(dim=-1)
    weight = QuantisedEncoder(model, levels=15, keep=keep)._weight
    used = torch.nn.functional.pad(weight.T, (0, 3)).reshape(131, 12, 4).abs().sum(-1) > 0
    assert int(used.sum()) == round(keep * 131 * 12)
    assert keep == 1.0 or float(norm[used].min()) > float(norm[~used].max())


@pytest.mark.parametrize("non_negative", [False, True])
def test_codes_are_as_near_to_the_encoder_s_as_the_rounding(non_negative: bool):
    model, x = machine(45, 131, non_negative=non_negative), examples(97, 45)
    filters, centred = model.encoder.get_parameter("filters")[0], x - model.generative.visible_bias
    row = centred.abs().amax(1, keepdim=True) / COARSE
    column = filters.abs().amax(0, keepdim=True) / LEVELS
    bound = 0.5 * (centred.abs().sum(1, keepdim=True) * column + row * filters.abs().sum(0)) + 45 * row * column / 4
    encoder, exact = QuantisedEncoder(model), model.transform(x)
    error = (encoder.transform(x) - exact).abs()
    assert bool((error <= bound + 1e-6).all())
    assert float(error.max()) > 1e-4
    assert not bool(((encoder.transform(x + 0.2) - exact).abs() <= bound).all())


def test_numbers_that_need_no_rounding_come_out_exactly():
    model = machine(7, 11)
    whole = torch.randint(-LEVELS, LEVELS + 1, (7, 11), generator=zoo.generator(1)).float()
    x = torch.randint(-COARSE, COARSE + 1, (13, 7), generator=zoo.generator(2)).float()
    whole[3], x[:, 5] = LEVELS, -COARSE
    model.encoder.get_parameter("filters").copy_(whole)
    model.generative.visible_bias.zero_()
    torch.testing.assert_close(QuantisedEncoder(model).transform(x), model.transform(x), rtol=1e-6, atol=0)


def test_an_example_at_the_mean_has_no_codes():
    model = machine(7, 11)
    x = model.generative.visible_bias.expand(3, 7)
    torch.testing.assert_close(QuantisedEncoder(model).transform(x), torch.zeros(3, 11))


def test_other_encoders_settings_and_widths_are_refused():
    generative = machine(7, 11).generative
    for encoder in (GainTanh(7, 11), Lista(7, 11, layers=2)):
        with pytest.raises(BadInput, match="one layer"):
            QuantisedEncoder(PSD(generative, encoder))
    for levels, keep in ((0, 1.0), (64, 1.0), (63, 0.0), (63, 1.5)):
        with pytest.raises(BadInput, match=r"levels|keep"):
            QuantisedEncoder(machine(7, 11), levels=levels, keep=keep)
    with pytest.raises(BadInput, match=r"\(n, 7\)"):
        QuantisedEncoder(machine(7, 11)).transform(torch.zeros(2, 5))
