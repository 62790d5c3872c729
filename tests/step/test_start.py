"""What a host is given in place of its noise: x_T at strength 1, its own noise at 0, and the way between."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from step_helpers import comes_back, in_place_of_noise

from lib_oms.errors import OMSError
from lib_oms.step import Directions, FirstStep, Trims, low, one_more_step, start_from

law = settings(deadline=None, max_examples=50)
seeds = st.integers(0, 2**31 - 1)
shapes = st.tuples(st.integers(1, 2), st.just(4), st.integers(2, 12), st.integers(2, 12))
sigmas = st.floats(0.05, 900.0)
etas = st.floats(0.0, 1.0)
quiets = st.integers(0, 16)
strengths = st.floats(0.0, 2.0)


@st.composite
def firsts(draw):
    """As samplers have them: sigma times the noise, or the option of SGM, or variance preserving."""
    sigma = draw(sigmas)
    return draw(
        st.sampled_from(
            [FirstStep(sigma, True, sigma), FirstStep(sigma, True, math.hypot(1, sigma)), FirstStep(sigma, False, 1.0)]
        )
    )


def draw_three(seed, shape):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator) for _ in range(3)]


DIRECTIONS = Directions(*torch.eye(4), torch.ones(4))


@law
@given(seeds, shapes, firsts(), etas, quiets)
def test_strength_one_is_the_step(seed, shape, first, eta, quiet):
    noise, x0hat, fresh = draw_three(seed, shape)
    rest = {"eta": eta, "fresh_noise": fresh, "quiet": quiet}
    made = start_from(noise, x0hat, first, **rest)
    x_T = one_more_step(noise, -x0hat, sigma=first.sigma, exploding=first.exploding, **rest)
    assert torch.equal(made, x_T / first.scale)


@law
@given(seeds, shapes, firsts(), etas, quiets, st.sampled_from([torch.float32, torch.float16, torch.float64]))
def test_strength_zero_gives_the_hosts_noise_back_to_the_bit(seed, shape, first, eta, quiet, dtype):
    noise, x0hat, fresh = (tensor.to(dtype) for tensor in draw_three(seed, shape))
    trims = Trims(0.5, -0.5, DIRECTIONS)
    made = start_from(noise, x0hat, first, strength=0, eta=eta, fresh_noise=fresh, quiet=quiet, trims=trims)
    assert torch.equal(made, noise)
    assert made.dtype == dtype


@law
@given(seeds, shapes, firsts(), etas, quiets, strengths, st.floats(1e-6, 1e-3))
def test_strength_is_continuous(seed, shape, first, eta, quiet, strength, little):
    noise, x0hat, fresh = draw_three(seed, shape)
    rest = {"eta": eta, "fresh_noise": fresh, "quiet": quiet}
    here, there = (start_from(noise, x0hat, first, strength=s, **rest) for s in (strength, max(strength - little, 0.0)))
    # eta's sqrt(1 - eta^2) is steepest where eta ends, at strength 1
    steepest = 40 * (1 + 1 / first.sigma) * math.sqrt(little)
    assert (here - there).abs().max().item() <= steepest


@law
@given(seeds, shapes, firsts(), quiets, st.floats(0.0, 1.0))
def test_below_one_it_lies_on_the_line_between_the_hosts_start_and_the_step(seed, shape, first, quiet, strength):
    """In size of the noise; of its low frequencies, that share has given way."""
    noise, x0hat, _ = draw_three(seed, shape)
    made = start_from(noise, x0hat, first, strength=strength, quiet=quiet).double()
    scale = 1.0 if first.exploding else math.hypot(1, first.sigma)
    cut = min(quiet, max(1, min(shape[-2:]) // 2))
    n = noise.double() - strength * low(noise, cut).double()
    size = (1 - strength) * first.scale + strength * first.sigma / scale
    put = in_place_of_noise(strength * x0hat, quiet, first.sigma, strength).double()
    expected = (put / scale + size * n) / first.scale
    torch.testing.assert_close(made, expected, rtol=1e-4, atol=1e-4)


@law
@given(seeds, shapes, firsts(), etas, quiets)
def test_beyond_one_only_x0hat_grows(seed, shape, first, eta, quiet):
    noise, x0hat, fresh = draw_three(seed, shape)
    rest = {"eta": eta, "fresh_noise": fresh, "quiet": quiet}
    twice = start_from(noise, x0hat, first, strength=2.0, **rest)
    torch.testing.assert_close(twice, start_from(noise, 2 * x0hat, first, **rest), rtol=1e-5, atol=1e-5)


@law
@given(seeds, st.tuples(st.just(1), st.just(4), st.integers(8, 16), st.integers(8, 16)), firsts(), quiets)
def test_quiet_noise_says_nothing_and_keeps_the_rest(seed, shape, first, quiet):
    """What is left in the low frequencies is x0hat's alone, and beyond them nothing but noise has changed."""
    noise, x0hat, _ = draw_three(seed, shape)
    made = start_from(noise, x0hat, first, quiet=quiet)
    loud = start_from(noise, x0hat, first)
    cut = min(quiet, min(shape[-2:]) // 2)
    scale = (1.0 if first.exploding else math.hypot(1, first.sigma)) * first.scale
    put = in_place_of_noise(x0hat, quiet, first.sigma)
    torch.testing.assert_close(low(made, cut), low(put, cut) / scale, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(made - low(made, cut), loud - low(loud, cut), rtol=1e-4, atol=1e-4)


@law
@given(seeds, shapes, firsts(), quiets)
def test_a_flat_color_is_never_enlarged(seed, shape, first, quiet):
    flat = torch.randn(shape[:2], generator=torch.Generator().manual_seed(seed))[..., None, None].expand(shape)
    made = start_from(torch.zeros(shape), flat, first, quiet=quiet)
    assert torch.equal(made, start_from(torch.zeros(shape), flat, first))


def test_what_is_put_in_place_of_noise_comes_back_as_it_was_asked():
    """By the flow of an ideal denoiser, for a frequency low enough that the factor is not cut off."""
    first, side = FirstStep(14.6146, True, 14.6146), 64
    x = (torch.arange(side) + 0.5) * math.pi / side
    slope = torch.cos(x)[None, None, None, :].expand(1, 4, side, side)  # the lowest frequency but the mean
    made = start_from(torch.randn(slope.shape), slope, first, quiet=6)
    put = float((low(made, 6)[0, 0, 0, 0] * first.scale) / slope[0, 0, 0, 0])
    assert 1.3 < put < 1.4
    variance = 0.06 * side**2
    assert put * comes_back(variance, first.sigma) == pytest.approx(1.0, abs=2e-3)


@law
@given(seeds, shapes, firsts(), etas)
def test_quiet_zero_is_the_step_without_it_to_the_bit(seed, shape, first, eta):
    noise, x0hat, fresh = draw_three(seed, shape)
    rest = {"eta": eta, "fresh_noise": fresh}
    assert torch.equal(start_from(noise, x0hat, first, quiet=0, **rest), start_from(noise, x0hat, first, **rest))


def test_the_most_quiet_leaves_half_of_a_small_latents_frequencies():
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    made = start_from(noise, torch.zeros_like(noise), FirstStep(14.6, True, 14.6), quiet=16)
    torch.testing.assert_close(made, noise - low(noise, 4))


@law
@given(seeds, st.floats(-1.0, 1.0), st.sampled_from([0, 1, 4, 8]))
def test_without_color_the_start_says_gray_whatever_the_noise_said(seed, brightness, quiet):
    noise, x0hat, _ = draw_three(seed, (1, 4, 16, 16))
    first = FirstStep(14.6, True, 14.6)
    trims = Trims(brightness, -1.0, DIRECTIONS)
    P, zero = DIRECTIONS.to_chroma
    said = 14.6 * low(start_from(noise, low(x0hat, 4), first, quiet=quiet, trims=trims), 4)
    chroma = torch.einsum("dc,bchw->bdhw", P.float(), said - zero.float()[:, None, None])
    # Brightness' own direction runs from black to white, which are no more than nearly on the fitted axis of grays.
    own = brightness * P.float() @ DIRECTIONS.brighter.float()
    torch.testing.assert_close(chroma, own[:, None, None].expand_as(chroma), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(strength=-0.1), "strength is -0.1"),
        (dict(strength=2.1), "strength is 2.1"),
        (dict(strength=math.nan), "strength is nan"),
        (dict(quiet=-1), "quiet is -1; it must be a whole number from 0 to 16"),
        (dict(quiet=17), "quiet is 17"),
        (dict(quiet=2.5), "quiet is 2.5"),
        (dict(eta=0.5), "eta is 0.5, so fresh_noise is needed"),
        (dict(x0hat=torch.ones(1, 4, 3, 3)), "x0hat has shape"),
        (dict(x0hat=torch.full((1, 4, 3, 5), math.nan)), "x0hat holds NaN"),
        (dict(trims=Trims(1.0)), "need the directions of the VAE"),
    ],
)
def test_bad_input_is_refused_in_words(arguments, message):
    ones = torch.ones(1, 4, 3, 5)
    good = {"noise": ones, "x0hat": ones, "first": FirstStep(14.6, True, 14.6)}
    with pytest.raises(OMSError, match=message):
        start_from(**{**good, **arguments})
