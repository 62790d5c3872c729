"""img2img at denoising strength 1: x_T's low frequencies in place of the start picture's, and all else as it was."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from step_helpers import in_place_of_noise

from lib_oms.errors import OMSError
from lib_oms.step import FirstStep, low, over_picture, replaced, sigma_of, start_from

law = settings(deadline=None, max_examples=60)
seeds = st.integers(0, 2**31 - 1)
shapes = st.tuples(st.integers(1, 2), st.just(4), st.integers(4, 14), st.integers(4, 14))
counts = st.integers(1, 8)


@st.composite
def hosts(draw):
    """A first step, and what the host makes of picture and noise: k-diffusion's form, or that of timesteps, which noise
    the picture as of one timestep and begin at another.
    """
    extra = draw(st.sampled_from([0.0, 0.3]))  # the option "Extra noise multiplier for img2img"
    if draw(st.booleans()):
        sigma = draw(st.floats(0.5, 100.0))
        return FirstStep(sigma, True, sigma + extra, 1.0), lambda x, n: x + n * sigma + n * extra
    a, at_first = draw(st.floats(0.002, 0.5)), draw(st.floats(0.002, 0.5))
    b, c = math.sqrt(a), math.sqrt(1 - a)
    return FirstStep(sigma_of(at_first), False, c + extra * b, b), lambda x, n: b * x + c * n + n * extra * b


def three(seed, shape):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator) for _ in range(3)]


def close(one, other, size):
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4 * max(1.0, size))


@law
@given(seeds, shapes, hosts(), counts, st.integers(0, 16))
def test_low_frequencies_are_those_of_x_t_and_the_others_the_pictures_and_the_noises(seed, shape, host, k, quiet):
    first, begun = host
    noise, x0hat, picture = three(seed, shape)
    x_T = start_from(noise, x0hat, first, quiet=quiet)
    was, became = begun(picture, noise), begun(picture, over_picture(noise, x_T, picture, first, k))
    close(low(became, k), low(first.scale * x_T, k), first.sigma)
    close(became - low(became, k), was - low(was, k), first.sigma)


@law
@given(seeds, shapes, hosts(), st.integers(1, 6))
def test_with_quiet_noise_nothing_but_x0hat_is_read_whatever_the_picture_was(seed, shape, host, quiet):
    """So a black and a white start picture begin in the same color."""
    first, begun = host
    noise, x0hat, picture = three(seed, shape)
    k = min(quiet, max(1, min(shape[-2:]) // 2))  # as few are quiet in a small latent
    x_T = start_from(noise, x0hat, first, quiet=quiet)
    size = 1.0 if first.exploding else math.hypot(1, first.sigma)
    put = in_place_of_noise(x0hat, quiet, first.sigma)
    for start in (picture, picture + 3, 0 * picture):
        became = begun(start, over_picture(noise, x_T, start, first, k))
        close(low(became, k), low(put, k) / size, first.sigma)


@law
@given(seeds, shapes, hosts(), counts, st.sampled_from([torch.float32, torch.float16]))
def test_strength_zero_is_the_hosts_own_start(seed, shape, host, k, dtype):
    first, _ = host
    noise, x0hat, picture = (tensor.to(dtype) for tensor in three(seed, shape))
    x_T = start_from(noise, x0hat, first, strength=0)
    made = over_picture(noise, x_T, picture, first, k, strength=0)
    assert torch.equal(made, noise)
    assert made.dtype == dtype


@law
@given(seeds, shapes, hosts(), counts, st.floats(0.0, 1.0))
def test_below_one_the_picture_gives_way_in_that_measure(seed, shape, host, k, strength):
    first, begun = host
    noise, x0hat, picture = three(seed, shape)
    x_T = start_from(noise, x0hat, first, strength=strength)
    became = begun(picture, over_picture(noise, x_T, picture, first, k, strength=strength))
    left = (1 - strength) * first.picture * low(picture, k)
    close(low(became, k), low(first.scale * x_T, k) + left, first.sigma)


@pytest.mark.parametrize(("quiet", "detail", "k"), [(0, None, 4), (1, None, 4), (6, None, 6), (6, 1, 1), (0, 8, 4)])
def test_what_the_denoiser_reads_is_replaced_and_only_where_x0hat_has_something_to_say(quiet, detail, k):
    assert replaced(quiet, detail) == k


def test_what_cannot_be_is_refused():
    noise, x_T, picture = three(1, (1, 4, 8, 8))
    first = FirstStep(14.6, True, 14.6, 1.0)
    with pytest.raises(OMSError, match="one shape"):
        over_picture(noise, x_T, picture[..., :4], first, 4)
    with pytest.raises(OMSError, match="NaN"):
        over_picture(noise, x_T, picture * math.nan, first, 4)
