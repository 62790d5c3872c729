"""Makes the embedded model's pictures for whoever measures them, with and without One More Step from the same noise."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import diffusers
import numpy as np
import torch

from lib_oms.embedded.load import folder_of, load_pipeline
from lib_oms.errors import OMSError
from lib_oms.pipeline import OneMoreStep

BATCH = 25
SAMPLERS: dict[str, tuple[str, dict]] = {
    "DDIM": ("DDIMScheduler", {}),
    "DDPM": ("DDPMScheduler", {}),
    "Euler": ("EulerDiscreteScheduler", {}),
    "Euler a": ("EulerAncestralDiscreteScheduler", {}),
    "Heun": ("HeunDiscreteScheduler", {}),
    "DPM++ 2M": ("DPMSolverMultistepScheduler", {}),
    "DPM++ 2M Karras": ("DPMSolverMultistepScheduler", {"use_karras_sigmas": True}),
    "UniPC": ("UniPCMultistepScheduler", {}),
    "LCM": ("LCMScheduler", {}),
    "PNDM": ("PNDMScheduler", {"skip_prk_steps": True}),
}
"""Name: (diffusers' scheduler, its options)."""
OBEDIENCE_PROMPT = "a circle"
"""The main prompt of the test of obedience: it names no background."""


class Painter:
    """Makes pictures with and without One More Step from the same noise.

    Args:
        variant: one of `load.VARIANTS`.
        sampler: one of SAMPLERS.
        cfg: the guidance scale of the main model.
        oms: what else One More Step is given for every picture, by the names of `OneMoreStep`'s arguments.
        folder: of the embedded model; None: the repository's.
        device: what computes, in torch's words.
        step: what takes the step.

    Raises:
        OMSError: there is no such sampler or variant, or the folder does not hold the embedded model.
    """

    def __init__(
        self,
        variant: str,
        sampler: str,
        steps: int,
        cfg: float,
        seed: int,
        oms: Mapping[str, Any] = MappingProxyType({}),
        folder: Path | None = None,
        device: str = "cpu",
        step: type[OneMoreStep] = OneMoreStep,
    ) -> None:
        if sampler not in SAMPLERS:
            raise OMSError(f"there is no sampler {sampler!r}; there are {', '.join(SAMPLERS)}")
        folder = folder or folder_of(variant)
        self.pipe = load_pipeline(variant, folder).to(device)
        name, options = SAMPLERS[sampler]
        self.pipe.scheduler = getattr(diffusers, name).from_config(self.pipe.scheduler.config, **options)
        self.oms = step.from_pretrained(folder, dtype=torch.float32, device=device)
        self._steps, self._cfg, self._seed, self._given = steps, cfg, seed, dict(oms)
        self.progress: Callable[[int], object] = lambda pictures: None

    def paint(
        self,
        prompts: list[str],
        *,
        oms: bool,
        oms_prompts: list[str] | None = None,
        first: int = 0,
        **given: Any,
    ) -> np.ndarray:
        """Pictures [B, H, W, 3], 0..1; picture i starts from the noise of number `first + i`. `given` goes to One More
        Step beside, or in place of, what the painter gives it anyway.
        """
        parts = []
        for start in range(0, len(prompts), BATCH):
            end = min(start + BATCH, len(prompts))
            generators = [
                torch.Generator().manual_seed(self._seed * 1_000_003 + first + index) for index in range(start, end)
            ]
            options: dict[str, Any] = {
                "prompt": prompts[start:end],
                "generator": generators,
                "num_inference_steps": self._steps,
                "guidance_scale": self._cfg,
                "output_type": "np",
            }
            if oms:
                options["oms_prompt"] = oms_prompts[start:end] if oms_prompts else None
                parts.append(self.oms(self.pipe, **{**options, **self._given, **given}).images)
            else:
                parts.append(self.pipe(**options).images)
            self.progress(end - start)
        return np.concatenate(parts)
