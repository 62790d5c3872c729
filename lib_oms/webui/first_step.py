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

from modules import shared

from lib_oms.step import VANISHING_SIGMA, FirstStep, sigma_of


class NotApplicable(Exception):  # noqa: N818  nothing is wrong, the picture is made without the step
    """The step has nothing to do here; the text says why."""


def first_step(p: Any) -> FirstStep:
    """The first step of `p.sampler` for the settings in `p`, a host's txt2img processing object before sampling.

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
    with _unknown_if_it_fails(p):
        sigma0 = float(sampler.get_sigmas(p, p.steps)[0])
    model_wrap = getattr(sampler, "model_wrap", None)
    model_sigmas = getattr(model_wrap, "sigmas", None)
    largest = sigma0 if model_sigmas is None else float(model_sigmas[-1])
    sgm = getattr(shared.opts, "sgm_noise_multiplier", False)
    scale = math.hypot(1.0, sigma0) if sgm else sigma0
    sigma = largest if _makes_own_sigmas(sampler) else sigma0
    return FirstStep(sigma, exploding=True, scale=scale), largest


def _of_timesteps(p: Any, sampler: Any) -> tuple[FirstStep, float]:
    """For the samplers that count timesteps: the first step and the largest sigma of the model's schedule."""
    with _unknown_if_it_fails(p):
        timesteps = sampler.get_timesteps(p, p.steps)
    # Where the sampler itself reads it, so that it is the schedule in use.
    model = getattr(getattr(sampler, "model_wrap", None), "inner_model", None)
    alphas_cumprod = getattr(model, "alphas_cumprod", None)
    if alphas_cumprod is None:
        raise _unknown(p)
    if _makes_own_timesteps(sampler):
        first = len(alphas_cumprod) - 1
    elif len(timesteps) < 2:
        raise NotApplicable(f"{p.sampler_name} with {p.steps} step does not call the model at all")
    else:
        first = int(timesteps[-1])
    return (
        FirstStep(sigma_of(float(alphas_cumprod[first])), exploding=False, scale=1.0),
        sigma_of(float(alphas_cumprod[-1])),
    )
