"""How far from the origin a model's noisy latents lie in training and where sampling starts, by timestep.

In D dimensions N(0, I) is a thin shell of radius sqrt(D). Training sees sqrt(a_t) x_0 + sqrt(1 - a_t) e, whose radius
is sqrt(a_t E|x_0|^2 + (1 - a_t) D): another one wherever a_t is not 0 and x_0 is not of unit variance. More telling is
what a latent's mean holds: sampling draws it from N(0, 1/n), n numbers a channel, while training adds sqrt(a_t) times
the data's own.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from lib_oms.errors import OMSError
from lib_oms.files.disk import read_json

TIMESTEPS = (999, 951, 901, 801, 601, 401, 201, 1)


@dataclass(frozen=True)
class Latents:
    """What is asked of scaled latents x_0: numbers of each, numbers of a channel, E|x_0|^2, and the root mean square
    of their channels' means. `source` says where they come from.
    """

    numbers: int
    channel: int
    square: float
    mean_spread: float
    source: str


@dataclass
class Radius:
    """One timestep. radius_*: root mean square of the distance from the origin; mean_*: that of the mean of a
    latent's channel.
    """

    timestep: int
    snr: float
    radius_training: float
    radius_sampling: float
    mean_training: float
    mean_sampling: float


def read_schedule(path: Path | None) -> Tensor:
    """alphas_cumprod [T] of a checkpoint (.safetensors, where it holds them), of a scheduler's config as diffusers
    writes it, or of a folder with one; None: Stable Diffusion's.

    Raises:
        OMSError: nothing of the kind is there.
    """
    if path is None:
        from lib_oms.embedded.build import build_scheduler

        return build_scheduler().alphas_cumprod.double()
    if path.suffix == ".safetensors":
        return _of_checkpoint(path)
    places = [path, path / "scheduler_config.json", path / "scheduler" / "scheduler_config.json"]
    file = next((place for place in places if place.is_file()), None)
    if file is None:
        raise OMSError(f"{path}: holds no scheduler_config.json, and is no .safetensors checkpoint")
    from diffusers import DDPMScheduler

    try:
        return DDPMScheduler.from_config(read_json(file)).alphas_cumprod.double()
    except (AttributeError, NotImplementedError, TypeError, ValueError) as error:
        raise OMSError(f"{path}: is no schedule of a diffusion model ({error})") from error


def _of_checkpoint(path: Path) -> Tensor:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="pt") as file:
            if "alphas_cumprod" in file.keys():  # noqa: SIM118 - no mapping
                return file.get_tensor("alphas_cumprod").double()
    except (OSError, SafetensorError) as error:
        raise OMSError(f"{path}: cannot be read ({error})") from error
    raise OMSError(f"{path}: holds no alphas_cumprod. Give its scheduler_config.json, or no schedule for SD's own")


def unit_latents(shape: Sequence[int]) -> Latents:
    """What latents of unit variance, no number with anything to do with another, would show: nothing but chance."""
    channel = math.prod(shape[1:])
    return Latents(math.prod(shape), channel, float(math.prod(shape)), 1 / math.sqrt(channel), "unit variance, no data")


def read_latents(path: Path) -> Latents:
    """Scaled latents [N, C, H, W], the tensors of a .safetensors file.

    Raises:
        OMSError: it holds none.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors = [tensor for tensor in load_file(path).values() if tensor.ndim == 4]
    except (OSError, SafetensorError) as error:
        raise OMSError(f"{path}: cannot be read ({error})") from error
    if not tensors or len({tensor.shape[1:] for tensor in tensors}) > 1:
        raise OMSError(f"{path}: holds no latents [N, C, H, W] of one size")
    return summed(iter(tensors), path.name)


def encoded(files: Sequence[Path], vae: Path, resolution: int) -> Latents:
    """The latents of pictures, cut to squares of `resolution` pixels, by the VAE in a folder in diffusers layout.

    Raises:
        OMSError: the VAE or a picture cannot be read.
    """
    from tqdm import tqdm

    from lib_oms.training.data import load_vae, scaled_latents
    from lib_oms.training.dataset import load_picture

    encoder = load_vae(vae)
    pictures = (load_picture(file, resolution)[None] for file in tqdm(files, desc="latents", unit="picture"))
    return summed((scaled_latents(encoder, picture) for picture in pictures), f"{len(files)} pictures")


def summed(parts: Iterator[Tensor], source: str) -> Latents:
    """What is asked of latents that come in parts [N, C, H, W]."""
    squares: list[Tensor] = []
    means: list[Tensor] = []
    shape: Sequence[int] = ()
    for part in parts:
        shape = part.shape[1:]
        squares.append(part.double().square().sum(dim=(1, 2, 3)))
        means.append(part.double().mean(dim=(2, 3)))
    spread = torch.cat(means).square().mean().sqrt()
    return Latents(math.prod(shape), math.prod(shape[1:]), float(torch.cat(squares).mean()), float(spread), source)


def radii(alphas_cumprod: Tensor, latents: Latents, timesteps: Sequence[int] = TIMESTEPS) -> list[Radius]:
    """Both radii, and both spreads of a channel's mean, at timesteps that the schedule has."""
    found = []
    for timestep in timesteps:
        if timestep >= len(alphas_cumprod):
            continue
        a = float(alphas_cumprod[timestep])
        found.append(
            Radius(
                timestep,
                a / max(1 - a, 1e-12),
                math.sqrt(a * latents.square + (1 - a) * latents.numbers),
                math.sqrt(latents.numbers),
                math.sqrt(a * latents.mean_spread**2 + (1 - a) / latents.channel),
                1 / math.sqrt(latents.channel),
            )
        )
    return found
