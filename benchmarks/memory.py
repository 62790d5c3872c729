"""Does memory grow? What the operating system sees of a WebUI over many pictures, with and without the step.

    python benchmarks/memory.py [--count 30] [--after 6]

Three modules of the published size (psi of 154 M parameters, OpenCLIP ViT-H of 340 M, random weights, as files) take
turns, in the miniature WebUI, or in the one that OMS_WEBUI_DIR names (tests' real_host_helpers.py). Each memory policy
gets a fresh process. Its resident memory is read from outside, after each picture; nothing collects, trims or waits in
between. Of it, the memory that is no file's is told apart: what a WebUI has mapped of its checkpoint the system takes
back and brings again as it likes. Ends with 1 where either is after the last picture more than 3 % above what it was
after the `--after`th.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "helpers"))

import psutil
import real_host_helpers
from extension_helpers import ROOT, WebUI, WebUIProcess
from module_helpers import write_published_size
from real_host_helpers import RealWebUI

from lib_oms.embedded import LATENTS

NAMES = ("one", "two", "three")
KINDS = ("without the step", "keep on the device", "keep in RAM", "drop after use")
ALLOWED = 1.03


def start(folder: Path, models: Path, model: Path) -> WebUI:
    """The WebUI in a process of its own."""
    if real_host_helpers.folder() is not None:
        return RealWebUI(folder, models)
    if not (models / model.name).exists():
        shutil.copytree(model, models / model.name)  # it looks for modules beside its model
    return WebUIProcess(folder, "forge", models / model.name, ROOT)


def resident(webui: WebUI) -> tuple[int, int]:
    """Bytes of the WebUI's process in RAM, and those that are no file's (the same where the system does not tell)."""
    memory = psutil.Process(webui._process.pid).memory_info()
    return memory.rss, memory.rss - getattr(memory, "shared", 0)


def measure(webui: WebUI, kind: str, names: Sequence[str], count: int) -> tuple[list[tuple[int, int]], float]:
    """`resident` after each picture, and the seconds that one takes."""
    # A short request that every host answers; what the WebUI itself needs for it is the same each time.
    fields = {"sampler_name": "Euler", "steps": 2, "width": 64, "height": 64, "cfg_scale": 1}
    webui.txt2img(**fields)  # loads the model: Forge Neo could not any more, had an option been set before
    steps = kind != KINDS[0]
    if steps:
        webui.options(oms_memory_policy=kind)
    seen, started = [], time.perf_counter()
    for i in range(count):
        oms = (True, names[i % len(names)], "a night") if steps else ()
        made = webui.txt2img(*oms, seed=i, **fields)
        assert ("OMS: True" in made.infotext) == steps, made.infotext
        seen.append(resident(webui))
        print(f"{kind}: {i + 1}/{count}, {_megabytes(seen[-1])} MB", file=sys.stderr, flush=True)
    return seen, (time.perf_counter() - started) / count


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=30, help="pictures of each kind (default 30)")
    parser.add_argument("--after", type=int, default=6, help="the picture to compare the last with (default 6)")
    parser.add_argument("--kind", choices=KINDS, action="append", help="one of them alone; may be given again")
    parser.add_argument("--modules", type=Path, help="a folder with three such modules, instead of writing them")
    parser.add_argument("--model", type=Path, default=ROOT / "models" / "demo", help="of the miniature WebUI")
    args = parser.parse_args()
    real = real_host_helpers.folder()
    print(f"{args.count} pictures in {real.name if real else 'the miniature WebUI'}; MB (of them no file's)")
    print(f"| policy | at the start | after 1 | after {args.after} | after {args.count} | grown | s per picture |")
    print("|---|---|---|---|---|---|---|")
    good = True
    with tempfile.TemporaryDirectory(prefix="oms-memory-") as folder:
        models = args.modules or Path(folder) / "models"
        if args.modules is None:
            write_published_size(models, NAMES, "sd" if real else LATENTS)
        names = sorted(path.parent.name for path in models.glob("*/oms_module"))[: len(NAMES)]
        for number, kind in enumerate(args.kind or KINDS):
            webui = start(Path(folder) / f"webui-{number}", models, args.model.resolve())
            try:
                first = resident(webui)
                seen, seconds = measure(webui, kind, names, args.count)
            finally:
                webui.close()
            grown = [last / before for last, before in zip(seen[-1], seen[args.after - 1], strict=True)]
            good = good and max(grown) <= ALLOWED
            cells = [_megabytes(pair) for pair in (first, seen[0], seen[args.after - 1], seen[-1])]
            change = f"{grown[0] - 1:+.1%} ({grown[1] - 1:+.1%})"
            print(f"| {kind} | {' | '.join(cells)} | {change} | {seconds:.1f} |", flush=True)
    return 0 if good else 1


def _megabytes(pair: tuple[int, int]) -> str:
    return f"{pair[0] / 2**20:.0f} ({pair[1] / 2**20:.0f})"


if __name__ == "__main__":
    sys.exit(main())
