"""A picture in two numbers that a person can compare: how bright it is, and its mean color."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image


@dataclass(frozen=True)
class Numbers:
    """The mean of a picture.

    brightness: 0 (black) to 1 (white), the mean of all pixels and their red, green and blue.
    color: the mean color, "#rrggbb".
    """

    brightness: float
    color: str

    @classmethod
    def of(cls, picture: Image.Image) -> Numbers:
        """What `picture` looks like from afar."""
        mean = np.asarray(picture.convert("RGB"), dtype=np.float64).mean(axis=(0, 1))
        return cls(float(mean.mean() / 255), "#" + "".join(f"{round(part):02x}" for part in mean))

    def __str__(self) -> str:
        return f"{self.brightness:.0%}, {self.color}".replace("%", " %")
