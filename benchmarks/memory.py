"""Does memory grow? Many generations in a row in the miniature WebUI, without the step and with it under each policy.

    python benchmarks/memory.py [--count 200] [--model models/demo]

Every kind runs in a process of its own. Prints the resident memory after the warm-up and at the end, and what one
generation added; the kind without the step is what the others are to be compared with.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import gc
import io
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WARM_UP = 150  # more prompts than the cache of encoded ones holds: it is full when the counting begins
KINDS = {
    "without the step": None,
    "keep on the device": "keep on the device",
    "keep in RAM": "keep in RAM",
    "drop after use": "drop after use",
}
PAGE = 4096


def resident() -> int:
    """Bytes of this process in RAM, without those that are free already and only kept back by the C library.

    Raises RuntimeError where the system does not tell (all but Linux).
    """
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):  # glibc has it
        ctypes.CDLL(None).malloc_trim(0)
    statm = Path("/proc/self/statm")
    if not statm.is_file():
        raise RuntimeError("this benchmark reads /proc/self/statm, which only Linux has")
    return int(statm.read_text().split()[1]) * PAGE


def measure(kind: str, count: int, model: Path) -> dict[str, float]:
    """Runs one kind in this process."""
    sys.path.insert(0, str(ROOT))
    import requests

    from demo import server

    quiet = io.StringIO()
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(quiet), contextlib.redirect_stderr(quiet):
        arguments = ["--port", "0", "--api-only", "--data-dir", folder, "--model", str(model)]
        running = server.start([*arguments, "--oms-models-dir", str(model.parent)])
        try:
            from modules import shared

            policy = KINDS[kind]
            if policy is not None:
                shared.opts.data["oms_memory_policy"] = policy
            body = {"prompt": "a red circle", "steps": 2, "width": 64, "height": 64, "sampler_name": "Euler"}
            started = 0.0
            for i in range(WARM_UP + count):
                if i == WARM_UP:
                    first, started = resident(), time.perf_counter()
                # Another prompt each time: the caches of encoded prompts fill up, and must be bounded.
                script = {"args": [policy is not None, "Automatic", f"background number {i}", 1.5, 0.5]}
                body |= {"seed": i, "alwayson_scripts": {"One More Step": script}}
                answer = requests.post(f"{running.url}/sdapi/v1/txt2img", json=body, timeout=600)
                answer.raise_for_status()
                assert ("OMS: True" in answer.json()["info"]) == (policy is not None), answer.json()["info"]
            seconds = time.perf_counter() - started
            return {"first": first, "last": resident(), "seconds": seconds}
        finally:
            running.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=200, help="generations after the warm-up (default 200)")
    parser.add_argument("--model", type=Path, default=ROOT / "models" / "demo", help="the model (default models/demo)")
    parser.add_argument("--kind", choices=KINDS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.kind:
        print(json.dumps(measure(args.kind, args.count, args.model.resolve())))
        return
    print(f"{args.count} generations after {WARM_UP} of warm-up, 64x64, 2 steps")
    print("| kind | MB after the warm-up | MB at the end | KB per generation | seconds per generation |")
    print("|---|---|---|---|---|")
    for kind in KINDS:
        command = [sys.executable, __file__, "--count", str(args.count), "--model", str(args.model), "--kind", kind]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        found = json.loads(done.stdout.splitlines()[-1])
        grown = (found["last"] - found["first"]) / 1024 / args.count
        print(
            f"| {kind} | {found['first'] / 2**20:.1f} | {found['last'] / 2**20:.1f} | {grown:.1f} "
            f"| {found['seconds'] / args.count:.3f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
