"""`python -m lib_oms style`: from a folder of pictures to pictures like them."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers.models import AutoencoderKL
from PIL import Image
from safetensors.torch import save_file

from lib_oms import __main__ as command_line
from lib_oms.commands.checkpoint_vae import vae_of_checkpoint
from lib_oms.given import load_style
from lib_oms.judging import metrics
from lib_oms.judging.painter import OBEDIENCE_PROMPT, Painter


def write_pictures(folder: Path, colors: list[tuple[int, int, int]]) -> Path:
    for index, color in enumerate(colors):
        (folder / f"part {index % 2}").mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (90, 60 + index), color).save(folder / f"part {index % 2}" / f"{index}.png")
    (folder / "notes.txt").write_text("no picture")
    (folder / ".hidden").mkdir(exist_ok=True)
    (folder / ".hidden" / "thumbnail.png").write_bytes(b"broken")
    return folder


def test_a_folder_becomes_a_small_file(tmp_path, capsys):
    folder = write_pictures(tmp_path / "dusk", [(90, 40, 60), (100, 50, 70), (80, 40, 90)])
    out = tmp_path / "styles" / "dusk.safetensors"
    assert command_line.main(["style", str(folder), "--out", str(out)]) == 0
    assert capsys.readouterr().out.splitlines() == [str(out)]
    assert out.stat().st_size < 100_000
    assert load_style(out).mean.shape == (4, 6, 6)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["empty"], "holds no pictures"),
        (["nowhere"], "holds no pictures"),
        (["one"], "two pictures at least"),
        (["one", "--vae", "empty"], "cannot be loaded"),
        (["two", "--out", "dusk.txt"], "is a .safetensors file"),
        (["broken"], "cannot be read"),
    ],
)
def test_what_makes_no_style_is_said(tmp_path, capsys, monkeypatch, words, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    write_pictures(tmp_path / "one", [(90, 40, 60)])
    write_pictures(tmp_path / "two", [(90, 40, 60), (1, 2, 3)])
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "a.png").write_bytes(b"not a picture")
    assert command_line.main(["style", *words]) == 2
    assert said in capsys.readouterr().err
    assert not list(tmp_path.rglob("*.safetensors"))


@pytest.mark.slow
def test_pictures_follow_the_mean_color_of_the_folder(tmp_path):
    colors = [(40, 50, 110), (60, 70, 140), (50, 60, 120), (45, 70, 130), (60, 55, 125)]
    out = tmp_path / "blue.safetensors"
    assert command_line.main(["style", str(write_pictures(tmp_path / "blue", colors)), "--out", str(out)]) == 0
    pictures = Painter("main", "Euler", 20, 3.0, 77).paint([OBEDIENCE_PROMPT] * 12, oms=True, style=out)
    mean = metrics.background_colors(pictures).mean(axis=0)
    assert metrics.color_differences(mean[None], np.array([[51, 61, 125]]) / 255)[0] < 5


ORIGINAL = (
    (r"conv_norm_out", "norm_out"),
    (r"down_blocks\.(\d+)\.resnets\.(\d+)", r"down.\1.block.\2"),
    (r"down_blocks\.(\d+)\.downsamplers\.0", r"down.\1.downsample"),
    (r"mid_block\.resnets\.0", "mid.block_1"),
    (r"mid_block\.resnets\.1", "mid.block_2"),
    (r"conv_shortcut", "nin_shortcut"),
    (r"mid_block\.attentions\.0\.group_norm", "mid.attn_1.norm"),
    (r"mid_block\.attentions\.0\.to_([qkv])", r"mid.attn_1.\1"),
    (r"mid_block\.attentions\.0\.to_out\.0", "mid.attn_1.proj_out"),
)
"""Diffusers' names of an encoder and those of the original code."""


def small_vae() -> AutoencoderKL:
    """Stable Diffusion's with fewer channels and random weights."""
    torch.manual_seed(0)
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(32, 32, 64, 64),
        layers_per_block=2,
        latent_channels=4,
    ).eval()


def write_checkpoint(path: Path, vae: AutoencoderKL, half: bool = False) -> Path:
    """A file as WebUIs have them: the VAE under its original names, and what tells an SD1.x by its UNet."""
    tensors = {
        "model.diffusion_model.input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight": torch.zeros(1, 768),
        "model.diffusion_model.out.2.weight": torch.zeros(4, 1, 3, 3),
    }
    for name, tensor in vae.state_dict().items():
        for pattern, original in ORIGINAL:
            name = re.sub(pattern, original, name)
        wide = tensor[..., None, None] if "attn_1" in name and tensor.ndim == 2 else tensor
        tensors[f"first_stage_model.{name}"] = (wide.half() if half else wide).contiguous()
    save_file(tensors, path)
    return path


@pytest.mark.parametrize("half", [False, True])
def test_the_vae_of_a_checkpoint_is_the_same_as_in_diffusers_layout(tmp_path, half):
    vae = small_vae()
    found = vae_of_checkpoint(write_checkpoint(tmp_path / "model.safetensors", vae, half))
    picture = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(1)) * 2 - 1
    with torch.no_grad():
        wanted, made = (part.encode(picture).latent_dist.mode() for part in (vae, found))
    torch.testing.assert_close(made, wanted, rtol=1e-3, atol=2e-3)
    assert found.config.scaling_factor == 0.18215


def test_a_style_by_a_checkpoint(tmp_path, capsys):
    checkpoint = write_checkpoint(tmp_path / "model.safetensors", small_vae())
    folder = write_pictures(tmp_path / "dusk", [(90, 40, 60), (100, 50, 70)])
    out = tmp_path / "dusk.safetensors"
    assert command_line.main(["style", str(folder), "--vae", str(checkpoint), "--out", str(out)]) == 0
    assert load_style(out).colors.shape == (5, 4)


def test_a_file_without_a_vae_is_refused(tmp_path, capsys):
    save_file({"weight": torch.zeros(2)}, tmp_path / "lora.safetensors")
    folder = write_pictures(tmp_path / "dusk", [(90, 40, 60), (100, 50, 70)])
    assert command_line.main(["style", str(folder), "--vae", str(tmp_path / "lora.safetensors")]) == 2
    assert "no whole SD1.x, SD2.x or SDXL checkpoint" in capsys.readouterr().err
