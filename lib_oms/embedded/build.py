"""The parts of the embedded model, untrained: their sizes, and the diffusers folder they are written to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from diffusers.models import AutoencoderKL, UNet2DConditionModel
from diffusers.models.modeling_utils import ModelMixin
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    PreTrainedModel,
)

from lib_oms.devices import contiguous

TEXT_WIDTH = 128
SECOND_TEXT_WIDTH = 96
"""Of the second text encoder in SDXL's shape, and of its pooled embedding."""
SIZE_WIDTH = 32
"""Of the embedding of each of SDXL's six numbers: original size, crop, target size."""
LATENT_SIZE = 32
SCHEDULE = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "epsilon",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
}
"""Stable Diffusion's own schedule: what is left of x_0 at the last timestep is the flaw that is shown."""
_START, _END = "<|startoftext|>", "<|endoftext|>"


def byte_alphabet() -> list[str]:
    """The 256 printable stand-ins for bytes that CLIP's byte-pair encoding is built on, in byte order."""
    alphabet = dict(enumerate(sorted(pre_tokenizers.ByteLevel.alphabet())))
    assert len(alphabet) == 256
    return list(alphabet.values())


def build_tokenizer(captions: list[str], folder: Path) -> CLIPTokenizer:
    """Learns byte-pair merges from the captions and writes a CLIP tokenizer (vocab.json, merges.txt) to `folder`."""
    bpe = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    bpe.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.BpeTrainer(vocab_size=2000, min_frequency=2, end_of_word_suffix="</w>", show_progress=False)
    bpe.train_from_iterator(captions, trainer)
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in json.loads(bpe.to_str())["model"]["merges"]]
    letters = byte_alphabet()
    tokens = [*letters, *(letter + "</w>" for letter in letters), *(m.replace(" ", "") for m in merges), _START, _END]
    vocabulary = {token: index for index, token in enumerate(dict.fromkeys(tokens))}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False), encoding="utf-8")
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]), encoding="utf-8")
    config = {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": 77,
        "bos_token": _START,
        "eos_token": _END,
        "unk_token": _END,
        "pad_token": _END,
        "do_lower_case": True,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    special = {key: config[key] for key in ("bos_token", "eos_token", "unk_token", "pad_token")}
    (folder / "special_tokens_map.json").write_text(json.dumps(special, indent=2) + "\n", encoding="utf-8")
    return CLIPTokenizer.from_pretrained(folder, local_files_only=True)


def _text_config(tokenizer: CLIPTokenizer, width: int) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        projection_dim=width,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=77,
        hidden_act="gelu",
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.eos_token_id,
    )


def build_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """A CLIP text model of two layers; prompts become [B, 77, 128]."""
    return CLIPTextModel(_text_config(tokenizer, TEXT_WIDTH)).eval()


def build_second_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModelWithProjection:
    """The second one in SDXL's shape; prompts become [B, 77, 96], and pooled [B, 96]."""
    return CLIPTextModelWithProjection(_text_config(tokenizer, SECOND_TEXT_WIDTH)).eval()


def build_vae() -> AutoencoderKL:
    """A VAE of factor 8: pictures [B, 3, 256, 256] in -1..1, latents [B, 4, 32, 32]."""
    vae = AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(16, 16, 32, 64),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=1,  # many small groups would normalize a flat picture's brightness away
        sample_size=8 * LATENT_SIZE,
        mid_block_add_attention=False,
    )
    _start_as_averages(vae)
    return vae.eval()


@torch.no_grad()
def _start_as_averages(vae: AutoencoderKL) -> None:
    """Initializes the VAE so that a latent is the mean color of its 8 x 8 pixels, and a picture those colors again.

    Training then only adds detail, which takes minutes; from random weights it takes hours. Three channels carry the
    color and three its negative, since silu(x) - silu(-x) = x passes them through an activation unchanged; two hold a
    large constant, so that group normalization divides by nearly the same number whatever the picture. Residual
    branches start at zero. Every other weight keeps its random value.
    """
    colors, reference = 3, 6.0
    carried = 2 * colors + 2

    def bias_of(conv: torch.nn.Conv2d) -> torch.Tensor:
        assert conv.bias is not None  # every convolution of diffusers' VAE has one
        return conv.bias

    def set_input(conv: torch.nn.Conv2d) -> None:
        bias = bias_of(conv)
        conv.weight[:carried] = 0
        bias[:carried] = 0
        for i in range(colors):
            conv.weight[i, i, 1, 1] = 1
            conv.weight[colors + i, i, 1, 1] = -1
        bias[2 * colors], bias[2 * colors + 1] = reference, -reference

    def set_output(conv: torch.nn.Conv2d, gain: float) -> None:
        conv.weight *= 0.1
        bias_of(conv).zero_()
        conv.weight[:colors] = 0
        for i in range(colors):
            conv.weight[i, i, 1, 1] = gain
            conv.weight[i, colors + i, 1, 1] = -gain

    def carry(conv: torch.nn.Conv2d, rows: slice, columns: slice, value: float) -> None:
        conv.weight[:carried] = 0
        bias_of(conv)[:carried] = 0
        for i in range(carried):
            conv.weight[i, i, rows, columns] = value

    for part in (vae.encoder, vae.decoder):
        for name, layer in part.named_modules():
            if not isinstance(layer, torch.nn.Conv2d):
                continue
            if name.endswith("conv2"):
                layer.weight.zero_()
                bias_of(layer).zero_()
            elif name.endswith("conv_shortcut"):
                carry(layer, slice(0, 1), slice(0, 1), 1.0)
            elif name.endswith("downsamplers.0.conv"):
                carry(layer, slice(0, 2), slice(0, 2), 0.25)
            elif name.endswith("upsamplers.0.conv"):
                carry(layer, slice(1, 2), slice(1, 2), 1.0)
        set_input(part.conv_in)
        set_output(part.conv_out, 1.0)
    bias_of(vae.encoder.conv_out)[4:] = -10.0  # the posterior's log variance: little noise to begin with
    for conv in (vae.quant_conv, vae.post_quant_conv):
        assert conv is not None
        conv.weight.copy_(torch.eye(conv.weight.shape[0])[:, :, None, None])
        bias_of(conv).zero_()
    # the normalisations divide by some number; the outputs multiply by the one that makes flat pictures come back
    flat = torch.rand(64, 3, 1, 1, generator=torch.Generator().manual_seed(0)).mul(2).sub(1).expand(-1, -1, 64, 64)
    for part, send in ((vae.encoder, lambda: vae.encode(flat).latent_dist.mode()), (vae.decoder, None)):
        got = send() if send else vae.decode(vae.encode(flat).latent_dist.mode()).sample
        wanted = torch.nn.functional.adaptive_avg_pool2d(flat, got.shape[-1])
        part.conv_out.weight[:colors] *= (got[:, :colors] * wanted).sum() / got[:, :colors].square().sum()


def build_unet() -> UNet2DConditionModel:
    """The denoiser: 3.2 M parameters, text seen at the lowest resolution only."""
    return _unet(widths=(32, 64, 112), heads=(1, 2, 4), cross_attention_dim=TEXT_WIDTH)


def build_xl_unet() -> UNet2DConditionModel:
    """A denoiser in SDXL's shape, 2.6 M parameters: it is also told the pooled text and the picture's sizes."""
    return _unet(
        widths=(32, 64, 96),
        heads=(1, 2, 3),
        cross_attention_dim=TEXT_WIDTH + SECOND_TEXT_WIDTH,
        addition_embed_type="text_time",
        addition_time_embed_dim=SIZE_WIDTH,
        projection_class_embeddings_input_dim=SECOND_TEXT_WIDTH + 6 * SIZE_WIDTH,
    )


def _unet(widths: tuple[int, ...], heads: tuple[int, ...], **text: Any) -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=LATENT_SIZE,
        in_channels=4,
        out_channels=4,
        layers_per_block=1,
        block_out_channels=widths,
        down_block_types=("DownBlock2D", "DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
        attention_head_dim=heads,  # read by diffusers as the number of heads
        norm_num_groups=4,
        **text,
    ).eval()


def build_scheduler() -> DDIMScheduler:
    """Stable Diffusion's schedule."""
    return DDIMScheduler(**SCHEDULE)


def write_index(folder: Path, *, xl: bool = False) -> None:
    """Writes model_index.json, so that `DiffusionPipeline.from_pretrained(folder)` works."""
    index: dict[str, object] = {
        "_class_name": "StableDiffusionXLPipeline" if xl else "StableDiffusionPipeline",
        "_diffusers_version": "0.31.0",
        "feature_extractor": [None, None],
        "image_encoder": [None, None],
        "scheduler": ["diffusers", "DDIMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    if xl:
        index["force_zeros_for_empty_prompt"] = False
        index["text_encoder_2"] = ["transformers", "CLIPTextModelWithProjection"]
        index["tokenizer_2"] = ["transformers", "CLIPTokenizer"]
    else:
        index["requires_safety_checker"] = False
        index["safety_checker"] = [None, None]
    (folder / "model_index.json").write_text(json.dumps(dict(sorted(index.items())), indent=2) + "\n", encoding="utf-8")


def save_part(part: ModelMixin | PreTrainedModel, folder: Path) -> None:
    """Writes a part in half precision, as it is kept in the repository, and leaves it in float32.

    The scaled latents and all activations are small, so half keeps about three decimal digits of every weight.
    """
    # Older savers refuse channels last, and a config tells where its part was loaded from.
    contiguous(part.half())
    part.save_pretrained(folder, safe_serialization=True)
    part.float()
    if isinstance(part, (CLIPTextModel, CLIPTextModelWithProjection)):
        _name_as_published(folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text("utf-8"))
    config.pop("_name_or_path", None)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _name_as_published(file: Path) -> None:
    """Gives a text model's tensors the prefix that published files have: transformers 5 drops it, 4 needs it."""
    prefix = "text_model."
    tensors = {
        name if name.startswith("text_projection.") else prefix + name.removeprefix(prefix): tensor
        for name, tensor in load_file(file).items()
    }
    save_file(tensors, file, metadata={"format": "pt"})
