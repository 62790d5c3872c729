"""One More Step itself: from the host's noise and psi's v to x_T (Hu et al., arXiv 2311.15744, section 3.3).

At SNR 0 the velocity is v = -x_0, so psi's answer to pure noise is an estimate of the picture's latent. One step of the
sampler's own kind leads from there to the first latent that the sampler really starts from:

    v     = v_uncond + s (v_cond - v_uncond)              s: the OMS guidance scale
    x0hat = -v
    n     = sqrt(1 - eta^2) x_T^S + eta fresh             eta 0 is DDIM, eta 1 is DDPM
    x_T   = sqrt(a) x0hat + sqrt(1 - a) n                 variance preserving; a: alphas_cumprod at the first step
    x_T   = x0hat + sigma n                               variance exploding (k-diffusion); a = 1 / (1 + sigma^2)
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lib_oms.errors import OMSError

VANISHING_SIGMA = 1000.0
"""x0hat's share of x_T is about 1/sigma: 0.068 for Stable Diffusion's 14.6. Schedules of zero terminal SNR begin at
about 4500, all others far below 1000.
"""


@dataclass(frozen=True)
class FirstStep:
    """Where sampling starts, in a WebUI or in a pipeline.

    sigma: noise level, as k-diffusion counts it, that the sampler assumes at its first call of the model.
    exploding: whether that call's latent is x0hat + sigma n (Euler, Heun...), or of variance one (DDIM, UniPC...).
    scale: what the noise that is handed over is multiplied with on the way to that call.
    """

    sigma: float
    exploding: bool
    scale: float


def sigma_of(alpha_cumprod: float) -> float:
    """The noise level, as k-diffusion counts it, of a schedule's alphas_cumprod between 0 and 1; infinite for 0."""
    return math.sqrt((1.0 - alpha_cumprod) / alpha_cumprod) if alpha_cumprod > 0 else math.inf


def one_more_step(
    noise: Tensor,
    v_cond: Tensor,
    v_uncond: Tensor | None = None,
    *,
    guidance_scale: float = 1.0,
    sigma: float | None = None,
    alpha_cumprod: float | None = None,
    eta: float = 0.0,
    fresh_noise: Tensor | None = None,
    exploding: bool = False,
) -> Tensor:
    """x_T in variance-preserving form, for samplers whose first latent has about unit variance; or `exploding`.

    Args:
        noise: x_T^S, what the host drew, unscaled; any shape, usually [B, 4, H/8, W/8].
        v_cond: psi's answer with the OMS prompt, shaped as `noise`.
        v_uncond: psi's answer with the OMS negative prompt; not needed, and not used, at guidance scale 1.
        guidance_scale: s above.
        sigma: the sampler's first noise level as k-diffusion counts it. Give this or `alpha_cumprod`.
        alpha_cumprod: a above, between 0 and 1. Give this or `sigma`.
        eta: share of fresh noise, 0 to 1.
        fresh_noise: N(0, 1), shaped as `noise`; needed for eta > 0 only.
        exploding: the variance-exploding form instead, x0hat + sigma n, for k-diffusion's samplers.

    Returns:
        x_T, computed in float32, in the shape, dtype and device of `noise`.

    Raises:
        OMSError (a ValueError): an argument is missing, out of its range, of another shape, or not finite.
    """
    sigma = _first_sigma(sigma, alpha_cumprod)
    x0hat, n = _x0hat_and_noise(noise, v_cond, v_uncond, guidance_scale, eta, fresh_noise)
    scale = 1.0 if exploding else math.hypot(1.0, sigma)
    return _as(noise, x0hat / scale + (sigma / scale) * n)


def one_more_step_ve(noise: Tensor, v_cond: Tensor, v_uncond: Tensor | None = None, **given: Any) -> Tensor:
    """x_T in variance-exploding form; otherwise as `one_more_step`."""
    return one_more_step(noise, v_cond, v_uncond, exploding=True, **given)


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


def _x0hat_and_noise(
    noise: Tensor,
    v_cond: Tensor,
    v_uncond: Tensor | None,
    guidance_scale: float,
    eta: float,
    fresh_noise: Tensor | None,
) -> tuple[Tensor, Tensor]:
    if not noise.is_floating_point():
        raise OMSError(f"noise must be a floating-point tensor, but is {noise.dtype}")
    if not math.isfinite(guidance_scale):
        raise OMSError(f"guidance_scale is {guidance_scale}; it must be a finite number")
    if not 0.0 <= eta <= 1.0:
        raise OMSError(f"eta is {eta}; it must lie between 0 (DDIM) and 1 (DDPM)")

    x_T = _float32("noise", noise, noise)
    v = _float32("v_cond", v_cond, noise)
    if guidance_scale != 1.0:
        if v_uncond is None:
            raise OMSError(f"guidance_scale is {guidance_scale}, so v_uncond is needed; only scale 1 does without")
        uncond = _float32("v_uncond", v_uncond, noise)
        v = uncond + guidance_scale * (v - uncond)
        if not bool(torch.isfinite(v).all()):
            raise OMSError(f"v is not finite after guidance with scale {guidance_scale}; use a smaller scale")
    elif v_uncond is not None:
        _check_shape("v_uncond", v_uncond, noise)

    if eta > 0.0:
        if fresh_noise is None:
            raise OMSError(
                f"eta is {eta}, so fresh_noise is needed: N(0, 1) in the shape of noise, {list(noise.shape)}"
            )
        x_T = math.sqrt(1.0 - eta * eta) * x_T + eta * _float32("fresh_noise", fresh_noise, noise)
    elif fresh_noise is not None:
        _check_shape("fresh_noise", fresh_noise, noise)
    return -v, x_T


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
