"""Brighter or darker, more or less color: x0hat moved along the directions that the VAE itself has for that.

What black, white and the primaries are as latents is what a VAE is asked once. They nearly lie in a plane of three
dimensions through the latents' channels,

    z = z_0 + M rgb,      M: [C, 3], fitted to the five

and so a latent can be read as a color, rgb = M^+ (z - z_0), and its distance from gray taken out or enlarged. The
directions hold for the latents' low frequencies, where a flat color stands; they are applied to nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lib_oms.errors import OMSError

_RGB = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0), (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))
REFERENCE_COLORS = ("#000000", "#ffffff", "#ff0000", "#00ff00", "#0000ff")
"""The flat pictures whose latents `Directions` is made of, in its order."""


@dataclass(frozen=True)
class Directions:
    """A VAE's directions of brightness and color. Each of the five: the latent of a flat picture, [C], any dtype."""

    black: Tensor
    white: Tensor
    red: Tensor
    green: Tensor
    blue: Tensor

    @property
    def brighter(self) -> Tensor:
        """From middle gray to white, [C], float64 on the CPU."""
        black, white, *_ = self.latents
        return (white - black) / 2

    @property
    def to_chroma(self) -> tuple[Tensor, Tensor]:
        """(P, z_0): P (z - z_0) is how far a latent z is from the gray of its brightness; [C, C] and [C]."""
        design = torch.tensor([[1.0, *rgb] for rgb in _RGB], dtype=torch.float64)
        fit = torch.linalg.pinv(design) @ self.latents
        zero, M = fit[0], fit[1:].T
        without_gray = torch.eye(3, dtype=torch.float64) - 1 / 3
        return M @ without_gray @ torch.linalg.pinv(M), zero

    @property
    def latents(self) -> Tensor:
        """All five, [5, C], float64 on the CPU."""
        latents = (self.black, self.white, self.red, self.green, self.blue)
        return torch.stack([latent.detach().to("cpu").to(torch.float64) for latent in latents])


@dataclass(frozen=True)
class Trims:
    """How much to move.

    brightness: -1 to 1; 1 is as far as from middle gray to white, everywhere in the picture.
    saturation: -1 to 1; -1 leaves grays, 1 doubles the distance from gray.
    directions: needed where one of the two is not 0.
    """

    brightness: float = 0.0
    saturation: float = 0.0
    directions: Directions | None = None

    def __bool__(self) -> bool:
        return self.brightness != 0.0 or self.saturation != 0.0

    def added_to(self, x0hat: Tensor, said: Tensor) -> Tensor:
        """`x0hat` with the trims added.

        Args:
            x0hat: [B, C, h, w].
            said: what the denoiser is going to read from the first latent, x0hat and the noise's own tint together,
                shaped as `x0hat`: its color is what saturation is about.

        Raises:
            OMSError: there are no directions, or they are of other latents.
        """
        if not self:
            return x0hat
        if self.directions is None:
            raise OMSError("brightness and saturation need the directions of the VAE")
        if x0hat.ndim != 4 or x0hat.shape[1] != len(self.directions.black):
            raise OMSError(
                f"the VAE makes latents of {len(self.directions.black)} channels, x0hat has the shape "
                f"{list(x0hat.shape)}"
            )
        moved = x0hat
        if self.brightness:
            moved = moved + self.brightness * self.directions.brighter.to(x0hat)[:, None, None]
        if self.saturation:
            P, zero = (tensor.to(torch.float32).to(said.device) for tensor in self.directions.to_chroma)
            chroma = torch.einsum("dc,bchw->bdhw", P, said - zero[:, None, None])
            moved = moved + self.saturation * chroma.to(x0hat)
        return moved
