"""One More Step itself: from the host's noise and an estimate of the picture to x_T (Hu et al., arXiv 2311.15744, 3.3).

At SNR 0 the velocity is v = -x_0, so psi's answer to pure noise is an estimate of the picture's latent. So is the
latent of a color or of a picture that somebody wants to follow. One step of the sampler's own kind leads from there to
the first latent that the sampler really starts from:

    v     = v_uncond + s (v_cond - v_uncond)              s: the OMS guidance scale, see guidance.py
    x0hat = -v, or the latent of a color or of a picture; then trimmed, see trims.py
    n     = sqrt(1 - eta^2) x_T^S + eta fresh             eta 0 is DDIM, eta 1 is DDPM
    n     = n - low(n, k)                                 k: quiet, see frequencies.py
    x0hat = x0hat + (g - 1) low(x0hat, k), but its mean   g(f) = sqrt(1 + sigma^2 / S(f)), at most 1.5
    x_T   = sqrt(a) x0hat + sqrt(1 - a) n                 variance preserving; a: alphas_cumprod at the first step
    x_T   = x0hat + sigma n                               variance exploding (k-diffusion); a = 1 / (1 + sigma^2)

psi sees the whole noise, as it was trained on. Only then do the noise's lowest frequencies give way: they have a value
of their own in every draw, which the denoiser takes for the picture's brightness and color just as it takes x0hat's.
Where they have given way, x0hat is enlarged: the denoiser goes on to take a part of what it finds there for noise.
"""

from lib_oms.step.first_latent import (
    MOST_QUIET,
    NO_TRIMS,
    READABLE,
    VANISHING_SIGMA,
    FirstStep,
    Start,
    one_more_step,
    one_more_step_ve,
    sigma_of,
    start_at,
    start_from,
)
from lib_oms.step.frequencies import coefficients, low, of_coefficients, raised, resized
from lib_oms.step.guidance import guided
from lib_oms.step.over_picture import over_picture, replaced
from lib_oms.step.trims import REFERENCE_COLORS, Directions, Trims
from lib_oms.step.x0hat import x0hat_of

__all__ = [
    "MOST_QUIET",
    "NO_TRIMS",
    "READABLE",
    "REFERENCE_COLORS",
    "VANISHING_SIGMA",
    "Directions",
    "FirstStep",
    "Start",
    "Trims",
    "coefficients",
    "guided",
    "low",
    "of_coefficients",
    "one_more_step",
    "one_more_step_ve",
    "over_picture",
    "raised",
    "replaced",
    "resized",
    "sigma_of",
    "start_at",
    "start_from",
    "x0hat_of",
]
