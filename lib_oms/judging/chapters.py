"""What a report says: of two folders, of the tests of brightness and color, of radii, of the embedded model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from lib_oms.judging import metrics, plots, report
from lib_oms.judging.asked import BRIGHTNESS_PROMPTS
from lib_oms.judging.by_library import Measure
from lib_oms.judging.folders import ColorErrors, Findings, Folder, PromptBrightness, caption_of, pair_up
from lib_oms.judging.radius import Latents, Radius
from lib_oms.judging.report import Report, Shown, Table

if TYPE_CHECKING:
    from lib_oms.judging.evaluate import Evaluation, Pictures

GRAYS = "gray levels, 0 to 255"
_WASSERSTEIN_NOTE = (
    "Wasserstein: the distance between the distributions of the pictures' means and of real pictures' means, in gray "
    "levels of 0 to 255; lower is better. The paper's figures are of other captions and real pictures, so they compare "
    "in kind, not digit by digit; its FID is by the features of Inception."
)


@dataclass
class Result:
    """All that one call of the command has found; what was not asked for is None or empty."""

    folders: Findings | None = None
    measures: list[Measure] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    brightness_test: list[PromptBrightness] = field(default_factory=list)
    color_test: list[ColorErrors] = field(default_factory=list)
    radius: list[Radius] = field(default_factory=list)
    latents: Latents | None = None
    lost: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Sides:
    """The folders whose pictures a report shows."""

    raw: Folder
    oms: Folder
    reference: Folder | None = None


def of_result(result: Result, facts: dict[str, str], judged: Sides | None, tests: Sequence[Sides]) -> Report:
    """The report of what the command has found.

    Args:
        judged: the folders that `result.folders` is of.
        tests: those of the tests of brightness and color, for their pictures.
    """
    made = Report("What One More Step does to these pictures", facts, left_out=[*result.left_out])
    if result.folders is not None and judged is not None:
        _add_folders(made, result.folders, result.measures, judged)
    if result.brightness_test:
        _add_brightness(made, result.brightness_test)
    if result.color_test:
        made.tables.append(_colors(result.color_test))
    if result.radius and result.latents is not None:
        _add_radius(made, result.radius, result.latents)
    if result.lost:
        made.tables.append(Table("Lost pairs", ["pair", "why"], sorted(result.lost.items())))
    made.pairs = [pair for sides in ([judged] if judged else []) + [*tests] for pair in _shown(sides)]
    return made


def of_embedded(result: Evaluation, pictures: Pictures) -> Report:
    """The report of the embedded model's pictures."""
    facts = {
        "model": f"embedded, {result.model}", "sampler": result.sampler, "steps": str(result.steps),
        "CFG": f"{result.cfg:g}", "pictures": str(result.count), "seed": str(result.seed),
    }  # fmt: skip
    made = Report("What One More Step does to the embedded model", facts)
    made.headline = [
        ("Distance in brightness", f"{result.wasserstein_raw:.1f} \u2192 {result.wasserstein_oms:.1f}", GRAYS),
        ("Black background", f"{result.mean_black_raw:.2f} \u2192 {result.mean_black:.2f}", "mean, 0 to 1"),
        ("White background", f"{result.mean_white_raw:.2f} \u2192 {result.mean_white:.2f}", "mean, 0 to 1"),
        ("Follows the OMS prompt", f"{result.obedience_spearman:.2f}", "rank correlation over seven grays"),
    ]
    made.plots.append(
        report.brightness_plot(
            {
                "data": metrics.picture_means(pictures.data / np.float32(255)),
                "raw": metrics.picture_means(pictures.raw),
                "One More Step": metrics.picture_means(pictures.oms),
            },
            "Vertical axis: logarithmic, as in the paper's figure.",
        )
    )
    bars = [
        ("black background", result.mean_black_raw, result.mean_black),
        ("white background", result.mean_white_raw, result.mean_white),
    ]
    made.plots.append(report.prompts_plot(bars))
    measures = {"Wasserstein": (result.wasserstein_raw, result.wasserstein_oms)}
    made.tables.append(report.with_the_paper("Measures", measures, _WASSERSTEIN_NOTE))
    shapes = [
        ["asked shapes that came", f"{result.shape_accuracy_raw:.0%}", f"{result.shape_accuracy:.0%}"],
        ["their asked colors", f"{result.foreground_accuracy_raw:.0%}", f"{result.foreground_accuracy:.0%}"],
    ]
    made.tables.append(Table("What is in the picture", ["", "raw", "One More Step"], shapes))
    rows = [
        ["share of the asked range of grays that came", f"{result.obedience_range:.0%}"],
        ["asked colors that came", f"{result.color_accuracy:.0%}"],
        ["error of backgrounds that captions name (RGB distance, 0 to 1.73)", f"{result.background_error:.3f}"],
        ["composition that stays (correlation of edges)", f"{result.composition:.2f}"],
    ]
    made.tables.append(Table("With One More Step", ["", "value"], rows))
    made.pairs = [
        Shown(pictures.captions[i], plots.to_image(pictures.raw[i]), plots.to_image(pictures.oms[i]))
        for i in report.spread_over(len(pictures.captions))
    ]
    return made


def _add_folders(made: Report, found: Findings, measures: Sequence[Measure], judged: Sides) -> None:
    made.headline = [
        ("Mean brightness", f"{found.mean_raw:.2f} \u2192 {found.mean_oms:.2f}", "raw \u2192 One More Step, 0 to 1"),
        ("Spread of brightness", f"{found.spread_raw:.2f} \u2192 {found.spread_oms:.2f}", "standard deviation"),
    ]
    table: dict[str, tuple[float, float]] = {}
    if found.wasserstein_raw is not None and found.wasserstein_oms is not None:
        table["Wasserstein"] = (found.wasserstein_raw, found.wasserstein_oms)
        distance = f"{found.wasserstein_raw:.1f} \u2192 {found.wasserstein_oms:.1f}"
        made.headline = [("Distance to real pictures", distance, GRAYS), *made.headline]
    else:
        made.left_out = ["Wasserstein distance: no real pictures given; give --reference", *made.left_out]
    if found.composition is not None:
        made.headline = [*made.headline, ("Composition that stays", f"{found.composition:.2f}", "correlation of edges")]
    table |= {measure.name: (measure.raw, measure.oms) for measure in measures}
    table |= {
        "mean brightness": (found.mean_raw, found.mean_oms),
        "spread of brightness": (found.spread_raw, found.spread_oms),
        "colorfulness": (found.colorfulness_raw, found.colorfulness_oms),
    }
    made.tables.append(report.with_the_paper("Measures", table, _WASSERSTEIN_NOTE))
    kinds = {"data": judged.reference.means} if judged.reference else {}
    made.plots.append(
        report.brightness_plot(
            {**kinds, "raw": judged.raw.means, "One More Step": judged.oms.means},
            "Vertical axis: logarithmic, as in the paper's figure.",
        )
    )


def _add_brightness(made: Report, found: Sequence[PromptBrightness]) -> None:
    rows = [(BRIGHTNESS_PROMPTS.get(row.name, row.name), row.raw, row.oms) for row in found]
    made.plots.append(report.prompts_plot(rows))
    made.tables.append(
        Table(
            "Brightness test",
            ["prompt", "pictures", "raw", "One More Step"],
            [
                [prompt, str(row.pictures), f"{raw:.3f}", f"{oms:.3f}"]
                for row, (prompt, raw, oms) in zip(found, rows, strict=True)
            ],
            "Mean brightness, 0 (black) to 1 (white). The four prompts are SingDiffusion's (Zhang et al., CVPR 2024).",
        )
    )


def _colors(found: Sequence[ColorErrors]) -> Table:
    ways = {"name": "by name, the step follows the prompt", "code": "by code, the step follows the color"}
    rows = [
        [ways[row.way], str(row.pictures)]
        + [f"{value:.1f}" for value in (row.mean_raw, row.mean_oms, row.p95_raw, row.p95_oms)]
        for row in found
    ]
    head = ["forty colors", "pictures", "raw", "One More Step", "raw, worst 5 %", "One More Step, worst 5 %"]
    note = "Error of the background's color in CIEDE2000, the mean and what 5 % exceed; 2.3 is just noticeable."
    return Table("Color test", head, rows, note)


def _add_radius(made: Report, radii: Sequence[Radius], latents: Latents) -> None:
    note = (
        f"Latents: {latents.source}, {latents.numbers} numbers each. r: root mean square of a noisy latent's distance "
        "from the origin; mean: that of the mean of one of its channels."
    )
    head = ["timestep", "SNR", "r in training", "r at the start of sampling", "mean in training", "mean in sampling"]
    rows = [
        [str(r.timestep), f"{r.snr:.3g}", f"{r.radius_training:.2f}", f"{r.radius_sampling:.2f}",
         f"{r.mean_training:.4f}", f"{r.mean_sampling:.4f}"]
        for r in radii
    ]  # fmt: skip
    made.tables.append(Table("Training and sampling, by timestep", head, rows, note))
    made.plots.append(report.radius_plot(radii))


def _shown(sides: Sides) -> list[Shown]:
    names = pair_up(sides.raw, sides.oms)
    return [
        Shown(caption_of(sides.oms.paths[name]) or name, _open(sides.raw, name), _open(sides.oms, name))
        for name in (names[index] for index in report.spread_over(len(names)))
    ]


def _open(folder: Folder, name: str) -> Image.Image:
    with Image.open(folder.paths[name]) as picture:
        return picture.convert("RGB")


def as_lines(result: dict[str, Any], before: str = "") -> list[tuple[str, str]]:
    """What was found, nested as JSON has it, as names and texts for the console."""
    lines: list[tuple[str, str]] = []
    for name, value in result.items():
        if isinstance(value, dict):
            lines += as_lines(value, f"{before}{name} ")
        elif isinstance(value, list):
            for entry in value:
                if isinstance(entry, dict):
                    first, *rest = entry.items()
                    lines += as_lines(dict(rest), f"{before}{name} {first[1]} ")
                else:
                    lines.append((f"{before}{name}", str(entry)))
        elif value is not None:
            lines.append((f"{before}{name}", f"{value:.4f}" if isinstance(value, float) else str(value)))
    return lines
