"""Numbers that judge pictures: how bright they are, of what color, and how their distribution differs from data's.

Pictures are float arrays or tensors [B, H, W, 3] with values 0..1 throughout. Brightness is the mean over pixels and
channels, as in the paper (section 5.1, "mean value").
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from scipy import stats


def picture_means(pictures: np.ndarray) -> np.ndarray:
    """Each picture's brightness, [B], 0..1."""
    return np.asarray(pictures, dtype=np.float64).mean(axis=(1, 2, 3))


def wasserstein(means: np.ndarray, data_means: np.ndarray) -> float:
    """Wasserstein-1 distance of two distributions of brightness (0..1), in gray levels of 0..255 as in the paper."""
    return float(stats.wasserstein_distance(np.asarray(means) * 255, np.asarray(data_means) * 255))


def spearman(asked: np.ndarray, measured: np.ndarray) -> float:
    """Rank correlation of what was asked and what came, -1..1; 0 where all that came is the same."""
    if np.ptp(measured) == 0:
        return 0.0
    return float(stats.spearmanr(asked, measured).statistic)


def background_colours(pictures: np.ndarray, border: float = 0.08) -> np.ndarray:
    """Each picture's background color, [B, 3]: the median of a frame `border` of the picture's side wide."""
    pictures = np.asarray(pictures)
    edge = max(1, round(border * pictures.shape[1]))
    frame = np.ones(pictures.shape[1:3], dtype=bool)
    frame[edge:-edge, edge:-edge] = False
    return np.median(pictures[:, frame], axis=1)


def nearest_colour(colour: np.ndarray, names: Mapping[str, tuple[float, float, float]]) -> str:
    """The name whose RGB value (0..1) is nearest to the color in the Euclidean sense."""
    return min(names, key=lambda name: float(np.sum((np.asarray(names[name]) - colour) ** 2)))
