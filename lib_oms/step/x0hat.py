"""x0hat from what it may come from: psi's answer, a color's or a picture's latent, and both."""

from __future__ import annotations

import torch
from torch import Tensor

from lib_oms.errors import OMSError
from lib_oms.step.frequencies import low


def x0hat_of(answer: Tensor | None, given: Tensor | None, weight: float, detail: int | None = None) -> Tensor:
    """The estimate of the picture's latent.

    Args:
        answer: psi's, -v, [B, C, h, w]; None where it was not asked.
        given: the latent of a color or of a picture in the same shape; None where there is none.
        weight: where there are both, the share of psi's answer, 0 to 1.
        detail: how many of its low frequencies pass (see frequencies.py), 1 or more; None for all of it.

    Returns:
        float32, on the device of the answer or else of what was given.

    Raises:
        OMSError: there is neither, or the two differ in shape.
    """
    if answer is not None and given is not None:
        if answer.shape != given.shape:
            raise OMSError(f"psi answers in the shape {list(answer.shape)}, the VAE in {list(given.shape)}")
        x0hat: Tensor | None = torch.lerp(given.to(answer), answer, weight)
    else:
        x0hat = given if answer is None else answer
    if x0hat is None:
        raise OMSError("there is nothing to follow, neither an answer of psi nor a given latent")
    return x0hat.to(torch.float32) if detail is None else low(x0hat, detail)
