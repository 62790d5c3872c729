"""The noise level at which the chosen sampler first calls the model, and what the host does to the noise before that.

What the samplers do is read off A1111's and Forge's sd_samplers_kdiffusion.py, sd_samplers_timesteps.py and
sd_samplers_timesteps_impl.py. Samplers are told apart by what they can say of themselves, not by name, so that those
that other extensions add are served too.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from modules import sd_samplers_common, shared

from lib_oms.step import VANISHING_SIGMA, FirstStep, sigma_of
from lib_oms.webui import host


class NotApplicable(Exception):  # noqa: N818  nothing is wrong, the picture is made without the step
    """The step has nothing to do here; the text says why."""


def first_step(p: Any) -> FirstStep:
    """The first step of `p.sampler` for the settings in `p`, a host's txt2img processing object before sampling, or its
    img2img one's.

    Raises:
        NotApplicable: there is none, it cannot be known, or One More Step would vanish.
    """
    sampler = p.sampler
    with _infotext_kept(p), _schedule_told(p, sampler):
        if callable(getattr(sampler, "get_sigmas", None)):
            first, last = _of_sigmas(p, sampler)
        elif callable(getattr(sampler, "get_timesteps", None)):
            first, last = _of_timesteps(p, sampler)
        else:
            raise _unknown(p)
    if not (math.isfinite(first.sigma) and first.sigma > 0 and first.scale > 0):
        raise NotApplicable(f"the sampler {p.sampler_name} starts at noise level {first.sigma:g}")
    if max(first.sigma, last) > VANISHING_SIGMA:
        raise NotApplicable(
            f"the noise schedule has zero terminal SNR and begins at sigma {max(first.sigma, last):.0f} "
            "where the step would vanish"
        )
    return first


@contextmanager
def _infotext_kept(p: Any) -> Iterator[None]:
    """get_sigmas and get_timesteps write into the picture's infotext; the host will ask again and write it itself."""
    kept = dict(p.extra_generation_params)
    try:
        yield
    finally:
        p.extra_generation_params.clear()
        p.extra_generation_params.update(kept)


@contextmanager
def _schedule_told(p: Any, sampler: Any) -> Iterator[None]:
    """reForge tells its own samplers (forge_alter_samplers.py) the schedule in their sample(); asked before that they
    answer for another. Forge Classic's of that name have one from the start.
    """
    if getattr(sampler, "scheduler_name", "") is not None:
        yield
        return
    sampler.scheduler_name = getattr(p, "scheduler", None)
    try:
        yield
    finally:
        sampler.scheduler_name = None


def _unknown(p: Any) -> NotApplicable:
    return NotApplicable(f"the sampler {p.sampler_name} does not tell its first noise level")


@contextmanager
def _unknown_if_it_fails(p: Any) -> Iterator[None]:
    """Another extension's sampler may have a method of this name that is asked in another way."""
    try:
        yield
    except Exception as error:
        raise NotApplicable(f"{_unknown(p)} ({type(error).__name__}: {error})") from error


def _function(sampler: Any) -> Any:
    """The sampling loop, under its paper's name; None where a sampler keeps it to itself."""
    return getattr(sampler, "func", None)


def _makes_own_sigmas(sampler: Any) -> bool:
    """DPM fast and DPM adaptive ask for the range only, and go down from the model's largest sigma."""
    function = _function(sampler)
    parameters = inspect.signature(function).parameters if callable(function) else {}
    return "sigma_max" in parameters and "sigmas" not in parameters


def _makes_own_timesteps(sampler: Any) -> bool:
    """UniPC goes down from the end of the schedule, whatever list of timesteps it is given."""
    return getattr(_function(sampler), "__name__", "") == "unipc"


def _of_sigmas(p: Any, sampler: Any) -> tuple[FirstStep, float]:
    """For k-diffusion's samplers: the first step and the largest sigma of the model's schedule."""
    over_picture = host.is_img2img(p)
    with _unknown_if_it_fails(p):
        steps, begins = _img2img_steps(p) if over_picture else (p.steps, p.steps - 1)
        sigma0 = float(sampler.get_sigmas(p, steps)[steps - begins - 1])
    model_wrap = getattr(sampler, "model_wrap", None)
    model_sigmas = getattr(model_wrap, "sigmas", None)
    largest = sigma0 if model_sigmas is None else float(model_sigmas[-1])
    if over_picture:  # DPM fast and DPM adaptive are told where to begin, and SGM's option is not asked
        return FirstStep(sigma0, exploding=True, scale=sigma0 + _extra_noise(), picture=1.0), largest
    sgm = getattr(shared.opts, "sgm_noise_multiplier", False)
    scale = math.hypot(1.0, sigma0) if sgm else sigma0
    sigma = largest if _makes_own_sigmas(sampler) else sigma0
    return FirstStep(sigma, exploding=True, scale=scale), largest


def _of_timesteps(p: Any, sampler: Any) -> tuple[FirstStep, float]:
    """For the samplers that count timesteps: the first step and the largest sigma of the model's schedule."""
    over_picture = host.is_img2img(p)
    with _unknown_if_it_fails(p):
        steps, begins = _img2img_steps(p) if over_picture else (p.steps, p.steps - 1)
        timesteps = sampler.get_timesteps(p, steps)
        noised_at = int(timesteps[begins]) if over_picture else None
    # Where the sampler itself reads it, so that it is the schedule in use.
    model = getattr(getattr(sampler, "model_wrap", None), "inner_model", None)
    alphas_cumprod = getattr(model, "alphas_cumprod", None)
    if alphas_cumprod is None:
        raise _unknown(p)
    if over_picture:
        timesteps = timesteps[:begins]  # they begin a timestep lower than that for which the picture is noised
    if _makes_own_timesteps(sampler) and not over_picture:
        first = len(alphas_cumprod) - 1
    elif len(timesteps) < 2:
        raise NotApplicable(f"{p.sampler_name} with {p.steps} step does not call the model at all")
    else:
        first = int(timesteps[-1])
    scale, picture = 1.0, 0.0
    if noised_at is not None:
        a = float(alphas_cumprod[noised_at])
        picture = math.sqrt(a)
        scale = math.sqrt(1.0 - a) + _extra_noise() * picture
    return (
        FirstStep(sigma_of(float(alphas_cumprod[first])), exploding=False, scale=scale, picture=picture),
        sigma_of(float(alphas_cumprod[-1])),
    )


def _img2img_steps(p: Any) -> tuple[int, int]:
    """Steps of img2img's whole schedule, and the number of the one that it begins at, counted from the last; as
    samplers' sample_img2img asks for them.
    """
    return sd_samplers_common.setup_img2img_steps(p)


def _extra_noise() -> float:
    """The host's option to add so much more of the noise to a start picture."""
    return float(getattr(shared.opts, "img2img_extra_noise", 0.0) or 0.0)
