"""Training that starts from an OMS model: what is taken from it, and which do not fit."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from safetensors.torch import load_file
from training_helpers import small_config, small_data, small_settings, weights, write_model, write_pictures

from lib_oms import __main__ as command_line
from lib_oms.commands import places
from lib_oms.errors import OMSError, SettingError
from lib_oms.psi import OMSUNet, OMSUNetConfig
from lib_oms.training import train


def a_module(folder, config: OMSUNetConfig | None = None, **facts: str) -> str:
    torch.manual_seed(11)
    OMSUNet(config or small_config(), facts).save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("name", ["folder", "one.safetensors"])
def test_a_training_goes_on_from_an_oms_model(tmp_path, name):
    start = a_module(tmp_path / name, **{"oms.latents": "oms-demo", "modelspec.title": "the other"})
    before = OMSUNet.from_pretrained(start)
    settings = small_settings(tmp_path / "out", from_=start, lr=1e-6, size="large", steps=1)
    result = OMSUNet.from_pretrained(train(settings, small_data()))
    assert result.config == before.config, "not that of --size"
    for key, value in before.state_dict().items():
        torch.testing.assert_close(result.state_dict()[key], value, atol=1e-4, rtol=1e-3)
    assert len(result.metadata["training.start_sha256"]) == 64
    assert "modelspec.title" not in result.metadata


def test_halves_are_trained_in_float32(tmp_path):
    torch.manual_seed(11)
    OMSUNet(small_config()).save_pretrained(tmp_path / "half", variant="fp16")
    folder = train(small_settings(tmp_path / "out", from_=str(tmp_path / "half"), steps=1), small_data())
    assert {tensor.dtype for tensor in weights(folder).values()} == {torch.float32}


def test_another_start_does_not_continue(tmp_path):
    first = a_module(tmp_path / "a")
    train(small_settings(tmp_path / "out", from_=first, steps=1), small_data())
    tensors = load_file(f"{first}/diffusion_pytorch_model.safetensors")
    other = OMSUNet(small_config())
    other.load_state_dict({name: tensor + 1 for name, tensor in tensors.items()})
    other.save_pretrained(tmp_path / "b")
    with pytest.raises(SettingError, match="content of start was"):
        train(small_settings(tmp_path / "out", from_=str(tmp_path / "b"), steps=1), small_data())
    (tmp_path / "a").rename(tmp_path / "moved")
    train(small_settings(tmp_path / "out", from_=str(tmp_path / "moved"), steps=1), small_data())


@pytest.mark.parametrize(
    ("facts", "change", "message"),
    [
        ({"oms.text_encoder": "mixclip"}, {}, "reads text of the kind mixclip, and text_kind is openclip"),
        ({"oms.latents": "sdxl"}, {"latents": "sd"}, "is for the latents sdxl, and latents is sd"),
    ],
)
def test_an_oms_model_for_something_else_is_refused(tmp_path, facts, change, message):
    start = a_module(tmp_path / "a", **facts)
    with pytest.raises(SettingError, match=message):
        train(small_settings(tmp_path / "out", from_=start, **change), small_data())


def test_latents_of_ones_own_may_start_from_others(tmp_path):
    start = a_module(tmp_path / "a", **{"oms.latents": "sd"})
    result = train(small_settings(tmp_path / "out", from_=start, steps=1), small_data())
    assert OMSUNet.from_pretrained(result).metadata["oms.latents"] == "oms-demo"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"in_channels": 16, "out_channels": 16}, "latents of 16 channels, but these have 4"),
        ({"cross_attention_dim": 64}, "text of width 64, but this text encoder gives 32"),
    ],
)
def test_what_does_not_fit_is_said_before_anything_is_encoded(tmp_path, change, message):
    model, pictures = write_model(tmp_path / "model"), write_pictures(tmp_path / "pictures", 3)
    start = a_module(tmp_path / "a", dataclasses.replace(small_config(32), **change))
    with pytest.raises(SettingError, match=message):
        train(small_settings(tmp_path / "out", from_=start, data=str(pictures), model=str(model), resolution=16))
    assert not (tmp_path / "out" / "training").exists()


def test_no_oms_model(tmp_path):
    with pytest.raises(OMSError, match="no such file or folder"):
        train(small_settings(tmp_path, from_=str(tmp_path / "nowhere")), small_data())


def test_a_name_is_looked_up_where_oms_models_lie(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(places, "module_folders", lambda: [tmp_path / "models"])
    a_module(tmp_path / "models" / "mine", **{"oms.text_encoder": "mixclip"})
    words = ["train", "--output", str(tmp_path / "out"), "--latents", "x", "--data", str(tmp_path), "--cpu"]
    assert command_line.main([*words, "--from", "mine"]) == 2
    assert "reads text of the kind mixclip" in capsys.readouterr().err
    assert command_line.main([*words, "--from", "yours"]) == 2
    assert "from yours: there is no such file or folder, nor an OMS model of this name here (mine)" in (
        capsys.readouterr().err
    )
