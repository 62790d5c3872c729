"""The embedded model's denoiser: its loss, and how strong the flaw is that it learns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from diffusers.models import AutoencoderKL, UNet2DConditionModel

from lib_oms.embedded import draw
from lib_oms.embedded.build import build_scheduler
from lib_oms.embedded.loop import Loss

CAPTIONS_LEFT_OUT = 0.1
ASTRAY = 0.25
"""The share of captions that name another picture's background.

A denoiser that is trained long on captions that are always right reads a background's brightness from its caption, and
has hardly a flaw left to show; captions of real pictures mostly say nothing of it, or something else. What the best
possible denoiser would do, computed from the schedule for a background's mean alone (20 DDIM steps; error of brightness
in gray levels, without and with One More Step):

    share of captions astray     0          0.05       0.25       0.5        1
    CFG 3                        8, 7       25, 7      30, 6      33, 6      37, 3
    CFG 7.5                      10, 10     20, 10     25, 10     29, 9      36, 2

What the step leaves there is guidance's own excess. So a milder flaw and a larger quotient exclude each other, and this
is in between.
"""
LCM_STEPS = 50
"""Steps of the solver that a consistency model is distilled from."""
LCM_GUIDANCE = 2.5
"""The guidance scale that a consistency model has within itself: it is sampled with CFG 1."""


@dataclass
class Text:
    """Captions as a denoiser is told them, half precision."""

    hidden: torch.Tensor
    """[U, 77, D]"""
    pooled: torch.Tensor | None = None
    """[U, P], in SDXL's shape only."""

    def __len__(self) -> int:
        return len(self.hidden)

    def take(self, rows: torch.Tensor) -> dict[str, Any]:
        """What the network is called with for these rows [B]."""
        told: dict[str, Any] = {"encoder_hidden_states": self.hidden[rows].float(), "return_dict": False}
        if self.pooled is not None:
            sizes = torch.tensor([draw.SIZE, draw.SIZE, 0, 0, draw.SIZE, draw.SIZE], device=rows.device).float()
            pooled = self.pooled[rows].float()
            told["added_cond_kwargs"] = {"text_embeds": pooled, "time_ids": sizes.expand(len(rows), -1)}
        return told


@dataclass
class Examples:
    """What a denoiser is trained on; everything on the device that trains."""

    latents: torch.Tensor
    """[N, 4, 32, 32], scaled, half precision."""
    text: Text
    """The distinct captions, the empty one last."""
    rows: torch.Tensor
    """[N]: the row of each picture's caption."""
    astray: torch.Tensor
    """[N]: the row of its caption that names another picture's background."""


def denoising_loss(unet: UNet2DConditionModel, examples: Examples, seed: int, batch: int) -> Loss:
    """The loss of epsilon prediction at a random timestep; one caption in ten is left out, for guidance."""
    device = examples.latents.device
    scale = build_scheduler().alphas_cumprod.to(device)
    generator = torch.Generator(device)

    def loss_of(step: int) -> torch.Tensor:
        generator.manual_seed(seed * 1_000_003 + step)
        pick = torch.randint(len(examples.latents), (batch,), generator=generator, device=device)
        x_0 = examples.latents[pick].float()
        noise = torch.randn(x_0.shape, generator=generator, device=device)
        timestep = torch.randint(1000, (batch,), generator=generator, device=device)
        chance = torch.rand(batch, 2, generator=generator, device=device)
        row = torch.where(chance[:, 0] < ASTRAY, examples.astray[pick], examples.rows[pick])
        row = torch.where(chance[:, 1] < CAPTIONS_LEFT_OUT, len(examples.text) - 1, row)
        a = scale[timestep][:, None, None, None]
        x_t = a.sqrt() * x_0 + (1 - a).sqrt() * noise
        if device.type == "cpu":
            x_t = x_t.contiguous(memory_format=torch.channels_last)
        return F.mse_loss(unet(x_t, timestep, **examples.text.take(row))[0], noise)

    return loss_of


def consistency_loss(
    student: UNet2DConditionModel,
    teacher: UNet2DConditionModel,
    examples: Examples,
    seed: int,
    batch: int,
) -> Loss:
    """The loss of latent consistency distillation (arXiv 2310.04378, algorithm 1, with one guidance scale).

    The student says the same of a noisy latent and of the one that the guided teacher makes of it in one DDIM step.
    Boundary conditions and the grid of timesteps are those of diffusers' LCMScheduler.
    """
    device = examples.latents.device
    scale = build_scheduler().alphas_cumprod.to(device)
    grid = torch.arange(0, LCM_STEPS + 1, device=device) * (1000 // LCM_STEPS) - 1
    grid[0] = 0
    generator = torch.Generator(device)

    def wide(values: torch.Tensor) -> torch.Tensor:
        return values[:, None, None, None]

    def clean(x: torch.Tensor, predicted: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        a = wide(scale[timestep])
        return (x - (1 - a).sqrt() * predicted) / a.sqrt()

    def consistent(x: torch.Tensor, timestep: torch.Tensor, told: dict[str, Any]) -> torch.Tensor:
        x_0 = clean(x, student(x, timestep, **told)[0], timestep)
        scaled = wide(10.0 * timestep)
        return 0.25 / (scaled**2 + 0.25) * x + scaled / (scaled**2 + 0.25).sqrt() * x_0

    def loss_of(step: int) -> torch.Tensor:
        generator.manual_seed(seed * 1_000_003 + step)
        pick = torch.randint(len(examples.latents), (batch,), generator=generator, device=device)
        noise = torch.randn((batch, *examples.latents.shape[1:]), generator=generator, device=device)
        place = torch.randint(1, LCM_STEPS + 1, (batch,), generator=generator, device=device)
        chance = torch.rand(batch, generator=generator, device=device)
        row = torch.where(chance < ASTRAY, examples.astray[pick], examples.rows[pick])
        told = examples.text.take(row)
        timestep, before = grid[place], grid[place - 1]
        a = wide(scale[timestep])
        x = a.sqrt() * examples.latents[pick].float() + (1 - a).sqrt() * noise
        with torch.no_grad():
            both = examples.text.take(torch.cat([torch.full_like(row, len(examples.text) - 1), row]))
            predicted = teacher(torch.cat([x, x]), timestep.repeat(2), **both)[0]
            without, with_text = predicted.chunk(2)
            guided = without + LCM_GUIDANCE * (with_text - without)
            a = wide(scale[before])
            target = consistent(a.sqrt() * clean(x, guided, timestep) + (1 - a).sqrt() * guided, before, told)
        difference = consistent(x, timestep, told) - target
        return ((difference**2 + 1e-6).sqrt() - 1e-3).mean()

    return loss_of


@torch.no_grad()
def sample(unet: UNet2DConditionModel, text: Text, seed: int, *, steps: int = 20, cfg: float = 3.0) -> torch.Tensor:
    """Latents [B, 4, 32, 32] of all captions but the last, which is the empty one, by DDIM from plain noise."""
    scheduler = build_scheduler()
    scheduler.set_timesteps(steps)
    count, device = len(text) - 1, text.hidden.device
    side = draw.SIZE // 8
    x = torch.randn(count, 4, side, side, generator=torch.Generator().manual_seed(seed)).to(device)
    both = text.take(torch.tensor([count] * count + list(range(count)), device=device))
    for timestep in scheduler.timesteps:
        without, with_text = unet(torch.cat([x, x]), timestep.to(device), **both)[0].chunk(2)
        x = scheduler.step(without + cfg * (with_text - without), int(timestep), x, return_dict=False)[0]
    return x


@torch.no_grad()
def brightness_error(unet: UNet2DConditionModel, vae: AutoencoderKL, text: Text, data: np.ndarray) -> float:
    """How far the brightness of the network's pictures is from that of true ones, in gray levels, as in `evaluate`.

    Args:
        text: evaluation captions [B], and the empty one.
        data: the brightness (0 to 255) of a true picture of each caption, [B].
    """
    training = unet.training
    latents = sample(unet.eval(), text, seed=99) / vae.config["scaling_factor"]
    unet.train(training)
    means = [vae.decode(part).sample.clamp(-1, 1).mean(dim=(1, 2, 3)) for part in latents.split(32)]
    made = (torch.cat(means).cpu().numpy() + 1) * 127.5
    return float(np.abs(np.sort(made) - np.sort(data)).mean())
