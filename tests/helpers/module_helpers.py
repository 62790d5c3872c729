"""A tiny real OMS model (psi, ViT-H in small, tokenizer) on disk and in memory."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import torch
from text_helpers import BIG_G, CLIP_L, VIT_H, text_model, tokenizer, write_tokenizer
from torch import nn

from lib_oms.module import OMSModule
from lib_oms.psi import OMSUNet, OMSUNetConfig
from lib_oms.text import ClipEncoder, MixClipEncoder, OpenCLIPEncoder, TextEncoder


def tiny_psi(width: int, seed: int = 0, metadata: dict[str, str] | None = None) -> OMSUNet:
    """A psi of four resolutions less than nothing: 8..24 channels, random weights, reading text of `width`."""
    torch.manual_seed(seed)
    config = OMSUNetConfig(
        block_out_channels=(8, 16, 24),
        num_attention_heads=(1, 2, 3),
        cross_attention_dim=width,
        transformer_layers_per_block=(1, 1, 1),
        layers_per_block=(1, 1, 1),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=4,
    )
    return OMSUNet(config, metadata).eval()


def tiny_encoder(folder: Path, kind: str = "openclip") -> TextEncoder:
    if kind == "openclip":
        return OpenCLIPEncoder(text_model(VIT_H, 1), tokenizer(folder / "tokenizer", pad_token="!"))
    if kind == "clip":
        return ClipEncoder(text_model(CLIP_L, 2), tokenizer(folder / "tokenizer"))
    return MixClipEncoder(
        text_model(CLIP_L, 2),
        tokenizer(folder / "tokenizer"),
        text_model(BIG_G, 3, projection=True),
        tokenizer(folder / "tokenizer_2", pad_token="!"),
    )


def tiny_module(folder: Path, latents: str = "sd", kind: str = "openclip", seed: int = 0) -> OMSModule:
    encoder = tiny_encoder(folder, kind)
    return OMSModule(tiny_psi(encoder.width, seed), encoder, latents)


def write_module(folder: Path, latents: str | None = "sd", *, level: bool = True) -> Path:
    """A module's folder: psi (below oms_module/ if `level`), text_encoder/ and tokenizer/."""
    metadata = {"oms.text_encoder": "openclip", **({"oms.latents": latents} if latents else {})}
    psi = tiny_psi(VIT_H["hidden_size"], metadata=metadata)
    psi.save_pretrained(folder / "oms_module" if level else folder)
    text_model(VIT_H, 1).save_pretrained(folder / "text_encoder", safe_serialization=True)
    write_tokenizer(folder / "tokenizer", pad_token="!")
    return folder


PUBLISHED_VIT_H = {
    **VIT_H,
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_attention_heads": 16,
    "num_hidden_layers": 23,
    "vocab_size": 49408,
}


def write_published_size(folder: Path, names: Sequence[str], latents: str) -> None:
    """Modules of the published size (psi of 154 M parameters, ViT-H of 340 M) in half precision, with random weights.

    Each has the text encoder in its own folder, so that each is loaded with its own; on disk it is one file.
    """
    text = _random(text_model(PUBLISHED_VIT_H, 0))
    text.save_pretrained(folder / names[0] / "text_encoder", safe_serialization=True)
    for name in names:
        psi = OMSUNet(OMSUNetConfig.base(), {"oms.text_encoder": "openclip", "oms.latents": latents})
        _random(psi).save_pretrained(folder / name / "oms_module")
        write_tokenizer(folder / name / "tokenizer", pad_token="!")
        if name != names[0]:
            shutil.copytree(folder / names[0] / "text_encoder", folder / name / "text_encoder", copy_function=os.link)


@torch.no_grad()
def _random(network: nn.Module) -> nn.Module:
    for parameter in network.parameters():
        parameter.normal_(0, 0.02)
    return network.half()


class Forwards(list):
    """Counts a network's forwards: the batch size of each."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.remove = network.register_forward_pre_hook(
            lambda _m, args, kwargs: self.append(len(args[0] if args else kwargs["input_ids"])), with_kwargs=True
        ).remove
