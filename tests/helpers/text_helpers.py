"""Tiny text encoders in the real configurations, with a real (byte-level BPE) CLIP tokenizer of 519 tokens."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

MERGES = ["a n", "an d</w>", "n i", "ni g", "h t</w>", "nig ht</w>", "! !</w>"]
BEGIN, END = "<|startoftext|>", "<|endoftext|>"

# The published config.json files, less what has no effect on a forward pass; sizes are what differs here.
SMALL = {"hidden_size": 24, "intermediate_size": 48, "num_attention_heads": 3, "num_hidden_layers": 3}
COMMON = {
    "attention_dropout": 0.0,
    "dropout": 0.0,
    "initializer_factor": 1.0,
    "initializer_range": 0.02,
    "layer_norm_eps": 1e-05,
    "max_position_embeddings": 77,
    "model_type": "clip_text_model",
    "bos_token_id": 0,
    "pad_token_id": 1,
}
VIT_H = {**COMMON, **SMALL, "hidden_act": "gelu", "eos_token_id": 2, "projection_dim": 12}  # real: 1024, 4096, 16, 23
CLIP_L = {**COMMON, **SMALL, "hidden_act": "quick_gelu", "eos_token_id": 2, "projection_dim": 24}  # 768, 3072, 12, 12
BIG_G = {  # real: 1280, 5120, 20 heads, 32 layers
    **COMMON,
    "hidden_size": 40,
    "intermediate_size": 80,
    "num_attention_heads": 5,
    "num_hidden_layers": 4,
    "hidden_act": "gelu",
    "eos_token_id": 2,
    "projection_dim": 40,
}


def alphabet() -> list[str]:
    """The 256 characters that stand for bytes in CLIP's vocabulary, in its order: "!" is 0."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in printable]
    return [chr(b) for b in printable] + [chr(256 + i) for i in range(len(others))]


def vocabulary() -> dict[str, int]:
    letters = alphabet()
    tokens = [*letters, *(c + "</w>" for c in letters), *(m.replace(" ", "") for m in MERGES), BEGIN, END]
    return {token: i for i, token in enumerate(tokens)}


def write_tokenizer(folder: Path, pad_token: str = END) -> Path:
    """A tokenizer folder as the published ones are; SD2.1 and SDXL's second pad with "!"."""
    folder.mkdir(parents=True)
    (folder / "vocab.json").write_text(json.dumps(vocabulary(), ensure_ascii=False), "utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(MERGES) + "\n", "utf-8")
    names = {"bos_token": BEGIN, "eos_token": END, "unk_token": END, "pad_token": pad_token}
    (folder / "special_tokens_map.json").write_text(json.dumps(names), "utf-8")
    config = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, "do_lower_case": True, **names}
    (folder / "tokenizer_config.json").write_text(json.dumps(config), "utf-8")
    return folder


def tokenizer(folder: Path, pad_token: str = END) -> Any:
    from transformers import CLIPTokenizerFast

    return CLIPTokenizerFast.from_pretrained(str(write_tokenizer(folder, pad_token)), local_files_only=True)


def text_model(config: dict[str, Any], seed: int = 0, *, projection: bool = False) -> torch.nn.Module:
    """A text model of `config` with random weights whose hidden states are of an ordinary size, with a mean."""
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    torch.manual_seed(seed)
    kind = CLIPTextModelWithProjection if projection else CLIPTextModel
    model = kind(CLIPTextConfig(**{"vocab_size": len(vocabulary()), **config})).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "layer_norm" in name:
                parameter.add_(0.3 * torch.randn_like(parameter) + 0.1)
            else:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model
