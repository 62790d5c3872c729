"""`python -m lib_oms evaluate --embedded`: measures what an OMS model does to the brightness of pictures.

Of other models' pictures: evaluate_pictures.py.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lib_oms.commands import evaluate_pictures
from lib_oms.embedded.load import VARIANTS
from lib_oms.errors import OMSError
from lib_oms.judging.evaluate import evaluate
from lib_oms.judging.painter import SAMPLERS, Painter
from lib_oms.judging.steering import evaluate_colors, evaluate_modifiers, evaluate_splits
from lib_oms.settings import COLOR, PICTURE, PROMPT, SETTINGS
from lib_oms.step import MOST_QUIET

UNSAID: dict[str, Any] = {"count": 500, "steps": 20, "cfg": 3.0, "sampler": "DDIM"}
"""What the embedded model is measured with where the command line says nothing."""
_SUPPRESS = argparse.SUPPRESS
(_QUIET,) = (setting for setting in SETTINGS if setting.name == "quiet")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the `evaluate` command."""
    parser.add_argument("--embedded", action="store_true", help="measure the embedded model, the one there is today")
    parser.add_argument(
        "--colors", type=_positive, metavar="N", help="measure how exactly N random colors come, and nothing else"
    )
    parser.add_argument(
        "--splits", type=_positive, metavar="N", help="measure how well N layouts of two colors come, and nothing else"
    )
    parser.add_argument(
        "--modifiers", type=_positive, metavar="N", help="measure strength and trims on N seeds, and nothing else"
    )
    parser.add_argument(
        "--count", type=_positive, default=_SUPPRESS, help=f"captions to make pictures of (default: {_unsaid('count')})"
    )
    parser.add_argument(
        "--solvers", action="store_true", help="measure samplers, scales, steps and eta one by one, and print a table"
    )
    parser.add_argument("--each", type=_positive, default=10, help="pictures for each prompt that is measured alone")
    parser.add_argument("--seed", type=int, default=1, help="of captions, data and noise")
    parser.add_argument(
        "--cfg", type=float, default=_SUPPRESS, help=f"guidance scale of the main model (default: {_unsaid('cfg')})"
    )
    parser.add_argument(
        "--sampler", default=_SUPPRESS,
        help=f"one of {', '.join(SAMPLERS)}, or as a WebUI names it (default: {_unsaid('sampler')})",
    )  # fmt: skip
    parser.add_argument("--steps", type=_positive, default=_SUPPRESS, help=f"(default: {_unsaid('steps')})")
    parser.add_argument("--model", choices=VARIANTS, default="main", help="the model that One More Step rides on")
    parser.add_argument("--oms-scale", type=float, default=1.0, help="guidance scale of One More Step")
    parser.add_argument(
        "--quiet", type=int, choices=range(MOST_QUIET + 1), metavar="K", default=_SUPPRESS,
        help=f"how many of the noise's low frequencies give way, 0 to {MOST_QUIET} (default: what suits the source)",
    )  # fmt: skip
    parser.add_argument("--eta", type=float, default=0.0, help="share of fresh noise in the step, 0 to 1")
    parser.add_argument("--guidance-rescale", type=float, default=0.0, help="against overshooting, 0 to 1")
    parser.add_argument("--folder", type=Path, help="of the embedded model (default: the repository's)")
    parser.add_argument("--device", default="cpu", help="what computes, in torch's words: cpu, cuda, mps")
    parser.add_argument("--json", action="store_true", help="print the numbers as one JSON object and nothing else")
    parser.add_argument("--out", type=Path, default=Path("evaluation"), help="folder for what is made")
    evaluate_pictures.add_arguments(parser)


def _unsaid(name: str) -> str:
    other = evaluate_pictures.UNSAID[name]
    return f"{UNSAID[name]}" if other == UNSAID[name] else f"{UNSAID[name]}; of a WebUI {other or 'all'}"


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is not a whole number above 0")
    return number


def main(args: argparse.Namespace) -> int:
    """Measures, prints, and writes the grid and the histogram."""
    if evaluate_pictures.asks(args):
        return evaluate_pictures.main(args)
    args = argparse.Namespace(**{**UNSAID, **vars(args)})
    what = next(
        (name for name in ("colors", "splits", "modifiers", "solvers", "embedded") if getattr(args, name)), None
    )
    if what is None:
        raise OMSError(
            "give --webui URL or two folders of pictures; or, of the embedded model, --embedded, --solvers, "
            "--colors N, --splits N or --modifiers N"
        )
    if what == "solvers":
        return _compare_solvers(args)
    facts = {"variant": args.model, "sampler": args.sampler, "steps": args.steps, "cfg": args.cfg, "seed": args.seed}
    source = {"colors": COLOR, "splits": PICTURE}.get(what, PROMPT)
    quiet = int(getattr(args, "quiet", _QUIET.unsaid(source)))
    given = {"quiet": quiet, "eta": args.eta, "guidance_rescale": args.guidance_rescale}
    oms = {**given, "oms_guidance_scale": args.oms_scale}
    painter = Painter(**facts, oms=oms, folder=args.folder, device=args.device)
    if what == "colors":
        colors = evaluate_colors(painter, **facts, quiet=quiet, eta=args.eta, count=args.colors, each=args.each)
        return _print(asdict(colors), args.json)
    if what == "splits":
        splits = evaluate_splits(painter, **facts, quiet=quiet, count=args.splits, each=args.each)
        return _print(asdict(splits), args.json)
    if what == "modifiers":
        return _print(asdict(evaluate_modifiers(painter, **facts, seeds=args.modifiers)), args.json)
    from lib_oms.judging import plots

    result, pictures = evaluate(
        painter, **facts, scale=args.oms_scale, quiet=quiet, eta=args.eta, count=args.count, small=args.each
    )
    name = f"{args.model}-{args.sampler}-cfg{args.cfg:g}".replace(" ", "_").replace("+", "p")
    args.out.mkdir(parents=True, exist_ok=True)
    written = [
        plots.grid(pictures.captions, pictures.raw, pictures.oms, args.out / f"grid-{name}.png"),
        plots.histogram(pictures, result, args.out / f"histogram-{name}.png"),
    ]
    if args.report is not None:
        from lib_oms.judging import chapters, report

        written.append(report.write(chapters.of_embedded(result, pictures), args.report))
    _print(asdict(result), args.json)
    if not args.json:
        for path in written:
            print(path)
    return 0


def _compare_solvers(args: argparse.Namespace) -> int:
    from lib_oms.judging import report, solvers

    first = {"sampler": args.sampler, "cfg": args.cfg, "steps": args.steps, "eta": args.eta}
    quiet = int(getattr(args, "quiet", _QUIET.unsaid(PROMPT)))
    oms = {"quiet": quiet, "guidance_rescale": args.guidance_rescale, "oms_guidance_scale": args.oms_scale}
    found = solvers.compare(
        first, oms, variant=args.model, seed=args.seed, count=args.count, small=args.each, out=args.out / "solvers",
        folder=args.folder, device=args.device,
    )  # fmt: skip
    shown = solvers.table(found)
    print(json.dumps(found) if args.json else solvers.markdown(shown))
    if args.report is not None:
        facts = {"model": f"embedded, {args.model}", "pictures": f"{args.count} a row", "seed": str(args.seed)}
        report.write(report.Report("What One More Step does to the embedded model", facts, tables=[shown]), args.report)
    return 0


def _print(result: dict[str, Any], as_json: bool) -> int:
    if as_json:
        print(json.dumps(result))
        return 0
    width = max(map(len, result))
    for key, value in result.items():
        print(f"{key:{width}}  {value:.4f}" if isinstance(value, float) else f"{key:{width}}  {value}")
    return 0
