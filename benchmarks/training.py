"""What gradient checkpointing saves in a training step, and what it costs: the same step with and without, in one run.

    python benchmarks/training.py [--size tiny --size base] [--steps 3] [--batch N] [--precision bf16] [--out FILE.json]

Forward and backward of psi with random weights on random latents, as the trainer does them (channels last on a CPU).
Each of the two gets fresh processes, in turns. Memory is the most that a step holds over what weights and inputs take,
gradients and activations that is: of the first GPU as torch counts it, else of the process as Linux does. Time is the
median over all steps but the first; on a CPU it is processor time, which other programs do not lengthen. The rate is
what the step's own FLOP (nothing that is computed a second time) take, beside the machine's matrix product.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from torch.utils.flop_counter import FlopCounterMode

from lib_oms.devices import channels_last
from lib_oms.psi import OMSUNet, OMSUNetConfig
from lib_oms.training.network import checkpoint_gradients

CASES = {"tiny": (32, 768, 16), "base": (64, 1024, 2), "large": (128, 2048, 1)}
"""A side of the latents, the width of the text, and how many latents there are in a step."""
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}
"""What a step computes in; the weights are float32."""


def most_used(device: torch.device) -> int:
    """The most bytes that this process has held so far."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(re.search(r"VmHWM:\s+(\d+)", status)[1]) * 1024


def measure(size: str, batch: int, steps: int, precision: str, spare: bool) -> dict[str, Any]:
    """One process's part: bytes over the start, seconds of each step, and the gradients' sum of squares."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    side, width, _ = CASES[size]
    dtype = PRECISIONS[precision]
    torch.manual_seed(0)
    psi = OMSUNet(getattr(OMSUNetConfig, size)(cross_attention_dim=width)).train().to(device)
    if device.type == "cpu":
        channels_last(psi)
    if spare:
        checkpoint_gradients(psi)
    noise, x_0 = (torch.randn(batch, psi.config.in_channels, side, side, device=device) for _ in range(2))
    text = torch.randn(batch, 77, width, device=device)
    before, seconds = most_used(device), []

    def step() -> None:
        psi.zero_grad(set_to_none=True)
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            v = psi(noise, text)
        torch.nn.functional.mse_loss(v.float(), -x_0).backward()

    for _ in range(steps):
        started = now(device)
        step()
        seconds.append(now(device) - started)
    squares = sum(float(parameter.grad.double().pow(2).sum()) for parameter in psi.parameters())
    used = most_used(device) - before
    flop = matmul = 0.0
    if device.type == "cuda":
        if not spare:
            with FlopCounterMode(display=False) as counter:
                step()
            flop = float(counter.get_total_flops())
        matmul = matrix_rate(device, dtype)
    return {"bytes": used, "seconds": seconds, "squares": squares, "flop": flop, "matmul": matmul,
            "parameters": sum(parameter.numel() for parameter in psi.parameters())}  # fmt: skip


def matrix_rate(device: torch.device, dtype: torch.dtype, size: int = 8192) -> float:
    """FLOP a second of the machine's own matrix product, as a step in this dtype computes it."""
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    seconds = []
    for _ in range(10):
        started = now(device)
        a @ b
        seconds.append(now(device) - started)
    return 2 * size**3 / statistics.median(seconds[3:])


def now(device: torch.device) -> float:
    """Seconds, of the processor where that is what works."""
    if device.type == "cuda":
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=tuple(CASES), action="append", help="more than once for more (tiny, base)")
    parser.add_argument("--steps", type=int, default=3, help="steps of a process (3)")
    parser.add_argument("--rounds", type=int, default=2, help="processes of each of the two, in turns (2)")
    parser.add_argument("--batch", type=int, help="latents of a step (by size: 16, 2, 1)")
    parser.add_argument("--precision", choices=PRECISIONS, default="fp32", help="bf16 is by autocast, as in training")
    parser.add_argument("--out", type=Path, help="JSON file for the result")
    parser.add_argument("--child", choices=("kept", "spared"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        batch = args.batch or CASES[args.size[0]][2]
        print(json.dumps(measure(args.size[0], batch, args.steps, args.precision, args.child == "spared")))
        return 0
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {torch.get_num_threads()} threads"
    rows = []
    print("| size | batch | GB kept | GB spared | less | s a step kept | s spared | more |")
    print("|---|---|---|---|---|---|---|---|")
    for size in args.size or ("tiny", "base"):
        found: dict[str, list[dict[str, Any]]] = {"kept": [], "spared": []}
        for _ in range(args.rounds):
            for kind, results in found.items():
                words = ["--size", size, "--steps", str(args.steps), "--precision", args.precision, "--child", kind]
                words += ["--batch", str(args.batch)] if args.batch else []
                done = subprocess.run([sys.executable, __file__, *words], check=True, capture_output=True, text=True)
                results.append(json.loads(done.stdout.splitlines()[-1]))
        batch = args.batch or CASES[size][2]
        row: dict[str, Any] = {"size": size, "batch": batch, "latents": CASES[size][0], "precision": args.precision}
        row["gradient_bytes"] = 4 * found["kept"][0]["parameters"]
        for kind, results in found.items():
            row[f"{kind}_bytes"] = max(result["bytes"] for result in results)
            row[f"{kind}_seconds"] = statistics.median(s for result in results for s in result["seconds"][1:])
        a, b = found["kept"][0]["squares"], found["spared"][0]["squares"]
        row["gradients_differ_by"] = abs(a - b) / a
        flop, matmul = found["kept"][0]["flop"], max(result["matmul"] for result in found["kept"])
        if flop:
            reached = flop / row["kept_seconds"]
            row |= {"images_a_second": batch / row["kept_seconds"], "tflop_a_second": reached / 1e12}
            row |= {"share_of_matmul": reached / matmul}
        rows.append(row)
        print(
            f"| {size} | {row['batch']} | {row['kept_bytes'] / 1e9:.2f} | {row['spared_bytes'] / 1e9:.2f} "
            f"| {1 - row['spared_bytes'] / row['kept_bytes']:.0%} | {row['kept_seconds']:.2f} "
            f"| {row['spared_seconds']:.2f} | {row['spared_seconds'] / row['kept_seconds'] - 1:+.0%} |",
            flush=True,
        )
    if args.out:
        machine = {"device": device, "torch": torch.__version__, "python": sys.version.split()[0]}
        args.out.write_text(json.dumps({"machine": machine, "rows": rows}, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
