"""psi, the OMS model: a UNet from diffusers' blocks that knows no time step (arXiv 2311.15744, section 3.3).

Published under the class name UNet2DConditionWoCTModel; the tensors have diffusers' names, so published files load.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers.models.unets.unet_2d_blocks import UNetMidBlock2DCrossAttn, get_down_block, get_up_block
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from lib_oms.errors import ModuleFileError, OMSError
from lib_oms.files import copied, fill, written_whole
from lib_oms.psi.config import OMSUNetConfig
from lib_oms.psi.files import (
    CONFIG_KEY,
    CONFIG_NAME,
    FP16_WEIGHTS_NAME,
    WEIGHTS_NAME,
    ModuleFile,
    inspect_module,
)
from lib_oms.psi.inference import infer

__all__ = ["OMSUNet", "OMSUNetConfig", "predict_v"]


class OMSUNet(nn.Module):
    """psi(latents, text_embeddings) -> v.

    metadata holds what the file said of itself: training facts, and "oms.latents" and "oms.text_encoder" where known.
    """

    def __init__(self, config: OMSUNetConfig, metadata: Mapping[str, str] | None = None) -> None:
        super().__init__()
        self.config = config
        self.metadata = dict(metadata or {})
        widths = config.block_out_channels
        last = len(widths) - 1
        common: dict[str, Any] = {
            "temb_channels": None,
            "resnet_eps": config.norm_eps,
            "resnet_act_fn": "silu",
            "resnet_groups": config.norm_num_groups,
            "cross_attention_dim": config.cross_attention_dim,
        }
        self.conv_in = nn.Conv2d(config.in_channels, widths[0], 3, padding=1)
        self.down_blocks = nn.ModuleList(
            get_down_block(
                kind,
                num_layers=config.layers_per_block[i],
                in_channels=widths[max(i - 1, 0)],
                out_channels=widths[i],
                add_downsample=i < last,
                downsample_padding=1,
                transformer_layers_per_block=config.transformer_layers_per_block[i],
                num_attention_heads=config.num_attention_heads[i],
                attention_head_dim=config.num_attention_heads[i],  # not read by these blocks; unset, diffusers warns
                **common,
            )
            for i, kind in enumerate(config.down_block_types)
        )
        self.mid_block = UNetMidBlock2DCrossAttn(
            in_channels=widths[last],
            transformer_layers_per_block=config.transformer_layers_per_block[last],
            num_attention_heads=config.num_attention_heads[last],
            **common,
        )
        self.up_blocks = nn.ModuleList(
            get_up_block(
                kind,
                num_layers=config.layers_per_block[i] + 1,  # one more than going down: conv_in's or the downsampler's
                in_channels=widths[max(i - 1, 0)],
                out_channels=widths[i],
                prev_output_channel=widths[min(i + 1, last)],
                add_upsample=i > 0,
                transformer_layers_per_block=config.transformer_layers_per_block[i],
                num_attention_heads=config.num_attention_heads[i],
                attention_head_dim=config.num_attention_heads[i],
                **common,
            )
            for i, kind in zip(range(last, -1, -1), config.up_block_types, strict=True)
        )
        self.conv_norm_out = nn.GroupNorm(config.norm_num_groups, widths[0], eps=config.norm_eps)
        self.conv_out = nn.Conv2d(widths[0], config.out_channels, 3, padding=1)

    def forward(self, latents: Tensor, text_embeddings: Tensor) -> Tensor:
        """Predict v.

        Args:
            latents: pure noise [B, in_channels, h, w]; any h and w.
            text_embeddings: [B, tokens, cross_attention_dim], or [1, ...] for all of the batch.

        Returns:
            v [B, out_channels, h, w], computed in the module's dtype, in the dtype of `latents`.

        Raises:
            OMSError: shapes that do not fit this module.
        """
        self._check(latents, text_embeddings)
        h = latents.to(self.dtype)
        text = text_embeddings.to(self.dtype).expand(len(latents), -1, -1)

        h = self._by_diffusers(h, text) if self.training else infer(self, h, text)
        return self.conv_out(F.silu(self.conv_norm_out(h))).to(latents.dtype)

    def _by_diffusers(self, h: Tensor, text: Tensor) -> Tensor:
        """As diffusers' blocks themselves do it, which can recompute activations: for training."""
        h = self.conv_in(h)
        skips = [h]
        for block in self.down_blocks:
            h, outputs = block(hidden_states=h, temb=None, **_text_for(block, text))
            skips.extend(outputs)
        h = self.mid_block(h, None, encoder_hidden_states=text)
        for block, layers in zip(self.up_blocks, reversed(self.config.layers_per_block), strict=True):
            own = tuple(skips[-(layers + 1) :])
            del skips[-(layers + 1) :]
            # The next skip's size, not twice this one's: a height that was odd on the way down must be so again.
            size = skips[-1].shape[2:] if skips else None
            h = block(
                hidden_states=h, temb=None, res_hidden_states_tuple=own, upsample_size=size, **_text_for(block, text)
            )
        return h

    def _check(self, latents: Tensor, text: Tensor) -> None:
        if latents.ndim != 4 or latents.shape[1] != self.config.in_channels:
            raise OMSError(f"latents have shape {list(latents.shape)}; expected [B, {self.config.in_channels}, h, w]")
        if text.ndim != 3 or text.shape[2] != self.config.cross_attention_dim:
            raise OMSError(
                f"text embeddings have shape {list(text.shape)}; this OMS model reads "
                f"[B, tokens, {self.config.cross_attention_dim}]: is it the right text encoder?"
            )
        if text.shape[0] not in (1, latents.shape[0]):
            raise OMSError(f"{text.shape[0]} text embeddings for {latents.shape[0]} latents; expected one each, or one")

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the weights, in which v is computed."""
        return self.conv_in.weight.dtype

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return self.conv_in.weight.device

    @classmethod
    def from_pretrained(cls, path: str | os.PathLike[str], dtype: torch.dtype | None = None) -> OMSUNet:
        """Load a published folder or one .safetensors file, in eval mode on the CPU.

        Args:
            path: a folder (with or without its oms_module/ level) or a file; never downloaded, never unpickled.
            dtype: of the weights; None is float32, whatever the file holds. With torch.float16 a folder's .fp16 file
                is preferred.

        Raises:
            ModuleFileError: not a whole OMS model; names the file, the first offending tensor and what was expected.
        """
        dtype = dtype or torch.float32
        if not dtype.is_floating_point:
            raise OMSError(f"dtype is {dtype}; a floating-point dtype such as torch.float16 is needed")
        module = inspect_module(path, prefer_fp16=dtype == torch.float16)
        # Hosts call with inference mode on; weights born in it could never leave it.
        with torch.inference_mode(False):
            with torch.device("meta"):
                psi = cls(module.config, module.metadata)
            fill(psi, _read_tensors(module, dtype))
        return psi.eval()

    def save_pretrained(
        self,
        path: str | os.PathLike[str],
        *,
        metadata: Mapping[str, str] | None = None,
        variant: str | None = None,
    ) -> Path:
        """Write the published folder layout, or one file where `path` ends in .safetensors; returns the weights' path.

        Args:
            path: created where missing; existing files are replaced when the new ones are whole. Weights of the other
                variant in a folder go: they would be another module's.
            metadata: texts for the weights' header, over the module's own.
            variant: None keeps the dtype; "fp16" stores halves (in a folder under the .fp16 name).

        Raises:
            OMSError: another variant, or metadata that is not text.
        """
        if variant not in (None, "fp16"):
            raise OMSError(f"variant is {variant!r}; allowed are None and 'fp16'")
        facts = {**self.metadata, **(metadata or {})}
        if not all(isinstance(text, str) for pair in facts.items() for text in pair):
            raise OMSError("metadata of a .safetensors file can only be text; convert numbers and lists to text first")
        config = json.dumps(self.config.to_dict(), indent=2)
        header = {**facts, CONFIG_KEY: config, "format": "pt"}
        dtype = torch.float16 if variant == "fp16" else None
        tensors = {name: tensor.detach().to("cpu", dtype).contiguous() for name, tensor in self.state_dict().items()}

        path = Path(path)
        single = path.suffix.lower() == ".safetensors"
        folder = path.parent if single else path
        folder.mkdir(parents=True, exist_ok=True)
        weights = path if single else folder / (FP16_WEIGHTS_NAME if variant else WEIGHTS_NAME)
        with written_whole(weights) as part:
            save_file(tensors, part, header)
        if not single:
            with written_whole(folder / CONFIG_NAME) as part:
                part.write_text(config + "\n", encoding="utf-8")
            (folder / (WEIGHTS_NAME if variant else FP16_WEIGHTS_NAME)).unlink(missing_ok=True)
        return weights


def predict_v(
    psi: nn.Module,
    latents: Tensor,
    cond: Tensor,
    uncond: Tensor | None = None,
    guidance_scale: float = 1.0,
) -> tuple[Tensor, Tensor | None]:
    """psi's answers with and without the prompt, in one forward.

    Args:
        psi: an OMSUNet.
        latents: pure noise [B, C, h, w].
        cond, uncond: text embeddings [B or 1, tokens, D]; their numbers of tokens may differ.
        guidance_scale: at 1 the unconditional half cancels, so it is not computed.

    Returns:
        (v_cond, v_uncond), v_uncond None at scale 1.

    Raises:
        OMSError: `uncond` is needed and missing, or shapes do not fit.
    """
    if guidance_scale == 1.0:
        return psi(latents, cond), None
    if uncond is None:
        raise OMSError(f"guidance scale {guidance_scale} needs the negative prompt's embedding; only scale 1 does not")
    cond, uncond = _same_length(cond, uncond)
    count = len(latents)
    text = torch.cat([cond.expand(count, -1, -1), uncond.expand(count, -1, -1)])
    v = psi(torch.cat([latents, latents]), text)
    return v[:count], v[count:]


def _same_length(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    # Attention is a mean over tokens weighted by softmax, so all tokens repeated equally often give the same answer:
    # a long prompt and a short one share a batch without padding that psi would read.
    length = math.lcm(a.shape[1], b.shape[1])
    return a.repeat(1, length // a.shape[1], 1), b.repeat(1, length // b.shape[1], 1)


def _text_for(block: nn.Module, text: Tensor) -> dict[str, Tensor]:
    return {"encoder_hidden_states": text} if getattr(block, "has_cross_attention", False) else {}


def _read_tensors(module: ModuleFile, dtype: torch.dtype) -> dict[str, Tensor]:
    try:
        with safe_open(module.weights, framework="pt", device="cpu") as file:
            return copied(((name, file.get_tensor(name)) for name in module.header.tensors), dtype)
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise ModuleFileError(f"{module.weights}: its tensors cannot be read: {error}") from error
