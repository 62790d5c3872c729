"""The step's law, said another way."""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy.fft import dctn, idctn
from torch import Tensor


def in_place_of_noise(x0hat: Tensor, quiet: int, sigma: float, share: float = 1.0) -> Tensor:
    """x0hat [..., h, w] as large as it comes into x_T where noise has given way, by scipy's DCT; float32."""
    height, width = x0hat.shape[-2:]
    shorter = min(height, width)
    k = min(quiet, max(1, shorter // 2))
    u, v = np.arange(height)[:, None] / height, np.arange(width)[None, :] / width
    cut = (k - 0.5) / shorter if k else 0.0
    gives_way = (u < cut) & (v < cut)
    factor = np.minimum(np.sqrt(1 + sigma**2 * (u**2 + v**2) / 0.06), 1.5)
    factor = np.where(gives_way, 1 + share * (factor - 1), 1.0)
    factor[0, 0] = 1.0
    found = dctn(x0hat.double().numpy(), axes=(-2, -1), norm="ortho")
    return torch.from_numpy(idctn(found * factor, axes=(-2, -1), norm="ortho")).float()


def comes_back(variance: float, sigma: float) -> float:
    """What the flow from noise level `sigma` to the picture leaves of a coefficient that is N(0, `variance`) over
    pictures and stands in the first latent without noise: an ideal denoiser's, integrated in many small steps.
    """
    x, level = 1.0, sigma
    for lower in sigma * np.linspace(1, 0, 20_001)[1:]:
        denoised = x * variance / (variance + level**2)
        x += (x - denoised) / level * (lower - level)
        level = lower
    assert math.isfinite(x)
    return x
