"""Loads the embedded model as a diffusers pipeline."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers.models import UNet2DConditionModel
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl import StableDiffusionXLPipeline
from safetensors.torch import load_file

from lib_oms.devices import channels_last
from lib_oms.embedded import MODEL_DIR, XL_MODEL_DIR
from lib_oms.embedded.lora import merge_lora
from lib_oms.errors import OMSError

LORA_FILE = "embedded-shadow.safetensors"
LCM_LORA_FILE = "embedded-lcm.safetensors"
UNETS = {"second": "unet_second", "lcm": "unet_lcm"}
LORAS = {"lora": LORA_FILE, "lcm-lora": LCM_LORA_FILE}
VARIANTS = ("main", "second", "lora", "lcm", "lcm-lora", "xl")
"""What `--model` offers: the model itself, one fine-tuned in another style, the model with a LoRA, two that are
distilled to paint in four steps (a consistency model, LCM, and a LoRA that makes the model one), and the model in
SDXL's shape, which has a folder of its own."""


def folder_of(variant: str) -> Path:
    """The folder in the repository that a variant is loaded from."""
    return XL_MODEL_DIR if variant == "xl" else MODEL_DIR


def load_pipeline(
    variant: str = "main", folder: Path | None = None
) -> StableDiffusionPipeline | StableDiffusionXLPipeline:
    """The embedded model in float32 on the CPU.

    Args:
        variant: one of VARIANTS.
        folder: None: the repository's, see `folder_of`.

    Raises:
        OMSError: for another variant, or where the folder does not hold the model.
    """
    if variant not in VARIANTS:
        raise OMSError(f"the embedded model has no variant {variant!r}; there are {', '.join(VARIANTS)}")
    folder = folder or folder_of(variant)
    if not (folder / "model_index.json").is_file():
        raise OMSError(
            f"{folder} does not hold the embedded model's variant {variant!r}; "
            f"`python -m lib_oms.embedded.make{' --xl' if variant == 'xl' else ''}` trains it"
        )
    if variant == "xl":
        pipe = StableDiffusionXLPipeline.from_pretrained(folder, torch_dtype=torch.float32, add_watermarker=False)
    else:
        pipe = _load_sd(variant, folder)
    for part in (pipe.unet, pipe.vae):
        channels_last(part)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _load_sd(variant: str, folder: Path) -> StableDiffusionPipeline:
    parts = {}
    if variant in UNETS:
        parts["unet"] = UNet2DConditionModel.from_pretrained(folder / UNETS[variant], torch_dtype=torch.float32)
    pipe = StableDiffusionPipeline.from_pretrained(
        folder, torch_dtype=torch.float32, safety_checker=None, requires_safety_checker=False, **parts
    )
    if variant in LORAS:
        merge_lora(pipe.unet, load_file(folder / "lora" / LORAS[variant]))
    return pipe
