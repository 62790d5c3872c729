"""The first latent: from x0hat and the noise that the host drew to x_T."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lib_oms.errors import OMSError
from lib_oms.step.frequencies import low, raised
from lib_oms.step.guidance import check_guidance, guided
from lib_oms.step.trims import Trims

VANISHING_SIGMA = 1000.0
"""x0hat's share of x_T is about 1/sigma: 0.068 for Stable Diffusion's 14.6. Schedules of zero terminal SNR begin at
about 4500, all others far below 1000.
"""
MOST_QUIET = 16
READABLE = 4
"""How many low frequencies of the noise are a tint to the denoiser, for the trims: docs/steering.md derives it."""
NATURAL = 0.015
"""S(f) f^2 of pictures' latents: their spectrum S falls with the square of f, in cycles per latent pixel."""
MOST_RAISED = 1.5
"""What makes a layout's contrast the one that was asked for on the embedded models: docs/steering.md."""
NO_TRIMS = Trims()


@dataclass(frozen=True)
class FirstStep:
    """Where sampling starts, in a WebUI or in a pipeline.

    sigma: noise level, as k-diffusion counts it, that the sampler assumes at its first call of the model.
    exploding: whether that call's latent is x0hat + sigma n (Euler, Heun...), or of variance one (DDIM, UniPC...).
    scale: what the noise that is handed over is multiplied with on the way to that call.
    picture: what the latent of a start picture is multiplied with there, see over_picture.py; 0 where there is none.
    """

    sigma: float
    exploding: bool
    scale: float
    picture: float = 0.0


def sigma_of(alpha_cumprod: float) -> float:
    """The noise level, as k-diffusion counts it, of a schedule's alphas_cumprod between 0 and 1; infinite for 0."""
    return math.sqrt((1.0 - alpha_cumprod) / alpha_cumprod) if alpha_cumprod > 0 else math.inf


def one_more_step(
    noise: Tensor,
    v_cond: Tensor,
    v_uncond: Tensor | None = None,
    *,
    guidance_scale: float = 1.0,
    guidance_rescale: float = 0.0,
    sigma: float | None = None,
    alpha_cumprod: float | None = None,
    eta: float = 0.0,
    fresh_noise: Tensor | None = None,
    quiet: int = 0,
    exploding: bool = False,
) -> Tensor:
    """x_T in variance-preserving form, for samplers whose first latent has about unit variance; or `exploding`.

    Args:
        noise: x_T^S, what the host drew, unscaled; any shape, usually [B, 4, H/8, W/8].
        v_cond: psi's answer with the OMS prompt, shaped as `noise`.
        v_uncond: psi's answer with the OMS negative prompt; not needed, and not used, at guidance scale 1.
        guidance_scale: s above.
        guidance_rescale: phi above, 0 to 1.
        sigma: the sampler's first noise level as k-diffusion counts it. Give this or `alpha_cumprod`.
        alpha_cumprod: a above, between 0 and 1. Give this or `sigma`.
        eta: share of fresh noise, 0 to 1.
        fresh_noise: N(0, 1), shaped as `noise`; needed for eta > 0 only.
        quiet: k above.
        exploding: the variance-exploding form instead, x0hat + sigma n, for k-diffusion's samplers.

    Returns:
        x_T, computed in float32, in the shape, dtype and device of `noise`.

    Raises:
        OMSError (a ValueError): an argument is missing, out of its range, of another shape, or not finite.
    """
    sigma = _first_sigma(sigma, alpha_cumprod)
    x_S = _noise(noise)
    check_guidance(guidance_scale, guidance_rescale)
    _check_shares(eta, quiet)
    cond = _float32("v_cond", v_cond, noise)
    uncond = None
    if v_uncond is not None and guidance_scale == 1.0:
        _check_shape("v_uncond", v_uncond, noise)
    elif v_uncond is not None:
        uncond = _float32("v_uncond", v_uncond, noise)
    x0hat = _in_place_of_noise(-guided(cond, uncond, guidance_scale, guidance_rescale), quiet, sigma)
    n = _without(_mixed(x_S, fresh_noise, eta), quiet)
    scale = _scale(sigma, exploding)
    return _as(noise, x0hat / scale + (sigma / scale) * n)


def one_more_step_ve(noise: Tensor, v_cond: Tensor, v_uncond: Tensor | None = None, **given: Any) -> Tensor:
    """x_T in variance-exploding form; otherwise as `one_more_step`."""
    return one_more_step(noise, v_cond, v_uncond, exploding=True, **given)


@dataclass(frozen=True)
class Start:
    """Where sampling starts, and what the denoiser reads there. Tensors are float32 and shaped as the noise.

    x_T: what a host has to be given in place of the noise; in the noise's dtype.
    x0hat: what is asked for, in latents' own units: strength, trims and all.
    noise: what is left of the noise, in the same units, as large as it is beside x0hat at the first step.
    drawn: the noise that the host drew, as large as it would have been there.
    """

    x_T: Tensor  # noqa: N815  the paper's name
    x0hat: Tensor
    noise: Tensor
    drawn: Tensor

    @property
    def read(self) -> Tensor:
        """What the denoiser takes the picture for: what is asked for, and the tint that the noise has of its own.

        That is its mean. What it has of higher frequencies shows as well, but less than it is, and only adds to the
        error of the picture's mean color (measured in docs/steering.md).
        """
        return self.x0hat + low(self.noise, 1)

    @property
    def read_without(self) -> Tensor:
        """What it would take the picture for without the step: the tint of the noise that the host drew."""
        return low(self.drawn, 1)


def start_from(noise: Tensor, x0hat: Tensor, first: FirstStep, **rest: Any) -> Tensor:
    """The x_T of `start_at`, whose arguments these are."""
    return start_at(noise, x0hat, first, **rest).x_T


def start_at(
    noise: Tensor,
    x0hat: Tensor,
    first: FirstStep,
    *,
    strength: float = 1.0,
    eta: float = 0.0,
    fresh_noise: Tensor | None = None,
    quiet: int = 0,
    trims: Trims = NO_TRIMS,
) -> Start:
    """What a host has to be given in place of `noise`, so that it starts sampling from x_T, and what is read there.

    Strength leads from the host's own start to x_T and on: x0hat comes in in proportion, and up to 1 all that the step
    does to the noise, its quiet and its fresh share, comes in with it. At 0 the noise comes back to the bit.

    Args:
        noise: x_T^S, what the host drew, unscaled; any shape, usually [B, 4, H/8, W/8].
        x0hat: an estimate of the picture's latent, by psi or anybody else, shaped as `noise`.
        first: where the sampler starts, and what the host does to what it is given.
        strength: 0 to 2; 1 is what x0hat says.
        eta, fresh_noise, quiet: as for `one_more_step`.
        trims: what to add to x0hat.

    Raises:
        OMSError (a ValueError): an argument is missing, out of its range, of another shape, or not finite.
    """
    if not 0.0 <= strength <= 2.0:
        raise OMSError(f"strength is {strength}; it must lie between 0 (the noise as it is) and 2")
    _check_shares(eta, quiet)
    x_S = _noise(noise)
    x0hat = _float32("x0hat", x0hat, noise)
    sigma = _first_sigma(first.sigma, None)
    scale = _scale(sigma, first.exploding)
    drawn = (scale * first.scale) * x_S
    if strength == 0.0:
        return Start(noise.clone(), torch.zeros_like(x_S), drawn, drawn)
    share = min(strength, 1.0)
    n = _without(_mixed(x_S, fresh_noise, share * eta), quiet, share)
    if trims:
        x0hat = trims.added_to(x0hat, x0hat + sigma * low(n, READABLE))
    # On the way the noise is as large as the host would have made it, then as large as the step wants it.
    size = sigma / scale if share == 1.0 else share * (sigma / scale) + (1.0 - share) * first.scale
    said = strength * x0hat
    put = _in_place_of_noise(said, quiet, sigma, share)
    return Start(_as(noise, (put / scale + size * n) / first.scale), said, (scale * size) * n, drawn)


def _check_shares(eta: float, quiet: int) -> None:
    if not 0.0 <= eta <= 1.0:
        raise OMSError(f"eta is {eta}; it must lie between 0 (DDIM) and 1 (DDPM)")
    if not 0 <= quiet <= MOST_QUIET or quiet != int(quiet):
        raise OMSError(f"quiet is {quiet}; it must be a whole number from 0 to {MOST_QUIET}")


def _first_sigma(sigma: float | None, alpha_cumprod: float | None) -> float:
    if sigma is not None and alpha_cumprod is None:
        sigma = float(sigma)
        if not (0.0 < sigma < math.inf):
            raise OMSError(f"sigma, the sampler's first noise level, is {sigma}; it must be finite and above 0")
        return sigma
    if alpha_cumprod is not None and sigma is None:
        a = float(alpha_cumprod)
        if not (0.0 < a < 1.0):
            raise OMSError(
                f"alpha_cumprod at the sampler's first step is {a}; it must lie between 0 and 1, both excluded"
            )
        return sigma_of(a)
    raise OMSError("give exactly one of sigma and alpha_cumprod, the sampler's first noise level")


def _scale(sigma: float, exploding: bool) -> float:
    """What x0hat + sigma n is divided by: of the variance-preserving form, sqrt(a) = 1 / sqrt(1 + sigma^2)."""
    return 1.0 if exploding else math.hypot(1.0, sigma)


def _mixed(noise: Tensor, fresh_noise: Tensor | None, eta: float) -> Tensor:
    if fresh_noise is None:
        if eta > 0.0:
            raise OMSError(
                f"eta is {eta}, so fresh_noise is needed: N(0, 1) in the shape of noise, {list(noise.shape)}"
            )
        return noise
    if eta == 0.0:
        _check_shape("fresh_noise", fresh_noise, noise)
        return noise
    return math.sqrt(1.0 - eta * eta) * noise + eta * _float32("fresh_noise", fresh_noise, noise)


def _without(n: Tensor, quiet: int, share: float = 1.0) -> Tensor:
    """`n` without that share of its lowest frequencies. Half of all frequencies stay at least, or a small latent would
    have no noise left that a picture could be made of.
    """
    if quiet == 0:
        return n
    return n - share * low(n, _giving_way(n, quiet))


def _giving_way(n: Tensor, quiet: int) -> int:
    return min(int(quiet), max(1, min(n.shape[-2:]) // 2))


def _in_place_of_noise(x0hat: Tensor, quiet: int, sigma: float, share: float = 1.0) -> Tensor:
    """`x0hat` as large as the denoiser needs it where that share of the noise has given way.

    It expects a variance of S + sigma^2 there, and goes on to take a part of what it finds for noise, though it is all
    x0hat's: sqrt(S / (S + sigma^2)) of it is left in the picture. So x0hat is enlarged by the inverse of that, at most
    MOST_RAISED times. Not its mean: denoisers know that there is nothing darker than black.
    """
    if quiet == 0:
        return x0hat

    def gain(f: Tensor) -> Tensor:
        return 1.0 + share * (torch.sqrt(1.0 + (sigma * f) ** 2 / NATURAL).clamp(max=MOST_RAISED) - 1.0)

    return raised(x0hat, _giving_way(x0hat, quiet), gain)


def _noise(noise: Tensor) -> Tensor:
    if not noise.is_floating_point():
        raise OMSError(f"noise must be a floating-point tensor, but is {noise.dtype}")
    return _float32("noise", noise, noise)


def _check_shape(name: str, tensor: Tensor, noise: Tensor) -> None:
    if tensor.shape != noise.shape:
        raise OMSError(f"{name} has shape {list(tensor.shape)}, noise has {list(noise.shape)}; they must be the same")


def _float32(name: str, tensor: Tensor, noise: Tensor) -> Tensor:
    _check_shape(name, tensor, noise)
    tensor = tensor.to(noise.device, torch.float32)
    bad = int(tensor.numel() - torch.isfinite(tensor).sum())
    if bad:
        raise OMSError(f"{name} holds NaN or infinity in {bad} of {tensor.numel()} places")
    return tensor


def _as(noise: Tensor, x_T: Tensor) -> Tensor:
    out = x_T.to(noise.dtype)
    if not bool(torch.isfinite(out).all()):
        raise OMSError(f"x_T reaches {float(x_T.abs().max()):.4g}, which does not fit in {noise.dtype}")
    return out
