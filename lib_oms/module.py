"""An OMS model as it is used: psi, the text encoder it reads, and the latents it was made for."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from lib_oms.devices import without_autocast
from lib_oms.errors import ModuleFileError, OMSError
from lib_oms.library import TextSource
from lib_oms.library.entries import TEXT_ENCODERS_FOLDER, identify, own_folder
from lib_oms.psi import OMSUNet, predict_v
from lib_oms.text import KINDS, TextEncoder, holds_encoder, load_text_encoder


class Texts(NamedTuple):
    """Encoded prompts and negative prompts of B pictures, each [77 * k, D] with its own k; no negatives at scale 1."""

    conds: Sequence[Tensor]
    unconds: Sequence[Tensor]


class OMSModule:
    """Noise and prompts to v.

    Args:
        psi: the UNet.
        text_encoder: of the width that psi reads.
        latents: "sd" (SD1.x and SD2.x), "sdxl", another name from the module's metadata, or "unknown".

    Raises:
        OMSError: psi and the text encoder do not fit each other.
    """

    def __init__(self, psi: OMSUNet, text_encoder: TextEncoder, latents: str) -> None:
        if text_encoder.width != psi.config.cross_attention_dim:
            raise OMSError(
                f"this OMS model reads text of width {psi.config.cross_attention_dim}, but the text encoder gives "
                f"{text_encoder.width}; use the encoder it was trained with"
            )
        self.psi = psi.eval().requires_grad_(False)
        self.text_encoder = text_encoder
        self.latents = latents

    @classmethod
    def from_pretrained(
        cls,
        path: str | os.PathLike[str],
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        *,
        text_encoder: TextEncoder | TextSource | str | os.PathLike[str] | None = None,
    ) -> OMSModule:
        """Loads a module's folder or file, and its text encoder.

        Args:
            path: the published folder (with or without the oms_module/ level), or one .safetensors file.
            dtype: of both networks; float32 if not given.
            device: for both networks; the CPU if not given.
            text_encoder: a loaded one, where one can be loaded from, or a folder that holds one. If not given, it is
                looked for in the module's own folder: oms_text_encoder/ with oms_tokenizer/, else text_encoder/ with
                tokenizer/; and in text_encoders/ beside that folder, where `python -m lib_oms download` puts it.

        Raises:
            ModuleFileError: psi or its text encoder is missing or broken; says which and what is needed.
        """
        path = Path(path)
        psi = OMSUNet.from_pretrained(path, dtype=dtype)
        latents, kind = identify(path)
        if not isinstance(text_encoder, TextEncoder):
            if kind not in KINDS:
                raise ModuleFileError(
                    f"{path}: does not say which text encoder it reads: no oms.text_encoder in its metadata, and text "
                    f"of width {psi.config.cross_attention_dim} is no published OMS model's; pass a loaded text_encoder"
                )
            if isinstance(text_encoder, TextSource):
                text_encoder = text_encoder.load(dtype)
            else:
                folder = Path(text_encoder) if text_encoder is not None else _encoder_folder(path, kind)
                text_encoder = load_text_encoder(folder, kind, dtype=dtype)
        try:
            module = cls(psi, text_encoder, latents)
        except OMSError as error:
            raise ModuleFileError(f"{path}: {error}") from error
        return module if device is None else module.to(device)

    @property
    def device(self) -> torch.device:
        """Where psi is."""
        return self.psi.device

    @property
    def dtype(self) -> torch.dtype:
        """What psi computes in."""
        return self.psi.dtype

    def to(self, device: torch.device | str) -> OMSModule:
        """Moves psi and the text encoder; returns self."""
        self.psi.to(device)
        self.text_encoder.to(device)
        return self

    @torch.no_grad()
    def predict_v(
        self,
        noise: Tensor,
        prompts: Sequence[str],
        negative_prompts: Sequence[str] = ("",),
        guidance_scale: float = 1.0,
    ) -> tuple[Tensor, Tensor | None]:
        """psi's answers to pure noise, with and without the prompt.

        A picture's answer does not depend on the length of the other pictures' prompts: those of one length share a
        forward (one for all, usually), and nothing is filled up.

        Args:
            noise: x_T^S, N(0, 1), [B, C, h, w], on any device.
            prompts: WebUI prompts, one per picture or one for all.
            negative_prompts: likewise; neither encoded nor computed at guidance scale 1.
            guidance_scale: the OMS guidance scale.

        Returns:
            (v_cond, v_uncond) as `noise` in shape, dtype and device; v_uncond is None at scale 1.

        Raises:
            OMSError: prompts and pictures differ in number, or the noise has another number of channels.
        """
        return self.answer(noise, self.encode(len(noise), prompts, negative_prompts, guidance_scale), guidance_scale)

    @torch.no_grad()
    def encode(
        self,
        count: int,
        prompts: Sequence[str],
        negative_prompts: Sequence[str] = ("",),
        guidance_scale: float = 1.0,
    ) -> Texts:
        """The text half of `predict_v`, for `count` pictures: it needs the text encoder and not psi."""
        prompts = _one_each(prompts, count, "OMS prompts")
        negatives = [] if guidance_scale == 1.0 else _one_each(negative_prompts, count, "OMS negative prompts")
        texts = self.text_encoder.encode_each([*prompts, *negatives])
        return Texts(texts[:count], texts[count:])

    @torch.no_grad()
    def answer(self, noise: Tensor, texts: Texts, guidance_scale: float = 1.0) -> tuple[Tensor, Tensor | None]:
        """The other half: psi and not the text encoder."""
        conds, unconds = texts
        x_T = noise.to(self.device)
        v_conds, v_unconds = list(x_T), list(x_T)  # each replaced below
        # The host may be under autocast, which would take psi to another precision than the one it was loaded in.
        with without_autocast(self.device):
            for pictures in _of_one_length(conds, unconds):
                cond = torch.stack([conds[i] for i in pictures]).to(self.device)
                uncond = torch.stack([unconds[i] for i in pictures]).to(self.device) if unconds else None
                # One by one: a list of indices would go to the device, and that waits for all that it has begun.
                latents = torch.stack([x_T[i] for i in pictures])
                with_prompt, without = predict_v(self.psi, latents, cond, uncond, guidance_scale)
                for place, i in enumerate(pictures):
                    v_conds[i] = with_prompt[place]
                    if without is not None:
                        v_unconds[i] = without[place]
        v_cond = torch.stack(v_conds).to(noise.device)
        return v_cond, None if guidance_scale == 1.0 else torch.stack(v_unconds).to(noise.device)


def _one_each(prompts: Sequence[str], count: int, what: str) -> list[str]:
    prompts = [prompts] if isinstance(prompts, str) else list(prompts)
    if len(prompts) == 1:
        return prompts * count
    if len(prompts) != count:
        raise OMSError(f"{len(prompts)} {what} for {count} pictures; give one for all, or one each")
    return prompts


def _of_one_length(conds: Sequence[Tensor], unconds: Sequence[Tensor]) -> list[list[int]]:
    groups: dict[tuple[int, int], list[int]] = {}
    for i, cond in enumerate(conds):
        groups.setdefault((len(cond), len(unconds[i]) if unconds else 0), []).append(i)
    return list(groups.values())


def _encoder_folder(path: Path, kind: str) -> Path:
    own = own_folder(path)
    shared = own.absolute().parent if path.is_dir() else own.absolute()
    beside = shared / TEXT_ENCODERS_FOLDER / kind
    return beside if not holds_encoder(own, kind) and holds_encoder(beside, kind) else own
