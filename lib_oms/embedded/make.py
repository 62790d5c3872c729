"""Remakes the embedded model from a seed: `python -m lib_oms.embedded.make --out models/demo --seed 0`.

Everything is trained from nothing on pictures that `draw.py` draws, in this order: the VAE; the text encoder, against
the pictures' latents as CLIP is; the denoiser; psi, by the project's own trainer (`lib_oms.training`); a second
denoiser, fine-tuned in another style; a LoRA in a third. About 80 minutes on two cores. Each stage writes its part of
the folder when it is done, and a stage whose part is there is not run again.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers.models import AutoencoderKL, UNet2DConditionModel
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file
from torch.optim.swa_utils import AveragedModel
from tqdm import tqdm
from transformers import CLIPTextModel, CLIPTokenizer

from lib_oms.devices import channels_last
from lib_oms.embedded import LATENTS, MODEL_DIR, draw
from lib_oms.embedded.build import (
    TEXT_WIDTH,
    build_scheduler,
    build_text_encoder,
    build_tokenizer,
    build_unet,
    build_vae,
    save_part,
    write_index,
)
from lib_oms.embedded.lora import LoRALayers

PICTURES = 6_000
STYLE_PICTURES = 800
PSI_PICTURES = 2_500
VAE_STEPS_SMALL, VAE_STEPS_FULL = 700, 200
TEXT_STEPS = 400
# The rate's cosine is laid out over more steps than are run: the weights' moving average stands in for its slow end.
UNET_STEPS, UNET_SCHEDULE = 1_500, 1_800
STYLE_STEPS = 150
LORA_STEPS = 150
PSI_STEPS = 800
Loss = Callable[[int], torch.Tensor]
"""The loss of a step, by the step's number."""


def to_tensor(pictures: np.ndarray) -> torch.Tensor:
    """uint8 [B, H, W, 3] to float [B, 3, H, W] in -1..1."""
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float().div(127.5).sub(1.0)


def cosine(step: int, steps: int, *, warmup: int = 50, floor: float = 0.02) -> float:
    """The learning rate's factor: a short warm-up, then half a cosine."""
    if step < warmup:
        return (step + 1) / warmup
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def training_steps(
    title: str,
    parameters: list[torch.nn.Parameter],
    rate: float,
    steps: int,
    loss_of: Loss,
    schedule: int | None = None,
) -> Iterator[tuple[int, float]]:
    """AdamW with a cosine rate; `loss_of(step)` gives a step's loss. Yields (step, loss) after every step.

    Args:
        schedule: how many steps the cosine is laid out over; None: as many as are run.
    """
    optimizer = torch.optim.AdamW(parameters, lr=rate, weight_decay=1e-3, betas=(0.9, 0.99))
    running: float | None = None
    with tqdm(range(steps), desc=title, mininterval=5) as bar:
        for step in bar:
            for group in optimizer.param_groups:
                group["lr"] = rate * cosine(step, schedule or steps)
            loss = loss_of(step)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            value = loss.item()
            running = value if running is None else 0.98 * running + 0.02 * value
            bar.set_postfix(loss=f"{running:.4f}", refresh=False)
            yield step, value


# --- VAE ---------------------------------------------------------------------------------------------------------


def train_vae(seed: int, steps_small: int, steps_full: int) -> AutoencoderKL:
    """Trains the VAE: first on pictures of half the size, then at full size. Sets its scaling factor to 1 / std."""
    torch.manual_seed(seed)
    vae = channels_last(build_vae()).train()

    def loss_of(size: int, batch: int, offset: int) -> Loss:
        def loss(step: int) -> torch.Tensor:
            numbers = range(offset + step * batch, offset + (step + 1) * batch)
            scenes = [draw.sample_scene(np.random.default_rng((seed, 7, number))) for number in numbers]
            styles = [("plain", "plain", "outlined", "shadow")[number % 4] for number in numbers]
            pictures = [draw.draw(scene, style=style, size=size) for scene, style in zip(scenes, styles, strict=True)]
            x = channels_last_tensor(to_tensor(np.stack([np.asarray(picture) for picture in pictures])))
            posterior = vae.encode(x).latent_dist
            y = vae.decode(posterior.sample()).sample
            return F.l1_loss(y, x) + 2.0 * F.mse_loss(y, x) + 1e-6 * posterior.kl().mean() / posterior.mean[0].numel()

        return loss

    parameters = list(vae.parameters())
    for _ in training_steps("vae, 128 x 128", parameters, 3e-4, steps_small, loss_of(128, 4, 0)):
        pass
    for _ in training_steps("vae, 256 x 256", parameters, 1.5e-4, steps_full, loss_of(256, 2, 10_000_000)):
        pass
    vae.eval()
    pictures, _ = draw.dataset(256, seed + 1)
    vae.register_to_config(scaling_factor=1.0)
    with torch.no_grad():
        mean = torch.cat([vae.encode(to_tensor(p)).latent_dist.mode() for p in np.array_split(pictures, 16)])
    vae.register_to_config(scaling_factor=round(1.0 / mean.std().item(), 5))
    return vae


def channels_last_tensor(x: torch.Tensor) -> torch.Tensor:
    """The input in the memory format of `channels_last` modules."""
    return x.contiguous(memory_format=torch.channels_last)


@torch.no_grad()
def encode_pictures(vae: AutoencoderKL, pictures: np.ndarray, title: str) -> torch.Tensor:
    """Scaled latents [N, 4, 32, 32] (the posterior's mean), kept in half precision."""
    parts = [
        vae.encode(channels_last_tensor(to_tensor(pictures[i : i + 8]))).latent_dist.mode()
        * vae.config["scaling_factor"]
        for i in tqdm(range(0, len(pictures), 8), desc=f"latents, {title}", mininterval=5)
    ]
    return torch.cat(parts).half().contiguous()


def drawn_latents(work: Path, vae: AutoencoderKL, count: int, seed: int, style: str) -> tuple[torch.Tensor, list[str]]:
    """The latents and captions of a drawn data set, kept in the work folder for the stages that follow."""
    file = work / f"latents-{style}-{count}-{seed}.safetensors"
    if not file.exists():
        latents: list[torch.Tensor] = []
        captions: list[str] = []
        for start in range(0, count, 1000):  # a thousand pictures take 200 MB
            pictures, texts = draw.dataset(min(1000, count - start), seed, style=style, start=start)
            latents.append(encode_pictures(vae, pictures, f"{style} {start}"))
            captions += texts
        save_file({"latents": torch.cat(latents)}, file, metadata={"captions": json.dumps(captions)})
    with safe_open(file, framework="pt") as opened:
        return opened.get_tensor("latents"), json.loads(opened.metadata()["captions"])


# --- Text encoder ------------------------------------------------------------------------------------------------


def tokenize(tokenizer: CLIPTokenizer, captions: list[str]) -> torch.Tensor:
    """Token ids [B, 77]."""
    return tokenizer(captions, padding="max_length", max_length=77, truncation=True, return_tensors="pt").input_ids


def train_text_encoder(
    tokenizer: CLIPTokenizer, latents: torch.Tensor, captions: list[str], seed: int, steps: int
) -> CLIPTextModel:
    """Trains the text encoder as CLIP is: captions and pictures that belong together get close embeddings.

    The picture's side, a small convolutional network on latents, is thrown away afterwards.
    """
    torch.manual_seed(seed + 10)
    encoder = build_text_encoder(tokenizer).train()
    picture_side = torch.nn.Sequential(
        torch.nn.Conv2d(4, 32, 4, stride=4),
        torch.nn.SiLU(),
        torch.nn.Conv2d(32, 96, 3, padding=1),
        torch.nn.SiLU(),
        torch.nn.Conv2d(96, 96, 4, stride=4),
        torch.nn.SiLU(),
        torch.nn.Flatten(),
        torch.nn.Linear(384, TEXT_WIDTH),
    )
    projection = torch.nn.Linear(TEXT_WIDTH, TEXT_WIDTH, bias=False)
    temperature = torch.nn.Parameter(torch.tensor(2.0))
    ids = tokenize(tokenizer, captions)
    ends = (ids == tokenizer.eos_token_id).int().argmax(dim=1)
    names = {text: index for index, text in enumerate(dict.fromkeys(captions))}
    label = torch.tensor([names[text] for text in captions])
    generator = torch.Generator().manual_seed(seed + 11)

    def loss_of(step: int) -> torch.Tensor:
        pick = torch.randint(len(captions), (96,), generator=generator)
        hidden = encoder(ids[pick]).last_hidden_state
        text = F.normalize(projection(hidden[torch.arange(len(pick)), ends[pick]]), dim=-1)
        seen = F.normalize(picture_side(latents[pick].float()), dim=-1)
        scores = text @ seen.T * temperature.clamp(max=4.6).exp()
        same = (label[pick][:, None] == label[pick][None, :]).float()  # equal captions are equally right
        target = same / same.sum(dim=1, keepdim=True)
        return 0.5 * (F.cross_entropy(scores, target) + F.cross_entropy(scores.T, target))

    parameters = [*encoder.parameters(), *picture_side.parameters(), *projection.parameters(), temperature]
    for _ in training_steps("text encoder", parameters, 1e-3, steps, loss_of):
        pass
    return encoder.eval()


@torch.no_grad()
def embed_captions(
    tokenizer: CLIPTokenizer, encoder: CLIPTextModel, captions: list[str]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Embeddings of the distinct captions [U + 1, 77, 128], the empty one last, and each picture's row [N]."""
    distinct = [*dict.fromkeys(captions), ""]
    ids = tokenize(tokenizer, distinct)
    rows = torch.cat([encoder(part).last_hidden_state.half() for part in ids.split(64)])
    index = {text: row for row, text in enumerate(distinct)}
    return rows, torch.tensor([index[text] for text in captions])


# --- Denoiser ----------------------------------------------------------------------------------------------------


def denoising_loss(
    unet: UNet2DConditionModel, latents: torch.Tensor, table: torch.Tensor, rows: torch.Tensor, seed: int, batch: int
) -> Loss:
    """The loss of epsilon prediction at a random timestep; one caption in ten is left out, for guidance."""
    scheduler = build_scheduler()
    generator = torch.Generator().manual_seed(seed)

    def loss_of(step: int) -> torch.Tensor:
        pick = torch.randint(len(latents), (batch,), generator=generator)
        x_0 = latents[pick].float()
        noise = torch.randn(x_0.shape, generator=generator)
        timestep = torch.randint(1000, (batch,), generator=generator)
        row = torch.where(torch.rand(batch, generator=generator) < 0.1, len(table) - 1, rows[pick])
        x_t = scheduler.add_noise(x_0, noise, timestep)  # type: ignore[arg-type]  # any integers do, not IntTensor alone
        predicted = unet(channels_last_tensor(x_t), timestep, table[row].float(), return_dict=False)[0]
        return F.mse_loss(predicted, noise)

    return loss_of


def average_decay(steps: int, decay: float) -> float:
    """How much of a moving average stays after `steps` steps: little at first, for early weights are soon outdated."""
    return min(decay, 1 - (1 + steps) ** -0.8)


def train_unet(
    unet: UNet2DConditionModel, latents: torch.Tensor, table: torch.Tensor, rows: torch.Tensor, seed: int, steps: int,
    rate: float, title: str, decay: float, snapshot: Path, schedule: int | None = None,
) -> UNet2DConditionModel:  # fmt: skip
    """Trains all of a denoiser and returns it with the moving average of its weights.

    Args:
        snapshot: where the average is written every 300 steps, for whoever wants to look before the end.
    """
    unet = channels_last(unet).train()
    average = AveragedModel(unet, avg_fn=lambda kept, new, steps: kept.lerp(new, 1 - average_decay(int(steps), decay)))
    loss_of = denoising_loss(unet, latents, table, rows, seed, batch=32)
    for step, _ in training_steps(title, list(unet.parameters()), rate, steps, loss_of, schedule):
        average.update_parameters(unet)
        if step % 300 == 299:
            save_file({n: p.contiguous() for n, p in average.module.named_parameters()}, snapshot)
    unet.load_state_dict(average.module.state_dict())
    return unet.eval()


def train_lora(
    unet: UNet2DConditionModel, latents: torch.Tensor, table: torch.Tensor, rows: torch.Tensor, seed: int, steps: int
) -> dict[str, torch.Tensor]:
    """Trains low-rank additions to a frozen denoiser; returns them under diffusers' names."""
    torch.manual_seed(seed)
    unet = channels_last(unet).train().requires_grad_(False)
    layers = LoRALayers(unet, rank=4)
    loss_of = denoising_loss(unet, latents, table, rows, seed, batch=32)
    for _ in training_steps("lora", layers.parameters(), 2e-3, steps, loss_of):
        pass
    return layers.state_dict()


# --- psi ---------------------------------------------------------------------------------------------------------


def write_picture_folder(folder: Path, count: int, seed: int) -> None:
    """Writes drawn pictures as an ImageFolder with metadata.jsonl, which is what the trainer reads."""
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / "metadata.jsonl").exists():
        return
    lines = []
    for start in range(0, count, 1000):
        pictures, captions = draw.dataset(min(1000, count - start), seed, start=start)
        for index, (picture, text) in enumerate(zip(pictures, captions, strict=True), start):
            Image.fromarray(picture).save(folder / f"{index:05d}.png", compress_level=1)
            lines.append(json.dumps({"file_name": f"{index:05d}.png", "text": text}))
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def train_psi(out: Path, work: Path, seed: int, steps: int, pictures: int) -> None:
    """Trains psi on drawn pictures with the trainer that anybody uses: `python -m lib_oms train`."""
    from lib_oms.psi import OMSUNet
    from lib_oms.training import TrainingSettings, train

    write_picture_folder(work / "pictures", pictures, seed + 5)
    module = train(
        TrainingSettings(
            data=str(work / "pictures"),
            model=str(out),
            output=str(work / "psi"),
            size="tiny",
            latents=LATENTS,
            resolution=draw.SIZE,
            steps=steps,
            batch_size=32,
            lr=1e-3,
            warmup=50,
            ema_decay=0.995,
            save_every=250,
            seed=seed,
        )
    )
    psi = OMSUNet.from_pretrained(module)
    psi.half().save_pretrained(out / "oms_module", metadata=psi.metadata)


# --- All of it ---------------------------------------------------------------------------------------------------


def write_untrained(out: Path, seed: int) -> None:
    """Writes the whole folder with random weights, for tests of everything but the pictures."""
    from lib_oms.psi import OMSUNet, OMSUNetConfig

    torch.manual_seed(seed)
    tokenizer = build_tokenizer(draw.captions(300, seed), out / "tokenizer")
    save_part(build_text_encoder(tokenizer), out / "text_encoder")
    save_part(build_vae(), out / "vae")
    unet = build_unet()
    (out / "lora").mkdir(parents=True, exist_ok=True)
    save_file(LoRALayers(unet, rank=4).state_dict(), out / "lora" / "embedded-shadow.safetensors")
    unet = build_unet()
    save_part(unet, out / "unet")
    save_part(build_unet(), out / "unet_second")
    build_scheduler().save_pretrained(out / "scheduler")
    write_index(out)
    metadata = {"oms.latents": LATENTS, "oms.text_encoder": "openclip"}
    OMSUNet(OMSUNetConfig.tiny(TEXT_WIDTH)).half().save_pretrained(out / "oms_module", metadata=metadata)


def make(out: Path, work: Path, seed: int, scale: float) -> None:
    """Runs every stage whose result is not in `out` yet. `scale` shortens all of them, to try the script."""

    def n(count: int) -> int:
        return max(2, round(count * scale))

    work.mkdir(parents=True, exist_ok=True)
    out.mkdir(parents=True, exist_ok=True)
    times: dict[str, float] = {}

    def stage(name: str, done: Path) -> bool:
        if done.exists():
            return False
        times[name] = time.monotonic()
        print(f"== {name}", flush=True)
        return True

    def finished(name: str) -> None:
        times[name] = time.monotonic() - times[name]
        with (work / "times.jsonl").open("a", encoding="utf-8") as log:
            log.write(json.dumps({"stage": name, "minutes": round(times[name] / 60, 2)}) + "\n")

    if stage("vae", out / "vae"):
        save_part(train_vae(seed, n(VAE_STEPS_SMALL), n(VAE_STEPS_FULL)), out / "vae")
        finished("vae")
    vae = channels_last(AutoencoderKL.from_pretrained(out / "vae").float().eval())
    latents, captions = drawn_latents(work, vae, n(PICTURES), seed + 2, "plain")

    if stage("text encoder", out / "text_encoder"):
        tokenizer = build_tokenizer(captions, out / "tokenizer")
        save_part(train_text_encoder(tokenizer, latents, captions, seed, n(TEXT_STEPS)), out / "text_encoder")
        finished("text encoder")
    tokenizer = CLIPTokenizer.from_pretrained(out / "tokenizer", local_files_only=True)
    encoder = CLIPTextModel.from_pretrained(out / "text_encoder").float().eval()
    table, rows = embed_captions(tokenizer, encoder, captions)
    build_scheduler().save_pretrained(out / "scheduler")
    write_index(out)

    if stage("unet", out / "unet"):
        torch.manual_seed(seed + 20)
        unet = train_unet(
            build_unet(), latents, table, rows, seed + 21, n(UNET_STEPS), 1e-3, "unet", 0.998,
            work / "unet.safetensors", n(UNET_SCHEDULE),
        )  # fmt: skip
        save_part(unet, out / "unet")
        finished("unet")

    if stage("psi", out / "oms_module"):
        train_psi(out, work, seed, n(PSI_STEPS), n(PSI_PICTURES))
        finished("psi")

    if stage("second unet", out / "unet_second"):
        styled, texts = drawn_latents(work, vae, n(STYLE_PICTURES), seed + 3, "outlined")
        table, rows = embed_captions(tokenizer, encoder, texts)
        unet = UNet2DConditionModel.from_pretrained(out / "unet").float()
        unet = train_unet(
            unet, styled, table, rows, seed + 31, n(STYLE_STEPS), 4e-4, "second unet", 0.99, work / "second.safetensors"
        )
        save_part(unet, out / "unet_second")
        finished("second unet")

    if stage("lora", out / "lora"):
        styled, texts = drawn_latents(work, vae, n(STYLE_PICTURES), seed + 4, "shadow")
        table, rows = embed_captions(tokenizer, encoder, texts)
        unet = UNet2DConditionModel.from_pretrained(out / "unet").float()
        tensors = train_lora(unet, styled, table, rows, seed + 41, n(LORA_STEPS))
        (out / "lora").mkdir()
        save_file(tensors, out / "lora" / "embedded-shadow.safetensors", metadata={"format": "pt"})
        finished("lora")


def main(argv: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m lib_oms.embedded.make", description=__doc__)
    parser.add_argument("--out", type=Path, default=MODEL_DIR, help="the model's folder (default: %(default)s)")
    parser.add_argument("--work", type=Path, default=Path("outputs/make"), help="pictures, latents, checkpoints")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--scale", type=float, default=1.0, help="shorten every stage to this fraction, to try it")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--untrained", type=Path, metavar="OUT", help="only write a folder with random weights")
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    if args.untrained:
        write_untrained(args.untrained, args.seed)
    else:
        make(args.out, args.work, args.seed, args.scale)
    return 0


if __name__ == "__main__":
    sys.exit(main())
