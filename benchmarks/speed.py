"""How fast the step is, beside what it stands beside: `python benchmarks/speed.py [--device cuda] [--out FILE.json]`.

Networks of published size with random weights: times depend on shapes alone. Each case times its sides by turns in one
run, after a warm-up, synchronised, and takes medians. Without --device the first GPU is taken, else the CPU. It needs
no network and, beside this repository, torch, diffusers, transformers and safetensors alone.

`--quick` is what matters of it, on a GPU in less than 100 s: no case begins after `--limit` seconds. A case that fails
says so and the next one begins; the file has every row that there is so far. "Before" is how version 0.2.0 did it:
diffusers' own blocks, and weights carried back to RAM.
"""

from __future__ import annotations

import argparse
import copy
import json
import platform
import statistics
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
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
from lib_oms.weights import Lent

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

    def __init__(
        self, device: torch.device, dtype: torch.dtype, seconds: float, limit: float = 1e9, out: Path | None = None
    ) -> None:
        self.device, self.dtype, self._seconds = device, dtype, seconds
        self._out, self._last = out, time.perf_counter() + limit
        self.machine: dict[str, Any] = {}
        self.rows: list[dict[str, Any]] = []

    def case(self, action: Callable[..., Any], *args: Any) -> Any:
        """What `action` returns; None where it fails, or where no time is left for it, which a row says."""
        name = getattr(action, "__name__", "case")
        if time.perf_counter() > self._last:
            return self.row(name, skipped="no time left")
        try:
            return action(self, *args)
        except Exception as error:
            traceback.print_exc(file=sys.stdout)
            return self.row(name, error=f"{type(error).__name__}: {error}"[:300])
        finally:
            if self.device.type == "cuda":
                torch.cuda.empty_cache()

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
        if self._out:
            self._out.write_text(json.dumps({"machine": self.machine, "rows": self.rows}, indent=1) + "\n")

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

    "warm": prompt known, weights on the device. "known": the policy "keep in RAM", with a prompt that is known.
    "moved": the same with a new prompt. Each now, and as it was before.
    """
    noise = bench.randn(1, 4, side, side).float()
    full = unet_call(bench, unet, 2, side)
    half = unet_call(bench, unet, 1, side)
    step = lambda: take_step(module, noise, "night", 1.0)  # noqa: E731
    full_s, half_s, warm_s, was_s = bench.by_turns(full, half, step, by_diffusers(module.psi, step))
    row = {"cfg20_ms": 2e4 * full_s, "lcm4_ms": 4e3 * half_s, "warm_ms": 1e3 * warm_s, "warm_before_ms": 1e3 * was_s}
    if bench.device.type != "cpu":
        encoded = module.text_encoder.encode_each(["night"])
        module.to("cpu")
        try:
            before = by_diffusers(module.psi, lambda: step_from_ram(bench, module, noise, carried, encoded))
            before_new = by_diffusers(module.psi, lambda: step_from_ram(bench, module, noise, carried, None))
            times = bench.by_turns(
                lambda: step_from_ram(bench, module, noise, lent, encoded),
                before,
                lambda: step_from_ram(bench, module, noise, lent, None),
                before_new,
            )
        finally:
            module.to(bench.device)
        names = ("known_ms", "known_before_ms", "moved_ms", "moved_before_ms")
        row |= {name: 1e3 * seconds for name, seconds in zip(names, times, strict=True)}
    for kind in ("warm", "known", "moved"):
        if f"{kind}_ms" in row:
            row |= {f"{kind}_of_cfg20": row[f"{kind}_ms"] / row["cfg20_ms"]}
            row |= {f"{kind}_of_lcm4": row[f"{kind}_ms"] / row["lcm4_ms"]}
    bench.row(f"share of a picture, {name} {side}x{side}", **row)


Way = Callable[[nn.Module, torch.device], AbstractContextManager[None]]
"""How a network comes from RAM to a device, and leaves it."""


@contextmanager
def carried(network: nn.Module, device: torch.device) -> Iterator[None]:
    network.to(device)
    yield
    network.to("cpu")


@contextmanager
def lent(network: nn.Module, device: torch.device) -> Iterator[None]:
    weights = Lent(network)
    network.to(device)
    yield
    weights.put_back()


@contextmanager
def lent_at_once(network: nn.Module, device: torch.device) -> Iterator[None]:
    """Python does not wait for the copies, where the weights are in page-locked RAM."""
    weights = Lent(network)
    network.to(device, non_blocking=True)
    yield
    weights.put_back()


@contextmanager
def lent_and_emptied(network: nn.Module, device: torch.device) -> Iterator[None]:
    """As hosts do it: the device's memory goes back to the driver each time."""
    with lent(network, device):
        yield
    if device.type == "cuda":
        torch.cuda.empty_cache()


@contextmanager
def staged(network: nn.Module, device: torch.device, room: int = 2**24) -> Iterator[None]:
    """Through two page-locked buffers of `room` bytes: one is filled while the other one goes to the device."""
    weights = Lent(network)
    buffers = [torch.empty(room, dtype=torch.uint8, pin_memory=device.type == "cuda") for _ in range(2)]
    done = [torch.cuda.Event(), torch.cuda.Event()]
    tensors = [*network.parameters(), *network.buffers()]
    starts, size = [], 0
    for tensor in tensors:
        starts.append(size)
        size += -(-tensor.nbytes // 512) * 512
    there = torch.empty(size, dtype=torch.uint8, device=device)
    turn, filled, first = 0, 0, 0

    def send(to: int) -> None:
        nonlocal turn, filled, first
        there[first : first + filled].copy_(buffers[turn][:filled], non_blocking=True)
        done[turn].record()
        turn, first, filled = 1 - turn, to, 0
        done[turn].synchronize()

    for start, tensor in zip(starts, tensors, strict=True):
        flat = tensor.detach().reshape(-1).view(torch.uint8)
        at = 0
        while at < len(flat):
            place = start + at - first
            if place >= room:
                send(start + at)
                place = 0
            part = min(room - place, len(flat) - at)
            buffers[turn][place : place + part].copy_(flat[at : at + part])
            filled, at = place + part, at + part
    send(size)
    with torch.no_grad():
        for start, tensor in zip(starts, tensors, strict=True):
            tensor.data = there[start : start + tensor.nbytes].view(tensor.dtype).view(tensor.shape)
    yield
    weights.put_back()


def by_diffusers(psi: OMSUNet, action: Callable[[], object]) -> Callable[[], object]:
    """`action`, with psi's forward as it was: through diffusers' own blocks, as psi is trained."""

    def acting() -> object:
        psi.training = True  # of psi alone, which asks for it; its layers stay as they are
        try:
            return action()
        finally:
            psi.training = False

    return acting


def step_from_ram(bench: Bench, module: OMSModule, noise: Tensor, way: Way, texts: list[Tensor] | None) -> Tensor:
    """The step with weights that wait in RAM; the text encoder comes first, where the prompt is new."""
    if texts is None:
        module.text_encoder.forget()
        with way(module.text_encoder, bench.device):
            texts = module.text_encoder.encode_each(["night"])
    with way(module.psi, bench.device):
        v, _ = module.answer(noise, ([texts[0]], []), 1.0)
        return one_more_step_ve(noise, v, sigma=SIGMA)


def keep_in_ram(bench: Bench, module: OMSModule, side: int) -> None:
    """Ways to move the weights, each with the computing that it is for: psi's step, and the text of a new prompt."""
    noise = bench.randn(1, 4, side, side).float()
    encoded = module.text_encoder.encode_each(["night"])
    on_device = module.psi(noise, encoded[0][None])
    module.to("cpu")

    def step() -> object:
        v, _ = module.answer(noise, ([encoded[0]], []), 1.0)
        return one_more_step_ve(noise, v, sigma=SIGMA)

    def read() -> object:
        module.text_encoder.forget()
        return module.text_encoder.encode_each(["night"])

    def through(way: Way, network: nn.Module, action: Callable[[], object]) -> Callable[[], None]:
        def moving() -> None:
            with way(network, bench.device):
                action()

        return moving

    try:
        for name, network, action in (("psi", module.psi, step), ("text encoder", module.text_encoder, read)):
            where = [tensor.data_ptr() for tensor in network.parameters()]
            bench.sync()
            before = torch.cuda.memory_allocated()
            through(lent, network, action)()
            bench.row(
                f"lent, {name}",
                bytes_left=torch.cuda.memory_allocated() - before,
                same_ram=where == [tensor.data_ptr() for tensor in network.parameters()],
            )
            names = {"carried": carried, "lent": lent, "at_once": lent_at_once, "emptied": lent_and_emptied}
            times = bench.by_turns(*(through(way, network, action) for way in names.values()))
            bench.row(
                f"from RAM, {name}",
                mib=sum(tensor.nbytes for tensor in network.parameters()) / 2**20,
                **{f"{way}_ms": 1e3 * seconds for way, seconds in zip(names, times, strict=True)},
            )
            bench.case(from_locked_ram, name, network, lambda way, n=network, a=action: through(way, n, a))
        with lent(module.psi, bench.device):
            bench.row("the same bits, lent", same=bool(torch.equal(module.psi(noise, encoded[0][None]), on_device)))
    finally:
        module.to(bench.device)


def from_locked_ram(bench: Bench, name: str, network: nn.Module, through: Callable[[Way], Callable[[], None]]) -> None:
    """As `keep_in_ram`: through two page-locked buffers, and from RAM that is page-locked where it is."""
    staged_s, lent_s = bench.by_turns(through(staged), through(lent))
    row = {"lent_ms": 1e3 * lent_s, "staged_ms": 1e3 * staged_s}
    runtime = torch.cuda.cudart()
    tensors = [tensor for tensor in network.parameters() if tensor.nbytes >= 2**16]
    started = time.perf_counter()
    locked = [t for t in tensors if int(runtime.cudaHostRegister(t.data_ptr(), t.nbytes, 0)) == 0]
    row |= {"to_lock_ms": 1e3 * (time.perf_counter() - started), "locked": len(locked), "of": len(tensors)}
    with suppress(RuntimeError):  # CUDA tells of what could not be locked once more, at the next kernel
        torch.zeros(1, device=bench.device).add_(1).item()
    try:
        row["is_pinned"] = sum(t.is_pinned() for t in locked)
        locked_s, lent_s = bench.by_turns(through(lent_at_once), through(lent))
        row |= {"locked_ms": 1e3 * locked_s, "locked_blocking_ms": 1e3 * lent_s}
    finally:
        bench.sync()
        started = time.perf_counter()
        for tensor in locked:
            runtime.cudaHostUnregister(tensor.data_ptr())
        row["to_unlock_ms"] = 1e3 * (time.perf_counter() - started)
    bench.row(f"from locked RAM, {name}", **row)


def forwards(bench: Bench, psi: OMSUNet, sizes: Iterable[tuple[int, int]]) -> None:
    """psi's forward before and now, and as a CUDA graph."""
    for count, side in sizes:
        now = psi_call(bench, psi, count, side)
        before = by_diffusers(psi, now)
        same = bool(torch.equal(now(), before()))
        now_s, before_s = bench.by_turns(now, before)
        bench.row(f"forward, {side}x{side}", batch=count, before_ms=1e3 * before_s, ms=1e3 * now_s, same=same)
        if bench.device.type == "cuda":
            bench.case(graph, psi, count, side)


def graph(bench: Bench, psi: OMSUNet, count: int, side: int) -> None:
    """psi as a CUDA graph: what a replay takes, what it costs to make, what it keeps of the device's memory."""
    now = psi_call(bench, psi, count, side)
    expected = now()
    bench.sync()
    torch.cuda.empty_cache()
    before, started = torch.cuda.memory_reserved(), time.perf_counter()
    captured = torch.cuda.CUDAGraph()
    with torch.cuda.graph(captured):
        out = now()
    bench.sync()
    made_s, kept = time.perf_counter() - started, torch.cuda.memory_reserved() - before
    replay_s, now_s = bench.by_turns(captured.replay, now)
    bench.row(
        f"graph, {side}x{side}",
        batch=count,
        ms=1e3 * now_s,
        replay_ms=1e3 * replay_s,
        to_capture_ms=1e3 * made_s,
        kept_mib=kept / 2**20,
        same=bool(torch.equal(out, expected)),
    )


def launches(bench: Bench, psi: OMSUNet, module: OMSModule, side: int) -> None:
    """What a forward, before and now, and a whole step start on the GPU, and how often Python waits for it."""
    from torch.autograd import DeviceType
    from torch.profiler import ProfilerActivity, profile

    noise = bench.randn(1, 4, side, side).float()
    now = psi_call(bench, psi, 1, side)
    step = lambda: take_step(module, noise, "night", 1.0)  # noqa: E731
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if bench.device.type == "cuda" else [])]
    for name, action in (("forward before", by_diffusers(psi, now)), ("forward", now), ("step", step)):
        action()
        with profile(activities=activities) as profiled:
            action()
            bench.sync()
        counted = Counter(event.name for event in profiled.events())
        row = {"operations": sum(number for event, number in counted.items() if event.startswith("aten::"))}
        row["kernels"] = sum(number for event, number in counted.items() if "LaunchKernel" in event)
        row["copies"] = sum(number for event, number in counted.items() if "cudaMemcpy" in event)
        row["waits"] = sum(number for event, number in counted.items() if "StreamSynchronize" in event)
        on_gpu = [event for event in profiled.key_averages() if event.device_type == DeviceType.CUDA]
        busy = sum(getattr(event, "self_device_time_total", 0) for event in on_gpu)
        bench.row(f"launches, {name}, {side}x{side}", **row, gpu_ms=busy / 1e3)


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

        each, was, together = bench.by_turns(alone, by_diffusers(psi, alone), lambda x=x, text=text: psi(x, text))
        same = bool(torch.equal(torch.cat(alone()), psi(x, text)))
        extra = {} if unet_ms is None else {"of_cfg20": 1e3 * (each - together) / (20 * unet_ms * count)}
        times = {"ms": 1e3 * each, "before_ms": 1e3 * was, "batched": 1e3 * together}
        bench.row(f"one by one, {side}x{side}", batch=count, **times, same=same, **extra)


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
    last = copy.deepcopy(psi).to(memory_format=torch.channels_last)
    for count, side in sizes:
        x, text = bench.randn(count, 4, side, side), bench.randn(count, 77, psi.config.cross_attention_dim)
        x_last = x.to(memory_format=torch.channels_last)
        captured, out = torch.cuda.CUDAGraph(), None
        psi(x, text)
        with torch.cuda.graph(captured):
            out = psi(x, text)
        with _cudnn_benchmark():
            psi(x, text)
            plain, channels, replay = bench.by_turns(
                lambda x=x, text=text: psi(x, text),
                lambda x=x_last, text=text: last(x, text),
                captured.replay,
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
        del captured, out


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
    """All cases, what matters most first; the base UNets one after the other."""
    gpu = bench.device.type == "cuda"
    psi = bench.build(lambda: OMSUNet(OMSUNetConfig.base()))
    module = OMSModule(psi, text_encoder(bench), "sd")
    case = bench.case
    case(forwards, psi, [(1, 64), (2, 64), (1, 128), (2, 128)] if gpu else [(1, 64)])
    if gpu:
        case(keep_in_ram, module, 128)
        case(with_sdxl, psi, module, quick)
        case(launches, psi, module, 128)
    peak = case(matmul_rate, 8192 if gpu else 2048)
    if peak:
        case(rate, psi, 64, 1, peak)
        if gpu or not quick:
            case(rate, psi, 128, 4 if gpu else 1, peak)
    case(with_sd15, psi, module, quick)
    case(against_the_authors, module, 64)
    case(one_by_one, psi, 64, ((4,) if quick else (1, 2, 4, 8, 16)) if gpu else (2,), None)
    if gpu and not quick:
        case(growth, psi, [(1, 64), (2, 64), (4, 64), (8, 64), (16, 64), (1, 96), (1, 128), (1, 160), (1, 192)])
        case(moving, module)
        case(ways, psi, [(1, 64), (2, 64), (1, 128), (2, 128)])


def with_sd15(bench: Bench, psi: OMSUNet, module: OMSModule, quick: bool) -> None:
    gpu = bench.device.type == "cuda"
    unet = bench.build(lambda: UNet2DConditionModel(**SD15))
    bench.case(compare_with_unet, "SD1.5", unet, psi, 64, ((2,) if quick else (1, 2, 4, 8)) if gpu else (1,))
    bench.case(share_of_picture, "SD1.5", unet, module, 64)


def with_sdxl(bench: Bench, psi: OMSUNet, module: OMSModule, quick: bool) -> None:
    unet = bench.build(lambda: UNet2DConditionModel(**SDXL))
    bench.case(share_of_picture, "SDXL", unet, module, 128)
    bench.case(compare_with_unet, "SDXL", unet, psi, 128, (2,) if quick else (1, 2, 4))
    (unet_s,) = bench.by_turns(unet_call(bench, unet, 2, 128))
    del unet
    torch.cuda.empty_cache()
    bench.case(against_the_authors, module, 128)
    bench.case(one_by_one, psi, 128, (2, 4, 16) if quick else (1, 2, 4, 8, 16), 1e3 * unet_s)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", choices=DTYPES, default=None, help="fp16 on a GPU and fp32 on a CPU if not given")
    parser.add_argument("--seconds", type=float, default=None, help="for each case, beyond three turns (1; quick 0.4)")
    parser.add_argument("--quick", action="store_true", help="what matters, in less than 100 s on a GPU")
    parser.add_argument("--limit", type=float, default=None, help="no case begins after so many seconds (quick: 85)")
    parser.add_argument("--out", type=Path, default=None, help="where the numbers go as JSON")
    args = parser.parse_args()
    device = torch.device(args.device)
    dtype = DTYPES[args.dtype or ("fp32" if device.type == "cpu" else "fp16")]
    torch.manual_seed(0)
    seconds = args.seconds or (0.4 if args.quick else 1.0)
    limit = args.limit or (85.0 if args.quick else 1e9)
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
    bench = Bench(device, dtype, seconds, limit, args.out)
    bench.machine = {
        "device": torch.cuda.get_device_name() if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads",
        "processor": platform.machine(),
        "dtype": str(dtype),
        "torch": torch.__version__,
        "diffusers": diffusers.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
    }
    print(json.dumps(bench.machine), flush=True)
    with torch.no_grad():
        run(bench, args.quick)
    return int(any("error" in row for row in bench.rows))


if __name__ == "__main__":
    sys.exit(main())
