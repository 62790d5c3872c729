"""How fast the step is, beside what it stands beside: `python benchmarks/speed.py [--device cuda] [--out FILE.json]`.

Networks of published size with random weights: times depend on shapes alone. Each case times its two sides by turns in
one run, after a warm-up, synchronised, and takes medians. Without --device the first GPU is taken, else the CPU. It
needs no network and, beside this repository, torch, diffusers, transformers and safetensors alone.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import diffusers
import torch
import transformers
from diffusers import UNet2DConditionModel
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizerFast

from lib_oms.module import OMSModule
from lib_oms.psi import OMSUNet, OMSUNetConfig
from lib_oms.settings import OMSSettings
from lib_oms.step import one_more_step_ve
from lib_oms.text import OpenCLIPEncoder

ROOT = Path(__file__).resolve().parents[1]
DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}
SIGMA = 14.6146  # Stable Diffusion's first noise level
SD15 = {"cross_attention_dim": 768, "attention_head_dim": 8}  # the rest of SD1.5's UNet is diffusers' default
SDXL = {
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "attention_head_dim": [5, 10, 20],
    "transformer_layers_per_block": [1, 2, 10],
    "cross_attention_dim": 2048,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
VIT_H = {  # SD2.1's text encoder
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 23,
    "num_attention_heads": 16,
    "hidden_act": "gelu",
    "vocab_size": 49408,
}


class Bench:
    """The device, the dtype, and the rows that come of it."""

    def __init__(self, device: torch.device, dtype: torch.dtype, seconds: float) -> None:
        self.device, self.dtype, self._seconds = device, dtype, seconds
        self.rows: list[dict[str, Any]] = []

    def sync(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def timed(self, action: Callable[[], object]) -> float:
        self.sync()
        started = time.perf_counter()
        action()
        self.sync()
        return time.perf_counter() - started

    def by_turns(self, *actions: Callable[[], object]) -> list[float]:
        """Median seconds of each, after one turn of warm-up; as many turns as fit into the time of a case."""
        for action in actions:
            action()
        turn = sum(self.timed(action) for action in actions)
        turns = max(3, min(50, int(self._seconds / turn)))
        times = [[self.timed(action) for action in actions] for _ in range(turns)]
        return [statistics.median(column) for column in zip(*times, strict=True)]

    def row(self, case: str, **values: Any) -> None:
        rounded = {key: float(f"{value:.4g}") if isinstance(value, float) else value for key, value in values.items()}
        self.rows.append({"case": case, **rounded})
        print(f"{case:<34}" + "  ".join(f"{key} {value}" for key, value in rounded.items()), flush=True)

    def randn(self, *shape: int) -> Tensor:
        return torch.randn(*shape, device=self.device, dtype=self.dtype)

    def build(self, make: Callable[[], nn.Module]) -> Any:
        """A network with its own random initialisation, made on the device in the dtype."""
        torch.set_default_dtype(self.dtype)
        try:
            with torch.device(self.device):
                network = make()
        finally:
            torch.set_default_dtype(torch.float32)
        return network.eval().requires_grad_(False)


def unet_call(bench: Bench, unet: Any, count: int, side: int) -> Callable[[], object]:
    """One forward of the base model, `count` latents of `side` x `side`."""
    x, text = bench.randn(count, 4, side, side), bench.randn(count, 77, unet.config.cross_attention_dim)
    t = torch.tensor(951, device=bench.device)
    added = {"text_embeds": bench.randn(count, 1280), "time_ids": bench.randn(count, 6)}
    added = added if unet.config.addition_embed_type else None
    return lambda: unet(x, t, text, added_cond_kwargs=added)


def psi_call(bench: Bench, psi: OMSUNet, count: int, side: int) -> Callable[[], object]:
    x, text = bench.randn(count, 4, side, side), bench.randn(count, 77, psi.config.cross_attention_dim)
    return lambda: psi(x, text)


def flop(action: Callable[[], object]) -> float:
    with FlopCounterMode(display=False) as counter:
        action()
    return float(counter.get_total_flops())


def matmul_rate(bench: Bench, size: int) -> float:
    """FLOP/s of the machine's own matrix product in this dtype."""
    a, b = bench.randn(size, size), bench.randn(size, size)
    (seconds,) = bench.by_turns(lambda: a @ b)
    return 2 * size**3 / seconds


def text_encoder(bench: Bench) -> OpenCLIPEncoder:
    model = bench.build(lambda: CLIPTextModel(CLIPTextConfig(**VIT_H)))
    tokenizer = CLIPTokenizerFast.from_pretrained(ROOT / "models/demo/tokenizer")
    return OpenCLIPEncoder(model, tokenizer)


def compare_with_unet(bench: Bench, name: str, unet: Any, psi: OMSUNet, side: int, counts: Iterable[int]) -> None:
    """psi's forward over the base UNet's, over the quotient of their FLOP."""
    for count in counts:
        ours, theirs = psi_call(bench, psi, count, side), unet_call(bench, unet, count, side)
        ours_s, theirs_s = bench.by_turns(ours, theirs)
        quotient, by_flop = ours_s / theirs_s, flop(ours) / flop(theirs)
        bench.row(
            f"psi / UNet of {name}, {side}x{side}",
            batch=count,
            psi_ms=1e3 * ours_s,
            unet_ms=1e3 * theirs_s,
            quotient=quotient,
            flop_quotient=by_flop,
            over=quotient / by_flop,
        )


def share_of_picture(bench: Bench, name: str, unet: Any, module: OMSModule, side: int) -> None:
    """One step beside the UNet's part of a 20-step CFG picture and of a 4-step LCM picture (no VAE, no text of theirs).

    "warm": prompt known, weights on the device. "moved": the policy "keep in RAM" with a new prompt: text encoder and
    psi to the device and back. "known": the same with a prompt that is known.
    """
    noise = bench.randn(1, 4, side, side).float()
    full = unet_call(bench, unet, 2, side)
    half = unet_call(bench, unet, 1, side)
    step = lambda: take_step(module, noise, "night", 1.0)  # noqa: E731
    full_s, half_s, warm_s = bench.by_turns(full, half, step)
    row = {"cfg20_ms": 2e4 * full_s, "lcm4_ms": 4e3 * half_s, "warm_ms": 1e3 * warm_s}
    if bench.device.type != "cpu":

        def moved(known: bool) -> None:
            if not known:
                module.text_encoder.forget()
                module.text_encoder.to(bench.device)
            texts = module.text_encoder.encode_each(["night"]) if not known else encoded
            module.text_encoder.to("cpu")
            module.psi.to(bench.device)
            v, _ = module.answer(noise, ([texts[0]], []), 1.0)
            one_more_step_ve(noise, v, sigma=SIGMA)
            module.psi.to("cpu")

        encoded = module.text_encoder.encode_each(["night"])
        module.to("cpu")
        moved_s, known_s = bench.by_turns(lambda: moved(False), lambda: moved(True))
        module.to(bench.device)
        row |= {"moved_ms": 1e3 * moved_s, "known_ms": 1e3 * known_s}
    for kind in ("warm", "known", "moved"):
        if f"{kind}_ms" in row:
            row |= {f"{kind}_of_cfg20": row[f"{kind}_ms"] / row["cfg20_ms"]}
            row |= {f"{kind}_of_lcm4": row[f"{kind}_ms"] / row["lcm4_ms"]}
    bench.row(f"share of a picture, {name} {side}x{side}", **row)


def take_step(module: OMSModule, noise: Tensor, prompt: str, scale: float) -> Tensor:
    """The step as an extension takes it, from prompt to x_T."""
    settings = OMSSettings(enabled=True, guidance_scale=scale)
    v, v_uncond = module.predict_v(noise, [prompt], [settings.negative_prompt], scale)
    return one_more_step_ve(noise, v, v_uncond, guidance_scale=scale, sigma=SIGMA)


def against_the_authors(bench: Bench, module: OMSModule, side: int) -> None:
    """Beside the authors' way with the same weights: both halves always, and the text encoded each time."""
    noise = bench.randn(1, 4, side, side).float()

    def authors(scale: float) -> Tensor:
        module.text_encoder.forget()
        cond, uncond = module.text_encoder.encode_each(["night", ""])
        v = module.psi(torch.cat([noise, noise]), torch.stack([cond, uncond]))
        v = v[1:] + scale * (v[:1] - v[1:])
        return one_more_step_ve(noise, v, sigma=SIGMA)

    for scale in (1.0, 1.5):
        ours, theirs = bench.by_turns(lambda s=scale: take_step(module, noise, "night", s), lambda s=scale: authors(s))
        bench.row(f"ours / the authors' way, {side}x{side}", scale=scale, ms=1e3 * ours, quotient=ours / theirs)


def rate(bench: Bench, psi: OMSUNet, side: int, count: int, peak: float) -> None:
    """FLOP/s over those of the machine's own matrix product."""
    action = psi_call(bench, psi, count, side)
    (seconds,) = bench.by_turns(action)
    reached = flop(action) / seconds
    bench.row(f"rate, {side}x{side}", batch=count, tflops=reached / 1e12, matmul=peak / 1e12, share=reached / peak)


def one_by_one(bench: Bench, psi: OMSUNet, side: int, counts: Iterable[int], unet_ms: float | None) -> None:
    """What it costs that each picture goes through psi alone, so that it is to the bit what it would be alone."""
    for count in counts:
        x, text = bench.randn(count, 4, side, side), bench.randn(count, 77, psi.config.cross_attention_dim)

        def alone(x: Tensor = x, text: Tensor = text) -> list[Tensor]:
            return [psi(x[i : i + 1], text[i : i + 1]) for i in range(len(x))]

        each, together = bench.by_turns(alone, lambda x=x, text=text: psi(x, text))
        same = bool(torch.equal(torch.cat(alone()), psi(x, text)))
        extra = {} if unet_ms is None else {"of_cfg20": 1e3 * (each - together) / (20 * unet_ms * count)}
        bench.row(f"one by one, {side}x{side}", batch=count, ms=1e3 * each, batched=1e3 * together, same=same, **extra)


def growth(bench: Bench, psi: OMSUNet, sizes: Iterable[tuple[int, int]]) -> None:
    """Time for each FLOP and memory for each latent pixel, over batch and size."""
    for count, side in sizes:
        action = psi_call(bench, psi, count, side)
        (seconds,) = bench.by_turns(action)
        extra = {}
        if bench.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            action()
            peak = torch.cuda.max_memory_allocated() - before
            extra = {"peak_mib": peak / 2**20, "bytes_a_pixel": peak / (count * side * side)}
        bench.row("growth", batch=count, side=side, ms=1e3 * seconds, tflops=flop(action) / seconds / 1e12, **extra)


def ways(bench: Bench, psi: OMSUNet, sizes: Iterable[tuple[int, int]]) -> None:
    """Ways to make psi's forward faster, each beside the plain one; on a GPU."""
    import copy

    last = copy.deepcopy(psi).to(memory_format=torch.channels_last)
    for count, side in sizes:
        x, text = bench.randn(count, 4, side, side), bench.randn(count, 77, psi.config.cross_attention_dim)
        x_last = x.to(memory_format=torch.channels_last)
        graph, out = torch.cuda.CUDAGraph(), None
        psi(x, text)
        with torch.cuda.graph(graph):
            out = psi(x, text)
        with _cudnn_benchmark():
            psi(x, text)
            plain, channels, replay = bench.by_turns(
                lambda x=x, text=text: psi(x, text),
                lambda x=x_last, text=text: last(x, text),
                graph.replay,
            )
        (default,) = bench.by_turns(lambda x=x, text=text: psi(x, text))
        bench.row(
            "ways",
            batch=count,
            side=side,
            ms=1e3 * default,
            cudnn_benchmark=1e3 * plain,
            channels_last=1e3 * channels,
            cuda_graph=1e3 * replay,
        )
        del graph, out


@contextmanager
def _cudnn_benchmark() -> Any:
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = True
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


def moving(bench: Bench, module: OMSModule) -> None:
    """Weights between RAM and device: as `network.to` does it, from page-locked RAM, and back."""
    for name, network in (("psi", module.psi), ("text encoder", module.text_encoder)):
        tensors = list(network.parameters())
        size = sum(tensor.nbytes for tensor in tensors)
        plain = [tensor.detach().cpu() for tensor in tensors]
        pinned = [tensor.pin_memory() for tensor in plain]
        there, locked, back = bench.by_turns(
            lambda plain=plain: [tensor.to(bench.device) for tensor in plain],
            lambda pinned=pinned: [tensor.to(bench.device, non_blocking=True) for tensor in pinned],
            lambda tensors=tensors: [tensor.detach().cpu() for tensor in tensors],
        )
        pin = bench.timed(lambda plain=plain: [tensor.pin_memory() for tensor in plain])
        bench.row(
            f"moving the {name}",
            mib=size / 2**20,
            there_ms=1e3 * there,
            pinned_ms=1e3 * locked,
            back_ms=1e3 * back,
            to_pin_ms=1e3 * pin,
        )


def run(bench: Bench, quick: bool) -> None:
    """All cases; the base UNets one after the other."""
    gpu = bench.device.type == "cuda"
    psi = bench.build(lambda: OMSUNet(OMSUNetConfig.base()))
    module = OMSModule(psi, text_encoder(bench), "sd")
    peak = matmul_rate(bench, 8192 if gpu else 2048)
    rate(bench, psi, 64, 1, peak)
    if not quick:
        rate(bench, psi, 128, 4 if gpu else 1, peak)
    unet = bench.build(lambda: UNet2DConditionModel(**SD15))
    compare_with_unet(bench, "SD1.5", unet, psi, 64, (1, 2, 4, 8) if gpu else (1,))
    share_of_picture(bench, "SD1.5", unet, module, 64)
    del unet
    against_the_authors(bench, module, 64)
    one_by_one(bench, psi, 64, (1, 2, 4, 8, 16) if gpu else (2,), None)
    if gpu:
        unet = bench.build(lambda: UNet2DConditionModel(**SDXL))
        compare_with_unet(bench, "SDXL", unet, psi, 128, (1, 2, 4))
        (unet_s,) = bench.by_turns(unet_call(bench, unet, 2, 128))
        share_of_picture(bench, "SDXL", unet, module, 128)
        del unet
        torch.cuda.empty_cache()
        against_the_authors(bench, module, 128)
        one_by_one(bench, psi, 128, (1, 2, 4, 8, 16), 1e3 * unet_s)
        growth(bench, psi, [(1, 64), (2, 64), (4, 64), (8, 64), (16, 64), (1, 96), (1, 128), (1, 160), (1, 192)])
        moving(bench, module)
        ways(bench, psi, [(1, 64), (2, 64), (1, 128), (2, 128)])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", choices=DTYPES, default=None, help="fp16 on a GPU and fp32 on a CPU if not given")
    parser.add_argument("--seconds", type=float, default=1.0, help="for each case, beyond three turns")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--out", type=Path, default=None, help="where the numbers go as JSON")
    args = parser.parse_args()
    device = torch.device(args.device)
    dtype = DTYPES[args.dtype or ("fp32" if device.type == "cpu" else "fp16")]
    torch.manual_seed(0)
    bench = Bench(device, dtype, args.seconds)
    machine = {
        "device": torch.cuda.get_device_name() if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads",
        "processor": platform.machine(),
        "dtype": str(dtype),
        "torch": torch.__version__,
        "diffusers": diffusers.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
    }
    print(json.dumps(machine))
    try:
        with torch.no_grad():
            run(bench, args.quick)
    finally:
        if args.out:
            args.out.parent.mkdir(parents=True, exist_ok=True)
            args.out.write_text(json.dumps({"machine": machine, "rows": bench.rows}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
