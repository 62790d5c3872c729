"""The two pictures that people understand: raw against OMS, and the histogram of brightness that the paper shows."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from lib_oms.judging import metrics

matplotlib.use("Agg")
from matplotlib import pyplot as plt

if TYPE_CHECKING:
    from lib_oms.judging.evaluate import Evaluation, Pictures

TILE, MARGIN, CAPTION = 128, 8, 40


def to_image(picture: np.ndarray) -> Image.Image:
    """A picture [H, W, 3], 0..1, as 8 bit."""
    return Image.fromarray(np.round(np.clip(picture, 0, 1) * 255).astype(np.uint8), "RGB")


def _wrap(text: str, width: int, pen: ImageDraw.ImageDraw, font: ImageFont.ImageFont) -> str:
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if pen.textlength(longer, font=font) <= width or not lines[-1]:
            lines[-1] = longer
        else:
            lines.append(word)
    return "\n".join(lines)


def grid(captions: list[str], raw: np.ndarray, oms: np.ndarray, path: Path, columns: int = 10) -> Path:
    """Two rows of pictures, raw above OMS, captions above both; pictures spread evenly over those given."""
    picks = np.unique(np.linspace(0, len(captions) - 1, columns).round().astype(int))
    font = ImageFont.load_default()
    side = 48
    width = side + len(picks) * (TILE + MARGIN) + MARGIN
    sheet = Image.new("RGB", (width, CAPTION + 2 * (TILE + MARGIN) + MARGIN), "white")
    pen = ImageDraw.Draw(sheet)
    for row, (name, pictures) in enumerate((("raw", raw), ("OMS", oms))):
        top = CAPTION + row * (TILE + MARGIN)
        pen.text((MARGIN, top + TILE // 2 - 6), name, fill="black", font=font)
        for column, index in enumerate(picks):
            left = side + column * (TILE + MARGIN)
            sheet.paste(to_image(pictures[index]).resize((TILE, TILE), Image.Resampling.LANCZOS), (left, top))
            pen.rectangle([left - 1, top - 1, left + TILE, top + TILE], outline=(160, 160, 160))
            if row == 0:
                pen.text((left, 4), _wrap(captions[index], TILE, pen, font), fill="black", font=font, spacing=1)
    sheet.save(path)
    return path


def histogram(pictures: Pictures, result: Evaluation, path: Path) -> Path:
    """Log-frequency histogram of picture means, as in the paper's figure: data, raw samples, samples with OMS."""
    figure, axes = plt.subplots(figsize=(7, 3.6), dpi=110)
    bins = np.linspace(0, 255, 33)
    kinds = (
        ("data", pictures.data / np.float32(255), "#808080", True),
        (f"raw (distance {result.wasserstein_raw:.1f})", pictures.raw, "#c0392b", False),
        (f"One More Step (distance {result.wasserstein_oms:.1f})", pictures.oms, "#1f6fb4", False),
    )
    for label, images, color, filled in kinds:
        means = metrics.picture_means(images) * 255
        line: dict[str, Any] = {"histtype": "step", "linewidth": 1.8}
        kind = {"histtype": "stepfilled", "alpha": 0.35} if filled else line
        axes.hist(means, bins=bins.tolist(), log=True, color=color, label=label, **kind)
    axes.set_xlabel("mean of a picture (0 to 255)")
    axes.set_ylabel("pictures")
    axes.set_title(
        f"{result.count} pictures, {result.sampler}, {result.steps} steps, CFG {result.cfg:g}, model: {result.model}",
        fontsize=10,
    )
    axes.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path)
    plt.close(figure)
    return path
