"""Loads the embedded model as a diffusers pipeline."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers.models import UNet2DConditionModel
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
from safetensors.torch import load_file

from lib_oms.devices import channels_last
from lib_oms.embedded import MODEL_DIR
from lib_oms.embedded.lora import merge_lora
from lib_oms.errors import OMSError

LORA_FILE = "embedded-shadow.safetensors"
VARIANTS = ("main", "second", "lora")
"""What `--model` offers: the model itself, one fine-tuned in another style, and the model with a LoRA."""


def load_pipeline(variant: str = "main", folder: Path = MODEL_DIR) -> StableDiffusionPipeline:
    """The embedded model in float32 on the CPU.

    Args:
        variant: one of VARIANTS.

    Raises:
        OMSError: for another variant, or where the folder does not hold the model.
    """
    if variant not in VARIANTS:
        raise OMSError(f"the embedded model has no variant {variant!r}; there are {', '.join(VARIANTS)}")
    if not (folder / "model_index.json").is_file():
        raise OMSError(
            f"{folder} does not hold the embedded model; it is in the repository's models/demo, and "
            "`python -m lib_oms.embedded.make` remakes it"
        )
    parts = {}
    if variant == "second":
        parts["unet"] = UNet2DConditionModel.from_pretrained(folder / "unet_second", torch_dtype=torch.float32)
    pipe = StableDiffusionPipeline.from_pretrained(
        folder, torch_dtype=torch.float32, safety_checker=None, requires_safety_checker=False, **parts
    )
    if variant == "lora":
        merge_lora(pipe.unet, load_file(folder / "lora" / LORA_FILE))
    for part in (pipe.unet, pipe.vae):
        channels_last(part)
    pipe.set_progress_bar_config(disable=True)
    return pipe
