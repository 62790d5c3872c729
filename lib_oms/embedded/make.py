"""Remakes the embedded models from a seed: `python -m lib_oms.embedded.make --out models/demo --seed 0`.

Everything is trained from nothing on pictures that `draw.py` draws, in this order: a classifier that tells the shapes
apart; the VAE; the text encoder, against the pictures' latents as CLIP is; the denoiser; psi, by the project's own
trainer (`lib_oms.training`); a second denoiser, fine-tuned in another style; a LoRA in a third; a consistency model and
a LoRA that paint in four steps. About five hours on two cores, or minutes on a GPU (`--device cuda`). Each stage writes
its part of the folder when it is done; a stage whose part is there is not run again, and one that was cut goes on where
it was. `--xl` makes the one in SDXL's shape.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

import torch
import torch.nn.functional as F
from diffusers.models import AutoencoderKL, UNet2DConditionModel
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file
from torch.utils.data import DataLoader
from tqdm import tqdm
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from lib_oms.devices import channels_last
from lib_oms.embedded import LATENTS, MODEL_DIR, XL_LATENTS, XL_MODEL_DIR, draw
from lib_oms.embedded.build import (
    TEXT_WIDTH,
    build_scheduler,
    build_second_text_encoder,
    build_text_encoder,
    build_tokenizer,
    build_unet,
    build_vae,
    build_xl_unet,
    save_part,
    write_index,
)
from lib_oms.embedded.denoiser import Examples, Text, brightness_error, consistency_loss, denoising_loss
from lib_oms.embedded.load import LCM_LORA_FILE, LORA_FILE, UNETS
from lib_oms.embedded.loop import Loss, Plan, Training
from lib_oms.embedded.lora import LoRALayers
from lib_oms.embedded.shapes import FILE as SHAPES_FILE
from lib_oms.embedded.shapes import ShapeClassifier, train_classifier

TextEncoder: TypeAlias = CLIPTextModel | CLIPTextModelWithProjection
STAGES = ("vae", "text", "unet", "psi", "second", "lora", "lcm", "lcm-lora", "shapes")
XL_STAGES = ("vae", "text", "unet", "psi")


@dataclass
class Budget:
    """How much of everything there is."""

    pictures: int
    style_pictures: int
    psi_pictures: int
    shape_pictures: int
    vae_small: Plan
    vae_full: Plan
    text: Plan
    unet: Plan
    second: Plan
    lora: Plan
    lcm: Plan
    lcm_lora: Plan
    shapes: Plan
    psi_steps: int
    psi_batch: int

    def scaled(self, scale: float) -> Budget:
        """A fraction of it, to try the script."""

        def less(value: int | Plan) -> int | Plan:
            steps = value.steps if isinstance(value, Plan) else value
            short = max(2, round(steps * scale))
            return replace(value, steps=short) if isinstance(value, Plan) else short

        parts = {name: less(value) for name, value in vars(self).items()}
        return Budget(**{**parts, "psi_batch": self.psi_batch})  # type: ignore[arg-type]  # a batch is no amount


CPU = Budget(
    pictures=16_000, style_pictures=2_000, psi_pictures=4_000, shape_pictures=6_000,
    vae_small=Plan(2_500, 3e-4, 4), vae_full=Plan(800, 1.5e-4, 2), text=Plan(1_500, 1e-3, 96),
    unet=Plan(9_000, 1e-3, 32, decay=0.998), second=Plan(600, 4e-4, 32, decay=0.99), lora=Plan(300, 2e-3, 32),
    lcm=Plan(400, 2e-4, 32, decay=0.98), lcm_lora=Plan(400, 1e-3, 32),
    shapes=Plan(1_500, 2e-3, 64), psi_steps=1_500, psi_batch=32,
)  # fmt: skip
"""For two cores and an afternoon."""
GPU = Budget(
    pictures=24_000, style_pictures=8_000, psi_pictures=8_000, shape_pictures=20_000,
    vae_small=Plan(3_000, 5e-4, 32, minutes=0.6), vae_full=Plan(1_500, 3e-4, 16, minutes=0.7),
    text=Plan(2_500, 1e-3, 256, minutes=0.3), unet=Plan(20_000, 1e-3, 256, decay=0.999, minutes=3.3),
    second=Plan(1_500, 5e-4, 128, decay=0.99, minutes=0.5), lora=Plan(1_500, 2e-3, 128, minutes=0.5),
    lcm=Plan(3_000, 3e-4, 128, decay=0.99, minutes=0.7), lcm_lora=Plan(3_000, 1e-3, 128, minutes=0.7),
    shapes=Plan(4_000, 2e-3, 128, minutes=0.6), psi_steps=2_000, psi_batch=64,
)  # fmt: skip
"""For one GPU of a data center and its 16 cores, in eight minutes."""


class Drawn(torch.utils.data.Dataset):
    """The pictures of a seed's data set by number, with their captions; drawn in as many processes as there are cores.

    Args:
        styles: by turns.
        first: the number to begin with.
        folder: where the pictures are written to; None: they are handed over, uint8 [3, size, size].
    """

    def __init__(
        self, count: int, seed: int, styles: tuple[str, ...] = ("plain",), size: int = draw.SIZE,
        folder: Path | None = None, first: int = 0,
    ) -> None:  # fmt: skip
        self._count, self._seed, self._styles, self._size, self._folder = count, seed, styles, size, folder
        self._first = first

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, number: int) -> tuple[torch.Tensor, str, str]:
        if number >= self._count:
            raise IndexError(number)
        number += self._first
        style = self._styles[number % len(self._styles)]
        picture, text, astray = draw.example(number, self._seed, style=style, size=self._size)
        if self._folder is not None:
            Image.fromarray(picture).save(self._folder / f"{number:05d}.png", compress_level=1)
            return torch.empty(0), text, astray
        return torch.from_numpy(picture).permute(2, 0, 1), text, astray

    def batches(self, size: int) -> Iterator[tuple[torch.Tensor, list[str], list[str]]]:
        """Pictures uint8 [B, 3, H, W], captions, captions that are astray."""
        workers = os.cpu_count() or 1
        yield from DataLoader(self, batch_size=size, num_workers=workers if workers > 2 else 0)


def to_input(pictures: torch.Tensor, device: torch.device) -> torch.Tensor:
    """uint8 [B, 3, H, W] to float in -1..1, in the memory format that the device computes fastest in."""
    x = pictures.to(device).float().div(127.5).sub(1.0)
    return x.contiguous(memory_format=torch.channels_last) if device.type == "cpu" else x


def on_device(network: torch.nn.Module, device: torch.device) -> torch.nn.Module:
    """The network on the device, in the memory format that it computes fastest in."""
    return channels_last(network) if device.type == "cpu" else network.to(device)


# --- VAE ---------------------------------------------------------------------------------------------------------


def train_vae(seed: int, budget: Budget, work: Path, device: torch.device) -> AutoencoderKL:
    """Trains the VAE: first on pictures of half the size, then at full size. Sets its scaling factor to 1 / std."""
    torch.manual_seed(seed)
    vae: AutoencoderKL = on_device(build_vae(), device)  # type: ignore[assignment]
    for size, plan in ((128, budget.vae_small), (256, budget.vae_full)):
        Training(f"vae, {size} x {size}", vae, plan, work / f"vae-{size}").run(vae_loss(vae, size, plan, seed, device))
    vae.register_to_config(scaling_factor=1.0)
    latents, _, _ = encode_drawn(vae, Drawn(256, seed + 1), device)
    vae.register_to_config(scaling_factor=round(1.0 / latents.float().std().item(), 5))
    return vae


def vae_loss(vae: AutoencoderKL, size: int, plan: Plan, seed: int, device: torch.device) -> Loss:
    """How much a picture of size x size differs from what the VAE gives back, by every style."""
    styles = ("plain", "plain", "outlined", "shadow")
    drawn: Iterator[tuple[torch.Tensor, list[str], list[str]]] | None = None

    def loss_of(step: int) -> torch.Tensor:
        nonlocal drawn
        if drawn is None:  # a training that was cut goes on with the pictures that it has not seen
            coming = (plan.steps - step) * plan.batch
            drawn = Drawn(coming, seed + 7 + size, styles, size, first=step * plan.batch).batches(plan.batch)
        x = to_input(next(drawn)[0], device)
        posterior = vae.encode(x).latent_dist
        z = posterior.sample()
        # samples of a denoiser are never quite right, and the decoder should not mind
        y = vae.decode(z + 0.05 * torch.randn_like(z)).sample
        return F.l1_loss(y, x) + 2.0 * F.mse_loss(y, x) + 1e-6 * posterior.kl().mean() / posterior.mean[0].numel()

    return loss_of


@torch.no_grad()
def encode_drawn(vae: AutoencoderKL, drawn: Drawn, device: torch.device) -> tuple[torch.Tensor, list[str], list[str]]:
    """Scaled latents [N, 4, 32, 32] (the posterior's mean) in half precision, captions, captions that are astray."""
    parts, captions, astray = [], [], []
    size = 8 if device.type == "cpu" else 100
    for pictures, texts, others in tqdm(
        drawn.batches(size), total=-(-len(drawn) // size), desc="latents", mininterval=5
    ):
        parts.append((vae.encode(to_input(pictures, device)).latent_dist.mode() * vae.config["scaling_factor"]).half())
        captions += texts
        astray += others
    return torch.cat(parts).contiguous().cpu(), captions, astray


def drawn_latents(
    work: Path, vae: AutoencoderKL, count: int, seed: int, style: str, device: torch.device
) -> tuple[torch.Tensor, list[str], list[str]]:
    """The latents and captions of a drawn data set, kept in the work folder for the stages that follow."""
    file = work / f"latents-{style}-{count}-{seed}.safetensors"
    if not file.exists():
        latents, captions, astray = encode_drawn(vae, Drawn(count, seed, (style,)), device)
        metadata = {"captions": json.dumps(captions), "astray": json.dumps(astray)}
        save_file({"latents": latents}, file.with_suffix(".part"), metadata=metadata)
        file.with_suffix(".part").rename(file)
    with safe_open(file, framework="pt") as opened:
        texts = opened.metadata()
        return opened.get_tensor("latents"), json.loads(texts["captions"]), json.loads(texts["astray"])


# --- Text encoder ------------------------------------------------------------------------------------------------


def tokenize(tokenizer: CLIPTokenizer, captions: list[str]) -> torch.Tensor:
    """Token ids [B, 77]."""
    return tokenizer(captions, padding="max_length", max_length=77, truncation=True, return_tensors="pt").input_ids


class TextAndPicture(torch.nn.Module):
    """The text encoder and what is thrown away after its training: a small network that looks at latents."""

    def __init__(self, encoder: TextEncoder) -> None:
        super().__init__()
        self.encoder = encoder
        width = encoder.config.hidden_size
        self.picture_side = torch.nn.Sequential(
            torch.nn.Conv2d(4, 32, 4, stride=4),
            torch.nn.SiLU(),
            torch.nn.Conv2d(32, 96, 3, padding=1),
            torch.nn.SiLU(),
            torch.nn.Conv2d(96, 96, 4, stride=4),
            torch.nn.SiLU(),
            torch.nn.Flatten(),
            torch.nn.Linear(384, width),
        )
        # the second encoder in SDXL's shape has one of its own, which makes its pooled embedding
        projects = isinstance(encoder, CLIPTextModelWithProjection)
        self.projection = torch.nn.Identity() if projects else torch.nn.Linear(width, width, bias=False)
        self.temperature = torch.nn.Parameter(torch.tensor(2.0))

    def read(self, ids: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
        """Embeddings [B, D] of token ids [B, 77] whose end tokens are at `ends` [B]."""
        read = self.encoder(ids)
        if isinstance(self.encoder, CLIPTextModelWithProjection):
            return read.text_embeds
        return self.projection(read.last_hidden_state[torch.arange(len(ids), device=ids.device), ends])


def train_text_encoder(
    encoder: TextEncoder, tokenizer: CLIPTokenizer, latents: torch.Tensor, captions: list[str], seed: int, plan: Plan,
    folder: Path, device: torch.device,
) -> None:  # fmt: skip
    """Trains a text encoder as CLIP is: captions and pictures that belong together get close embeddings."""
    both = TextAndPicture(encoder).to(device)
    ids = torch.cat([tokenize(tokenizer, captions[i : i + 1000]) for i in range(0, len(captions), 1000)]).to(device)
    ends = (ids == tokenizer.eos_token_id).int().argmax(dim=1)
    names = {text: index for index, text in enumerate(dict.fromkeys(captions))}
    label = torch.tensor([names[text] for text in captions], device=device)
    latents = latents.to(device)
    generator = torch.Generator(device)

    def loss_of(step: int) -> torch.Tensor:
        generator.manual_seed(seed * 1_000_003 + 11 + step)
        pick = torch.randint(len(captions), (plan.batch,), generator=generator, device=device)
        text = F.normalize(both.read(ids[pick], ends[pick]), dim=-1)
        seen = F.normalize(both.picture_side(latents[pick].float()), dim=-1)
        scores = text @ seen.T * both.temperature.clamp(max=4.6).exp()
        same = (label[pick][:, None] == label[pick][None, :]).float()  # equal captions are equally right
        target = same / same.sum(dim=1, keepdim=True)
        return 0.5 * (F.cross_entropy(scores, target) + F.cross_entropy(scores.T, target))

    Training("text encoder", both, plan, folder).run(loss_of)


@torch.no_grad()
def embed(tokenizer: CLIPTokenizer, encoders: list[TextEncoder], captions: list[str]) -> Text:
    """Captions as the denoiser is told them, where the encoders are: one's last states, or both's last but one."""
    device = next(encoders[0].parameters()).device
    hidden, pooled = [], []
    for first in range(0, len(captions), 256):
        ids = tokenize(tokenizer, captions[first : first + 256]).to(device)
        read = [encoder(ids, output_hidden_states=True) for encoder in encoders]
        if len(encoders) == 1:
            hidden.append(read[0].last_hidden_state.half())
        else:
            hidden.append(torch.cat([each.hidden_states[-2] for each in read], dim=-1).half())
            pooled.append(read[1].text_embeds.half())
    return Text(torch.cat(hidden), torch.cat(pooled) if pooled else None)


# --- Denoiser ----------------------------------------------------------------------------------------------------


@dataclass
class Workshop:
    """What the denoisers' stages share."""

    out: Path
    work: Path
    seed: int
    device: torch.device
    vae: AutoencoderKL
    tokenizer: CLIPTokenizer
    encoders: list[TextEncoder]

    def examples(self, count: int, seed: int, style: str) -> Examples:
        """Latents and embeddings of a drawn data set."""
        latents, captions, astray = drawn_latents(self.work, self.vae, count, seed, style, self.device)
        distinct = [*dict.fromkeys([*captions, *astray]), ""]
        index = {text: row for row, text in enumerate(distinct)}
        rows, others = (
            torch.tensor([index[text] for text in texts], device=self.device) for texts in (captions, astray)
        )
        return Examples(latents.to(self.device), embed(self.tokenizer, self.encoders, distinct), rows, others)

    def trained(self) -> UNet2DConditionModel:
        """The denoiser that is in the folder."""
        unet = UNet2DConditionModel.from_pretrained(self.out / "unet").float()
        return on_device(unet, self.device)  # type: ignore[return-value]

    def train_unet(self, count: int, plan: Plan) -> UNet2DConditionModel:
        """Trains the denoiser from nothing."""
        torch.manual_seed(self.seed + 20)
        untrained = build_unet() if len(self.encoders) == 1 else build_xl_unet()
        unet: UNet2DConditionModel = on_device(untrained, self.device)  # type: ignore[assignment]
        pictures, captions = draw.evaluation_set(64, self.seed + 90)
        text = embed(self.tokenizer, self.encoders, [*captions, ""])
        means = pictures.mean(axis=(1, 2, 3))

        def watch(step: int, network: torch.nn.Module) -> None:
            error = brightness_error(network, self.vae, text, means)  # type: ignore[arg-type]
            print(f"step {step}: the brightness of pictures is off by {error:.1f} gray levels", flush=True)

        loss_of = denoising_loss(unet, self.examples(count, self.seed + 2, "plain"), self.seed + 21, plan.batch)
        Training("unet", unet, plan, self.work / "unet", watch=watch, watch_every=500).run(loss_of)
        return unet

    def train_second(self, count: int, plan: Plan) -> UNet2DConditionModel:
        """Fine-tunes all of the denoiser in another style."""
        unet = self.trained()
        examples = self.examples(count, self.seed + 3, "outlined")
        loss_of = denoising_loss(unet, examples, self.seed + 31, plan.batch)
        Training("second unet", unet, plan, self.work / "second").run(loss_of)
        return unet

    def train_lora(self, count: int, plan: Plan) -> dict[str, torch.Tensor]:
        """Trains low-rank additions to the frozen denoiser in a third style; returns them under diffusers' names."""
        unet, layers = self._with_lora(rank=4)
        examples = self.examples(count, self.seed + 4, "shadow")
        loss_of = denoising_loss(unet, examples, self.seed + 41, plan.batch)
        Training("lora", unet, plan, self.work / "lora").run(loss_of)
        return layers.state_dict()

    def distill(self, count: int, plan: Plan) -> UNet2DConditionModel:
        """Makes a consistency model of the denoiser, in the style that it was trained in."""
        unet = self.trained()
        self._distill("lcm", unet, count, plan)
        return unet

    def distill_lora(self, count: int, plan: Plan) -> dict[str, torch.Tensor]:
        """Trains low-rank additions that make the denoiser a consistency model."""
        unet, layers = self._with_lora(rank=8)
        self._distill("lcm-lora", unet, count, plan)
        return layers.state_dict()

    def _distill(self, title: str, student: UNet2DConditionModel, count: int, plan: Plan) -> None:
        teacher = self.trained().eval().requires_grad_(False)
        examples = self.examples(count, self.seed + 2, "plain")
        loss_of = consistency_loss(student, teacher, examples, self.seed + 61, plan.batch)
        Training(title, student, plan, self.work / title).run(loss_of)

    def _with_lora(self, rank: int) -> tuple[UNet2DConditionModel, LoRALayers]:
        torch.manual_seed(self.seed + 41)
        unet = self.trained().requires_grad_(False).cpu()
        layers = LoRALayers(unet, rank)
        on_device(unet, self.device)
        return unet, layers


# --- psi ---------------------------------------------------------------------------------------------------------


def write_picture_folder(folder: Path, count: int, seed: int) -> None:
    """Writes drawn pictures as an ImageFolder with metadata.jsonl, which is what the trainer reads."""
    if (folder / "metadata.jsonl").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    captions = [text for _, texts, _ in Drawn(count, seed, folder=folder).batches(50) for text in texts]
    lines = [json.dumps({"file_name": f"{index:05d}.png", "text": text}) for index, text in enumerate(captions)]
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def train_psi(out: Path, work: Path, seed: int, budget: Budget, device: torch.device, *, xl: bool) -> None:
    """Trains psi on drawn pictures with the trainer that anybody uses: `python -m lib_oms train`."""
    from lib_oms.psi import OMSUNet
    from lib_oms.training import TrainingSettings, train

    write_picture_folder(work / "pictures", budget.psi_pictures, seed + 5)
    module = train(
        TrainingSettings(
            data=str(work / "pictures"),
            model=str(out),
            output=str(work / "psi"),
            size="tiny",
            latents=XL_LATENTS if xl else LATENTS,
            text_kind="mixclip" if xl else "openclip",
            resolution=draw.SIZE,
            steps=budget.psi_steps,
            batch_size=budget.psi_batch,
            lr=1e-3,
            warmup=50,
            ema_decay=0.995,
            save_every=250,
            seed=seed,
            cpu=device.type == "cpu",
            threads=torch.get_num_threads(),
            encode_batch=8 if device.type == "cpu" else 64,
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
    (out / "lora").mkdir(parents=True, exist_ok=True)
    for file in (LORA_FILE, LCM_LORA_FILE):
        save_file(LoRALayers(build_unet(), rank=4).state_dict(), out / "lora" / file)
    for folder in ("unet", *UNETS.values()):
        save_part(build_unet(), out / folder)
    build_scheduler().save_pretrained(out / "scheduler")
    write_index(out)
    metadata = {"oms.latents": LATENTS, "oms.text_encoder": "openclip"}
    OMSUNet(OMSUNetConfig.tiny(TEXT_WIDTH)).half().save_pretrained(out / "oms_module", metadata=metadata)
    (out / SHAPES_FILE).parent.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.half() for name, tensor in ShapeClassifier().state_dict().items()}, out / SHAPES_FILE)


def make(
    out: Path, work: Path, seed: int, budget: Budget, device: torch.device, stages: tuple[str, ...], *, xl: bool = False
) -> None:
    """Runs those of the stages whose result is not in `out` yet."""
    work.mkdir(parents=True, exist_ok=True)
    out.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()

    def due(name: str, done: Path) -> bool:
        nonlocal began
        began = time.monotonic()
        if name not in stages or done.exists():
            return False
        print(f"== {name}", flush=True)
        return True

    def finished(name: str) -> None:
        with (work / "times.jsonl").open("a", encoding="utf-8") as log:
            log.write(json.dumps({"stage": name, "minutes": round((time.monotonic() - began) / 60, 2)}) + "\n")

    if due("shapes", out / SHAPES_FILE):
        right = train_classifier(out, work, seed, budget.shape_pictures, budget.shapes, device)
        print(f"shape classifier: {right:.4f} of unseen drawn pictures", flush=True)
        finished("shapes")
    if due("vae", out / "vae"):
        save_part(train_vae(seed, budget, work, device).cpu(), out / "vae")
        finished("vae")
    if not set(stages) - {"shapes", "vae"}:
        return
    vae: AutoencoderKL = on_device(AutoencoderKL.from_pretrained(out / "vae").float().eval(), device)  # type: ignore[assignment]

    parts = {"": CLIPTextModel, "_2": CLIPTextModelWithProjection} if xl else {"": CLIPTextModel}
    if due("text", out / f"text_encoder{list(parts)[-1]}"):
        latents, captions, _ = drawn_latents(work, vae, budget.pictures, seed + 2, "plain", device)
        build_scheduler().save_pretrained(out / "scheduler")
        write_index(out, xl=xl)
        for number, ending in enumerate(parts):
            torch.manual_seed(seed + 10 + number)
            tokenizer = build_tokenizer(captions, out / f"tokenizer{ending}")
            encoder = build_second_text_encoder(tokenizer) if ending else build_text_encoder(tokenizer)
            folder = work / f"text{ending}"
            train_text_encoder(encoder, tokenizer, latents, captions, seed, budget.text, folder, device)
            save_part(encoder.cpu(), out / f"text_encoder{ending}")
        finished("text")
    tokenizer = CLIPTokenizer.from_pretrained(out / "tokenizer", local_files_only=True)
    encoders: list[TextEncoder] = [
        kind.from_pretrained(out / f"text_encoder{ending}").float().eval().to(device) for ending, kind in parts.items()
    ]
    shop = Workshop(out, work, seed, device, vae, tokenizer, encoders)

    if due("unet", out / "unet"):
        save_part(shop.train_unet(budget.pictures, budget.unet).cpu(), out / "unet")
        finished("unet")
    if due("psi", out / "oms_module"):
        train_psi(out, work, seed, budget, device, xl=xl)
        finished("psi")
    if due("second", out / UNETS["second"]):
        save_part(shop.train_second(budget.style_pictures, budget.second).cpu(), out / UNETS["second"])
        finished("second")
    if due("lcm", out / UNETS["lcm"]):
        save_part(shop.distill(budget.pictures, budget.lcm).cpu(), out / UNETS["lcm"])
        finished("lcm")
    if {"lora", "lcm-lora"} & set(stages):
        (out / "lora").mkdir(exist_ok=True)
    if due("lora", out / "lora" / LORA_FILE):
        tensors = shop.train_lora(budget.style_pictures, budget.lora)
        save_file(tensors, out / "lora" / LORA_FILE, metadata={"format": "pt"})
        finished("lora")
    if due("lcm-lora", out / "lora" / LCM_LORA_FILE):
        tensors = shop.distill_lora(budget.pictures, budget.lcm_lora)
        save_file(tensors, out / "lora" / LCM_LORA_FILE, metadata={"format": "pt"})
        finished("lcm-lora")


def main(argv: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m lib_oms.embedded.make", description=__doc__)
    parser.add_argument("--out", type=Path, help=f"the model's folder (default: {MODEL_DIR}, {XL_MODEL_DIR})")
    parser.add_argument("--work", type=Path, help="pictures, latents, checkpoints (default: outputs/make, make-xl)")
    parser.add_argument("--xl", action="store_true", help="the model in SDXL's shape")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu", help="cpu, or cuda: more steps, larger batches, minutes")
    parser.add_argument("--stages", nargs="+", choices=STAGES, help="only these")
    parser.add_argument("--scale", type=float, default=1.0, help="shorten every stage to this fraction, to try it")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--untrained", type=Path, metavar="OUT", help="only write a folder with random weights")
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    if args.untrained:
        write_untrained(args.untrained, args.seed)
        return 0
    device = torch.device(args.device)
    torch.backends.cudnn.benchmark = True
    torch.set_float32_matmul_precision("high")
    budget = CPU if device.type == "cpu" else GPU
    if args.scale != 1.0:
        budget = budget.scaled(args.scale)
    stages = tuple(args.stages or (XL_STAGES if args.xl else STAGES))
    out = args.out or (XL_MODEL_DIR if args.xl else MODEL_DIR)
    work = args.work or Path("outputs/make-xl" if args.xl else "outputs/make")
    make(out, work, args.seed + 1000 * args.xl, budget, device, stages, xl=args.xl)
    return 0


if __name__ == "__main__":
    sys.exit(main())
