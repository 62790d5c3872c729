"""What half precision costs: `python benchmarks/precision.py [--device cuda] [--out FILE.json]`.

psi and text encoders of published size, random weights, in fp16 and bf16 beside the same weights in float64 (text
encoders: float32), with a host's autocast around the call and without; and the embedded model, which is trained, from
prompt to picture. Errors are ||out - reference|| / ||reference||. What must be equal to the bit is asked for: the same
call twice, with autocast around it or without, a picture alone and third in a batch.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from speed import DTYPES, SIGMA, VIT_H
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizerFast

from lib_oms.module import OMSModule
from lib_oms.psi import OMSUNet, OMSUNetConfig
from lib_oms.settings import OMSSettings
from lib_oms.step import FirstStep, one_more_step_ve
from lib_oms.text import MixClipEncoder, OpenCLIPEncoder, TextEncoder
from lib_oms.webui.request import Request, starting_noise

ROOT = Path(__file__).resolve().parents[1]
BIG_G = VIT_H | {"hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "num_attention_heads": 20}
CLIP_L = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
PROMPTS = ["night", "(a white page:1.4), bright", "a red circle, " * 40]


def error(out: Tensor, reference: Tensor) -> float:
    out, reference = out.double(), reference.double().to(out.device)
    return float((out - reference).norm() / reference.norm())


def around(device: torch.device, dtype: torch.dtype | None) -> Any:
    """A host's autocast; None is without."""
    return nullcontext() if dtype is None else torch.autocast(device.type, dtype=dtype)


def psi_of(size: str, device: torch.device) -> OMSUNet:
    """The same weights with each call."""
    torch.manual_seed(0)
    with torch.device(device):
        psi = OMSUNet(getattr(OMSUNetConfig, size)())
    return psi.eval().requires_grad_(False)


def text_of(kind: str, device: torch.device) -> TextEncoder:
    """The same weights with each call."""
    torch.manual_seed(0)
    tokenizer = CLIPTokenizerFast.from_pretrained(ROOT / "models/demo/tokenizer")
    with torch.device(device):
        if kind == "openclip":
            return OpenCLIPEncoder(CLIPTextModel(CLIPTextConfig(**VIT_H)), tokenizer)
        pair = (CLIPTextModel(CLIPTextConfig(**CLIP_L)), CLIPTextModelWithProjection(CLIPTextConfig(**BIG_G)))
        return MixClipEncoder(pair[0], tokenizer, pair[1], tokenizer)


def text(kind: str, device: torch.device, rows: list[dict[str, Any]]) -> None:
    reference = torch.cat(text_of(kind, device).encode_each(PROMPTS))  # transformers 4 builds no mask in float64
    for name, dtype in (("fp16", torch.float16), ("bf16", torch.bfloat16)):
        encoder = text_of(kind, device).to(dtype)
        results = []
        for cast in (None, torch.float16, torch.bfloat16, None):
            encoder.forget()
            with around(device, cast):
                each = encoder.encode_each(PROMPTS)
            results.append(torch.cat(each))
        same = [bool(torch.equal(results[0], other)) for other in results[1:]]
        row = {"what": f"text encoder, {kind}", "dtype": name, "error": error(results[0], reference)}
        rows.append(row | {"autocast_fp16_same": same[0], "autocast_bf16_same": same[1], "twice_same": same[2]})
        print(rows[-1], flush=True)


def psi(size: str, sides: tuple[int, ...], device: torch.device, rows: list[dict[str, Any]]) -> None:
    whole = psi_of(size, device)
    encoder = torch.nn.Module()
    width = whole.config.cross_attention_dim
    for side in sides:
        noise = torch.randn(1, 4, side, side, device=device)
        cond, uncond = torch.randn(2, 77, width, device=device).unbind()
        reference = whole.double()(noise.double(), cond[None].double())
        whole.float()
        single = error(whole(noise, cond[None]), reference)
        for name, dtype in (("fp16", torch.float16), ("bf16", torch.bfloat16)):
            network = copy.deepcopy(whole).to(dtype)
            module = OMSModule.__new__(OMSModule)  # without a text encoder: embeddings are given
            module.psi, module.text_encoder, module.latents = network, encoder, "sd"
            answers = []
            for cast in (None, torch.float16, torch.bfloat16, None):
                with around(device, cast):
                    answers.append(module.answer(noise, ([cond], []), 1.0)[0])
            same = [bool(torch.equal(answers[0], other)) for other in answers[1:]]
            x_T = one_more_step_ve(noise, answers[0], sigma=SIGMA)
            exact = one_more_step_ve(noise, reference.float(), sigma=SIGMA)
            row = {
                "what": f"psi, {size}, {side}x{side}",
                "dtype": name,
                "error": error(answers[0], reference),
                "fp32": single,
                "of_x_T": error(x_T, exact),
                "autocast_fp16_same": same[0],
                "autocast_bf16_same": same[1],
                "twice_same": same[2],
                "in_a_batch_same": _in_a_batch(module, cond, uncond, side, device),
            }
            rows.append(row)
            print(row, flush=True)
            del network, module


def _in_a_batch(module: OMSModule, cond: Tensor, uncond: Tensor, side: int, device: torch.device) -> bool:
    """Whether the third of a batch is to the bit what it is alone, guided."""
    noise = torch.randn(3, 4, side, side, device=device)
    settings = OMSSettings(enabled=True, prompt="night", guidance_scale=1.5)
    encoded = {"night": cond, "": uncond}

    def starts(part: Tensor) -> Tensor:
        many = len(part)
        first = FirstStep(SIGMA, exploding=True, scale=SIGMA)
        return starting_noise(Request(settings, [""] * many, [1] * many, [], 0.0, part, first), module, encoded)

    return bool(torch.equal(starts(noise)[2:], starts(noise[2:])))


def embedded(device: torch.device, rows: list[dict[str, Any]], seeds: int) -> None:
    """The trained model: brightness of its pictures in half precision beside that in single."""
    from lib_oms.embedded.load import load_pipeline
    from lib_oms.pipeline import OneMoreStep

    prompts = [f"{color} background" for color in ("black", "white", "gray", "red", "blue")]
    size = [load_pipeline().unet.config.sample_size] * 2
    # Drawn once: in half precision the same seed gives other noise on some processors.
    noise = torch.randn(seeds, 4, *size, generator=torch.Generator().manual_seed(2026))
    means: dict[str, Tensor] = {}
    for name in ("fp32", "fp16", "bf16"):
        pipe = load_pipeline().to(device, DTYPES[name])
        pipe.set_progress_bar_config(disable=True)
        oms = OneMoreStep.from_pretrained(ROOT / "models/demo", dtype=DTYPES[name], device=device)
        means[name] = torch.stack(
            [
                torch.from_numpy(
                    oms(
                        pipe,
                        prompt=[prompt] * seeds,
                        latents=noise.to(device, DTYPES[name]),
                        num_inference_steps=20,
                        guidance_scale=3.0,
                        output_type="np",
                    ).images.mean(axis=(1, 2))
                )
                for prompt in prompts
            ]
        )
    for name in ("fp16", "bf16"):
        gap = (means[name] - means["fp32"]).abs()
        row = {"what": f"embedded model, {len(prompts)} prompts x {seeds} seeds", "dtype": name}
        row |= {"mean_gap_of_mean_rgb": float(gap.mean()), "most": float(gap.max())}
        row |= {"black": float(means[name][0].mean()), "white": float(means[name][1].mean())}
        rows.append(row)
        print(row, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--small", action="store_true", help="without the large networks")
    parser.add_argument("--out", type=Path, default=None)
    args = parser.parse_args()
    device = torch.device(args.device)
    torch.manual_seed(0)
    rows: list[dict[str, Any]] = []
    machine = {
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "CPU",
        "torch": torch.__version__,
        "tf32_of_convolutions": torch.backends.cudnn.allow_tf32,
    }
    print(machine)
    try:
        with torch.no_grad():
            text("openclip", device, rows)
            psi("base", (64, 128), device, rows)
            for benchmarked in (True,) if device.type == "cuda" else ():
                torch.backends.cudnn.benchmark = benchmarked  # as AUTOMATIC1111 has it on some cards
                print("with cudnn.benchmark")
                psi("base", (64,), device, rows)
                torch.backends.cudnn.benchmark = False
            embedded(device, rows, args.seeds)
            if not args.small:
                text("mixclip", device, rows)
                psi("large", (64,), device, rows)
    finally:
        if args.out:
            args.out.parent.mkdir(parents=True, exist_ok=True)
            args.out.write_text(json.dumps({"machine": machine, "rows": rows}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
