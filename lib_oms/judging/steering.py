"""Measures whether pictures obey what steers them: colors, splits in two and gradients, strength and trims.

psi has no part in it: x0hat comes from the VAE, so what is measured is the step and the denoiser.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from lib_oms.judging import metrics
from lib_oms.judging.painter import OBEDIENCE_PROMPT, Painter

LAYOUT = 16
"""Pixels of a side of the splits and gradients that are asked for."""
MODIFIED = {
    "darker": {"brightness": -0.3},
    "brighter": {"brightness": 0.3},
    "less_color": {"saturation": -0.5},
    "more_color": {"saturation": 0.5},
}
STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5)
"""Of black, from the picture as it is to more than black."""


@dataclass
class ColorEvaluation:
    """How well colors that were asked for came: CIEDE2000 of backgrounds, of which 2.3 is just noticeable."""

    model: str
    sampler: str
    steps: int
    cfg: float
    quiet: int
    eta: float
    colors: int
    each: int
    seed: int
    ciede2000_mean: float
    ciede2000_p95: float
    seconds: float


@dataclass
class SplitEvaluation:
    """How well splits in two colors and gradients that were asked for came: the correlation of the picture asked and
    the picture made, both made smaller to 4 x 4.
    """

    model: str
    sampler: str
    steps: int
    cfg: float
    quiet: int
    splits: int
    each: int
    seed: int
    correlation_mean: float
    correlation_least: float
    seconds: float


@dataclass
class ModifierEvaluation:
    """How reliably strength and the trims act, seed by seed; shares 0..1."""

    model: str
    sampler: str
    steps: int
    cfg: float
    seeds: int
    seed: int
    strength_monotone: float
    """Share of seeds whose picture becomes darker with every bit of strength towards black."""
    strength_brightness: list[float]
    """The pictures' mean brightness at each of STRENGTHS."""
    darker: float
    brighter: float
    less_color: float
    more_color: float
    """Shares of seeds that a trim moves the way that it says."""
    seconds: float


def evaluate_colors(
    painter: Painter, *, variant: str, sampler: str, steps: int, cfg: float, quiet: int, eta: float, count: int,
    seed: int, each: int,
) -> ColorEvaluation:  # fmt: skip
    """Measures `count` random colors, each asked for by `each` pictures; psi has no part in it."""
    began = time.monotonic()
    rng = np.random.default_rng((seed, 2))
    asked = rng.integers(0, 256, (count, 3))
    backgrounds = []
    with tqdm(total=count * each, desc=f"{variant}, {sampler}, CFG {cfg:g}, colors", unit="picture") as bar:
        painter.progress = bar.update
        for number, rgb in enumerate(asked):
            color = "#{:02x}{:02x}{:02x}".format(*rgb)
            pictures = painter.paint(
                [OBEDIENCE_PROMPT] * each, oms=True, first=30_000 + number * each, color=color, quiet=quiet
            )
            backgrounds.append(metrics.background_colors(pictures))
    differences = metrics.color_differences(np.concatenate(backgrounds), np.repeat(asked / 255, each, axis=0))
    return ColorEvaluation(
        model=variant, sampler=sampler, steps=steps, cfg=cfg, quiet=quiet, eta=eta, colors=count, each=each, seed=seed,
        ciede2000_mean=float(differences.mean()),
        ciede2000_p95=float(np.percentile(differences, 95)),
        seconds=round(time.monotonic() - began, 1),
    )  # fmt: skip


def layouts(count: int, seed: int) -> np.ndarray:
    """Splits in two random colors and gradients between them by turns, in random directions, [count, 16, 16, 3], 0..1.
    The two colors differ by a third of the range of brightness at least.
    """
    rng = np.random.default_rng((seed, 3))
    x, y = np.meshgrid(*[np.linspace(-1, 1, LAYOUT)] * 2)
    made: list[np.ndarray] = []
    while len(made) < count:
        one, other = rng.uniform(0, 1, (2, 3))
        if abs(one.mean() - other.mean()) < 1 / 3:
            continue
        angle = rng.uniform(0, 2 * np.pi)
        along = x * np.cos(angle) + y * np.sin(angle)
        share = (along > 0).astype(float) if len(made) % 2 == 0 else (along - along.min()) / np.ptp(along)
        made.append(one + share[..., None] * (other - one))
    return np.stack(made)


def evaluate_splits(
    painter: Painter, *, variant: str, sampler: str, steps: int, cfg: float, quiet: int, count: int, seed: int,
    each: int,
) -> SplitEvaluation:  # fmt: skip
    """Measures `count` splits in two colors and gradients, each asked for by `each` pictures."""
    began = time.monotonic()
    correlations = []
    with tqdm(total=count * each, desc=f"{variant}, {sampler}, CFG {cfg:g}, splits", unit="picture") as bar:
        painter.progress = bar.update
        for number, layout in enumerate(layouts(count, seed)):
            pictures = painter.paint(
                [OBEDIENCE_PROMPT] * each, oms=True, first=40_000 + number * each, source="picture",
                picture=Image.fromarray(np.round(layout * 255).astype(np.uint8)), quiet=quiet,
            )  # fmt: skip
            correlations += [metrics.layout_agreement(layout, picture) for picture in pictures]
    return SplitEvaluation(
        model=variant, sampler=sampler, steps=steps, cfg=cfg, quiet=quiet, splits=count, each=each, seed=seed,
        correlation_mean=float(np.mean(correlations)),
        correlation_least=float(np.min(correlations)),
        seconds=round(time.monotonic() - began, 1),
    )  # fmt: skip


def evaluate_modifiers(
    painter: Painter, *, variant: str, sampler: str, steps: int, cfg: float, seeds: int, seed: int
) -> ModifierEvaluation:
    """Measures `seeds` pictures at each strength towards black, and with each trim."""
    began = time.monotonic()
    prompts = [OBEDIENCE_PROMPT] * seeds

    def made(given: Mapping[str, Any]) -> np.ndarray:
        return painter.paint(prompts, oms=True, first=50_000, **given)

    with tqdm(
        total=seeds * (len(STRENGTHS) + len(MODIFIED) + 1), desc=f"{variant}, {sampler}, modifiers", unit="picture"
    ) as bar:
        painter.progress = bar.update
        means = [
            metrics.picture_means(made({"color": "#000000", "quiet": 4, "strength": strength}))
            for strength in STRENGTHS
        ]
        usual, *moved = (made({"source": "none", **trim}) for trim in ({}, *MODIFIED.values()))
    ladder = np.stack(means)
    darker, brighter = ((metrics.picture_means(p) - metrics.picture_means(usual)) for p in moved[:2])
    less, more = ((metrics.colorfulness(p) - metrics.colorfulness(usual)) for p in moved[2:])
    return ModifierEvaluation(
        model=variant, sampler=sampler, steps=steps, cfg=cfg, seeds=seeds, seed=seed,
        strength_monotone=float((np.diff(ladder, axis=0) <= 1 / 255).all(axis=0).mean()),
        strength_brightness=[round(float(mean), 4) for mean in ladder.mean(axis=1)],
        darker=float((darker < 0).mean()),
        brighter=float((brighter > 0).mean()),
        less_color=float((less < 0).mean()),
        more_color=float((more > 0).mean()),
        seconds=round(time.monotonic() - began, 1),
    )  # fmt: skip
