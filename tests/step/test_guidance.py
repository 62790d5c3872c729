"""Guidance and its rescaling."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lib_oms.errors import OMSError
from lib_oms.step import guided, one_more_step

law = settings(deadline=None, max_examples=50)
seeds = st.integers(0, 2**31 - 1)
scales = st.floats(0.0, 12.0)
phis = st.floats(0.0, 1.0)


def draw(seed, count=2, shape=(3, 4, 6, 5)):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator) for _ in range(count)]


@law
@given(seeds, scales, phis)
def test_it_is_the_formula_of_lin_et_al(seed, scale, phi):
    cond, uncond = draw(seed)
    plain = uncond.double() + scale * (cond.double() - uncond.double())
    expected = []
    for c, v in zip(cond.double(), plain, strict=True):
        expected.append(phi * v * (c.std(unbiased=False) / v.std(unbiased=False)) + (1 - phi) * v)
    torch.testing.assert_close(guided(cond, uncond, scale, phi).double(), torch.stack(expected), rtol=1e-4, atol=1e-4)


@law
@given(seeds, scales)
def test_phi_zero_is_plain_guidance_to_the_bit(seed, scale):
    cond, uncond = draw(seed)
    if scale != 1.0:
        assert torch.equal(guided(cond, uncond, scale, 0.0), uncond + scale * (cond - uncond))


@law
@given(seeds, phis)
def test_scale_one_is_not_rescaled(seed, phi):
    cond, uncond = draw(seed)
    assert torch.equal(guided(cond, uncond, 1.0, phi), cond)


@law
@given(seeds, st.floats(1.5, 12.0))
def test_phi_one_brings_the_spread_back(seed, scale):
    cond, uncond = draw(seed)
    made = guided(cond, uncond, scale, 1.0)
    for got, wanted in zip(made, cond, strict=True):
        assert got.std().item() == pytest.approx(wanted.std().item(), rel=1e-4)


@law
@given(seeds, scales, phis)
def test_a_picture_is_rescaled_by_its_own_spread(seed, scale, phi):
    cond, uncond = draw(seed)
    together = guided(cond, uncond, scale, phi)
    for i in range(len(cond)):
        torch.testing.assert_close(together[i : i + 1], guided(cond[i : i + 1], uncond[i : i + 1], scale, phi))


def test_an_answer_without_any_spread_stays_finite():
    flat, other = torch.full((1, 4, 2, 2), 0.5), torch.zeros(1, 4, 2, 2)
    assert torch.equal(guided(flat, other, 2.0, 1.0), torch.ones(1, 4, 2, 2))
    assert torch.isfinite(guided(flat, other, 0.0, 0.5)).all()


@pytest.mark.parametrize("phi", [-0.1, 1.1, float("nan")])
def test_phi_out_of_range_is_refused(phi):
    ones = torch.ones(1, 4, 2, 2)
    with pytest.raises(OMSError, match=r"guidance_rescale is .*; it must lie between 0 and 1"):
        one_more_step(ones, ones, guidance_rescale=phi, sigma=14.6)
