"""The tables of docs/steering.md: what quiet noise and guidance do to brightness, color and composition.

    python benchmarks/steering.py --table quiet [--count 40]
    python benchmarks/steering.py --table crosses [--count 20]
    python benchmarks/steering.py --table guidance
    python benchmarks/steering.py --table bands [--count 20]

On a GPU with `--device cuda`.

Every row of a table is a cell that is measured for itself and appended to benchmarks/results/steering-TABLE.jsonl as
one line of JSON. Cells that stand there are measured again only with --again, so that a run can be stopped and go on;
the table that is printed in the end is read from that file. One factor at a time from main, DDIM, CFG 3, eta 0, where
every k is measured (quiet); elsewhere the two that decide (crosses). A picture takes half a second on one core.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch

from lib_oms.embedded import draw
from lib_oms.given import latents_of, trims_of
from lib_oms.judging import metrics
from lib_oms.judging.evaluate import LADDER
from lib_oms.judging.painter import OBEDIENCE_PROMPT, Painter
from lib_oms.settings import OMSSettings
from lib_oms.step import guided, low

STEPS, SEED = 20, 20261127
RESULTS = Path(__file__).resolve().parent / "results"
Cell = dict[str, Any]

DEVICE = ["cpu"]
"""What computes, which `main` may change."""
USUAL: Cell = {"model": "main", "sampler": "DDIM", "cfg": 3.0, "eta": 0.0}


@lru_cache(maxsize=1)
def painter(model: str, sampler: str, cfg: float) -> Painter:
    return Painter(model, sampler, STEPS, cfg, SEED, device=DEVICE[0])


@lru_cache(maxsize=1)
def raw_pictures(model: str, sampler: str, cfg: float, count: int) -> np.ndarray:
    return painter(model, sampler, cfg).paint(draw.evaluation_set(count, SEED)[1], oms=False)


def quiet_cells(count: int) -> Iterator[Cell]:
    for k in (0, 1, 2, 3, 4, 6, 8):
        yield {**USUAL, "count": count, "quiet": k}


def cross_cells(count: int) -> Iterator[Cell]:
    for other in ({"sampler": "Euler"}, {"sampler": "Euler a"}, {"eta": 1.0}, {"model": "second"}, {"model": "lora"},
                  {"cfg": 7.5}):  # fmt: skip
        for k in (0, 4):
            yield {**USUAL, **other, "count": count, "quiet": k}


def measure_quiet(cell: Cell) -> dict[str, float]:
    """Captions whose pictures are compared with data; two pictures a rung of gray."""
    where = (cell["model"], cell["sampler"], cell["cfg"])
    given = {"quiet": cell["quiet"], "eta": cell["eta"]}
    paint = painter(*where).paint
    data, captions = draw.evaluation_set(cell["count"], SEED)
    data = data / np.float32(255)
    raw, made = raw_pictures(*where, cell["count"]), paint(captions, oms=True, **given)
    raw_distance, distance = (
        metrics.wasserstein(metrics.picture_means(pictures), metrics.picture_means(data)) for pictures in (raw, made)
    )
    each = 2
    prompts = [prompt for prompt in LADDER for _ in range(each)]
    rungs = paint([OBEDIENCE_PROMPT] * len(prompts), oms=True, oms_prompts=prompts, first=20_000, **given)
    grays = metrics.background_colors(rungs).mean(axis=1)
    gray = list(LADDER).index("gray background")
    return {
        "ratio": raw_distance / distance,
        "wasserstein": distance,
        "background_error": metrics.background_error(made, data),
        "spread": float(grays.reshape(len(LADDER), each)[gray].std()),
        "spearman": metrics.spearman(np.repeat(list(LADDER.values()), each), grays),
        "composition": metrics.edge_agreement(raw, made),
    }


GUIDANCE = (1.0, 1.5, 2.0, 3.0, 5.0, 7.0)
FORMS = {"plain": 0.0, "rescaled 0.7": 0.7, "rescaled 1": 1.0, "normalized": 0.0}
ASKED = [f"{name} background" for name in ("very dark gray", "very light gray", "red", "green", "blue", "yellow")]


def guidance_cells(count: int) -> Iterator[Cell]:
    for form in FORMS:
        for scale in GUIDANCE:
            if form == "plain" or scale > 1:  # at 1 they are all the same
                yield {"form": form, "scale": scale, "quiet": 1}


def measure_guidance(cell: Cell) -> dict[str, Any]:
    """Six prompts by four seeds: what x0hat says, read as a color by the VAE's directions; and a picture of each."""
    scale, each = cell["scale"], 4
    maker = painter("main", "DDIM", 3.0)
    prompts = [prompt for prompt in ASKED for _ in range(each)]
    generators = [torch.Generator().manual_seed(SEED + index) for index in range(len(prompts))]
    noise = torch.cat([torch.randn(1, 4, 32, 32, generator=generator) for generator in generators]).to(DEVICE[0])
    with torch.no_grad():
        assert maker.oms.module is not None
        v_cond, v_uncond = maker.oms.module.predict_v(noise, prompts, [""] * len(prompts), scale)
        x0hat = -guided(v_cond, v_uncond, scale, FORMS[cell["form"]]) / (scale if cell["form"] == "normalized" else 1)
        rgb = as_rgb(maker, x0hat.mean(dim=(2, 3)).cpu())
    outside = np.maximum(np.maximum(-rgb, rgb - 1), 0).max(axis=1)  # how far the worst channel lies outside
    given: dict[str, Any] = {"quiet": 1, "oms_guidance_scale": scale, "guidance_rescale": FORMS[cell["form"]]}
    if cell["form"] == "normalized" and scale > 1:
        given.update(source="none", prompt_weight=1 / scale)  # x0hat of the prompt by 1 / s
    pictures = maker.paint([OBEDIENCE_PROMPT] * len(ASKED), oms=True, oms_prompts=list(ASKED), first=60_000, **given)
    backgrounds = metrics.background_colors(pictures)
    return {
        "dark": float(backgrounds[0].mean()),
        "light": float(backgrounds[1].mean()),
        "x0hat_dark": float(rgb[:each].mean()),
        "x0hat_light": float(rgb[each : 2 * each].mean()),
        "chroma": float(np.ptp(backgrounds[2:], axis=1).mean()),
        "out_of_gamut": float((outside > 0.1).mean()),
        "worst_outside": float(outside.max()),
        "clipped": float(((pictures <= 0) | (pictures >= 1)).any(axis=3).mean()),
    }


def as_rgb(maker: Painter, latent: torch.Tensor) -> np.ndarray:
    """Latents [B, C] as colors [B, 3] by the VAE's directions, unbounded."""
    vae = maker.pipe.vae

    def encode(picture: torch.Tensor) -> torch.Tensor:
        return vae.encode(picture.to(vae.device) * 2 - 1).latent_dist.mode().cpu() * vae.config.scaling_factor

    directions = trims_of(OMSSettings(brightness=1.0), lambda: (latents_of(vae), encode)).directions
    assert directions is not None
    flat = torch.stack([directions.black, directions.white, directions.red, directions.green, directions.blue]).double()
    design = torch.tensor([[1.0, 0, 0, 0], [1, 1, 1, 1], [1, 1, 0, 0], [1, 0, 1, 0], [1, 0, 0, 1]], dtype=torch.float64)
    fit = torch.linalg.pinv(design) @ flat
    return ((latent.double() - fit[0]) @ torch.linalg.pinv(fit[1:])).numpy()


BANDS = ((), ((0, 1),), ((1, 4),), ((0, 4),), ((4, 6),), ((0, 1), (4, 6)), ((0, 6),), ((0, 8),))
"""Which of the noise's low frequencies are taken out, from a number (that one too) to another (not that one)."""


def band_cells(count: int) -> Iterator[Cell]:
    for bands in BANDS:
        yield {"without": " and ".join(f"{a}..{b - 1}" for a, b in bands) or "-", "bands": bands, "colors": count}


def measure_bands(cell: Cell) -> dict[str, Any]:
    """Random colors, a picture of each, from noise that was changed before: what `quiet` does, taken apart. The second
    pair of numbers is what is left of the error when its part that is the same for all seeds, linear in the color, is
    taken away.
    """
    maker = painter("main", "Euler", 3.0)
    asked = np.random.default_rng((SEED, 3)).integers(0, 256, (cell["colors"], 3))
    found = []
    for number, rgb in enumerate(asked):
        noise = torch.randn(1, 4, 32, 32, generator=torch.Generator().manual_seed(SEED + number))
        for start, end in cell["bands"]:
            noise = noise - (low(noise, end) - low(noise, start))
        color = "#{:02x}{:02x}{:02x}".format(*rgb)
        picture = maker.paint([OBEDIENCE_PROMPT], oms=True, color=color, quiet=0, latents=noise)
        found.append(metrics.background_colors(picture)[0])
    wanted, made = asked / 255, np.stack(found)
    errors = metrics.color_differences(made, wanted)
    design = np.c_[wanted, np.ones(len(wanted))]
    bias = design @ np.linalg.lstsq(design, made - wanted, rcond=None)[0]
    return {
        "ciede2000_mean": float(errors.mean()),
        "ciede2000_p95": float(np.percentile(errors, 95)),
        "without_bias": float(metrics.color_differences(made - bias, wanted).mean()),
    }


TABLES = {
    "quiet": (quiet_cells, measure_quiet, 40),
    "crosses": (cross_cells, measure_quiet, 20),
    "guidance": (guidance_cells, measure_guidance, 1),
    "bands": (band_cells, measure_bands, 20),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", choices=TABLES, required=True)
    parser.add_argument("--count", type=int, help="captions of a cell (quiet, crosses), colors (bands)")
    parser.add_argument("--again", action="store_true", help="measure every cell anew")
    parser.add_argument("--device", default="cpu", help="what computes, in torch's words: cpu, cuda, mps")
    args = parser.parse_args()
    DEVICE[0] = args.device
    torch.set_num_threads(1)
    cells, measure, usual = TABLES[args.table]
    path = RESULTS / f"steering-{args.table}.jsonl"
    known = {json.dumps(line["cell"]): line for line in map(json.loads, path.read_text().splitlines())} if (
        path.is_file()
    ) else {}  # fmt: skip
    if args.again:
        known = {}
        path.unlink(missing_ok=True)
    rows = []
    for cell in cells(args.count or usual):
        key = json.dumps(cell)
        if key not in known:
            known[key] = {"cell": cell, "found": measure(cell)}
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(known[key]) + "\n")
        rows.append({**known[key]["cell"], **known[key]["found"]})
    print("| " + " | ".join(rows[0]) + " |\n|" + "---|" * len(rows[0]))
    for row in rows:
        print("| " + " | ".join(f"{v:.3f}" if isinstance(v, float) else str(v) for v in row.values()) + " |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
