"""`python -m lib_oms evaluate --webui URL` and `evaluate FOLDER FOLDER`: judges pictures of any checkpoint."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lib_oms.console import say
from lib_oms.errors import OMSError
from lib_oms.judging import asked, by_library, chapters, folders, radius, report
from lib_oms.judging.chapters import Result, Sides
from lib_oms.judging.folders import Folder
from lib_oms.judging.through_webui import KINDS, PairMaker
from lib_oms.judging.webui_api import Host, Pair
from lib_oms.settings import AUTOMATIC, OMSSettings

UNSAID: dict[str, Any] = {"count": None, "steps": 20, "cfg": 7.5, "sampler": "Euler"}
"""What a WebUI is asked with where the command line says nothing."""
BRIGHTNESS_STEPS = 50
"""SingDiffusion's."""
EXIT_LOST = 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options for pictures of WebUIs and of folders."""
    parser.add_argument(
        "folders", nargs="*", type=Path, metavar="FOLDER", help="raw pictures and OMS pictures to judge, pairs by name"
    )
    parser.add_argument("--reference", type=Path, metavar="FOLDER", help="real pictures to compare with")
    parser.add_argument("--report", type=Path, metavar="FILE.html", help="write what was found as a page")
    group = parser.add_argument_group("pictures made by WebUIs that have the extension")
    group.add_argument("--webui", nargs="+", metavar="URL", help="WebUIs with --api, such as http://127.0.0.1:7860")
    group.add_argument("--captions", type=Path, metavar="FILE", help="a caption a line, or .jsonl with text or caption")
    group.add_argument(
        "--brightness-test", type=int, nargs="?", const=100, metavar="N", help="SingDiffusion's four prompts, N times"
    )
    group.add_argument(
        "--color-test", type=int, nargs="?", const=4, metavar="N", help="forty colors by name and by code, N times"
    )
    group.add_argument("--size", type=_size, default=(512, 512), metavar="WxH", help="of the pictures, or one side")
    group.add_argument("--negative-prompt", default="", help="of all pictures")
    group.add_argument("--oms-model", default=AUTOMATIC, metavar="NAME", help="the OMS model, as the WebUI names it")
    group.add_argument("--api-auth", metavar="USER:PASSWORD", help="as the WebUIs' own --api-auth")
    group.add_argument("--timeout", type=float, default=600, help="seconds that one picture may take")
    group.add_argument("--patience", type=float, default=600, help="seconds to wait for a WebUI that went away")
    group = parser.add_argument_group("the radius of latents in training and sampling")
    group.add_argument(
        "--radius", nargs="?", const="", metavar="SCHEDULE", help="checkpoint or scheduler config; nothing: SD's own"
    )
    group.add_argument("--latents", type=Path, metavar="FILE", help="scaled latents [N, C, H, W] as .safetensors")
    group.add_argument("--vae", type=Path, metavar="FOLDER", help="makes the latents of --reference")
    group = parser.add_argument_group("measures by weights that are on this machine")
    group.add_argument("--features", type=Path, metavar="PATH", help="for FID, precision, recall, density, coverage")
    group.add_argument("--clip", type=Path, metavar="FOLDER", help="for the CLIP score")
    group.add_argument("--pickscore", type=Path, metavar="FOLDER", help="for PickScore")
    group.add_argument("--imagereward", type=Path, metavar="FOLDER", help="for ImageReward")


def asks(args: argparse.Namespace) -> bool:
    """Whether the command line asks for what is judged here."""
    return bool(args.webui or args.folders or args.radius is not None)


def main(args: argparse.Namespace) -> int:
    """Makes the pictures, judges them, prints what was found, and writes the report."""
    said = {name: getattr(args, name, value) for name, value in UNSAID.items()}
    if args.embedded:
        raise OMSError("--embedded goes with neither --webui nor folders nor --radius")
    if args.folders and (args.webui or len(args.folders) != 2):
        raise OMSError("give two folders, the raw pictures and the OMS pictures, or --webui, not both")
    weights = by_library.Weights(args.features, args.clip, args.pickscore, args.imagereward)
    weights.check()
    schedule = None if args.radius is None else radius.read_schedule(Path(args.radius) if args.radius else None)
    if args.reference is not None and not args.reference.is_dir():
        raise OMSError(f"--reference {args.reference}: is no folder")
    result = Result()
    made = _through_webuis(args, said, result) if args.webui else {}
    reference = folders.read_folder(args.reference) if args.reference else None
    judged: Sides | None = None
    if args.folders or "captions" in made:
        raw, oms = args.folders or made["captions"]
        judged = Sides(folders.read_folder(raw), folders.read_folder(oms), reference)
        if not args.folders:  # what was lost has left its partner
            both = folders.pair_up(judged.raw, judged.oms)
            judged = Sides(judged.raw.chosen(both), judged.oms.chosen(both), reference)
        result.folders = folders.judge(judged.raw, judged.oms, reference)
        raw_files, oms_files = (list(side.paths.values()) for side in (judged.raw, judged.oms))
        real_files = list(reference.paths.values()) if reference else []
        result.measures, result.left_out = by_library.measure(raw_files, oms_files, real_files, weights)
    tests = {name: Sides(*map(folders.read_folder, made[name])) for name in ("brightness", "colors") if name in made}
    if "brightness" in tests:
        result.brightness_test = folders.judge_brightness(tests["brightness"].raw, tests["brightness"].oms)
    if "colors" in tests:
        result.color_test = folders.judge_colors(tests["colors"].raw, tests["colors"].oms)
    if schedule is not None:
        result.latents = _latents(args, reference)
        result.radius = radius.radii(schedule, result.latents)
    _print(result, args.json)
    if args.report is not None:
        page = chapters.of_result(result, _facts(args, said, judged), judged, list(tests.values()))
        report.write(page, args.report)
        if not args.json:
            say(str(args.report))
    return EXIT_LOST if result.lost else 0


def _through_webuis(args: argparse.Namespace, said: dict[str, Any], result: Result) -> dict[str, list[Path]]:
    """Makes what is asked for; gives for each set the folders of its raw and its OMS pictures."""
    oms: dict[str, Any] = {
        "module": args.oms_model,
        "guidance_scale": args.oms_scale,
        "eta": args.eta,
        "guidance_rescale": args.guidance_rescale,
    }
    if hasattr(args, "quiet"):
        oms["quiet"] = args.quiet
    OMSSettings(**oms)  # what is not allowed is to be known before a picture is made
    user, colon, password = (args.api_auth or "").partition(":")
    if args.api_auth and not colon:
        raise OMSError("--api-auth: give USER:PASSWORD")
    hosts = [Host(url, (user, password) if colon else None, args.timeout) for url in args.webui]
    sets: dict[str, Sequence[Pair]] = {}
    if args.captions is not None:
        sets["captions"] = asked.caption_pairs(asked.read_captions(args.captions, said["count"]), args.seed)
    if args.brightness_test:
        sets["brightness"] = asked.brightness_pairs(args.brightness_test, args.seed)
    if args.color_test:
        sets["colors"] = asked.color_pairs(args.color_test, args.seed)
    if not sets:
        raise OMSError("--webui: say what to make, by --captions FILE, --brightness-test or --color-test")
    for name, pairs in sets.items():
        steps = said["steps"]
        if name == "brightness" and not hasattr(args, "steps"):
            steps = BRIGHTNESS_STEPS
        width, height = args.size
        request = {
            "steps": steps, "cfg_scale": said["cfg"], "sampler_name": said["sampler"], "width": width,
            "height": height, "negative_prompt": args.negative_prompt,
        }  # fmt: skip
        maker = PairMaker(args.out / name, pairs, request, oms, args.patience)
        maker.run(hosts)
        result.lost |= {f"{name} {pair}": why for pair, why in maker.lost.items()}
    return {name: [args.out / name / kind for kind in KINDS] for name in sets}


def _latents(args: argparse.Namespace, reference: Folder | None) -> radius.Latents:
    if args.latents is not None:
        return radius.read_latents(args.latents)
    if args.vae is not None and reference is not None:
        return radius.encoded(list(reference.paths.values()), args.vae, min(args.size))
    if args.vae is not None:
        raise OMSError("--vae makes latents of the pictures of --reference: give that, too")
    width, height = args.size
    return radius.unit_latents((4, height // 8, width // 8))


def _facts(args: argparse.Namespace, said: dict[str, Any], judged: Sides | None) -> dict[str, str]:
    facts = {}
    if judged is not None:
        facts = {"pictures": f"{len(judged.raw.paths)} raw, {len(judged.oms.paths)} OMS"}
        facts |= {"real pictures": str(len(judged.reference.paths))} if judged.reference else {}
    if args.webui:
        facts |= {
            "sampler": said["sampler"], "steps": str(said["steps"]), "CFG": f"{said['cfg']:g}",
            "size": "x".join(map(str, args.size)), "OMS guidance": f"{args.oms_scale:g}", "seed": str(args.seed),
        }  # fmt: skip
    return facts


def _print(result: Result, as_json: bool) -> None:
    found = {name: value for name, value in asdict(result).items() if value}
    if as_json:
        print(json.dumps(found))
        return
    lines = chapters.as_lines(found)
    width = max((len(name) for name, _ in lines), default=0)
    for name, text in lines:
        say(f"{name:{width}}  {text}")


def _size(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d+)(?:[xX](\d+))?", text)
    sides = (int(found[1]), int(found[2] or found[1])) if found else (0, 0)
    if min(sides) < 64 or any(side % 8 for side in sides):
        raise argparse.ArgumentTypeError(f"{text!r}: give a side such as 512, or 832x1216, in multiples of 8 from 64")
    return sides
