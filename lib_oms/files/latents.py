"""Kinds of latents: what people call them, and which of them a checkpoint file is for, told by its header.

Some hosts load a checkpoint only for its first picture: till then its header alone can tell.
"""

from __future__ import annotations

import os
from functools import lru_cache

from lib_oms.errors import ModuleFileError
from lib_oms.files.header import file_stamp, read_header

LATENTS_NAMES = {"sd": "SD1/SD2", "sdxl": "SDXL"}
"""What people call the latents of published modules."""
SCALE_FACTORS = {"sd": 0.18215, "sdxl": 0.13025}
"""What the VAE's latents are multiplied with (scaling_factor in their published configs), by kind of latents."""

# The UNet's names are those of the original code, with or without what Stable Diffusion's whole files put before them.
_TEXT_KEY = "input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight"  # [channels, width of the text]
_OUT_KEY = "out.2.weight"  # [latent channels, channels, 3, 3]
_PREFIXES = ("model.diffusion_model.", "diffusion_model.", "")
_BY_TEXT_WIDTH = {768: "sd", 1024: "sd", 2048: "sdxl"}


def checkpoint_latents(path: str | os.PathLike[str]) -> str | None:
    """What the file is for: "sd" (SD1.x and SD2.x), "sdxl", or None for another model, a broken file, or one that is
    not .safetensors.

    Remembered until the file changes.
    """
    return _latents_of(os.fspath(path), file_stamp(path))


@lru_cache(maxsize=256)
def _latents_of(path: str, stamp: tuple[int, ...]) -> str | None:  # stamp only tells old answers from new ones
    try:
        tensors = read_header(path).tensors
    except ModuleFileError:
        return None
    for prefix in _PREFIXES:
        text, out = tensors.get(prefix + _TEXT_KEY), tensors.get(prefix + _OUT_KEY)
        if text is not None and out is not None and len(text.shape) >= 2 and out.shape[:1] == (4,):
            return _BY_TEXT_WIDTH.get(text.shape[1])
    return None
