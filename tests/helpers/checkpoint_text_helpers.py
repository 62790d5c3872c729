"""SD2.x's and SD1.x's text encoders out of a checkpoint as transformers computes them, written without the code under
test.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import safe_open
from text_helpers import CLIP_L, VIT_H
from torch import Tensor, nn

WIDTH, LAYERS = 1024, 23  # of ViT-H's 24 layers
_SIZES = {"hidden_size": WIDTH, "intermediate_size": 4096, "num_attention_heads": 16, "num_hidden_layers": LAYERS}
_NIGHT, _BEGIN, _END = 930, 49406, 49407  # among CLIP's tokens
_PREFIX = "cond_stage_model.model."
_SD1_PREFIX = "cond_stage_model.transformer.text_model."
SD1_WIDTH = 768
_SD1_SIZES = {
    "hidden_size": SD1_WIDTH,
    "intermediate_size": 3072,
    "num_attention_heads": 12,
    "num_hidden_layers": 12,
}
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

    model = CLIPTextModel(CLIPTextConfig(**{**VIT_H, **_SIZES, "vocab_size": _END + 1})).eval()
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
    return _filled(model, weights)


def clip_l_of(checkpoint: Path) -> nn.Module:
    """SD1.x's text model with a checkpoint's weights, in float32."""
    from transformers import CLIPTextConfig, CLIPTextModel

    names, tensor = _open(checkpoint)
    model = CLIPTextModel(CLIPTextConfig(**{**CLIP_L, **_SD1_SIZES, "vocab_size": _END + 1})).eval()
    own = [name for name in names if name.startswith(_SD1_PREFIX) and not name.endswith("position_ids")]
    return _filled(model, {name.removeprefix(_SD1_PREFIX): tensor(name) for name in own})


@torch.no_grad()
def _filled(model: nn.Module, weights: dict[str, Tensor]) -> nn.Module:
    for name, parameter in model.named_parameters():  # which transformers 5 names without text_model
        parameter.copy_(weights.pop(name.removeprefix("text_model.")))
    assert not weights
    return model


def night(model: nn.Module, count: int = 1, weight: float = 1.0) -> Tensor:
    """The embedding [1, 77 * k, D] of "night" so many times, with this attention weight. SD2.x fills up with "!", the
    first of the tokens, and SD1.x with the end token.
    """
    pad = 0 if model.config.hidden_size == WIDTH else _END
    chunks = []
    for start in range(0, count, 75):
        words = min(count - start, 75)
        ids = [_BEGIN, *[_NIGHT] * words, _END, *[pad] * (75 - words)]
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
