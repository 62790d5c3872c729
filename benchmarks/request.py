"""What a request costs beside psi and the text encoder: `python benchmarks/request.py [--modules N] [--out FILE.json]`.

In the miniature WebUI, over its API, on the CPU, with 200 OMS models on disk. "warm": a request whose prompt is known,
the extension's hooks (choosing, headers, fingerprints, x_T, infotext) beside what psi and the text encoder compute; the
OMS model by name, and "Automatic". "cold": the first request that uses an OMS model of published size with a text
encoder of its own, random weights, the files in the system's cache: from the hook's begin to x_T, beside what psi and
the text encoder compute, over reading the bytes of its files. Medians.
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import requests
import torch

from demo import server
from lib_oms.embedded import LATENTS
from lib_oms.psi import OMSUNet, OMSUNetConfig

ROOT = Path(__file__).resolve().parents[1]
DEMO = ROOT / "models/demo"
LARGE = "of published size"


class Stopwatch:
    """Seconds spent in functions that are watched, by name; what they call of each other counts for both."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def watch(self, owner: Any, function: str, name: str) -> None:
        original: Callable[..., Any] = getattr(owner, function)

        def timed(*args: Any, **kwargs: Any) -> Any:
            started = time.perf_counter()
            try:
                return original(*args, **kwargs)
            finally:
                self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - started

        setattr(owner, function, timed)

    def taken(self) -> dict[str, float]:
        """What has passed since it was last asked."""
        seconds, self.seconds = self.seconds, {}
        return {name: seconds.get(name, 0.0) for name in ("before", "sampling", "psi", "text")}


def place_large(folder: Path) -> None:
    """An OMS model of base's size in half precision, with SD2.1's text encoder."""
    from speed import VIT_H
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.set_default_dtype(torch.float16)
    try:
        psi = OMSUNet(OMSUNetConfig.base(), {"oms.latents": LATENTS, "oms.text_encoder": "openclip"})
        psi.save_pretrained(folder / "oms_module")
        CLIPTextModel(CLIPTextConfig(**VIT_H)).save_pretrained(folder / "text_encoder", safe_serialization=True)
    finally:
        torch.set_default_dtype(torch.float32)
    shutil.copytree(DEMO / "tokenizer", folder / "tokenizer")


def read(folder: Path) -> tuple[float, int]:
    """Seconds to read all weights below a folder, and how many bytes they are."""
    started, size = time.perf_counter(), 0
    for file in folder.rglob("*.safetensors"):
        with file.open("rb", buffering=0) as opened:
            while part := opened.read(2**24):
                size += len(part)
    return time.perf_counter() - started, size


def ask(url: str, settings: dict[str, Any], seed: int) -> None:
    body = {
        **{"prompt": "a red circle", "seed": seed, "width": 64, "height": 64, "steps": 1, "sampler_name": "Euler"},
        **{"alwayson_scripts": {"One More Step": {"args": [settings]}}},
    }
    requests.post(f"{url}/sdapi/v1/txt2img", json=body, timeout=600).raise_for_status()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--modules", type=int, default=200, help="OMS models on disk (200)")
    parser.add_argument("--rounds", type=int, default=15, help="warm requests of each kind; a fifth of it cold (15)")
    parser.add_argument("--out", type=Path, help="where the numbers go as JSON")
    args = parser.parse_args()
    folder = Path(tempfile.mkdtemp())
    try:
        rows = measure(folder, args.modules, args.rounds)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    for row in rows:
        print(
            "  ".join(
                f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}" for key, value in row.items()
            )
        )
    if args.out:
        machine = {"threads": torch.get_num_threads(), "torch": torch.__version__, "python": platform.python_version()}
        args.out.write_text(json.dumps({"machine": machine, "rows": rows}, indent=1) + "\n", encoding="utf-8")
    return 0


def measure(folder: Path, count: int, rounds: int) -> list[dict[str, Any]]:
    models = folder / "models"
    for number in range(count):
        shutil.copytree(DEMO / "oms_module", models / f"model {number:03}" / "oms_module")
    place_large(models / LARGE)
    arguments = ["--model", str(DEMO), "--data-dir", str(folder / "data"), "--extension", str(ROOT), "--port", "0"]
    with server.start([*arguments, "--oms-models-dir", str(models), "--api-only"]) as running:
        from lib_oms.text import TextEncoder
        from lib_oms.webui import hook, host_text
        from lib_oms.webui.loaded import LOADED

        watch = Stopwatch()
        watch.watch(hook, "before_generating", "before")
        watch.watch(hook, "before_sampling", "sampling")
        watch.watch(OMSUNet, "forward", "psi")
        watch.watch(TextEncoder, "_compute", "text")
        rows = []
        for name in ("demo", "Automatic"):
            ask(running.url, {"module": name, "prompt": "night"}, 1)
            watch.taken()
            found = []
            for seed in range(rounds):
                ask(running.url, {"module": name, "prompt": "night"}, seed)
                found.append(watch.taken())
            own = statistics.median(f["before"] + f["sampling"] - f["psi"] - f["text"] for f in found)
            before = statistics.median(f["before"] for f in found)
            rows.append(
                {"case": "warm", "OMS model": name, "on disk": count, "own_ms": 1e3 * own, "choosing_ms": 1e3 * before}
            )
        cold = []
        for seed in range(max(3, rounds // 5)):
            LOADED.clear()
            host_text.forget()
            read_s, size = read(models / LARGE)
            watch.taken()
            ask(running.url, {"module": LARGE, "prompt": f"night {seed}"}, seed)
            taken = watch.taken()
            cold.append((taken["sampling"], taken["sampling"] - taken["psi"] - taken["text"], read_s))
        whole, loading, reading = (statistics.median(column) for column in zip(*cold, strict=True))
        rows.append(
            {"case": "cold", "OMS model": LARGE, "mib": size / 2**20, "to_x_T_s": whole, "beside_computing_s": loading,
             "reading_s": reading, "quotient": loading / reading}
        )  # fmt: skip
        return rows


if __name__ == "__main__":
    sys.exit(main())
