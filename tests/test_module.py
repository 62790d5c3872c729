"""The OMS model: files in, v out, and nothing computed that is not needed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from module_helpers import Forwards, tiny_encoder, tiny_module, tiny_psi, write_module

from lib_oms.errors import ModuleFileError, OMSError
from lib_oms.module import OMSModule
from lib_oms.psi import predict_v


@pytest.fixture(scope="module")
def module(tmp_path_factory: pytest.TempPathFactory) -> OMSModule:
    return tiny_module(tmp_path_factory.mktemp("module"))


def test_v_is_psi_s_answer_to_noise_and_text(module: OMSModule) -> None:
    noise = torch.randn(2, 4, 8, 12)
    cond = module.text_encoder.encode(["night", "a (bright:1.2) day"])
    uncond = module.text_encoder.encode(["fog", "fog"])
    v_cond, v_uncond = module.predict_v(noise, ["night", "a (bright:1.2) day"], ["fog"], 2.0)
    expected = predict_v(module.psi, noise, cond, uncond, 2.0)
    torch.testing.assert_close((v_cond, v_uncond), expected)
    assert not v_cond.requires_grad


def test_at_scale_one_the_negative_is_neither_encoded_nor_computed(module: OMSModule) -> None:
    module.text_encoder.forget()
    psi, text = Forwards(module.psi), Forwards(module.text_encoder.towers[0].model)
    _, v_uncond = module.predict_v(torch.randn(3, 4, 8, 8), ["night"], ["fog"], 1.0)
    assert (v_uncond, psi, text) == (None, [3], [1])
    module.predict_v(torch.randn(3, 4, 8, 8), ["night"], ["fog"], 1.5)
    assert (psi, text) == ([3, 6], [1, 1])
    psi.remove()
    text.remove()


def test_a_picture_does_not_depend_on_its_neighbours_prompts(module: OMSModule) -> None:
    noise = torch.randn(3, 4, 8, 8)
    prompts, negatives = ["night", "a " * 80, "day BREAK sun BREAK sea"], ["", "", "b " * 100]
    together = module.predict_v(noise, prompts, negatives, 2.0)
    for i in range(3):
        alone = module.predict_v(noise[i : i + 1], prompts[i : i + 1], negatives[i : i + 1], 2.0)
        torch.testing.assert_close(together[0][i : i + 1], alone[0], rtol=0, atol=1e-5)
        torch.testing.assert_close(together[1][i : i + 1], alone[1], rtol=0, atol=1e-5)


def test_prompts_of_one_length_share_a_forward(module: OMSModule) -> None:
    psi = Forwards(module.psi)
    module.predict_v(torch.randn(3, 4, 8, 8), ["night", "day", "sea"], [""], 2.0)
    module.predict_v(torch.randn(3, 4, 8, 8), ["night", "a " * 80, "sea"], [""], 2.0)
    assert psi == [6, 4, 2]
    psi.remove()


def test_the_host_s_autocast_and_inference_mode_change_nothing(module: OMSModule) -> None:
    noise = torch.randn(1, 4, 8, 8)
    plain, _ = module.predict_v(noise, ["night"])
    module.text_encoder.forget()
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        hosted, _ = module.predict_v(noise, ["night"])
    assert hosted.dtype == torch.float32
    torch.testing.assert_close(hosted, plain, rtol=0, atol=0)


def test_numbers_of_prompts_that_do_not_fit(module: OMSModule) -> None:
    with pytest.raises(OMSError, match="2 OMS prompts for 3 pictures"):
        module.predict_v(torch.randn(3, 4, 8, 8), ["a", "b"])
    with pytest.raises(OMSError, match="2 OMS negative prompts for 3 pictures"):
        module.predict_v(torch.randn(3, 4, 8, 8), ["a"], ["b", "c"], 2.0)
    with pytest.raises(OMSError, match="latents have shape"):
        module.predict_v(torch.randn(1, 16, 8, 8), ["a"])


def test_psi_and_text_encoder_must_fit(tmp_path: Path) -> None:
    encoder = tiny_encoder(tmp_path)
    with pytest.raises(OMSError, match="width 32, but the text encoder gives 24"):
        OMSModule(tiny_psi(32), encoder, "sd")


@pytest.mark.parametrize("level", [True, False])
def test_from_pretrained(tmp_path: Path, level: bool) -> None:
    folder = write_module(tmp_path / "m", "oms-demo", level=level)
    loaded = OMSModule.from_pretrained(folder)
    assert loaded.latents == "oms-demo"
    assert (loaded.dtype, loaded.device) == (torch.float32, torch.device("cpu"))
    noise = torch.randn(1, 4, 8, 8)
    v, _ = loaded.predict_v(noise, ["night"])
    expected = tiny_psi(24)(noise, tiny_encoder(tmp_path / "e").encode(["night"]))
    torch.testing.assert_close(v, expected)
    half = OMSModule.from_pretrained(folder, dtype=torch.bfloat16, device="cpu")
    assert half.dtype == half.text_encoder.dtype == torch.bfloat16
    v_half, _ = half.predict_v(noise, ["night"])
    assert v_half.dtype == torch.float32
    torch.testing.assert_close(v_half, v, rtol=0.2, atol=0.2)


def test_the_text_encoder_is_found_beside_psi(tmp_path: Path) -> None:
    folder = write_module(tmp_path / "m")
    assert OMSModule.from_pretrained(folder / "oms_module").latents == "sd"
    single = tiny_psi(24, metadata={"oms.latents": "sdxl", "oms.text_encoder": "openclip"})
    single.save_pretrained(folder / "one.safetensors")
    assert OMSModule.from_pretrained(folder / "one.safetensors").latents == "sdxl"
    single.save_pretrained(tmp_path / "elsewhere" / "one.safetensors")
    with pytest.raises(ModuleFileError, match="text_encoder/"):
        OMSModule.from_pretrained(tmp_path / "elsewhere" / "one.safetensors")
    given = OMSModule.from_pretrained(tmp_path / "elsewhere" / "one.safetensors", text_encoder=folder)
    own = tiny_encoder(tmp_path / "e")
    assert OMSModule.from_pretrained(folder, text_encoder=own).text_encoder is own
    assert given.text_encoder.width == 24


def test_a_module_that_does_not_name_its_text_encoder(tmp_path: Path) -> None:
    folder = write_module(tmp_path / "m")
    tiny_psi(24).save_pretrained(folder / "oms_module")
    with pytest.raises(ModuleFileError, match=r"oms\.text_encoder"):
        OMSModule.from_pretrained(folder)
    assert OMSModule.from_pretrained(folder, text_encoder=tiny_encoder(tmp_path / "e")).latents == "unknown"


def test_files_that_do_not_fit_each_other(tmp_path: Path) -> None:
    folder = write_module(tmp_path / "m")
    tiny_psi(32, metadata={"oms.text_encoder": "openclip"}).save_pretrained(folder / "oms_module")
    with pytest.raises(ModuleFileError, match="width 32"):
        OMSModule.from_pretrained(folder)
    with pytest.raises(ModuleFileError, match="nowhere"):
        OMSModule.from_pretrained(tmp_path / "nowhere")
