"""How long loading a module takes, beside reading its file: `python benchmarks/load.py [--size large] [--dtype fp16]`.

Both are measured by turns in one run, once from the disk (the file thrown out of the system's cache before) and once
from the cache; the fastest of each is printed, for what slows a run down is other programs, and the quotient that the
project promises to be at most 1.5 from the disk.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from lib_oms.psi import OMSUNet, OMSUNetConfig

SIZES = {"tiny": OMSUNetConfig.tiny, "base": OMSUNetConfig.base, "large": OMSUNetConfig.large}
DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}
PROMISE = 1.5


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=SIZES, default="base")
    parser.add_argument("--stored", choices=DTYPES, default="fp16", help="dtype of the file")
    parser.add_argument("--dtype", choices=DTYPES, default="fp16", help="dtype to load to")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", default=None, help="where the file is written for the time of the run")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        path = Path(folder) / "module.safetensors"
        write(path, SIZES[args.size](), DTYPES[args.stored])
        OMSUNet.from_pretrained(path, DTYPES[args.dtype])  # imports and first-time set-up are not what is asked
        report = {"size": args.size, "bytes": path.stat().st_size, "stored": args.stored, "loaded": args.dtype}
        for where in ("disk", "cache"):
            read, load = by_turns(path, DTYPES[args.dtype], args.rounds, cold=where == "disk")
            report[where] = {"read_s": round(read, 3), "load_s": round(load, 3), "quotient": round(load / read, 2)}
    print(json.dumps(report, indent=2))
    return 0 if report["disk"]["quotient"] <= PROMISE else 1


def write(path: Path, config: OMSUNetConfig, dtype: torch.dtype) -> None:
    """A module with random weights."""
    torch.set_default_dtype(dtype)
    try:
        with torch.device("meta"):
            psi = OMSUNet(config)
        psi.to_empty(device="cpu")
        for parameter in psi.parameters():
            parameter.data.normal_(std=0.02)
    finally:
        torch.set_default_dtype(torch.float32)
    psi.save_pretrained(path)


def by_turns(path: Path, dtype: torch.dtype, rounds: int, *, cold: bool) -> tuple[float, float]:
    """The fewest seconds that reading and that loading take."""
    times: tuple[list[float], list[float]] = ([], [])
    for i in range(2 * rounds):
        action: Callable[[], object] = (lambda: read(path)) if i % 2 == 0 else (lambda: load(path, dtype))
        if cold:
            forget(path)
        started = time.perf_counter()
        action()
        times[i % 2].append(time.perf_counter() - started)
    return min(times[0]), min(times[1])


def read(path: Path) -> bytes:
    """The whole file into memory."""
    return path.read_bytes()


def load(path: Path, dtype: torch.dtype) -> OMSUNet:
    return OMSUNet.from_pretrained(path, dtype)


def forget(path: Path) -> None:
    """Throws a file out of the system's cache, where the system can do that."""
    if hasattr(os, "posix_fadvise"):
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


if __name__ == "__main__":
    sys.exit(main())
