"""One HTML file that shows what was found: pictures side by side, plots and tables, all of it within the file."""

from __future__ import annotations

import base64
import io
import re
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import jinja2
import matplotlib
import numpy as np
from PIL import Image

from lib_oms import __version__
from lib_oms.files.disk import written_whole
from lib_oms.judging.radius import Radius

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FormatStrFormatter, LogLocator, NullLocator

PAPER = {
    "SD1.5": {
        "Wasserstein": (22.47, 7.84), "CLIP score": (0.2641, 0.2645), "ImageReward": (0.1991, 0.2289),
        "PickScore": (21.49, 21.55), "FID": (12.52, 14.74),
    },
    "SD2.1": {
        "Wasserstein": (21.63, 7.70), "CLIP score": (0.2624, 0.2628), "ImageReward": (0.4501, 0.4565),
        "PickScore": (21.80, 21.82), "FID": (14.10, 15.72),
    },
    "SDXL": {
        "Wasserstein": (11.08, 7.25), "CLIP score": (0.2669, 0.2679), "ImageReward": (0.8246, 0.8730),
        "PickScore": (22.51, 22.52), "FID": (13.14, 13.29),
    },
}  # fmt: skip
"""The paper's figures, raw and with OMS, on 10,000 captions of COCO."""
SHOWN = 24
"""Pairs of pictures in a report."""
THUMBNAIL = 224
RAW, OMS, DATA = "#d1495b", "#2f7fc1", "#8d8d8d"
"""Colors of the plots, which are told apart on white and on black."""
_INK = "#010203"
"""Stands in a plot for the color of the page's text."""
_DIGITS = {"CLIP score": 4, "ImageReward": 4}


@dataclass(frozen=True)
class Shown:
    """One pair of pictures."""

    caption: str
    raw: Image.Image
    oms: Image.Image


@dataclass(frozen=True)
class Table:
    """A table of texts; the first column names the row."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""


@dataclass(frozen=True)
class Plot:
    """A plot as SVG, whose lines and letters have the page's color."""

    title: str
    svg: str
    note: str = ""


@dataclass
class Report:
    """What is written, in this order."""

    title: str
    facts: Mapping[str, str]
    headline: Sequence[tuple[str, str, str]] = ()
    """Large numbers: what, the number, and a line below it."""
    tables: list[Table] = field(default_factory=list)
    plots: list[Plot] = field(default_factory=list)
    pairs: Sequence[Shown] = ()
    left_out: Sequence[str] = ()


def write(report: Report, path: Path) -> Path:
    """Writes the report; it needs no other file and no network."""
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["inline"] = _inline
    page = (Path(__file__).with_name("report.html")).read_text(encoding="utf-8")
    text = environment.from_string(page).render(
        report=report, version=__version__, date=f"{datetime.now():%Y-%m-%d %H:%M}"
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(path) as part:
        part.write_text(text, encoding="utf-8")
    return path


def with_the_paper(title: str, measures: Mapping[str, tuple[float, float]], note: str = "") -> Table:
    """A table of measures, raw and OMS, with the paper's figures of the same measure beside them."""
    rows = []
    for name, pair in measures.items():
        paper = (PAPER[model].get(name) for model in PAPER)
        rows.append([name, *(_number(name, value) for value in pair), *(_arrow(name, two) for two in paper)])
    return Table(title, ["", "raw", "One More Step", *(f"paper, {model}" for model in PAPER)], rows, note)


def brightness_plot(kinds: Mapping[str, np.ndarray], note: str = "") -> Plot:
    """The log-frequency histogram of picture means of the paper, of "data", "raw" and "One More Step"; means 0..1."""
    figure, axes = _figure()
    bins = np.linspace(0, 255, 33).tolist()
    for name, means in kinds.items():
        if name == "data":
            axes.hist(
                means * 255, bins=bins, log=True, color=DATA, alpha=0.4, label=name, density=True, histtype="stepfilled"
            )
        else:
            color = RAW if name == "raw" else OMS
            axes.hist(
                means * 255, bins=bins, log=True, color=color, label=name, density=True, histtype="step", linewidth=2
            )
    axes.set_xlabel("mean of a picture, 0 to 255")
    axes.set_ylabel("share of pictures")
    axes.set_yticks([])
    axes.minorticks_off()
    return _plot("How bright the pictures are", figure, axes, note)


def prompts_plot(rows: Sequence[tuple[str, float, float]], note: str = "") -> Plot:
    """Bars of the mean brightness by prompt, raw and OMS, 0..1."""
    figure, axes = _figure(height=0.8 + 0.6 * len(rows))
    places = np.arange(len(rows))
    for offset, color, label, values in (
        (-0.19, RAW, "raw", [row[1] for row in rows]),
        (0.19, OMS, "One More Step", [row[2] for row in rows]),
    ):
        bars = axes.barh(places + offset, values, 0.36, color=color, label=label)
        axes.bar_label(bars, fmt="%.2f", padding=3, color=_INK, fontsize=9)
    axes.set_yticks(places, [textwrap.fill(row[0], 24) for row in rows])
    axes.invert_yaxis()
    axes.set_xlim(0, 1.08)
    axes.set_xlabel("mean brightness, 0 (black) to 1 (white)")
    return _plot("Brightness by prompt", figure, axes, note)


def radius_plot(radii: Sequence[Radius], note: str = "") -> Plot:
    """Both spreads of a channel's mean by timestep."""
    figure, axes = _figure()
    steps = [radius.timestep for radius in radii]
    axes.plot(steps, [radius.mean_training for radius in radii], color=OMS, marker="o", label="training sees")
    axes.plot(steps, [radius.mean_sampling for radius in radii], color=RAW, marker="o", label="sampling starts with")
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FormatStrFormatter("%g"))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("timestep")
    axes.set_ylabel("spread of a latent's mean")
    return _plot("What a noisy latent says of brightness and color", figure, axes, note)


def spread_over(count: int, most: int = SHOWN) -> list[int]:
    """Numbers of `most` items at most, spread evenly over `count`."""
    return sorted({round(index) for index in np.linspace(0, count - 1, min(count, most))}) if count else []


def _figure(height: float = 3.0) -> tuple[Figure, Axes]:
    figure, axes = plt.subplots(figsize=(5.6, height), layout="constrained")
    figure.patch.set_alpha(0)
    axes.patch.set_alpha(0)
    return figure, axes


def _plot(title: str, figure: Figure, axes: Axes, note: str) -> Plot:
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for spine in axes.spines.values():
        spine.set_color(_INK)
    axes.tick_params(which="both", colors=_INK)
    axes.xaxis.label.set_color(_INK)
    axes.yaxis.label.set_color(_INK)
    figure.legend(frameon=False, labelcolor=_INK, fontsize=9, loc="outside upper center", ncols=3)
    file = io.StringIO()
    # Names within a file must differ from plot to plot, as all of them come into one page.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": title, "font.family": "sans-serif"}):
        figure.savefig(file, format="svg", metadata={"Date": None})
    plt.close(figure)
    svg = file.getvalue()
    svg = svg[svg.index("<svg") :].replace(_INK, "currentColor")
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    return Plot(title, re.sub(r"font: ([\d.]+px) [^;]*;", r"font: \1 system-ui, sans-serif;", svg), note)


def _inline(picture: Image.Image) -> str:
    """A picture made small, as the address of an <img>."""
    small = picture.convert("RGB")
    small.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    small.save(file, "JPEG", quality=88)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"


def _number(name: str, value: float) -> str:
    return f"{value:.{_DIGITS.get(name, 2 if abs(value) >= 10 else 3)}f}"


def _arrow(name: str, pair: tuple[float, float] | None) -> str:
    return "" if pair is None else " \u2192 ".join(f"{value:.{_DIGITS.get(name, 2)}f}" for value in pair)
