"""The extension in a running WebUI, over its API: what reaches the denoiser, infotext, refusals, and who is left alone.

Expected latents are computed here, from the module and from the noise level that the denoiser itself was told.
"""

import json
import math
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import requests
import torch
from diffusers import DDIMScheduler
from extension_helpers import ROOT, STEPS, RequestFailed, WebUI, WebUIProcess
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from text_helpers import VIT_H, text_model
from untrained_helpers import place_untrained

from lib_oms.errors import SettingError
from lib_oms.module import OMSModule
from lib_oms.settings import SETTINGS
from lib_oms.text.openclip import find_tower

pytest.importorskip("gradio")

MODULE = "untrained"
SIGMA_SAMPLERS = ["Euler", "Euler a", "Heun", "DPM++ 2M", "LCM"]


@pytest.fixture(scope="session")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's model with random weights; beside it lie modules that cannot be used with it."""
    models = tmp_path_factory.mktemp("models")
    folder = models / MODULE
    place_untrained(folder)
    _copy_module(folder, models / "sdxl", {"oms.latents": "sdxl"}, 1.0)
    _copy_module(folder, models / "x-nan", {}, math.nan)  # a name that Automatic does not come to
    (models / "truncated.safetensors").write_bytes(b"\x00" * 20)
    with suppress(OSError):  # not every file system has such names
        (models / os.fsdecode(b"caf\xe9.safetensors")).write_bytes(b"")
    return folder


def _copy_module(source: Path, target: Path, metadata: dict[str, str], factor: float) -> None:
    """A module folder like `source`'s with more metadata, its tensors times `factor`, and its text encoder."""
    for part in ("oms_module", "text_encoder", "tokenizer"):
        shutil.copytree(source / part, target / part)
    weights = next((target / "oms_module").glob("*.safetensors"))
    with safe_open(weights, "pt") as file:
        kept = file.metadata() or {}
    tensors = {name: tensor * factor for name, tensor in load_file(weights).items()}
    save_file(tensors, weights, metadata={**kept, **metadata})


@pytest.fixture(scope="module", params=["a1111", "forge"])
def webui(request: pytest.FixtureRequest, start_webui: Callable[..., WebUI], untrained: Path) -> WebUI:
    return start_webui(request.param, model=untrained)


@pytest.fixture(autouse=True)
def _default_options(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if "webui" in request.fixturenames:
        webui = request.getfixturevalue("webui")
        webui.options(sgm_noise_multiplier=False, sigma_max=0.0, always_discard_next_to_last_sigma=False)
        webui.options(oms_on_failure="stop the request")


@pytest.fixture(scope="session")
def module(untrained: Path) -> OMSModule:
    return OMSModule.from_pretrained(untrained, dtype=torch.float32)


@pytest.fixture(scope="session")
def alphas_cumprod(untrained: Path) -> torch.Tensor:
    return DDIMScheduler.from_pretrained(untrained / "scheduler").alphas_cumprod


def _latent_format(channels: int, scale: float) -> SimpleNamespace:
    """Forge's model_config."""
    return SimpleNamespace(latent_format=SimpleNamespace(latent_channels=channels, scale_factor=scale))


def _forge_objects(prediction_type: str) -> SimpleNamespace:
    """What Forge keeps of a loaded model, down to the predictor."""
    predictor = SimpleNamespace(prediction_type=prediction_type)
    return SimpleNamespace(unet=SimpleNamespace(model=SimpleNamespace(predictor=predictor)))


class CONST:
    """reForge's mixin of schedules of flow models."""


class ModelSamplingAdvanced(CONST):
    pass


def _patched(schedule: object) -> SimpleNamespace:
    """What reForge keeps of a loaded model, with a schedule that a script has put over the model's own."""
    return SimpleNamespace(unet=SimpleNamespace(object_patches={"model_sampling": schedule}))


def x0hat(module: OMSModule, noise: torch.Tensor, prompt: str, scale: float = 1.0, negative: str = "") -> torch.Tensor:
    with torch.no_grad():
        count = len(noise)
        cond, uncond = module.predict_v(noise, [prompt] * count, [negative] * count, scale)
    return -cond if scale == 1 else -(uncond + scale * (cond - uncond))


def noise_of(webui: WebUI, **fields) -> list[torch.Tensor]:
    """What the host draws for a request: DDIM takes it unscaled."""
    return [seen.x for seen in webui.txt2img(**{**fields, "sampler_name": "DDIM", "steps": STEPS}).seen]


def assert_close(x: torch.Tensor, expected: torch.Tensor) -> None:
    assert float((x - expected).abs().max()) <= 1e-4 * float(expected.std())


# What reaches the denoiser


@pytest.mark.parametrize("sampler", SIGMA_SAMPLERS)
@pytest.mark.parametrize("sgm", [False, True])
def test_sigma_samplers_start_from_x0hat_plus_sigma_n(webui: WebUI, module: OMSModule, sampler: str, sgm: bool) -> None:
    (noise,) = noise_of(webui)
    webui.options(sgm_noise_multiplier=sgm)
    (seen,) = webui.txt2img(True, MODULE, "black background", sampler_name=sampler).seen
    assert seen.level == pytest.approx(14.61, rel=0.02)
    assert_close(seen.x, x0hat(module, noise, "black background") + seen.level * noise)


@pytest.mark.parametrize(
    ("sampler", "steps", "timestep"), [("DDIM", 3, 999), ("DDIM", 4, 751), ("PLMS", 4, 751), ("UniPC", 4, 999)]
)
def test_timestep_samplers_start_from_the_variance_preserving_form(
    webui: WebUI, module: OMSModule, alphas_cumprod: torch.Tensor, sampler: str, steps: int, timestep: int
) -> None:
    (noise,) = noise_of(webui)
    (seen,) = webui.txt2img(True, MODULE, "black background", sampler_name=sampler, steps=steps).seen
    assert seen.level == timestep
    a = float(alphas_cumprod[timestep])
    expected = math.sqrt(a) * x0hat(module, noise, "black background") + math.sqrt(1 - a) * noise
    assert_close(seen.x, expected)


@pytest.mark.parametrize("scheduler", ["Karras", "Exponential", "SGM Uniform"])
def test_schedules_and_their_options(webui: WebUI, module: OMSModule, scheduler: str) -> None:
    (noise,) = noise_of(webui)
    webui.options(sigma_max=9.0, always_discard_next_to_last_sigma=True)
    (seen,) = webui.txt2img(True, MODULE, "black background", sampler_name="Euler", scheduler=scheduler).seen
    assert_close(seen.x, x0hat(module, noise, "black background") + seen.level * noise)


def test_sampler_of_another_extension_that_makes_its_own_sigmas(webui: WebUI, module: OMSModule) -> None:
    (noise,) = noise_of(webui)
    webui.options(sigma_max=9.0)
    (seen,) = webui.txt2img(True, MODULE, "black background", sampler_name="Own sigmas", scheduler="Karras").seen
    assert seen.level == pytest.approx(14.61, rel=0.01)
    assert_close(seen.x, x0hat(module, noise, "black background") + seen.level * noise)


def test_guidance_scale_and_negative_prompt(webui: WebUI, module: OMSModule) -> None:
    (noise,) = noise_of(webui)
    (seen,) = webui.txt2img(True, MODULE, "night", 1.75, 0.0, "day", sampler_name="Euler").seen
    assert_close(seen.x, x0hat(module, noise, "night", 1.75, "day") + seen.level * noise)


def test_empty_oms_prompt_means_each_pictures_own_prompt(webui: WebUI, module: OMSModule) -> None:
    fields = {"prompt": "a red circle <lora:none:0.5>", "negative_prompt": "blue"}
    (noise,) = noise_of(webui)
    (seen,) = webui.txt2img(True, MODULE, " ", sampler_name="Euler", **fields).seen
    assert_close(seen.x, x0hat(module, noise, "a red circle ") + seen.level * noise)


def test_dynamic_prompts_are_each_pictures_own(webui: WebUI) -> None:
    fields = {"sampler_name": "Euler", "state": "dynamic prompts", "prompt": "night"}
    together = torch.cat([seen.x for seen in webui.txt2img(True, MODULE, **fields, batch_size=2, n_iter=2).seen])
    for i, latent in enumerate(together):
        alone = webui.txt2img(True, MODULE, sampler_name="Euler", prompt=f"night, number {i}", seed=7 + i).seen[0].x
        assert torch.equal(alone[0], latent)
    assert not torch.equal(together[0], webui.txt2img(True, MODULE, sampler_name="Euler", prompt="night").seen[0].x[0])


def test_noise_of_another_extension_is_where_it_starts_from(webui: WebUI, module: OMSModule) -> None:
    (noise,) = noise_of(webui)
    (seen,) = webui.txt2img(True, MODULE, "night", sampler_name="Euler", state="modified noise").seen
    other = -2 * noise
    assert_close(seen.x, x0hat(module, other, "night") + seen.level * other)


# Same seed, same picture


@pytest.mark.parametrize("eta", [0.0, 0.6])
def test_picture_is_the_same_alone_in_a_batch_and_in_a_later_batch(webui: WebUI, eta: float) -> None:
    oms = (True, MODULE, "", 1.5, eta)
    together = webui.txt2img(*oms, sampler_name="Euler a", batch_size=3, n_iter=2, seed=20)
    assert [len(seen.x) for seen in together.seen] == [3, 3]
    latents = torch.cat([seen.x for seen in together.seen])
    for i in (0, 2, 4):
        (alone,) = webui.txt2img(*oms, sampler_name="Euler a", seed=20 + i).seen
        assert torch.equal(alone.x[0], latents[i])


def test_fresh_noise_is_fresh_and_leaves_the_hosts_stream_alone(webui: WebUI, module: OMSModule) -> None:
    (noise,) = noise_of(webui)
    (seen,) = webui.txt2img(True, MODULE, "night", 1.0, 1.0, sampler_name="Euler").seen
    fresh = (seen.x - x0hat(module, noise, "night")) / seen.level
    assert float(fresh.std()) == pytest.approx(1, abs=0.1)
    correlation = torch.corrcoef(torch.stack([fresh.flatten(), noise.flatten()]))[0, 1]
    assert abs(float(correlation)) < 0.1
    # Neither the next picture nor the next request notices that something was drawn.
    following = webui.txt2img(True, MODULE, "night", 1.0, 1.0, sampler_name="Euler a", n_iter=2).seen
    assert torch.equal(following[1].x, webui.txt2img(True, MODULE, "night", 1.0, 1.0, seed=8).seen[0].x)
    assert torch.equal(noise_of(webui)[0], noise)


def test_variations_have_fresh_noise_of_their_own(webui: WebUI) -> None:
    fields = {"sampler_name": "Euler", "subseed": 3, "n_iter": 2, "subseed_strength": 0.4}
    first, second = webui.txt2img(True, MODULE, "night", 1.0, 1.0, **fields).seen
    correlation = torch.corrcoef(torch.stack([first.x.flatten(), second.x.flatten()]))[0, 1]
    assert 0.5 < float(correlation) < 0.99


# Who is left alone


def test_disabled_changes_nothing_at_all(webui: WebUI) -> None:
    plain = webui.txt2img(sampler_name="Euler a")
    disabled = webui.txt2img(False, "no such module", None, 99, "x", sampler_name="Euler a")
    assert plain.images == disabled.images
    assert plain.infotext == disabled.infotext
    assert torch.equal(plain.seen[0].x, disabled.seen[0].x)
    assert "OMS" not in plain.infotext


@pytest.mark.parametrize(
    ("state", "sampler", "steps", "reason"),
    [
        ("zero terminal snr", "Euler", STEPS, "zero terminal SNR"),
        ("zero terminal snr", "DDIM", STEPS, "zero terminal SNR"),
        ("unknown latents", "Euler", STEPS, "other latents"),
        ("flow predictor", "Euler", STEPS, "flow model"),
        ("", "Mute", STEPS, "does not tell its first noise level"),
        ("", "Own way", STEPS, "does not tell its first noise level (TypeError: "),
    ],
)
def test_where_it_does_not_apply_the_picture_is_made_and_says_so(
    webui: WebUI, capfd: pytest.CaptureFixture[str], state: str, sampler: str, steps: int, reason: str
) -> None:
    fields = {"sampler_name": sampler, "steps": steps, "state": state}
    plain = webui.txt2img(**fields)
    made = webui.txt2img(True, "Automatic", "night", **fields)
    assert made.pixels == plain.pixels
    assert "OMS skipped: " in made.infotext
    assert reason in made.infotext
    assert "OMS: True" not in made.infotext
    assert "OMS model" not in made.infotext
    said = capfd.readouterr().out
    assert "One More Step skipped: " in said
    assert reason in said


def test_ddim_with_one_step_never_calls_the_model(webui: WebUI) -> None:
    made = webui.txt2img(True, MODULE, "night", sampler_name="DDIM", steps=1)
    assert made.seen == []
    assert "OMS skipped: DDIM with 1 step does not call the model at all" in made.infotext


@pytest.mark.parametrize("kind", ["hires pass", "img2img"])
def test_what_starts_from_a_picture_is_left_alone(webui: WebUI, kind: str) -> None:
    from modules import processing

    from lib_oms.webui import hook

    if kind == "hires pass":
        p = processing.StableDiffusionProcessingTxt2Img()
        p.is_hr_pass = True
    else:
        p = processing.StableDiffusionProcessingImg2Img(denoising_strength=1)
    p.extra_generation_params["OMS"] = True  # of the first pass
    noise = torch.randn(1, 4, 8, 8)
    kept = noise.clone()
    hook.before_sampling(p, [True, "no such module"], noise, noise)
    assert torch.equal(noise, kept)
    assert getattr(p, "modified_noise", None) is None
    assert p.extra_generation_params == {"OMS": True}
    assert p.sampler is None, "and nothing was to fail"


def test_it_is_not_offered_for_img2img(webui: WebUI) -> None:
    scripts = webui.get("/sdapi/v1/scripts").json()
    assert "one more step" in scripts["txt2img"]
    assert "one more step" not in scripts.get("img2img", [])


@pytest.mark.parametrize(
    ("facts", "latents"),
    [
        ({"is_sd1": True}, "sd"),
        ({"is_sd2": True, "scale_factor": 0.18215}, "sd"),
        ({"is_sdxl": True, "scale_factor": torch.tensor(0.13025)}, "sdxl"),
        ({"is_sdxl": True, "model_config": SimpleNamespace(latent_format=SimpleNamespace(scale_factor=0.5))}, None),
        ({"is_sd1": False, "is_sdxl": False}, None),
        # Forge Neo's Mugen, as it is and if its predictor said nothing.
        ({"is_sdxl": True, "model_config": _latent_format(32, 1.0), "forge_objects": _forge_objects("const")}, None),
        ({"is_sdxl": True, "model_config": _latent_format(32, 0.13025)}, None),
        ({"is_sdxl": True, "model_config": _latent_format(4, 0.13025)}, "sdxl"),
        ({"is_sd1": True, "forge_objects": _forge_objects("const")}, None),
        ({"is_sd1": True, "forge_objects": _forge_objects("v_prediction")}, "sd"),
        ({"is_sdxl": True, "forge_objects": _patched(ModelSamplingAdvanced())}, None),
        ({"is_sdxl": True, "forge_objects": _patched(object())}, "sdxl"),
    ],
)
def test_latents_by_what_a_real_hosts_model_says_of_itself(webui: WebUI, facts: dict, latents: str | None) -> None:
    from lib_oms.webui import host  # the running host has made its `modules` importable

    assert host.latents_of(SimpleNamespace(**facts)) == latents


# Which module


def test_automatic_follows_the_latents_of_the_model_that_is_loaded(webui: WebUI) -> None:
    for state, name in (("", "untrained"), ("latents sdxl", "sdxl"), ("", "untrained")):
        for module in ("Automatic", name):
            infotext = webui.txt2img(True, module, "night", sampler_name="Euler", state=state).infotext
            assert f"OMS model: {name} [" in infotext


MISFITS = [
    (MODULE, "latents sdxl", r"'untrained' is for .*The one for the loaded checkpoint is sdxl\."),
    ("sdxl", "", r"'sdxl' is for latents of SDXL, which the .*Those for the loaded checkpoint are .*, untrained"),
    (MODULE, "unknown latents", r"'untrained' cannot be used: the loaded checkpoint has .*No OMS model is made for it"),
]


@pytest.mark.parametrize(("module", "state", "reason"), MISFITS)
def test_a_module_that_does_not_fit_is_refused_before_anything_is_made(
    webui: WebUI,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    module: str,
    state: str,
    reason: str,
) -> None:
    from modules import processing

    encoded = []
    monkeypatch.setattr(processing.StableDiffusionProcessing, "setup_conds", encoded.append)
    before = webui._count()
    capfd.readouterr()
    with pytest.raises(RequestFailed, match=f"^the OMS model {reason}"):
        webui.txt2img(True, module, "night", sampler_name="Euler", state=state, n_iter=3)
    assert webui._count() == before, "the denoiser was not called"
    assert not encoded, "nor was the prompt encoded"
    printed = capfd.readouterr()
    (line,) = (printed.out + printed.err).splitlines()
    assert re.match(f"One More Step: the OMS model {reason}", line)


@pytest.mark.parametrize(("module", "state", "reason"), MISFITS)
def test_a_module_that_does_not_fit_is_done_without_where_a_person_said_so(
    webui: WebUI, module: str, state: str, reason: str
) -> None:
    webui.options(oms_on_failure="continue without it")
    plain = webui.txt2img(sampler_name="Euler", state=state)
    made = webui.txt2img(True, module, "night", sampler_name="Euler", state=state)
    assert made.pixels == plain.pixels
    assert re.search(f'OMS skipped: "it failed: the OMS model {reason}', made.infotext)
    assert "OMS: True" not in made.infotext


@pytest.mark.parametrize("args", [(True, "no such module"), (True, "x-nan"), (True, "Automatic", "", 99)])
def test_a_mistake_is_one_line_in_the_console(
    webui: WebUI, capfd: pytest.CaptureFixture[str], args: tuple[Any, ...]
) -> None:
    capfd.readouterr()
    with pytest.raises(RequestFailed) as error:
        webui.txt2img(*args, sampler_name="Euler")
    printed = capfd.readouterr()
    lines = (printed.out + printed.err).splitlines()
    assert [line for line in lines if "Loading OMS model" not in line] == [f"One More Step: {error.value}"]


def test_no_module_for_the_loaded_model_at_all_is_a_failure(webui: WebUI, untrained: Path) -> None:
    before = webui._count()
    with pytest.raises(RequestFailed, match=r"no usable OMS model for the loaded checkpoint.*SD1/SD2") as error:
        webui.txt2img(True, "Automatic", "night", sampler_name="Euler", state="latents sd")
    folders = str(error.value).partition(" into ")[2].split(" or ")
    assert folders[0] == str(untrained.parent), "where downloads go, and then the other folders"
    assert len(folders) == 3
    assert webui._count() == before, "the denoiser was not called"


@pytest.mark.parametrize("name", ["../untrained", "/etc/passwd", "nul\0", "CON", "x" * 10_000, "untrained/oms_module"])
def test_names_that_are_no_names_are_refused_alike(webui: WebUI, name: str) -> None:
    with pytest.raises(RequestFailed, match="there is no OMS model named") as caught:
        webui.txt2img(True, name, "night")
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("name", ["automatic", " AUTOMATIC", "Untrained", "UNTRAINED"])
def test_names_are_found_whatever_their_case(webui: WebUI, name: str) -> None:
    assert f"OMS model: {MODULE} [" in webui.txt2img(True, name, "night", sampler_name="Euler").infotext


def test_two_names_that_differ_in_case_alone_are_told_apart(webui: WebUI, untrained: Path) -> None:
    second = untrained.parent / MODULE.upper()
    if second.exists():
        pytest.skip("this disk takes them for one")
    shutil.copytree(untrained / "oms_module", second / "oms_module")
    shutil.copytree(untrained / "text_encoder", second / "text_encoder")
    shutil.copytree(untrained / "tokenizer", second / "tokenizer")
    try:
        for name in (MODULE, MODULE.upper()):
            assert f"OMS model: {name} [" in webui.txt2img(True, name, "night", sampler_name="Euler").infotext
        with pytest.raises(RequestFailed, match=r"no OMS model named 'Untrained'\. Did you mean 'untrained'\?"):
            webui.txt2img(True, "Untrained", "night", sampler_name="Euler")
    finally:
        shutil.rmtree(second)


def openclip_tower() -> torch.nn.Module:
    """SD2.x's text model in small, as A1111 holds it: OpenCLIP's, whose token embedding lies in one that knows textual
    inversions (modules/sd_hijack.py, EmbeddingsWithFixes).
    """
    width = 128
    with torch.device("cpu"):
        tower = torch.nn.Module()
        tower.positional_embedding = torch.nn.Parameter(torch.randn(77, width))
        tower.text_projection = torch.nn.Parameter(torch.randn(width, width))
        tower.token_embedding = torch.nn.Module()
        tower.token_embedding.wrapped = torch.nn.Embedding(519, width)
        tower.transformer = torch.nn.Module()
        tower.transformer.resblocks = torch.nn.ModuleList()
        for _ in range(3):
            block = torch.nn.Module()
            block.ln_1, block.ln_2 = torch.nn.LayerNorm(width), torch.nn.LayerNorm(width)
            block.attn = torch.nn.MultiheadAttention(width, 2)
            block.mlp = torch.nn.Sequential()
            block.mlp.add_module("c_fc", torch.nn.Linear(width, 2 * width))
            block.mlp.add_module("gelu", torch.nn.GELU())
            block.mlp.add_module("c_proj", torch.nn.Linear(2 * width, width))
            tower.transformer.resblocks.append(block)
        tower.ln_final = torch.nn.LayerNorm(width)
    return tower


def test_the_text_encoder_of_a_loaded_sd2(webui: WebUI, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As A1111 holds it, with a LoRA's changes on an attention and on a layer; the names are a checkpoint's."""
    from lib_oms.webui import sources

    tower = openclip_tower()
    kept = {name.replace(".wrapped", ""): tensor.clone() for name, tensor in tower.state_dict().items()}
    block = tower.transformer.resblocks[1]
    # extensions-builtin/Lora/networks.py, network_apply_weights: of an attention, the bias is that of its out_proj.
    changed = [block.attn.in_proj_weight, block.attn.out_proj.weight, block.attn.out_proj.bias]
    block.attn.network_weights_backup = tuple(tensor.detach().clone() for tensor in changed[:2])
    block.attn.network_bias_backup = changed[2].detach().clone()
    block.mlp.c_fc.network_weights_backup = block.mlp.c_fc.weight.detach().clone()
    block.mlp.c_fc.network_bias_backup = block.mlp.c_fc.bias.detach().clone()
    with torch.no_grad():
        for parameter in (*changed, *block.mlp.c_fc.parameters()):
            parameter.add_(1)
    model = SimpleNamespace(
        is_sd2=True,
        sd_checkpoint_info=SimpleNamespace(filename="/models/v2.ckpt"),
        cond_stage_model=SimpleNamespace(wrapped=SimpleNamespace(model=tower)),
    )
    loaded = sources.loaded_openclip(model)
    assert loaded.shapes == {name: tuple(tensor.shape) for name, tensor in kept.items()}
    for name, tensor in kept.items():
        assert torch.equal(loaded.tensor(name), tensor), name
    assert find_tower(loaded.shapes, "").layers == 2, "the last of its layers is not run"
    file = tmp_path / "v2.safetensors"
    model.sd_checkpoint_info.filename = str(file)
    save_file({"model.diffusion_model.out.2.bias": torch.zeros(4)}, file)
    assert sources.loaded_openclip(model), "its text encoder came from elsewhere"
    save_file({f"cond_stage_model.model.{name}": tensor for name, tensor in kept.items()}, file)
    assert sources.loaded_openclip(model) is None, "then it is read from its file"
    assert sources.host.checkpoint_places(model)[0] == file
    model.is_sd2 = False
    assert file not in sources.host.checkpoint_places(model)
    monkeypatch.setattr(sources.host.shared.cmd_opts, "ckpt", str(file), raising=False)
    assert file in sources.host.checkpoint_places(model), "which may lie outside of the folders"
    file.unlink()
    assert file not in sources.host.checkpoint_places(model)
    model.is_sd2 = True
    assert sources.loaded_openclip(model), "its file is gone"
    model.is_sd2 = False
    assert sources.loaded_openclip(model) is None


def test_the_text_encoder_of_a_loaded_sd2_of_forge(webui: WebUI, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its memory manager takes a LoRA's changes out when the text encoder without them is loaded."""
    from lib_oms.webui import memory, sources

    network = text_model(VIT_H)
    kept = {name: tensor.detach().clone() for name, tensor in network.named_parameters()}
    # backend/text_processing/classic_engine.py, CLIPEmbeddingForTextualInversion: the weight stands in both.
    embeddings = getattr(network, "text_model", network).embeddings
    around = torch.nn.Module()
    around.wrapped, around.weight = embeddings.token_embedding, embeddings.token_embedding.weight
    embeddings.token_embedding = around
    for parameter in network.parameters():
        parameter.data.add_(1)
    model = SimpleNamespace(
        is_sd2=True,
        sd_checkpoint_info=SimpleNamespace(filename="/models/v2.ckpt"),
        text_processing_engine=SimpleNamespace(text_encoder=SimpleNamespace(transformer=network)),
        forge_objects_original=SimpleNamespace(clip=SimpleNamespace(patcher="without LoRA")),
    )
    fetched = []

    def load_model_gpu(patcher: str) -> None:
        fetched.append(patcher)
        network.load_state_dict(kept, strict=False)

    monkeypatch.setattr(memory, "manager", SimpleNamespace(load_model_gpu=load_model_gpu))
    loaded = sources.loaded_openclip(model)
    assert loaded.config["hidden_size"] == VIT_H["hidden_size"]
    assert set(loaded.shapes) == set(kept)
    loaded.fetch()
    for name, tensor in kept.items():
        assert torch.equal(loaded.tensor(name), tensor), name
    assert fetched == ["without LoRA"]


def test_a_file_whose_name_is_not_utf8_is_listed_and_breaks_nothing(webui: WebUI, untrained: Path) -> None:
    from lib_oms.webui import library_list, offer

    if not os.path.exists(untrained.parent / os.fsdecode(b"caf\xe9.safetensors")):
        pytest.skip("this machine has no such names")
    assert webui.get("/").ok
    assert webui.get("/config").ok
    assert "caf\ufffd" in library_list.here(library_list.look()).encode().decode()
    assert "caf\ufffd" not in offer.choices()
    with pytest.raises(RequestFailed, match="is not UTF-8; rename it"):
        webui.txt2img(True, "caf\ufffd")


HOSTILE = ["", "..", "/etc/passwd", "//host/share", "C:\\x", "CON", "nul\0", "x" * 10_000, "\ud800", f"x [{'0' * 10}]"]


@pytest.mark.parametrize("name", [*HOSTILE, f"../{MODULE}", f"{MODULE}/../{MODULE}", f"{MODULE}.safetensors"])
def test_the_name_of_a_module_is_only_looked_up(webui: WebUI, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """It never reaches the file system: no path is made that holds anything of it."""
    from lib_oms.webui import offer

    asked = []

    def watched(real: Any) -> Any:
        return lambda path, *args, **kwargs: asked.append(str(path)) or real(path, *args, **kwargs)

    for function in ("stat", "lstat", "scandir"):
        monkeypatch.setattr(os, function, watched(getattr(os, function)))
    for look_up in (lambda: offer.check(name), lambda: offer.choose(name, "oms-demo")):
        with pytest.raises(SettingError, match="there is no OMS model named") as caught:
            look_up()
        assert len(str(caught.value)) < 1000
    assert asked
    assert not any(part in path for path in asked for part in ("passwd", "//host", "xxxx", "CON", ".."))


@pytest.mark.parametrize(("written", "meant"), [("[night:day:0.3]", "day"), ("[night:day:0.4]", "night")])
def test_prompt_editing_counts_in_the_sampler_s_steps(webui: WebUI, written: str, meant: str) -> None:
    """Of three, 0.3 is less than one: the main model never sees the night, either."""
    made = webui.txt2img(True, MODULE, written, 2.0, 0.0, written, sampler_name="Euler")
    assert made.pixels == webui.txt2img(True, MODULE, meant, 2.0, 0.0, meant, sampler_name="Euler").pixels


@pytest.mark.parametrize("batches", [1, 3])
def test_modules_are_looked_for_once_a_batch(webui: WebUI, monkeypatch: pytest.MonkeyPatch, batches: int) -> None:
    from lib_oms.webui import offer

    scans = []
    scan = offer.scan
    monkeypatch.setattr(offer, "scan", lambda folders: scans.append(1) or scan(folders))
    webui.txt2img(True, "Automatic", "night", sampler_name="Euler", n_iter=batches)
    assert len(scans) == batches


# Infotext


def test_infotext_says_what_made_the_picture(webui: WebUI) -> None:
    infotext = webui.txt2img(True, "Automatic", "night", 1.5, 0.25, sampler_name="Euler").infotext
    assert "OMS: True" in infotext
    assert "OMS prompt: night, OMS guidance scale: 1.5, OMS eta: 0.25" in infotext
    assert "OMS negative prompt" not in infotext
    assert "OMS skipped" not in infotext


PROMPTS = [
    "black background",
    'a "quoted" word',
    '"all of it quoted"',
    "comma, colon: semicolon; newline\nsecond line",
    " blanks at both ends ",
    "512x768",
    "OMS prompt",
    "Steps: 20, Sampler: Euler, Seed: 1",
    "Negative prompt: nothing",
    "back\\slash \\(escaped\\), {json: [1, 2]}",
    "(night:1.3) <lora:x:0.8> [a:b:0.5] [a|b] AND BREAK",
    "ночь 夜 🌒",
]


@pytest.mark.parametrize("prompt", PROMPTS)
def test_infotext_round_trip_through_the_api(webui: WebUI, prompt: str) -> None:
    first = webui.txt2img(True, MODULE, prompt, 1.35, 0.2, prompt[::-1], sampler_name="Euler")
    again = webui.txt2img(infotext=first.infotext, styles=[], sampler_name="Euler")
    assert again.infotext == first.infotext
    assert again.images == first.images


def test_infotext_of_a_plain_picture_turns_the_step_off(webui: WebUI) -> None:
    plain = webui.txt2img(sampler_name="Euler")
    again = webui.txt2img(infotext=plain.infotext, styles=[], sampler_name="Euler")
    assert again.infotext == plain.infotext
    assert again.images == plain.images


def test_renamed_module_is_known_by_its_fingerprint(webui: WebUI) -> None:
    first = webui.txt2img(True, MODULE, "night", sampler_name="Euler")
    old = first.infotext.replace(f"OMS model: {MODULE} [", "OMS model: its old name [")
    again = webui.txt2img(infotext=old, styles=[], sampler_name="Euler")
    assert again.infotext == first.infotext


def test_module_that_holds_something_else_now_is_not_used_in_its_place(webui: WebUI) -> None:
    first = webui.txt2img(True, MODULE, "night", sampler_name="Euler")
    other = re.sub(r"\[[0-9a-f]{10}\], OMS prompt", "[0123456789], OMS prompt", first.infotext)
    with pytest.raises(RequestFailed, match=re.escape(f"no OMS model named '{MODULE} [0123456789]'")):
        webui.txt2img(infotext=other, styles=[], sampler_name="Euler")


def test_arguments_win_over_infotext(webui: WebUI) -> None:
    first = webui.txt2img(True, MODULE, "night", sampler_name="Euler")
    off = webui.txt2img(False, infotext=first.infotext, styles=[], sampler_name="Euler")
    assert "OMS" not in off.infotext


def test_params_txt_restores_the_settings_too(webui: WebUI) -> None:
    webui.txt2img(True, MODULE, "night", sampler_name="Euler")
    params = (webui.folder / "data" / "params.txt").read_text(encoding="utf-8")
    assert "OMS: True" in params
    assert "OMS prompt: night" in params
    webui.txt2img(sampler_name="Euler")
    assert "OMS" not in (webui.folder / "data" / "params.txt").read_text(encoding="utf-8")


# Arguments


def test_dict_and_short_list_do_what_the_full_list_does(webui: WebUI) -> None:
    full = webui.txt2img(True, MODULE, "night", 1.5, 0.0, "", sampler_name="Euler")
    named = {"module": MODULE, "prompt": "night", "guidance_scale": 1.5}
    assert webui.txt2img(named, sampler_name="Euler").pixels == full.pixels
    short = webui.txt2img(True, MODULE, "night", sampler_name="Euler")
    assert "OMS guidance scale: 1.0" in short.infotext


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["yes"], ["enabled", "'yes'", "true or false"]),
        ([True, "Automatic", None], ["OMS prompt", "None", "a text"]),
        ([True, "Automatic", "", 99], ["OMS guidance scale", "99", "from 0 to 10"]),
        ([True, "Automatic", "", 1, -1], ["OMS eta", "-1", "from 0 to 1"]),
        ([{"cfg": 3}], ["'cfg'", "guidance_scale"]),
        ([True, "no such module"], ["no such module", MODULE]),
        ([True, "../models/demo"], ["no OMS model named", MODULE]),
        ([True, "/etc/passwd"], ["no OMS model named"]),
        ([True, "nul\0nul"], ["no OMS model named"]),
        ([True, f"{MODULE} [0123456789]"], [f"{MODULE} [0123456789]"]),
        ([True, "untraind"], ["no OMS model named 'untraind'. Did you mean 'untrained'?"]),
        ([True, "automatik"], ["Did you mean 'Automatic'?"]),
        ([True, "a\ud83c"], ["OMS model (module)", "letter 2 is only one half of a letter (U+D83C)"]),
        ([True, "Automatic", "\udf12"], ["OMS prompt (prompt)", "letter 1 is only one half of a letter (U+DF12)"]),
        ([True, "Automatic", "", 1, 0, "\ud83c"], ["OMS negative prompt", "one half of a letter"]),
        ([{"\ud83c": 3}], [r"there is no setting '\ud83c'. Allowed are enabled"]),
        ([{"prompts": "night"}], ["there is no setting 'prompts'. Did you mean 'prompt'?"]),
        ([{"guidance_scale": "\ud83c"}], [r"'\ud83c' is not allowed, only a number"]),
    ],
)
def test_refused_loudly(webui: WebUI, args: list, words: list[str]) -> None:
    with pytest.raises(RequestFailed) as error:
        webui.txt2img(*args, sampler_name="Euler")
    for word in words:
        assert word in str(error.value)
    assert not re.search("Error|One More Step", str(error.value)), "the host says whose message it is, and no more"
    assert webui.txt2img(sampler_name="Euler").seen  # and the host is well afterwards


def test_script_info_lists_every_setting(webui: WebUI) -> None:
    info = webui.get("/sdapi/v1/script-info").json()
    (ours,) = [script for script in info if script["name"] == "one more step" and not script["is_img2img"]]
    labels = [arg["label"] for arg in ours["args"]]
    assert labels == [setting.label for setting in SETTINGS]


def test_png_carries_the_infotext(webui: WebUI) -> None:
    made = webui.txt2img(True, MODULE, "night, stars", sampler_name="Euler")
    answer = requests.post(f"{webui.url}/sdapi/v1/png-info", json={"image": made.images[0]}, timeout=60).json()
    assert answer["info"] == made.infotext
    assert json.dumps("night, stars") in answer["info"]


# Modules that are wrong


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("x-nan", ["NaN"]),
        ("truncated", ["'truncated' cannot be used", "truncated.safetensors"]),
    ],
)
def test_bad_module_is_refused(webui: WebUI, name: str, words: list[str]) -> None:
    with pytest.raises(RequestFailed) as error:
        webui.txt2img(True, name, "night", sampler_name="Euler")
    for word in words:
        assert word in str(error.value)


def test_extension_that_cannot_be_imported_says_so_and_stops_nothing(tmp_path: Path, untrained: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(ROOT / "scripts", broken / "scripts")
    shutil.copy(ROOT / "preload.py", broken)
    (broken / "install-failed.txt").write_text("diffusers could not be installed: offline\npython -m pip install x\n")
    # Loaded before the extension's own script; what a host without diffusers does to it.
    (broken / "scripts" / "a_first.py").write_text(
        "import sys; sys.modules['lib_oms.psi.unet'] = None\n"
        "import pathlib; from lib_oms.webui import trouble\n"
        "trouble.INSTALL_FAILED = pathlib.Path(__file__).parents[1] / 'install-failed.txt'"
    )
    webui = WebUIProcess(tmp_path / "webui", "a1111", untrained, broken)
    try:
        assert webui.txt2img(sampler_name="Euler").seen
        assert webui.txt2img(False, sampler_name="Euler").seen
        for asks in (True, {"prompt": "night"}):
            with pytest.raises(RequestFailed, match=r"^it cannot be used: ModuleNotFoundError: .*lib_oms\.psi\.unet"):
                webui.txt2img(asks, sampler_name="Euler")
        shown = [component["props"] for component in webui.get("/config").json()["components"]]
        (told,) = [props["value"] for props in shown if props.get("elem_id") == "oms_problem"]
        assert told.startswith("One More Step cannot be used: ModuleNotFoundError: ")
        assert "diffusers could not be installed: offline" in told
        assert "Run this by hand, then restart the WebUI:\n\n    python -m pip install x" in told
    finally:
        webui.close()


def test_in_the_oms_prompt_the_main_prompt_has_a_name(webui: WebUI) -> None:
    made = webui.txt2img({"prompt": "[PROMPT], night"}, prompt="a red circle <lora:none:1>", sampler_name="Euler")
    same = webui.txt2img({"prompt": "a red circle , night"}, prompt="a red circle", sampler_name="Euler")
    other = webui.txt2img({"prompt": "night"}, prompt="a red circle", sampler_name="Euler")
    assert torch.equal(made.seen[0].x, same.seen[0].x)
    assert not torch.equal(made.seen[0].x, other.seen[0].x)
    assert 'OMS prompt: "[PROMPT], night"' in made.infotext
