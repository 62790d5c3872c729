"""The laws of the step (lib_oms/step), each for any noise, any v and any first noise level."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lib_oms.step import one_more_step, one_more_step_ve

law = settings(deadline=None, max_examples=50)

seeds = st.integers(0, 2**31 - 1)
sigmas = st.floats(0.02, 5000.0)
alphas = st.floats(1e-6, 1.0 - 1e-6)
etas = st.floats(0.0, 1.0)
scales = st.floats(-4.0, 12.0)
shapes = st.tuples(st.integers(1, 3), st.sampled_from([1, 4, 16]), st.integers(1, 9), st.integers(1, 9))
forms = st.sampled_from([one_more_step, one_more_step_ve])


def draw(seed, shape, count=4):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator) for _ in range(count)]


@law
@given(seeds, shapes, sigmas, scales, etas)
def test_it_is_the_papers_formula(seed, shape, sigma, scale, eta):
    noise, cond, uncond, fresh = (tensor.double() for tensor in draw(seed, shape))
    v = uncond + scale * (cond - uncond)
    n = math.sqrt(1 - eta**2) * noise + eta * fresh
    a = 1 / (1 + sigma**2)
    expected = math.sqrt(a) * -v + math.sqrt(1 - a) * n

    actual = one_more_step(noise, cond, uncond, guidance_scale=scale, sigma=sigma, eta=eta, fresh_noise=fresh)

    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=2e-5)


@law
@given(seeds, shapes, sigmas, scales, etas)
def test_the_two_forms_agree(seed, shape, sigma, scale, eta):
    noise, cond, uncond, fresh = draw(seed, shape)
    rest = {"guidance_scale": scale, "sigma": sigma, "eta": eta, "fresh_noise": fresh}

    preserving = one_more_step(noise, cond, uncond, **rest)
    exploding = one_more_step_ve(noise, cond, uncond, **rest)

    torch.testing.assert_close(preserving * math.sqrt(1 + sigma**2), exploding, rtol=1e-5, atol=1e-5 * (1 + sigma))


@law
@given(seeds, shapes, alphas, forms)
def test_sigma_and_alpha_cumprod_say_the_same(seed, shape, a, form):
    noise, cond = draw(seed, shape, 2)
    sigma = math.sqrt((1 - a) / a)
    torch.testing.assert_close(form(noise, cond, alpha_cumprod=a), form(noise, cond, sigma=sigma))


@law
@given(seeds, shapes, sigmas, forms)
def test_scale_one_gives_v_cond_whatever_v_uncond_is(seed, shape, sigma, form):
    noise, cond, uncond, _ = draw(seed, shape)
    assert torch.equal(form(noise, cond, uncond, guidance_scale=1.0, sigma=sigma), form(noise, cond, sigma=sigma))


@law
@given(seeds, shapes, sigmas, forms)
def test_scale_zero_gives_v_uncond(seed, shape, sigma, form):
    noise, cond, uncond, _ = draw(seed, shape)
    assert torch.equal(form(noise, cond, uncond, guidance_scale=0.0, sigma=sigma), form(noise, uncond, sigma=sigma))


@law
@given(seeds, shapes, sigmas, scales, forms)
def test_eta_zero_is_deterministic_and_reads_no_fresh_noise(seed, shape, sigma, scale, form):
    noise, cond, uncond, fresh = draw(seed, shape)
    state = torch.get_rng_state()

    first = form(noise, cond, uncond, guidance_scale=scale, sigma=sigma)
    second = form(noise, cond, uncond, guidance_scale=scale, sigma=sigma, fresh_noise=fresh)

    assert torch.equal(first, second)
    assert torch.equal(torch.get_rng_state(), state), "the host's noise stream was used"


@law
@given(seeds, shapes, sigmas, forms)
def test_eta_one_reads_the_fresh_noise_alone(seed, shape, sigma, form):
    noise, cond, _, fresh = draw(seed, shape)
    assert torch.equal(form(noise, cond, sigma=sigma, eta=1.0, fresh_noise=fresh), form(fresh, cond, sigma=sigma))


@law
@given(seeds, sigmas, etas)
def test_without_a_picture_the_result_has_the_variance_of_the_noise(seed, sigma, eta):
    noise, fresh = draw(seed, (1, 4, 64, 64), 2)
    nothing = torch.zeros_like(noise)
    a = 1 / (1 + sigma**2)
    rest = {"sigma": sigma, "eta": eta, "fresh_noise": fresh}

    # 16384 draws: the sample variance is within 1.1 % of 1 at one standard deviation.
    assert one_more_step(noise, nothing, **rest).var().item() == pytest.approx(1 - a, rel=0.07)
    assert one_more_step_ve(noise, nothing, **rest).var().item() == pytest.approx(sigma**2, rel=0.07)


@law
@given(seeds, shapes, sigmas, scales, etas, forms)
def test_a_batch_equals_its_items_one_by_one(seed, shape, sigma, scale, eta, form):
    noise, cond, uncond, fresh = draw(seed, shape)
    together = form(noise, cond, uncond, guidance_scale=scale, sigma=sigma, eta=eta, fresh_noise=fresh)
    for i in range(len(noise)):
        own = [tensor[i : i + 1] for tensor in (noise, cond, uncond, fresh)]
        alone = form(*own[:3], guidance_scale=scale, sigma=sigma, eta=eta, fresh_noise=own[3])
        assert torch.equal(together[i : i + 1], alone)


@law
@given(seeds, shapes, st.floats(1.0, 1e6))
def test_as_sigma_grows_the_result_tends_to_the_noise(seed, shape, sigma):
    noise, cond = draw(seed, shape, 2)
    distance = (one_more_step(noise, cond, sigma=sigma) - noise).abs().max().item()
    # |x_T - n| <= |x0hat| / sigma + (1 - sqrt(1 - a)) |n|, and 1 - sqrt(1 - a) <= 1 / (2 sigma^2)
    bound = cond.abs().max().item() / sigma + noise.abs().max().item() / (2 * sigma**2)
    assert distance <= bound * 1.001 + 1e-6


@law
@given(seeds, shapes, sigmas, scales, etas, forms, st.sampled_from([torch.float16, torch.bfloat16, torch.float64]))
def test_computed_in_float32_and_returned_in_the_dtype_of_noise(seed, shape, sigma, scale, eta, form, dtype):
    tensors = [tensor.to(dtype) for tensor in draw(seed, shape)]
    rest = {"guidance_scale": scale, "sigma": sigma, "eta": eta}

    actual = form(*tensors[:3], fresh_noise=tensors[3], **rest)
    exact = form(*[tensor.float() for tensor in tensors[:3]], fresh_noise=tensors[3].float(), **rest)

    assert actual.dtype == dtype
    assert torch.equal(actual, exact.to(dtype))


@law
@given(seeds, shapes, sigmas, etas, forms)
def test_inputs_are_left_as_they_were(seed, shape, sigma, eta, form):
    tensors = draw(seed, shape)
    before = [tensor.clone() for tensor in tensors]
    form(*tensors[:3], guidance_scale=3.0, sigma=sigma, eta=eta, fresh_noise=tensors[3])
    assert all(torch.equal(one, other) for one, other in zip(tensors, before, strict=True))


def test_stable_diffusions_terminal_leak():
    """At SD's own schedule, sigma 14.61, 6.8 % of x0hat reaches x_T: oms.md's figure for the leak."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    a = float((1 - betas).cumprod(0)[-1])
    x_T = one_more_step(torch.zeros(1, 4, 8, 8), -torch.ones(1, 4, 8, 8), alpha_cumprod=a)
    assert x_T.mean().item() == pytest.approx(0.0683, abs=1e-3)


ONES = torch.ones(1, 4, 3, 5)
NAN = ONES.clone()
NAN[0, 1, 2, 3] = math.nan
INF = ONES * math.inf
BAD_CALLS = {
    "neither level": (dict(sigma=None), "exactly one of sigma and alpha_cumprod"),
    "both levels": (dict(alpha_cumprod=0.5), "exactly one of sigma and alpha_cumprod"),
    "sigma zero": (dict(sigma=0.0), "sigma, .* is 0.0; it must be finite and above 0"),
    "sigma negative": (dict(sigma=-1.0), "sigma, .* is -1.0"),
    "sigma infinite": (dict(sigma=math.inf), "sigma, .* is inf"),
    "sigma NaN": (dict(sigma=math.nan), "sigma, .* is nan"),
    "alpha zero": (dict(sigma=None, alpha_cumprod=0.0), "alpha_cumprod .* is 0.0"),
    "alpha one": (dict(sigma=None, alpha_cumprod=1.0), "alpha_cumprod .* is 1.0"),
    "alpha NaN": (dict(sigma=None, alpha_cumprod=math.nan), "alpha_cumprod .* is nan"),
    "v_cond of another shape": (dict(v_cond=ONES[..., :4]), r"\[1, 4, 3, 4\], noise has \[1, 4, 3, 5\]"),
    "v_cond of another batch": (dict(v_cond=torch.ones(2, 4, 3, 5)), "v_cond has shape"),
    "v_cond that would broadcast": (dict(v_cond=torch.ones(1, 1, 1, 1)), "v_cond has shape"),
    "v_uncond of another shape": (dict(v_uncond=ONES[:, :2], guidance_scale=2.0), "v_uncond has shape"),
    "v_uncond of another shape, unused": (dict(v_uncond=ONES[:, :2]), "v_uncond has shape"),
    "v_cond NaN": (dict(v_cond=NAN), "v_cond holds NaN or infinity in 1 of 60 places"),
    "v_cond infinite": (dict(v_cond=INF), "v_cond holds NaN or infinity in 60 of 60"),
    "v_uncond NaN": (dict(v_uncond=NAN, guidance_scale=2.0), "v_uncond holds NaN"),
    "noise NaN": (dict(noise=NAN), "noise holds NaN"),
    "noise of whole numbers": (dict(noise=ONES.long()), "noise must be a floating-point tensor"),
    "no v_uncond": (dict(guidance_scale=2.0), "guidance_scale is 2.0, so v_uncond is needed"),
    "guidance NaN": (dict(guidance_scale=math.nan), "guidance_scale is nan"),
    "guidance overflows": (dict(v_uncond=-ONES, guidance_scale=3e38), "not finite after guidance"),
    "eta above one": (dict(eta=1.5, fresh_noise=ONES), "eta is 1.5; it must lie between 0"),
    "eta negative": (dict(eta=-0.1), "eta is -0.1"),
    "eta NaN": (dict(eta=math.nan), "eta is nan"),
    "no fresh noise": (dict(eta=0.3), r"eta is 0.3, so fresh_noise is needed: .* \[1, 4, 3, 5\]"),
    "fresh noise of another shape": (dict(eta=0.3, fresh_noise=ONES[..., 1:]), "fresh_noise has shape"),
    "fresh noise NaN": (dict(eta=0.3, fresh_noise=NAN), "fresh_noise holds NaN"),
}


@pytest.mark.parametrize("form", [one_more_step, one_more_step_ve])
@pytest.mark.parametrize(("arguments", "message"), BAD_CALLS.values(), ids=BAD_CALLS)
def test_bad_input_is_refused_in_words(form, arguments, message):
    good = {"noise": ONES, "v_cond": ONES, "sigma": 14.6}
    with pytest.raises(ValueError, match=message):
        form(**{**good, **arguments})


def test_a_result_too_large_for_half_precision_is_refused():
    noise = torch.full((1, 4, 2, 2), 3.0).half()
    with pytest.raises(ValueError, match=r"x_T reaches 3e\+05, which does not fit in torch.float16"):
        one_more_step_ve(noise, noise, sigma=1e5)
