"""For the trainer's tests: a model in diffusers layout, pictures and settings, all as small as they can be."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file

from lib_oms.psi import OMSUNetConfig
from lib_oms.training import TrainingSettings
from lib_oms.training.data import TrainingData

TEXT_WIDTH = 32
LEVELS = (-0.8, 0.0, 0.6)
CAPTIONS = ("a black page", "a white page", "a gray page")


def write_model(folder: Path, vae_channels: tuple[int, ...] = (8, 8)) -> Path:
    """Writes vae/, text_encoder/ and tokenizer/ (and those ending in _2) with random weights."""
    from diffusers import AutoencoderKL  # seconds of import, which tests of pictures save
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    torch.manual_seed(7)
    blocks = len(vae_channels)
    AutoencoderKL(
        block_out_channels=vae_channels,
        down_block_types=("DownEncoderBlock2D",) * blocks,
        up_block_types=("UpDecoderBlock2D",) * blocks,
        latent_channels=4,
        norm_num_groups=4,
        scaling_factor=0.5,
    ).save_pretrained(folder / "vae", safe_serialization=True)
    for part, kind, width in (("", CLIPTextModel, TEXT_WIDTH), ("_2", CLIPTextModelWithProjection, 16)):
        vocabulary = write_tokenizer(folder / f"tokenizer{part}")
        config = CLIPTextConfig(
            vocab_size=vocabulary, hidden_size=width, intermediate_size=2 * width, projection_dim=width,
            num_hidden_layers=2, num_attention_heads=2, max_position_embeddings=77,
            bos_token_id=vocabulary - 2, eos_token_id=vocabulary - 1,
        )  # fmt: skip
        kind(config).save_pretrained(folder / f"text_encoder{part}", safe_serialization=True)
    return folder


def write_tokenizer(folder: Path) -> int:
    """Writes a CLIP tokenizer that knows single letters; returns the size of its vocabulary."""
    from transformers import CLIPTokenizer

    letters = [chr(code) for code in range(33, 127)]
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True)
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}), encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n", encoding="utf-8")
    CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=77).save_pretrained(folder)
    return len(tokens)


def write_picture(path: Path, level: float, size: tuple[int, int] = (16, 16)) -> Path:
    """A picture of one brightness (0 to 1) with a little noise, another for each name, (width, height) in `size`."""
    noise = np.random.default_rng(list(path.name.encode())).normal(0, 0.02, (size[1], size[0], 3))
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(((level + noise).clip(0, 1) * 255).astype(np.uint8)).save(path)
    return path


def write_pictures(folder: Path, count: int = 12) -> Path:
    """Writes `count` pictures in black, white and gray, and a metadata.jsonl that says so."""
    rows = []
    for number in range(count):
        level = (0.05, 0.95, 0.5)[number % 3]
        write_picture(folder / f"{number:03}.png", level)
        rows.append(json.dumps({"file_name": f"{number:03}.png", "text": CAPTIONS[number % 3]}))
    (folder / "metadata.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return folder


def write_tar(path: Path, files: Sequence[Path]) -> Path:
    """A WebDataset shard of files, in their order."""
    with tarfile.open(path, "w") as tar:
        for file in files:
            tar.add(file, file.name)
    return path


def small_config(width: int = 8) -> OMSUNetConfig:
    return OMSUNetConfig(
        block_out_channels=(8, 16), num_attention_heads=(1, 2), cross_attention_dim=width,
        transformer_layers_per_block=(1, 1), layers_per_block=(1, 1),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), norm_num_groups=4,
    )  # fmt: skip


def small_data(count: int = 24, seed: int = 1) -> TrainingData:
    """Latents of three brightnesses with a caption each: what psi is to learn, without pictures."""
    generator = torch.Generator().manual_seed(seed)
    caption = torch.arange(count) % 3
    level = torch.tensor(LEVELS)[caption].view(-1, 1, 1, 1)
    latents = level + 0.1 * torch.randn(count, 4, 4, 4, generator=generator)
    text = torch.nn.functional.one_hot(torch.arange(4), 8).float()[:, None].expand(4, 5, 8)
    return TrainingData.from_tensors(latents, text[:3], caption, text[3])


def small_settings(output: Path, **changes: Any) -> TrainingSettings:
    values = dict(latents="oms-demo", steps=6, batch_size=8, lr=1e-3, warmup=2, save_every=2, log_every=2, cpu=True)
    return TrainingSettings(output=str(output), **{**values, **changes})


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "diffusion_pytorch_model.safetensors")


def assert_same_bits(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys()
    assert [name for name in a if not torch.equal(a[name], b[name])] == []
