"""SD2.x's text encoder out of a checkpoint as transformers computes it, written without the code under test."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import safe_open
from text_helpers import VIT_H
from torch import Tensor, nn

WIDTH, LAYERS = 1024, 23  # of ViT-H's 24 layers
_SIZES = {"hidden_size": WIDTH, "intermediate_size": 4096, "num_attention_heads": 16, "num_hidden_layers": LAYERS}
_NIGHT, _BEGIN, _END, _PAD = 930, 49406, 49407, 0  # among CLIP's tokens; "!", the first, fills up
_PREFIX = "cond_stage_model.model."
_PARTS = {
    "self_attn.out_proj": "attn.out_proj",
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}


def is_sd2(checkpoint: Path) -> bool:
    names, _ = _open(checkpoint)
    return f"{_PREFIX}transformer.resblocks.{LAYERS - 1}.ln_1.bias" in names  # diffusers' converter drops the 24th


def text_model_of(checkpoint: Path) -> nn.Module:
    """SD2.x's text model with a checkpoint's weights, in float32."""
    _, tensor = _open(checkpoint)
    from transformers import CLIPTextConfig, CLIPTextModel

    model = CLIPTextModel(CLIPTextConfig(**{**VIT_H, **_SIZES})).eval()
    weights = {
        "embeddings.token_embedding.weight": tensor(f"{_PREFIX}token_embedding.weight"),
        "embeddings.position_embedding.weight": tensor(f"{_PREFIX}positional_embedding"),
    }
    for kind in ("weight", "bias"):
        weights[f"final_layer_norm.{kind}"] = tensor(f"{_PREFIX}ln_final.{kind}")
        for i in range(LAYERS):
            theirs, own = f"{_PREFIX}transformer.resblocks.{i}", f"encoder.layers.{i}"
            for n, letter in enumerate("qkv"):
                whole = tensor(f"{theirs}.attn.in_proj_{kind}")
                weights[f"{own}.self_attn.{letter}_proj.{kind}"] = whole[n * WIDTH : (n + 1) * WIDTH]
            for part, name in _PARTS.items():
                weights[f"{own}.{part}.{kind}"] = tensor(f"{theirs}.{name}.{kind}")
    with torch.no_grad():
        for name, parameter in model.named_parameters():  # which transformers 5 names without text_model
            parameter.copy_(weights.pop(name.removeprefix("text_model.")))
    assert not weights
    return model


def night(model: nn.Module, count: int = 1, weight: float = 1.0) -> Tensor:
    """The embedding [1, 77 * k, 1024] of "night" so many times, with this attention weight."""
    chunks = []
    for start in range(0, count, 75):
        words = min(count - start, 75)
        ids = [_BEGIN, *[_NIGHT] * words, _END, *[_PAD] * (75 - words)]
        with torch.no_grad():
            states = model(input_ids=torch.tensor([ids])).last_hidden_state[0]
        weights = torch.tensor([1.0, *[weight] * words, *[1.0] * (76 - words)])
        weighted = states * weights[:, None]
        chunks.append(weighted * (states.mean() / weighted.mean()))
    return torch.cat(chunks)[None]


def _open(checkpoint: Path) -> tuple[set[str], Callable[[str], Tensor]]:
    """Of a .ckpt, a pickle, what the .safetensors holds that OMS_WEBUI_SD2 names: the same weights, in this form."""
    if checkpoint.suffix != ".safetensors":
        checkpoint = Path(os.environ.get("OMS_WEBUI_SD2", ""))
        if not checkpoint.is_file():
            return set(), {}.__getitem__
    file = safe_open(checkpoint, "pt")
    return set(file.keys()), file.get_tensor
