"""The same checks in the miniature WebUI and in a real one, over the API.

The real one is what OMS_WEBUI_DIR, OMS_WEBUI_PYTHON and OMS_WEBUI_ARGS name (tests/real_host_helpers.py); without them
its half is skipped. Its checkpoint must be of SD1.x, SD2.x or SDXL latents; random weights will do.
"""

import math
import re
from collections.abc import Iterator

import pytest
import real_host_helpers
import requests
import torch
from diffusers import DDIMScheduler
from extension_helpers import STEPS, RequestFailed, WebUI
from module_helpers import write_module
from real_host_helpers import RealWebUI

from lib_oms.embedded.make import write_untrained
from lib_oms.module import OMSModule

pytest.importorskip("gradio")

TIMESTEP_SAMPLERS = ["DDIM", "DDIM CFG++", "PLMS", "UniPC"]


@pytest.fixture(scope="module", params=["miniature", "real"])
def webui(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebUI]:
    temporary = tmp_path_factory.mktemp(request.param)
    if request.param == "miniature":
        write_untrained(temporary / "models" / "tiny", seed=0)
        started = WebUI(temporary / "webui", "a1111", temporary / "models" / "tiny")
    elif real_host_helpers.folder() is None:
        pytest.skip("OMS_WEBUI_DIR is not set")
    else:
        for latents in ("sd", "sdxl"):
            write_module(temporary / "models" / f"tiny-{latents}", latents)
        started = RealWebUI(temporary / "webui", temporary / "models")
    yield started
    started.close()


@pytest.fixture(scope="module")
def module(webui: WebUI) -> OMSModule:
    """The module that Automatic takes, as the infotext names it."""
    infotext = webui.txt2img(True, "Automatic", sampler_name="Euler").infotext
    name = re.search(r"OMS model: ([\w/-]+) \[", infotext)
    assert name, infotext
    models = webui.folder.parent / "models"
    return OMSModule.from_pretrained(models / name[1], dtype=torch.float32)


@pytest.fixture(scope="module")
def alphas_cumprod(webui: WebUI) -> torch.Tensor:
    if not isinstance(webui, RealWebUI):
        return DDIMScheduler.from_pretrained(webui.folder.parent / "models" / "tiny" / "scheduler").alphas_cumprod
    beta = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2  # of SD1.x, SD2.x and SDXL
    return torch.cumprod(1 - beta, dim=0)


def samplers(webui: WebUI) -> list[str]:
    return [sampler["name"] for sampler in webui.get("/sdapi/v1/samplers").json()]


def schedulers(webui: WebUI) -> list[str]:
    return [scheduler["label"] for scheduler in webui.get("/sdapi/v1/schedulers").json()]


def noise_of(webui: WebUI, **fields) -> torch.Tensor:
    """What the host draws for a request: DDIM takes it unscaled."""
    (seen,) = webui.txt2img(**{**fields, "sampler_name": "DDIM", "steps": STEPS}).seen
    return seen.x


def expected_latent(
    module: OMSModule, noise: torch.Tensor, prompt: str, sampler: str, level: float, alphas_cumprod: torch.Tensor
) -> torch.Tensor:
    """The closed form for the noise level that the denoiser was told."""
    v, _ = module.predict_v(noise, [prompt])
    if sampler not in TIMESTEP_SAMPLERS:
        return -v + level * noise
    a = float(alphas_cumprod[round(level)])
    return -math.sqrt(a) * v + math.sqrt(1 - a) * noise


def assert_close(webui: WebUI, x: torch.Tensor, expected: torch.Tensor, what: str) -> None:
    """Within 1e-4 of the latent's scale; half precision on a GPU can do no better than a hundredth."""
    tolerance = 1e-2 if isinstance(webui, RealWebUI) and not webui.on_cpu else 1e-4
    assert x.shape == expected.shape, what
    assert float((x - expected).abs().max()) <= tolerance * float(expected.std()), what


def test_the_script_is_there_for_txt2img_alone(webui: WebUI) -> None:
    scripts = webui.get("/sdapi/v1/scripts").json()
    assert "one more step" in scripts["txt2img"]
    assert "one more step" not in scripts["img2img"]
    info = webui.get("/sdapi/v1/script-info").json()
    labels = [[arg["label"] for arg in script["args"]] for script in info if script["name"] == "one more step"]
    assert labels
    assert labels[0][:5] == ["One More Step", "OMS model", "OMS prompt", "OMS guidance scale", "OMS eta"]


def test_it_acts_and_says_so_and_does_neither_when_off(webui: WebUI) -> None:
    plain = webui.txt2img(sampler_name="Euler")
    off = webui.txt2img(False, "Automatic", "night", sampler_name="Euler")
    assert off.images == plain.images
    assert "OMS" not in plain.infotext + off.infotext
    on = webui.txt2img(True, "Automatic", "night, stars", 1.5, 0.25, "fog", sampler_name="Euler")
    assert on.pixels != plain.pixels
    for text in ("OMS: True", "OMS model: ", 'OMS prompt: "night, stars"', "OMS guidance scale: 1.5", "OMS eta: 0.25"):
        assert text in on.infotext
    assert "OMS skipped" not in on.infotext
    png = requests.post(f"{webui.url}/sdapi/v1/png-info", json={"image": on.images[0]}, timeout=60).json()["info"]
    assert 'OMS prompt: "night, stars"' in png


@pytest.mark.slow
def test_every_sampler_starts_from_the_closed_form(
    webui: WebUI, module: OMSModule, alphas_cumprod: torch.Tensor
) -> None:
    noise = noise_of(webui)
    for sampler in samplers(webui):
        made = webui.txt2img(True, "Automatic", "night", sampler_name=sampler, steps=4)
        if "OMS skipped" in made.infotext:
            pytest.fail(f"{sampler}: {made.infotext}")
        (seen,) = made.seen
        assert_close(
            webui, seen.x, expected_latent(module, noise, "night", sampler, seen.level, alphas_cumprod), sampler
        )


@pytest.mark.slow
@pytest.mark.parametrize("sgm", [False, True])
def test_every_schedule_starts_from_the_closed_form(
    webui: WebUI, module: OMSModule, alphas_cumprod: torch.Tensor, sgm: bool
) -> None:
    noise = noise_of(webui)
    webui.options(sgm_noise_multiplier=sgm)
    try:
        for scheduler in schedulers(webui):
            (seen,) = webui.txt2img(
                True, "Automatic", "night", sampler_name="Euler", scheduler=scheduler, steps=4
            ).seen
            expected = expected_latent(module, noise, "night", "Euler", seen.level, alphas_cumprod)
            assert_close(webui, seen.x, expected, scheduler)
    finally:
        webui.options(sgm_noise_multiplier=False)


@pytest.mark.parametrize(("sampler", "steps"), [("Euler", 3), ("DDIM", 4), ("UniPC", 4)])
def test_samplers_of_each_kind(
    webui: WebUI, module: OMSModule, alphas_cumprod: torch.Tensor, sampler: str, steps: int
) -> None:
    noise = noise_of(webui)
    (seen,) = webui.txt2img(True, "Automatic", "night", sampler_name=sampler, steps=steps).seen
    expected = expected_latent(module, noise, "night", sampler, seen.level, alphas_cumprod)
    assert_close(webui, seen.x, expected, sampler)


@pytest.mark.parametrize(
    "fields",
    [
        {"subseed": 3, "subseed_strength": 0.4},
        {"seed_resize_from_h": 128, "seed_resize_from_w": 128},
        {"width": 72, "height": 104},
    ],
    ids=["subseed", "seed resize", "odd size"],
)
def test_whatever_the_noise_is_made_of(
    webui: WebUI, module: OMSModule, alphas_cumprod: torch.Tensor, fields: dict
) -> None:
    noise = noise_of(webui, **fields)
    (seen,) = webui.txt2img(True, "Automatic", "night", sampler_name="Euler", **fields).seen
    assert_close(
        webui, seen.x, expected_latent(module, noise, "night", "Euler", seen.level, alphas_cumprod), str(fields)
    )


@pytest.mark.parametrize("source", ["CPU", "NV"])
def test_same_picture_alone_and_in_a_batch(webui: WebUI, source: str) -> None:
    oms = (True, "Automatic", "", 1.5, 0.6)
    webui.options(randn_source=source)
    try:
        together = webui.txt2img(*oms, sampler_name="Euler a", batch_size=3, n_iter=2, seed=20)
        latents = torch.cat([seen.x for seen in together.seen])
        assert len(latents) == 6
        for i in (2, 4):
            (alone,) = webui.txt2img(*oms, sampler_name="Euler a", seed=20 + i).seen
            assert torch.equal(alone.x[0], latents[i])
    finally:
        webui.options(randn_source="GPU")


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["yes"], ["enabled", "'yes'", "true or false"]),
        ([True, "Automatic", "", 99], ["OMS guidance scale", "99", "from 0 to 10"]),
        ([True, "no such module"], ["no such module", "tiny"]),
        ([{"cfg": 3}], ["'cfg'", "guidance_scale"]),
    ],
)
def test_wrong_arguments_fail_with_a_message(webui: WebUI, args: list, words: list[str]) -> None:
    with pytest.raises(RequestFailed) as error:
        webui.txt2img(*args, sampler_name="Euler")
    for word in ["One More Step: ", *words]:
        assert word in str(error.value)
    assert webui.txt2img(sampler_name="Euler").seen  # and the host is well afterwards


def test_zero_terminal_snr_is_skipped_and_says_so(webui: WebUI) -> None:
    real = isinstance(webui, RealWebUI)
    if real:
        if "sd_noise_schedule" not in webui.get("/sdapi/v1/options").json():
            pytest.skip("this WebUI has no noise schedule to choose")
        webui.options(sd_noise_schedule="Zero Terminal SNR")
    try:
        made = webui.txt2img(
            True, "Automatic", "night", sampler_name="Euler", state="" if real else "zero terminal snr"
        )
    finally:
        if real:
            webui.options(sd_noise_schedule="Default")
    assert "OMS skipped: " in made.infotext
    assert "zero terminal SNR" in made.infotext
    assert "OMS: True" not in made.infotext


def test_every_memory_policy_makes_the_same_picture(webui: WebUI) -> None:
    if "oms_memory_policy" not in webui.get("/sdapi/v1/options").json():
        pytest.skip("the settings page does not have it yet")
    made = []
    try:
        for policy in ("keep on the device", "keep in RAM", "drop after use", "keep on the device"):
            webui.options(oms_memory_policy=policy)
            made.append(webui.txt2img(True, "Automatic", "night", 1.5, sampler_name="Euler").pixels)
    finally:
        webui.options(oms_memory_policy="keep in RAM")
    assert all(pixels == made[0] for pixels in made)


def test_real_hires_pass_is_left_alone(webui: WebUI, module: OMSModule, alphas_cumprod: torch.Tensor) -> None:
    if not isinstance(webui, RealWebUI):
        pytest.skip("the miniature WebUI has no Hires. fix")
    fields = {
        **{"enable_hr": True, "hr_scale": 2, "hr_upscaler": "Latent", "denoising_strength": 0.7, "steps": 3},
        **{"sampler_name": "Euler", "hr_additional_modules": ["Use same choices"]},
    }
    noise = noise_of(webui)
    made = webui.txt2img(True, "Automatic", "night", **fields)
    first, *_, last = made.seen
    assert_close(webui, first.x, expected_latent(module, noise, "night", "Euler", first.level, alphas_cumprod), "first")
    assert last.x.shape[2:] == (16, 16)
    assert "OMS: True" in made.infotext


def test_real_console_has_no_traceback_of_ours(webui: WebUI) -> None:
    if not isinstance(webui, RealWebUI):
        pytest.skip("the miniature WebUI prints into this process")
    # Refusals on purpose end in the sampler's call; a hook that broke is reported as such.
    assert not re.findall(r"Error (?:running|calling) \w+: .*one_more_step", webui.console)
