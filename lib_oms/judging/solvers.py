"""Compares solvers on the embedded model: what changes with sampler, scale, steps, and the noise of the step.

Each row differs in one thing from the first. What a row has found is a file, so that a comparison goes on where it was
ended.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor

from lib_oms.errors import OMSError
from lib_oms.files.disk import read_json, written_whole
from lib_oms.judging.evaluate import evaluate
from lib_oms.judging.painter import SAMPLERS, Painter
from lib_oms.judging.report import Table
from lib_oms.pipeline import OneMoreStep
from lib_oms.step import FirstStep

ETAS = (0.5, 1.0)
SCALES = (1.0, 2.0, 5.0, 7.5, 10.0)
STEPS = (4, 8, 12, 50)
SHOWN = {
    "wasserstein_raw": "Wasserstein, raw",
    "wasserstein_oms": "with One More Step",
    "ratio": "ratio",
    "mean_black": "black",
    "mean_white": "white",
    "obedience_spearman": "rank correlation",
    "composition": "composition",
}
_DIGITS = {"wasserstein_raw": 1, "wasserstein_oms": 2, "ratio": 1, "mean_black": 3, "mean_white": 3}
_NOTE = (
    "Wasserstein: the distance between the brightness of samples and of data, in gray levels of 0 to 255. Black, "
    "white: mean brightness of that background, 0 to 1. Rank correlation: of the gray that was asked for and the one "
    "that came. Composition: what stays of the raw picture's edges."
)


class AuthorsStep(OneMoreStep):
    """The step as the authors' pipeline takes it: it multiplies fresh noise by 1 - a where sqrt(1 - a) is meant."""

    def _fresh_noise(self, noise: Tensor, generator: Any, first: FirstStep) -> Tensor:
        return super()._fresh_noise(noise, generator, first) * (first.sigma / math.hypot(1.0, first.sigma))


def variations(first: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Names and settings of the rows: `first`, and what differs from it in one of its values."""
    yield f"{first['sampler']}, CFG {first['cfg']:g}, {first['steps']} steps", dict(first)
    for name, values, words in (
        ("eta", ETAS, "eta {:g}"),
        ("sampler", SAMPLERS, "{}"),
        ("cfg", SCALES, "CFG {:g}"),
        ("steps", STEPS, "{} steps"),
    ):
        for value in values:
            if value != first[name]:
                yield words.format(value), {**first, name: value}
    yield "eta 1, the authors' noise term", {**first, "eta": 1.0, "authors": True}


def compare(
    first: Mapping[str, Any], oms: Mapping[str, Any], *, variant: str, seed: int, count: int, small: int, out: Path,
    folder: Path | None = None, device: str = "cpu",
) -> dict[str, dict[str, Any]]:  # fmt: skip
    """Measures every row of `variations`; gives `evaluate.Evaluation`s as dicts, by the rows' names.

    Args:
        first: sampler, cfg, steps and eta of the first row.
        oms: the other settings of the step, by the names of `OneMoreStep`'s arguments.
        out: where the rows' files are.
        folder, device: as of `Painter`.

    Raises:
        OMSError: the files there are of another comparison.
    """
    out.mkdir(parents=True, exist_ok=True)
    found: dict[str, dict[str, Any]] = {}
    same = {"model": variant, "seed": seed, "count": count, "small": small, "oms": dict(oms)}
    for name, row in variations(first):
        file = out / f"{name.replace(' ', '_').replace('+', 'p')}.json"
        asked = {**same, **row}
        if file.exists():
            kept = read_json(file)
            if kept.get("asked") != json.loads(json.dumps(asked)):
                raise OMSError(f"{file} is of another comparison: give another --out")
            found[name] = kept["found"]
            continue
        facts = {"variant": variant, "sampler": row["sampler"], "steps": row["steps"], "cfg": row["cfg"], "seed": seed}
        step = AuthorsStep if row.get("authors") else OneMoreStep
        painter = Painter(**facts, oms={**oms, "eta": row["eta"]}, folder=folder, device=device, step=step)
        result, _ = evaluate(
            painter, **facts, scale=oms["oms_guidance_scale"], quiet=oms["quiet"], eta=row["eta"], count=count,
            small=small,
        )  # fmt: skip
        found[name] = asdict(result)
        with written_whole(file) as part:
            part.write_text(json.dumps({"asked": asked, "found": found[name]}), encoding="utf-8")
    return found


def table(found: Mapping[str, Mapping[str, Any]]) -> Table:
    """The rows as a report shows them."""
    rows = [[name, *(f"{row[key]:.{_DIGITS.get(key, 2)}f}" for key in SHOWN)] for name, row in found.items()]
    return Table("Solvers", ["differs in", *SHOWN.values()], rows, _NOTE)


def markdown(shown: Table) -> str:
    """A table for a page of documentation."""
    lines = [list(shown.head), ["---"] * len(shown.head), *shown.rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
