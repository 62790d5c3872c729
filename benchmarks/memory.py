"""Does memory grow? What the operating system sees of a WebUI over many pictures, with and without the step.

    python benchmarks/memory.py [--count 30] [--after 6]

Three modules of the published size (psi of 154 M parameters, OpenCLIP ViT-H of 340 M, random weights, as files) take
turns, in the miniature WebUI, or in the one that OMS_WEBUI_DIR names (tests/real_host_helpers.py). Each memory policy
gets a fresh process. Its resident memory is read from outside, after each picture; nothing collects, trims or waits in
between. Ends with 1 where the memory after the last picture is more than 3 % above that after the `--after`th.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

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


def measure(webui: WebUI, kind: str, count: int) -> tuple[list[int], float]:
    """Bytes in RAM after each picture, and the seconds that one takes."""
    process = psutil.Process(webui._process.pid)
    steps = kind != KINDS[0]
    if steps:
        webui.options(oms_memory_policy=kind)
    # A short request that every host answers; what the WebUI itself needs for it is the same each time.
    fields = {"sampler_name": "Euler", "steps": 2, "width": 64, "height": 64, "cfg_scale": 1}
    resident, started = [], time.perf_counter()
    for i in range(count):
        oms = (True, NAMES[i % len(NAMES)], "a night", 1.5) if steps else ()
        made = webui.txt2img(*oms, seed=i, **fields)
        assert ("OMS: True" in made.infotext) == steps, made.infotext
        resident.append(process.memory_info().rss)
        print(f"\r{kind}: {i + 1}/{count}, {resident[-1] / 2**20:.0f} MB", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return resident, (time.perf_counter() - started) / count


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=30, help="pictures of each kind (default 30)")
    parser.add_argument("--after", type=int, default=6, help="the picture to compare the last with (default 6)")
    parser.add_argument("--kind", choices=KINDS, action="append", help="one of them alone; may be given again")
    parser.add_argument("--model", type=Path, default=ROOT / "models" / "demo", help="of the miniature WebUI")
    args = parser.parse_args()
    real = real_host_helpers.folder()
    print(f"{args.count} pictures in {real.name if real else 'the miniature WebUI'}")
    print(f"| policy | MB at the start | after 1 | after {args.after} | after {args.count} | grown | s per picture |")
    print("|---|---|---|---|---|---|---|")
    good = True
    with tempfile.TemporaryDirectory(prefix="oms-memory-") as folder:
        models = Path(folder) / "models"
        write_published_size(models, NAMES, "sd" if real else LATENTS)
        for number, kind in enumerate(args.kind or KINDS):
            webui = start(Path(folder) / f"webui-{number}", models, args.model.resolve())
            try:
                first = psutil.Process(webui._process.pid).memory_info().rss
                resident, seconds = measure(webui, kind, args.count)
            finally:
                webui.close()
            shown = [first, resident[0], resident[args.after - 1], resident[-1]]
            grown = resident[-1] / resident[args.after - 1]
            good = good and grown <= ALLOWED
            cells = [f"{value / 2**20:.0f}" for value in shown]
            print(f"| {kind} | {' | '.join(cells)} | {grown - 1:+.1%} | {seconds:.1f} |", flush=True)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
