"""Measures what One More Step does to the embedded model's pictures: `python -m lib_oms evaluate --embedded`.

Every pair of pictures, raw and OMS, starts from the same noise. The captions and the data they are compared with come
from `draw.evaluation_set`, whose scenes no training has seen.
"""

from __future__ import annotations

import colorsys
import time
from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from lib_oms.embedded import draw
from lib_oms.embedded.shapes import classify
from lib_oms.judging import metrics
from lib_oms.judging.painter import OBEDIENCE_PROMPT, Painter

LADDER = {
    f"{name} background": (low + min(high, 1.0)) / 2
    for low, (high, name) in zip([0.0, *(bound for bound, _ in draw.GRAYS)], draw.GRAYS, strict=False)
}
"""Gray backgrounds from black to white: the middle of what each name means."""
ASKED_COLORS = ("red", "green", "blue", "yellow")
NAMED = {name: colorsys.hsv_to_rgb(*hsv) for name, hsv in draw.COLORS.items()} | {
    "black": (0.02,) * 3,
    "gray": (0.5,) * 3,
    "white": (0.98,) * 3,
}
"""The colors that captions name, RGB 0..1."""


@dataclass
class Evaluation:
    """What was measured. Distances in gray levels (0..255), means, ranges, spread and error of the background 0..1."""

    model: str
    sampler: str
    steps: int
    cfg: float
    oms_guidance_scale: float
    quiet: int
    eta: float
    count: int
    seed: int
    wasserstein_raw: float
    wasserstein_oms: float
    ratio: float
    mean_black: float
    mean_white: float
    mean_black_raw: float
    mean_white_raw: float
    obedience_spearman: float
    obedience_range: float
    color_accuracy: float
    background_spread: float
    """Standard deviation, over seeds, of the background's brightness for "gray background"."""
    background_error: float
    """Mean distance of backgrounds from those that the captions name."""
    composition: float
    """How much of the seed's composition stays: agreement of edges with the picture without One More Step."""
    shape_accuracy: float
    shape_accuracy_raw: float
    foreground_accuracy: float
    foreground_accuracy_raw: float
    seconds: float


@dataclass
class Pictures:
    """What the pictures of an evaluation are made from; see `evaluate`."""

    captions: list[str]
    data: np.ndarray
    raw: np.ndarray
    oms: np.ndarray
    ladder: np.ndarray


def evaluate(
    painter: Painter, *, variant: str, sampler: str, steps: int, cfg: float, scale: float, quiet: int, eta: float,
    count: int, seed: int, small: int,
) -> tuple[Evaluation, Pictures]:  # fmt: skip
    """Measures distances on `count` captions; black, white and obedience on `small` pictures a prompt."""
    began = time.monotonic()
    total = 2 * count + 4 * small + (len(LADDER) + len(ASKED_COLORS)) * small
    with tqdm(total=total, desc=f"{variant}, {sampler}, CFG {cfg:g}", unit="picture") as bar:
        painter.progress = bar.update
        scenes = draw.evaluation_scenes(count, seed)
        data, captions = draw.evaluation_set(count, seed)
        data_means = metrics.picture_means(data / np.float32(255))
        raw, oms = (painter.paint(captions, oms=flag) for flag in (False, True))
        ends = {
            (name, flag): metrics.picture_means(
                painter.paint([f"{name} background"] * small, oms=flag, first=10_000)
            ).mean()
            for name in ("black", "white")
            for flag in (False, True)
        }

        def obey(prompts: list[str]) -> np.ndarray:
            asked = [prompt for prompt in prompts for _ in range(small)]
            return painter.paint([OBEDIENCE_PROMPT] * len(asked), oms=True, oms_prompts=asked, first=20_000)

        ladder = obey(list(LADDER))
        measured = metrics.background_colors(ladder).mean(axis=1)
        asked = np.repeat(list(LADDER.values()), small)
        by_prompt = measured.reshape(len(LADDER), small).mean(axis=1)
        colors = metrics.background_colors(obey([f"{name} background" for name in ASKED_COLORS]))
        hits = [
            metrics.nearest_color(color, NAMED) == ASKED_COLORS[index // small] for index, color in enumerate(colors)
        ]
    distances = [metrics.wasserstein(metrics.picture_means(pictures), data_means) for pictures in (raw, oms)]
    result = Evaluation(
        model=variant, sampler=sampler, steps=steps, cfg=cfg, oms_guidance_scale=scale, quiet=quiet, eta=eta,
        count=count, seed=seed,
        wasserstein_raw=distances[0],
        wasserstein_oms=distances[1],
        ratio=distances[0] / max(distances[1], 1e-9),
        mean_black=float(ends["black", True]),
        mean_white=float(ends["white", True]),
        mean_black_raw=float(ends["black", False]),
        mean_white_raw=float(ends["white", False]),
        obedience_spearman=metrics.spearman(asked, measured),
        obedience_range=float((by_prompt[-1] - by_prompt[0]) / (asked[-1] - asked[0])),
        color_accuracy=float(np.mean(hits)),
        background_spread=float(measured.reshape(len(LADDER), small)[list(LADDER).index("gray background")].std()),
        background_error=metrics.background_error(oms, data / np.float32(255)),
        composition=metrics.edge_agreement(raw, oms),
        shape_accuracy=shape_accuracy(scenes, oms),
        shape_accuracy_raw=shape_accuracy(scenes, raw),
        foreground_accuracy=foreground_accuracy(scenes, oms),
        foreground_accuracy_raw=foreground_accuracy(scenes, raw),
        seconds=round(time.monotonic() - began, 1),
    )  # fmt: skip
    return result, Pictures(captions, data, raw, oms, ladder)


def shape_accuracy(scenes: list[tuple[draw.Scene, str]], pictures: np.ndarray) -> float:
    """How often a picture shows the shape that its caption names, by `embedded.shapes`."""
    asked = [draw.SHAPES.index(scene.shapes[0].name) for scene, _ in scenes]
    return float(np.mean(classify(pictures) == asked))


def foreground_accuracy(scenes: list[tuple[draw.Scene, str]], pictures: np.ndarray) -> float:
    """How often the foreground is nearest to the color that a caption names, of those captions that name one."""
    colors = metrics.foreground_colors(pictures)
    hits = [
        metrics.nearest_color(color, NAMED) == scene.shapes[0].color_name
        for (scene, text), color in zip(scenes, colors, strict=True)
        if f"{scene.shapes[0].color_name} {scene.shapes[0].name}" in text
    ]
    return float(np.mean(hits)) if hits else float("nan")
