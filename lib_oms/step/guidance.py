"""Guidance of psi's answer: how far to go from what it says without the prompt to what it says with it.

    v_s = v_uncond + s (v_cond - v_uncond)                       s: the OMS guidance scale
    v   = phi v_s std(v_cond) / std(v_s) + (1 - phi) v_s         phi: guidance_rescale

The second line is section 3.4 of Lin et al., arXiv 2305.08891. A large s overshoots: pictures come out darker or more
colored than anybody asked. phi takes the spread of each picture's answer, over its channels and pixels, back towards
that of the answer with the prompt alone.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lib_oms.errors import OMSError


def check_guidance(scale: float, rescale: float) -> None:
    """Raises OMSError where one of the two cannot be."""
    if not math.isfinite(scale):
        raise OMSError(f"guidance_scale is {scale}; it must be a finite number")
    if not 0.0 <= rescale <= 1.0:
        raise OMSError(f"guidance_rescale is {rescale}; it must lie between 0 and 1")


def guided(v_cond: Tensor, v_uncond: Tensor | None, scale: float = 1.0, rescale: float = 0.0) -> Tensor:
    """v of a batch [B, ...], in the dtype of `v_cond`.

    Args:
        v_cond: psi's answer with the OMS prompt.
        v_uncond: with the OMS negative prompt; not needed, and not used, at scale 1, where rescaling changes nothing.
        scale: s above.
        rescale: phi above, 0 to 1.

    Raises:
        OMSError: an argument is missing, out of its range, or leads to what is not finite.
    """
    check_guidance(scale, rescale)
    if scale == 1.0:
        return v_cond
    if v_uncond is None:
        raise OMSError(f"guidance_scale is {scale}, so v_uncond is needed; only scale 1 does without")
    v = v_uncond + scale * (v_cond - v_uncond)
    if rescale > 0.0:
        dims = tuple(range(1, v.ndim))
        wanted, got = (answer.std(dim=dims, unbiased=False, keepdim=True) for answer in (v_cond, v))
        # An answer that is the same everywhere has no spread to bring back.
        factor = torch.where(got > 0, wanted / got.clamp_min(torch.finfo(got.dtype).tiny), torch.ones_like(got))
        v = v * (rescale * factor + (1.0 - rescale))
    if not bool(torch.isfinite(v).all()):
        raise OMSError(f"v is not finite after guidance with scale {scale}; use a smaller scale")
    return v
