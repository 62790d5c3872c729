"""Which latents a checkpoint file is for, by real files with the published names and widths, their layers left out."""

from pathlib import Path

import pytest
import torch
from checkpoint_helpers import write_unet
from safetensors.torch import save_file

from lib_oms.files import checkpoint_latents


@pytest.mark.parametrize("prefix", ["model.diffusion_model.", "diffusion_model.", ""])
@pytest.mark.parametrize(("width", "latents"), [(768, "sd"), (1024, "sd"), (2048, "sdxl"), (1280, None)])
def test_by_the_width_of_the_text(tmp_path: Path, width: int, latents: str | None, prefix: str) -> None:
    """1280 is SDXL's refiner, which starts from a picture."""
    assert checkpoint_latents(write_unet(tmp_path / "x.safetensors", width, prefix)) == latents


def test_other_latents_and_other_files(tmp_path: Path) -> None:
    assert checkpoint_latents(write_unet(tmp_path / "x.safetensors", 2048, channels=32)) is None
    save_file({"double_blocks.0.img_attn.qkv.weight": torch.zeros(4, 4)}, tmp_path / "flux.safetensors")
    assert checkpoint_latents(tmp_path / "flux.safetensors") is None
    (tmp_path / "x.ckpt").write_bytes(b"PK")
    assert checkpoint_latents(tmp_path / "x.ckpt") is None
    assert checkpoint_latents(tmp_path / "nowhere.safetensors") is None


def test_a_file_that_changes_is_read_again(tmp_path: Path) -> None:
    path = write_unet(tmp_path / "x.safetensors", 768)
    assert checkpoint_latents(path) == "sd"
    path.unlink()
    assert checkpoint_latents(write_unet(path, 2048)) == "sdxl"
