"""Numbers that judge pictures: how bright they are, of what color, and how their distribution differs from data's.

Pictures are float arrays or tensors [B, H, W, 3] with values 0..1 throughout. Brightness is the mean over pixels and
channels, as in the paper (section 5.1, "mean value").
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from scipy import ndimage, stats
from skimage.color import deltaE_ciede2000, rgb2lab


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


def background_colors(pictures: np.ndarray, border: float = 0.08) -> np.ndarray:
    """Each picture's background color, [B, 3]: the median of a frame `border` of the picture's side wide."""
    pictures = np.asarray(pictures)
    edge = max(1, round(border * pictures.shape[1]))
    frame = np.ones(pictures.shape[1:3], dtype=bool)
    frame[edge:-edge, edge:-edge] = False
    return np.median(pictures[:, frame], axis=1)


def nearest_color(color: np.ndarray, names: Mapping[str, tuple[float, float, float]]) -> str:
    """The name whose RGB value (0..1) is nearest to the color in the Euclidean sense."""
    return min(names, key=lambda name: float(np.sum((np.asarray(names[name]) - color) ** 2)))


def foreground_colors(pictures: np.ndarray, threshold: float = 0.2) -> np.ndarray:
    """Each picture's foreground color, [B, 3]: the median of the pixels that differ from the background's color.

    Args:
        threshold: the Euclidean distance in RGB from which on a pixel differs; where none does, the background's color.
    """
    pictures = np.asarray(pictures, dtype=np.float64)
    behind = background_colors(pictures)
    far = np.linalg.norm(pictures - behind[:, None, None], axis=-1) > threshold
    return np.stack(
        [
            np.median(picture[mask], axis=0) if mask.any() else color
            for picture, mask, color in zip(pictures, far, behind, strict=True)
        ]
    )


def background_error(pictures: np.ndarray, data: np.ndarray) -> float:
    """How far backgrounds are from those of the pictures that their captions are of: the mean Euclidean distance of the
    two colors, RGB 0..1.
    """
    difference = background_colors(pictures) - background_colors(data)
    return float(np.linalg.norm(difference, axis=1).mean())


def color_differences(colors: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """CIEDE2000 between colors [B, 3] and those that were asked [B, 3], sRGB 0..1; 2.3 is just noticeable."""
    return deltaE_ciede2000(rgb2lab(np.clip(colors, 0, 1)), rgb2lab(np.clip(asked, 0, 1)))


def edge_agreement(pictures: np.ndarray, others: np.ndarray) -> float:
    """How much of the composition two sets of pictures of the same seeds share: the mean correlation of their edges, -1
    to 1. Edges: the size of the brightness' gradient (Sobel), each picture for itself.
    """
    agreements = []
    for pair in zip(pictures, others, strict=True):
        first, second = (np.hypot(*(ndimage.sobel(p.mean(axis=2), axis) for axis in (0, 1))).ravel() for p in pair)
        flat = first.std() < 1e-9 or second.std() < 1e-9
        agreements.append(float(flat and np.allclose(first, second)) if flat else np.corrcoef(first, second)[0, 1])
    return float(np.mean(agreements))


def layout_agreement(asked: np.ndarray, made: np.ndarray, side: int = 4) -> float:
    """The correlation of two pictures [H, W, 3] that were made smaller to side x side, over pixels and channels."""
    small = [
        np.asarray(picture).reshape(side, len(picture) // side, side, picture.shape[1] // side, 3).mean(axis=(1, 3))
        for picture in (asked, made)
    ]
    return float(np.corrcoef(*(picture.ravel() for picture in small))[0, 1])


def colorfulness(pictures: np.ndarray) -> np.ndarray:
    """How far each picture's pixels are from gray, [B], 0..1: the mean of the largest channel less the smallest."""
    return np.ptp(np.asarray(pictures, dtype=np.float64), axis=3).mean(axis=(1, 2))
