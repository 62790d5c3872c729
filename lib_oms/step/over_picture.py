"""The first latent of img2img at denoising strength 1: what x_T says in place of what the picture says there.

Even at strength 1 hosts do not start from noise alone, but from

    xi = b latent + c n        k-diffusion: b = 1, c = sigma; timesteps: b = sqrt(a), c = sqrt(1 - a)

The picture's latent is small beside the noise, as x0hat is: of it, too, the denoiser reads the low frequencies, and so
the new picture has the old one's brightness and colors. Here x_T's take their place; all beyond them stays the
picture's and the noise's own.

    xi' = low(x_T, k) + xi - low(xi, k)
"""

from __future__ import annotations

import torch
from torch import Tensor

from lib_oms.errors import OMSError
from lib_oms.step.first_latent import READABLE, FirstStep
from lib_oms.step.frequencies import low


def replaced(quiet: int, detail: int | None = None) -> int:
    """How many of the picture's low frequencies give way: those that the denoiser can read, or all that are quiet if
    these are more, but none that x0hat does not have (`detail`, None for all).
    """
    most = max(READABLE, quiet)
    return most if detail is None else min(detail, most)


def over_picture(
    noise: Tensor, x_T: Tensor, latent: Tensor, first: FirstStep, k: int, *, strength: float = 1.0
) -> Tensor:
    """What a host has to be given in place of `noise`, so that it starts from xi'.

    Args:
        noise: n, what the host drew, [B, C, h, w].
        x_T: what `start_at` gives for that noise, in the same shape.
        latent: of the picture, as the host has it, in the same shape.
        first: where the sampler starts; b is its `picture`, c its `scale`.
        k: how many low frequencies, see `replaced`.
        strength: as for `start_at`: the picture's give way in the same measure as the noise's.

    Returns:
        In the shape, dtype and device of `noise`; at strength 0 the noise to the bit.

    Raises:
        OMSError (a ValueError): the shapes differ, or the latent is not finite.
    """
    if not noise.shape == x_T.shape == latent.shape:
        shapes = ", ".join(str(list(tensor.shape)) for tensor in (noise, x_T, latent))
        raise OMSError(f"noise, x_T and the start picture's latent must have one shape, but have {shapes}")
    if not bool(torch.isfinite(latent).all()):
        raise OMSError("the start picture's latent holds NaN or infinity")
    if strength == 0.0:
        return noise.clone()
    n, said = noise.to(torch.float32), x_T.to(noise.device, torch.float32)
    leaks = (min(strength, 1.0) * first.picture / first.scale) * latent.to(noise.device, torch.float32)
    return (n + low(said - n - leaks, k)).to(noise.dtype)
