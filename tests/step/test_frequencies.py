"""The laws of the cut between low and high frequencies, for any latent."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lib_oms.step import low, resized
from lib_oms.step.frequencies import counts

law = settings(deadline=None, max_examples=60)

seeds = st.integers(0, 2**31 - 1)
sides = st.integers(1, 24)
shapes = st.tuples(st.integers(1, 3), st.sampled_from([1, 4, 16]), sides, sides)
several = st.integers(1, 20)


def draw(seed, shape, count=1):
    generator = torch.Generator().manual_seed(seed)
    drawn = [torch.randn(shape, generator=generator) for _ in range(count)]
    return drawn if count > 1 else drawn[0]


def close(one, other, **more):
    torch.testing.assert_close(one, other, **{"rtol": 1e-5, "atol": 1e-5, **more})


@law
@given(seeds, shapes, several, st.floats(-3, 3))
def test_linear(seed, shape, k, factor):
    one, other = draw(seed, shape, 2)
    close(low(one + factor * other, k), low(one, k) + factor * low(other, k))


@law
@given(seeds, shapes, several)
def test_twice_is_once_and_nothing_low_is_left_in_the_rest(seed, shape, k):
    latent = draw(seed, shape)
    part = low(latent, k)
    close(low(part, k), part)
    close(low(latent - part, k), torch.zeros(shape))


@law
@given(seeds, shapes, several)
def test_parseval(seed, shape, k):
    """The energies of the low part and of the rest add up: the two stand at right angles."""
    latent = draw(seed, shape).double()
    part = low(latent, k).double()
    assert (part**2).sum() + ((latent - part) ** 2).sum() == pytest.approx(float((latent**2).sum()), rel=1e-5)


@law
@given(seeds, shapes)
def test_none_the_mean_and_all(seed, shape):
    latent = draw(seed, shape)
    assert torch.equal(low(latent, 0), torch.zeros(shape))
    close(low(latent, max(shape[-2:])), latent)
    if max(shape[-2:]) <= 2 * min(shape[-2:]):
        close(low(latent, 1), latent.mean(dim=(-2, -1), keepdim=True).expand(shape))


def of_slow_waves(h, w, waves):
    """A latent [1, 1, h, w] of cosines (cycles down the picture, cycles across, height), as a picture of any size."""
    y, x = ((torch.arange(side, dtype=torch.float64) + 0.5) / side for side in (h, w))
    return sum(
        a * torch.cos(2 * math.pi * fy * y)[:, None] * torch.cos(2 * math.pi * fx * x)[None, :] for fy, fx, a in waves
    )[None, None].float()


halves = st.integers(0, 9).map(lambda u: u / 2)


@law
@given(st.lists(st.tuples(halves, halves, st.floats(-2, 2)), min_size=1, max_size=4), several, st.integers(1, 4))
def test_the_same_picture_at_any_size_has_the_same_low_frequencies(waves, k, times):
    small, large = (of_slow_waves(12 * n, 16 * n, waves) for n in (1, times))
    if k < 12:
        close(resized(low(small, k), 12 * times, 16 * times, 10), low(large, k), atol=2e-5)


@law
@given(seeds, shapes, several)
def test_portrait_and_landscape_alike(seed, shape, k):
    latent = draw(seed, shape)
    close(low(latent.transpose(-2, -1), k), low(latent, k).transpose(-2, -1))


@pytest.mark.parametrize(
    ("k", "height", "width", "wanted"),
    [
        (1, 32, 32, (1, 1)),
        (4, 32, 32, (4, 4)),
        (4, 128, 128, (4, 4)),
        (1, 64, 96, (1, 1)),
        (2, 64, 96, (2, 3)),
        (4, 96, 64, (6, 4)),
        (4, 64, 128, (4, 7)),
        (1, 32, 64, (1, 1)),
        (1, 32, 96, (1, 2)),
        (16, 8, 8, (8, 8)),
        (8, 8, 16, (8, 15)),
    ],
)
def test_one_cut_in_cycles_per_pixel_in_both_directions(k, height, width, wanted):
    assert counts(k, height, width) == wanted


@law
@given(several, sides, sides)
def test_what_goes_is_slower_than_what_stays(k, height, width):
    down, across = counts(k, height, width)
    assert 1 <= down <= height
    assert 1 <= across <= width
    if down < height and across < width:
        assert max((down - 1) / height, (across - 1) / width) < min(down / height, across / width) + 1e-12


@law
@given(seeds, shapes, several, st.sampled_from([torch.float16, torch.bfloat16, torch.float64]))
def test_any_dtype_comes_back_in_float32_and_unchanged(seed, shape, k, dtype):
    latent = draw(seed, shape).to(dtype)
    before = latent.clone()
    part = low(latent, k)
    assert part.dtype == torch.float32
    assert torch.equal(latent, before)
    assert torch.equal(part, low(latent.double(), k))


@law
@given(seeds, shapes, several)
def test_a_batch_equals_its_items_one_by_one(seed, shape, k):
    latent = draw(seed, shape)
    together = low(latent, k)
    for i in range(len(latent)):
        close(together[i : i + 1], low(latent[i : i + 1], k), rtol=1e-6, atol=1e-6)


def test_usable_outside_when_first_used_in_inference_mode():
    with torch.inference_mode():
        low(torch.ones(1, 1, 21, 19), 3)
    latent = torch.ones(1, 1, 21, 19, requires_grad=True)
    close(low(latent, 3), torch.ones(1, 1, 21, 19))
