"""The low frequencies of latents and of noise: a two-dimensional DCT per channel, cut off.

The k lowest frequencies of a square latent are the k x k lowest coefficients of the orthonormal DCT-II, whose number u
makes u / 2 cycles per side. Half way between the last that belongs to them and the first that does not lie
(k - 1/2) / 2 cycles. That cut is what k means: cycles per **shorter** side of the picture, whatever the latent's size,
and along the longer side as many as lie below the same number of cycles per pixel. So a portrait and a landscape are
treated alike, blotches of one size go or stay together in both directions, and k = 1 is one mean per channel up to a
ratio of 2 to 1.

Frequencies are told apart on the CPU in float64, which is the same on every device: hosts let their GPUs multiply
matrices with ten bits.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor


def counts(k: int, height: int, width: int) -> tuple[int, int]:
    """How many coefficients (down, across) the `k` lowest frequencies of a latent are, as far as it has so many; k is 1
    or more.
    """
    shorter = min(height, width)
    down, across = (min(side, math.ceil((k - 0.5) * side / shorter)) for side in (height, width))
    return down, across


def low(latent: Tensor, k: int) -> Tensor:
    """The part of `latent` [..., h, w] that its `k` lowest frequencies are; the rest is `latent - low(latent, k)`.

    A projection: linear, and doing it twice changes nothing.

    Args:
        latent: of any floating-point dtype, on any device.
        k: how many, counted along the shorter side as above; 0 is none.

    Returns:
        float32, in the shape and on the device of `latent`.
    """
    if k <= 0:
        return torch.zeros_like(latent, dtype=torch.float32)
    height, width = latent.shape[-2:]
    return resized(latent, height, width, k)


def resized(latent: Tensor, height: int, width: int, k: int) -> Tensor:
    """The `k` lowest frequencies of `latent` [..., h, w] as a latent of [..., height, width]: the same picture, larger
    or smaller.

    Frequencies that one of the two sizes does not have are left out.

    Returns:
        float32, on the device of `latent`.
    """
    down, across = (min(pair) for pair in zip(counts(k, *latent.shape[-2:]), counts(k, height, width), strict=True))
    coefficients = _basis(latent.shape[-2], down) @ _exact(latent) @ _basis(latent.shape[-1], across).T
    gain = math.sqrt(height * width / (latent.shape[-2] * latent.shape[-1]))
    made = _basis(height, down).T @ (gain * coefficients) @ _basis(width, across)
    return made.to(torch.float32).to(latent.device)


def raised(latent: Tensor, k: int, gain: Callable[[Tensor], Tensor]) -> Tensor:
    """`latent` [..., h, w] with each of its `k` lowest frequencies but the mean multiplied.

    Args:
        gain: factors for frequencies in cycles per pixel, both [rows, columns], float64.

    Returns:
        float32, on the device of `latent`; itself where the mean is all that the frequencies are.
    """
    height, width = latent.shape[-2:]
    down, across = counts(k, height, width) if k > 0 else (0, 0)
    if down * across <= 1:
        return latent.to(torch.float32)
    rows, columns = _basis(height, down), _basis(width, across)
    u, v = (torch.arange(n, dtype=torch.float64) / (2 * side) for n, side in ((down, height), (across, width)))
    factors = gain(torch.hypot(u[:, None], v[None, :]))
    factors[0, 0] = 1.0
    exact = _exact(latent)
    made = exact + rows.T @ ((factors - 1.0) * (rows @ exact @ columns.T)) @ columns
    return made.to(torch.float32).to(latent.device)


def coefficients(latent: Tensor, k: int) -> Tensor:
    """The k x k lowest coefficients of `latent` [..., h, w], [..., k, k], float64 on the CPU; what a small latent does
    not have is 0. Of N(0, 1) each is N(0, 1), and independent of all others.
    """
    height, width = latent.shape[-2:]
    down, across = min(k, height), min(k, width)
    found = _basis(height, down) @ _exact(latent) @ _basis(width, across).T
    return torch.nn.functional.pad(found, (0, k - across, 0, k - down))


def of_coefficients(values: Tensor, height: int, width: int) -> Tensor:
    """The latent [..., height, width] whose lowest coefficients are `values` [..., k, k]; float32 on the CPU."""
    down, across = (min(count, side) for count, side in zip(values.shape[-2:], (height, width), strict=True))
    made = _basis(height, down).T @ values[..., :down, :across].to(torch.float64) @ _basis(width, across)
    return made.to(torch.float32)


def _exact(latent: Tensor) -> Tensor:
    return latent.detach().to("cpu").to(torch.float64)  # in two steps: not every device has float64


@lru_cache(maxsize=64)
def _basis(length: int, count: int) -> Tensor:
    """The `count` slowest of the orthonormal DCT-II's functions on `length` points, [count, length]."""
    with torch.inference_mode(False):  # a host's hook may run in it, and what is made there is of use nowhere else
        u = torch.arange(count, dtype=torch.float64)[:, None]
        x = torch.arange(length, dtype=torch.float64)[None, :] + 0.5
        basis = torch.cos(math.pi / length * u * x) * math.sqrt(2 / length)
        basis[0] = math.sqrt(1 / length)
        return basis
