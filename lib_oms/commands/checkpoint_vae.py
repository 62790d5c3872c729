"""The VAE's encoder out of a WebUI's checkpoint file, whose names are those of Stable Diffusion's original code."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import safe_open
from torch import Tensor

from lib_oms.errors import OMSError
from lib_oms.files import SCALE_FACTORS, checkpoint_latents, read_header

if TYPE_CHECKING:
    from diffusers.models import AutoencoderKL

_PREFIX = "first_stage_model."
_NAMES = (
    (r"^encoder\.norm_out\.", "encoder.conv_norm_out."),
    (r"^encoder\.down\.(\d+)\.block\.(\d+)\.", r"encoder.down_blocks.\1.resnets.\2."),
    (r"^encoder\.down\.(\d+)\.downsample\.", r"encoder.down_blocks.\1.downsamplers.0."),
    (r"^encoder\.mid\.block_1\.", "encoder.mid_block.resnets.0."),
    (r"^encoder\.mid\.block_2\.", "encoder.mid_block.resnets.1."),
    (r"\.nin_shortcut\.", ".conv_shortcut."),
    (r"^encoder\.mid\.attn_1\.norm\.", "encoder.mid_block.attentions.0.group_norm."),
    (r"^encoder\.mid\.attn_1\.([qkv])\.", r"encoder.mid_block.attentions.0.to_\1."),
    (r"^encoder\.mid\.attn_1\.proj_out\.", "encoder.mid_block.attentions.0.to_out.0."),
)
"""Original names and diffusers'."""


def vae_of_checkpoint(path: Path) -> AutoencoderKL:
    """The VAE of a whole SD1.x, SD2.x or SDXL checkpoint, float32, in eval mode; its decoder is not loaded.

    Raises:
        OMSError: it is none of these, broken, or without a VAE.
    """
    from diffusers.models import AutoencoderKL

    names = [name for name in read_header(path).tensors if name.startswith((f"{_PREFIX}encoder.", f"{_PREFIX}quant_"))]
    latents = checkpoint_latents(path)
    if not names or latents is None:
        raise OMSError(f"{path} is no whole SD1.x, SD2.x or SDXL checkpoint with a VAE")
    with safe_open(path, "pt") as file:
        tensors = {_renamed(name): file.get_tensor(name).to(torch.float32) for name in names}
    wide = {name: tensor.flatten(1) for name, tensor in tensors.items() if ".attentions." in name and tensor.ndim == 4}
    tensors.update(wide)
    try:
        vae = AutoencoderKL(**_shape(tensors), scaling_factor=SCALE_FACTORS[latents])
        missing, unexpected = vae.load_state_dict(tensors, strict=False)
    except (KeyError, RuntimeError, ValueError) as error:
        raise OMSError(f"{path}: its VAE is not one of Stable Diffusion's: {error}") from error
    if unexpected or [name for name in missing if name.startswith(("encoder.", "quant_conv."))]:
        raise OMSError(f"{path}: its VAE is not one of Stable Diffusion's")
    return vae.eval().requires_grad_(False)


def _renamed(name: str) -> str:
    name = name.removeprefix(_PREFIX)
    for pattern, new in _NAMES:
        name = re.sub(pattern, new, name)
    return name


def _shape(tensors: Mapping[str, Tensor]) -> dict[str, object]:
    """What AutoencoderKL has to be told of these tensors beside Stable Diffusion's usual."""
    blocks = 1 + max(int(found[1]) for name in tensors if (found := re.match(r"encoder\.down_blocks\.(\d+)\.", name)))
    channels = [len(tensors[f"encoder.down_blocks.{block}.resnets.0.conv1.weight"]) for block in range(blocks)]
    layers = sum(bool(re.match(r"encoder\.down_blocks\.0\.resnets\.\d+\.conv1\.weight", name)) for name in tensors)
    return {
        "down_block_types": ("DownEncoderBlock2D",) * blocks,
        "up_block_types": ("UpDecoderBlock2D",) * blocks,
        "block_out_channels": channels,
        "layers_per_block": layers,
        "latent_channels": len(tensors["quant_conv.weight"]) // 2,
        "mid_block_add_attention": any(".attentions." in name for name in tensors),
    }
