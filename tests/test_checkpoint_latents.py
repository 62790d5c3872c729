"""Which latents a checkpoint file is for, by real files with the published names and widths, their layers left out."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from lib_oms.checkpoint_latents import checkpoint_latents

TEXT = "input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight"


def write(path: Path, width: int, prefix: str = "model.diffusion_model.", channels: int = 4) -> Path:
    tensors = {TEXT: torch.zeros(640, width), "out.2.weight": torch.zeros(channels, 320, 3, 3)}
    save_file({f"{prefix}{name}": tensor for name, tensor in tensors.items()}, path)
    return path


@pytest.mark.parametrize("prefix", ["model.diffusion_model.", "diffusion_model.", ""])
@pytest.mark.parametrize(("width", "latents"), [(768, "sd"), (1024, "sd"), (2048, "sdxl"), (1280, None)])
def test_by_the_width_of_the_text(tmp_path: Path, width: int, latents: str | None, prefix: str) -> None:
    """1280 is SDXL's refiner, which starts from a picture."""
    assert checkpoint_latents(write(tmp_path / "x.safetensors", width, prefix)) == latents


def test_other_latents_and_other_files(tmp_path: Path) -> None:
    assert checkpoint_latents(write(tmp_path / "x.safetensors", 2048, channels=32)) is None
    save_file({"double_blocks.0.img_attn.qkv.weight": torch.zeros(4, 4)}, tmp_path / "flux.safetensors")
    assert checkpoint_latents(tmp_path / "flux.safetensors") is None
    (tmp_path / "x.ckpt").write_bytes(b"PK")
    assert checkpoint_latents(tmp_path / "x.ckpt") is None
    assert checkpoint_latents(tmp_path / "nowhere.safetensors") is None


def test_a_file_that_changes_is_read_again(tmp_path: Path) -> None:
    path = write(tmp_path / "x.safetensors", 768)
    assert checkpoint_latents(path) == "sd"
    path.unlink()
    assert checkpoint_latents(write(path, 2048)) == "sdxl"
