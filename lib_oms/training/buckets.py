"""Sizes of pictures: one square, or several of about its area, for every batch to have one (aspect-ratio buckets)."""

from __future__ import annotations

import math
from collections.abc import Sequence

from lib_oms.errors import SettingError
from lib_oms.training.chance import permutation

Size = tuple[int, int]  # width, height in pixels
STEP = 64
MOST = 2.5  # times as long as broad


def bucket_sizes(resolution: int) -> list[Size]:
    """The square of `resolution` and sizes of about its area, sides in multiples of 64, from tall to broad.

    Raises SettingError for a resolution that is no multiple of 64.
    """
    if resolution % STEP:
        below = resolution // STEP * STEP
        raise SettingError(
            f"resolution {resolution} is no multiple of {STEP}, as buckets need it: use {below or STEP} or "
            f"{below + STEP}."
        )
    area = resolution**2
    broad: dict[int, int] = {}
    for long in range(resolution, int(resolution * MOST) + 1, STEP):
        short = max(STEP, round(area / long / STEP) * STEP)
        if long / short <= MOST and abs(long * short - area) < abs(broad.get(short, 0) * short - area):
            broad[short] = long
    sizes = {(long, short) for short, long in broad.items()}
    return sorted(sizes | {(height, width) for width, height in sizes}, key=lambda size: size[0] / size[1])


def nearest(sizes: Sequence[Size], size: Size) -> Size:
    """Of `sizes` the one whose shape is most like that of a picture of `size`."""
    shape = math.log(size[0] / size[1])
    return min(sizes, key=lambda other: abs(math.log(other[0] / other[1]) - shape))


def batches_of_one_size(
    wanted: Sequence[Size], sizes: Sequence[Size], batch: int, seed: int, number: int
) -> list[tuple[int, Size]]:
    """An order of pictures in which every `batch` of them have one size.

    What does not fill a batch of its size joins the next one toward the square, so that rare shapes are seen, too, if
    cut more; what is left of the square, fewer than a batch, is left out.

    Args:
        wanted: the size that is nearest to each picture's.
        sizes: all there are, from tall to broad.
        seed, number: what the order of the batches depends on.

    Returns:
        Which picture, and its size now.
    """
    groups: list[list[int]] = [[at for at, size in enumerate(wanted) if size == each] for each in sizes]
    square = len(sizes) // 2
    inward = [*((at, at + 1) for at in range(square)), *((at, at - 1) for at in range(len(sizes) - 1, square, -1))]
    for at, toward in inward:
        full = len(groups[at]) // batch * batch
        groups[toward] += groups[at][full:]
        del groups[at][full:]
    batches = [
        [(picture, size) for picture in group[start : start + batch]]
        for group, size in zip(groups, sizes, strict=True)
        for start in range(0, len(group) // batch * batch, batch)
    ]
    return [item for at in permutation(len(batches), seed, "batches", number).tolist() for item in batches[at]]
