"""`python -m lib_oms evaluate --embedded`: measures what an OMS model does to the brightness of pictures."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from lib_oms.embedded.load import VARIANTS
from lib_oms.judging.evaluate import SAMPLERS, Painter, evaluate


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the `evaluate` command."""
    parser.add_argument(
        "--embedded", action="store_true", required=True, help="measure the embedded model, the one there is today"
    )
    parser.add_argument("--count", type=_positive, default=500, help="captions whose pictures are compared with data")
    parser.add_argument("--each", type=_positive, default=10, help="pictures for each prompt that is measured alone")
    parser.add_argument("--seed", type=int, default=1, help="of captions, data and noise")
    parser.add_argument("--cfg", type=float, default=3.0, help="guidance scale of the main model")
    parser.add_argument("--sampler", choices=tuple(SAMPLERS), default="DDIM")
    parser.add_argument("--steps", type=_positive, default=20)
    parser.add_argument("--model", choices=VARIANTS, default="main", help="the model that One More Step rides on")
    parser.add_argument("--oms-scale", type=float, default=1.0, help="guidance scale of One More Step")
    parser.add_argument("--json", action="store_true", help="print the numbers as one JSON object and nothing else")
    parser.add_argument("--out", type=Path, default=Path("evaluation"), help="folder for the two pictures")


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is not a whole number above 0")
    return number


def main(args: argparse.Namespace) -> int:
    """Measures, prints, and writes the grid and the histogram."""
    from lib_oms.judging import plots

    facts = {"variant": args.model, "sampler": args.sampler, "steps": args.steps, "cfg": args.cfg, "seed": args.seed}
    painter = Painter(**facts, scale=args.oms_scale)
    result, pictures = evaluate(painter, **facts, scale=args.oms_scale, count=args.count, small=args.each)
    name = f"{args.model}-{args.sampler}-cfg{args.cfg:g}".replace(" ", "_").replace("+", "p")
    args.out.mkdir(parents=True, exist_ok=True)
    written = [
        plots.grid(pictures.captions, pictures.raw, pictures.oms, args.out / f"grid-{name}.png"),
        plots.histogram(pictures, result, args.out / f"histogram-{name}.png"),
    ]
    if args.json:
        print(json.dumps(asdict(result)))
    else:
        width = max(map(len, asdict(result)))
        for key, value in asdict(result).items():
            print(f"{key:{width}}  {value:.4f}" if isinstance(value, float) else f"{key:{width}}  {value}")
        for path in written:
            print(path)
    return 0
