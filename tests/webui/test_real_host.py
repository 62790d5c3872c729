"""The same checks in the miniature WebUI and in a real one, over the API.

The real one is what OMS_WEBUI_DIR, OMS_WEBUI_PYTHON and OMS_WEBUI_ARGS name (real_host_helpers.py); without them
its half is skipped. Its checkpoint must be of SD1.x, SD2.x or SDXL latents; random weights will do. OMS_WEBUI_SD2 names
the same weights as .safetensors where it is a .ckpt of SD2.x.
"""

import base64
import io
import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import real_host_helpers
import requests
import torch
from checkpoint_text_helpers import SD1_WIDTH, WIDTH, clip_l_of, is_sd2, night, text_model_of
from diffusers import DDIMScheduler
from extension_helpers import SILENT, SIZE, STEPS, Made, RequestFailed, WebUI
from module_helpers import tiny_psi, write_module
from PIL import Image
from real_host_helpers import LORA, LORA_SD2, RealWebUI
from safetensors import safe_open
from untrained_helpers import place_untrained
from xyz_helpers import cells, plot, quick

from lib_oms.given.pictures import png
from lib_oms.module import OMSModule
from lib_oms.step import coefficients

pytest.importorskip("gradio")

TIMESTEP_SAMPLERS = ["DDIM", "DDIM CFG++", "PLMS", "UniPC"]


@pytest.fixture(scope="module", params=["miniature", "real"])
def webui(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebUI]:
    temporary = tmp_path_factory.mktemp(request.param)
    if request.param == "miniature":
        place_untrained(temporary / "models" / "tiny")
        started = WebUI(temporary / "webui", "a1111", temporary / "models" / "tiny")
    elif real_host_helpers.folder() is None:
        pytest.skip("OMS_WEBUI_DIR is not set")
    else:
        for latents in ("sd", "sdxl"):
            write_module(temporary / "models" / f"tiny-{latents}", latents)
        # Those that read the text encoders of SDXL, SD1.x and SD2.x, and bring none along.
        for kind, latents, width in (("mixclip", "sdxl", 2048), ("clip", "sd", SD1_WIDTH), ("openclip", "sd", WIDTH)):
            psi = tiny_psi(width, metadata={"oms.text_encoder": kind, "oms.latents": latents})
            psi.save_pretrained(temporary / "models" / f"x-{kind}" / "oms_module")
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


OWN_WAY_TO_BEGIN = re.compile(r"\bdy\b|\bnegative\b|\bintern\b", re.IGNORECASE)
"""reForge's samplers that change x_T themselves before they call the denoiser: by noise that they add, as s_churn does,
up to a higher level ("Dy", "Negative"), or by halving its size ("Intern").
"""


def samplers(webui: WebUI) -> list[str]:
    """All but the watcher's own that do not tell where they start, and those that show the denoiser something else."""
    names = [sampler["name"] for sampler in webui.get("/sdapi/v1/samplers").json()]
    return [name for name in names if name not in SILENT and not OWN_WAY_TO_BEGIN.search(name)]


def schedulers(webui: WebUI) -> list[str]:
    answer = webui.get("/sdapi/v1/schedulers")
    if answer.status_code == 404:  # Forge Classic, whose option is k_sched_type
        return ["Automatic", "karras", "exponential", "polyexponential"]
    return [scheduler["label"] for scheduler in answer.json()]


def choose_schedule(webui: WebUI, name: str) -> dict[str, str]:
    """What a request needs for this schedule; Forge Classic needs an option instead."""
    if "k_sched_type" in webui.get("/sdapi/v1/options").json():
        webui.options(k_sched_type=name if name == "Automatic" else name.lower())
        return {}
    return {"scheduler": name}


def noise_of(webui: WebUI, **fields) -> torch.Tensor:
    """What the host draws for a request: DDIM takes it unscaled."""
    asked = {**fields, "sampler_name": "DDIM", "steps": STEPS, "state": "one call is enough"}
    (seen,) = webui.txt2img(**asked).seen
    return seen.x if told_timestep(seen.level) else seen.x / math.hypot(1, seen.level)


def told_timestep(level: float) -> bool:
    """Whether that is a timestep, of the first halves of schedules, and no sigma. Forge tells its callbacks the sigma
    under timestep samplers too, and shows them the latent as it is at that sigma, variance-exploding.
    """
    return level > 100


def expected_latent(
    module: OMSModule, noise: torch.Tensor, prompt: str, level: float, alphas_cumprod: torch.Tensor
) -> torch.Tensor:
    """The closed form for the noise level that the denoiser was told."""
    v, _ = module.predict_v(noise, [prompt] * len(noise))
    if not told_timestep(level):
        return -v + level * noise
    a = float(alphas_cumprod[round(level)])
    return -math.sqrt(a) * v + math.sqrt(1 - a) * noise


def assert_close(webui: WebUI, x: torch.Tensor, expected: torch.Tensor, what: str) -> None:
    """Within 1e-4 of the latent's scale; half precision on a GPU can do no better than a hundredth."""
    tolerance = 1e-2 if isinstance(webui, RealWebUI) and not webui.on_cpu else 1e-4
    assert x.shape == expected.shape, what
    error = float((x - expected).abs().max()) / float(expected.std())
    assert error <= tolerance, f"{what}: {error:.3g} of the latent's scale"


def test_the_script_is_there_for_txt2img_alone(webui: WebUI) -> None:
    scripts = webui.get("/sdapi/v1/scripts").json()
    assert "one more step" in scripts["txt2img"]
    assert "one more step" not in scripts["img2img"]
    info = webui.get("/sdapi/v1/script-info").json()
    labels = [[arg["label"] for arg in script["args"]] for script in info if script["name"] == "one more step"]
    assert labels
    assert labels[0][:5] == ["One More Step", "OMS model", "Brightness and color as in", "Guidance", "Variation"]


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
@pytest.mark.parametrize("sgm", [False, True], ids=["", "sgm"])
def test_every_sampler_with_every_schedule(
    webui: WebUI, module: OMSModule, alphas_cumprod: torch.Tensor, sgm: bool
) -> None:
    """The sampler's first call of the denoiser is enough: the watcher ends sampling there."""
    noise = noise_of(webui)
    webui.options(sgm_noise_multiplier=sgm)
    count = 0
    try:
        for scheduler in schedulers(webui):
            chosen = choose_schedule(webui, scheduler)
            for sampler in samplers(webui):
                if sampler in TIMESTEP_SAMPLERS and scheduler != "Automatic":
                    continue
                fields = {"sampler_name": sampler, **chosen, "steps": 4}
                made = webui.txt2img(True, "Automatic", "night", state="one call is enough", **fields)
                what = f"{sampler}, {scheduler}"
                assert "OMS skipped" not in made.infotext, f"{what}: {made.infotext}"
                (seen,) = made.seen
                expected = expected_latent(module, noise, "night", seen.level, alphas_cumprod)
                assert_close(webui, seen.x, expected, what)
                count += 1
    finally:
        webui.options(sgm_noise_multiplier=False)
        choose_schedule(webui, "Automatic")
    print(f"{count} combinations of sampler and schedule")


@pytest.mark.slow
@pytest.mark.parametrize(
    "fields",
    [
        {"batch_size": 3},
        {"width": 72, "height": 104, "seed_resize_from_h": 128, "seed_resize_from_w": 40},
        {"subseed": 3, "subseed_strength": 0.4, "batch_size": 2},
    ],
    ids=["batch of 3", "odd size and seed resize", "subseeds"],
)
def test_every_sampler_whatever_the_noise(
    webui: WebUI, module: OMSModule, alphas_cumprod: torch.Tensor, fields: dict
) -> None:
    noise = noise_of(webui, **fields)
    webui.options(sigma_max=9.0)
    try:
        chosen = choose_schedule(webui, "Karras")
        for sampler in samplers(webui):
            asked = {"sampler_name": sampler, **chosen, "steps": 4, "state": "one call is enough"}
            (seen,) = webui.txt2img(True, "Automatic", "night", **asked, **fields).seen
            expected = expected_latent(module, noise, "night", seen.level, alphas_cumprod)
            if sampler.startswith("ODE"):  # reForge's: one picture after the other
                expected = expected[:1]
            assert_close(webui, seen.x, expected, sampler)
    finally:
        webui.options(sigma_max=0.0)
        choose_schedule(webui, "Automatic")


@pytest.mark.parametrize(("sampler", "steps"), [("Euler", 3), ("DDIM", 4), ("UniPC", 4)])
def test_samplers_of_each_kind(
    webui: WebUI, module: OMSModule, alphas_cumprod: torch.Tensor, sampler: str, steps: int
) -> None:
    noise = noise_of(webui)
    (seen,) = webui.txt2img(True, "Automatic", "night", sampler_name=sampler, steps=steps).seen
    expected = expected_latent(module, noise, "night", seen.level, alphas_cumprod)
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
    assert_close(webui, seen.x, expected_latent(module, noise, "night", seen.level, alphas_cumprod), str(fields))


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
    for word in words:
        assert word in str(error.value)
    assert webui.txt2img(sampler_name="Euler").seen  # and the host is well afterwards


def test_cells_of_a_plot_are_what_requests_with_these_values_are(webui: WebUI) -> None:
    """And nothing of them is left over for the next request."""
    oms = (True, "Automatic", "night")
    plain = webui.txt2img(**quick({}))
    made = plot(webui, ("OMS prompt S/R", "night, white page"), ("OMS guidance scale", "1, 2"), oms=oms)
    singles = [
        webui.txt2img(True, "Automatic", prompt, scale, **quick({}))
        for scale in (1.0, 2.0)
        for prompt in ("night", "white page")
    ]
    assert [pixels for pixels in made.pixels[1:]] == [single.pixels[0] for single in singles]
    for text, single in zip(cells(made), singles, strict=True):
        assert text.partition("OMS: ")[2] == single.infotext.partition("OMS: ")[2] != ""
    assert webui.txt2img(**quick({})).images == plain.images
    with pytest.raises(RequestFailed, match="guidance_scale"):
        plot(webui, ("OMS guidance scale", "1, 99"), oms=oms)


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
    if real and "Noise Schedule: Zero Terminal SNR" not in made.infotext:
        pytest.skip("this WebUI takes the option for models of v-prediction only")  # Forge Classic
    assert "OMS skipped: " in made.infotext
    assert "zero terminal SNR" in made.infotext
    assert "OMS: True" not in made.infotext


def test_a_color_is_encoded_by_the_loaded_vae_and_needs_no_oms_model(webui: WebUI) -> None:
    asked = {"source": "color", "color": "#204060"}

    def means(seed: int, **more: Any) -> torch.Tensor:
        (seen,) = webui.txt2img({**asked, **more}, sampler_name="Euler", seed=seed).seen
        return seen.x.mean((-2, -1))

    one, other, another_color = means(7), means(8), means(7, color="#f0e0c0")
    scale = one.abs().max()
    assert (one - other).abs().max() < 1e-3 * scale, "the seed's own tint is left"
    assert (one - another_color).abs().max() > 1e-2 * scale
    made = webui.txt2img(asked, sampler_name="Euler")
    assert "OMS source: color" in made.infotext
    assert "OMS color: #204060" in made.infotext
    assert "OMS model" not in made.infotext
    plain = webui.txt2img(sampler_name="Euler")
    assert webui.txt2img({**asked, "strength": 0}, sampler_name="Euler").pixels == plain.pixels


def test_a_layout_is_larger_where_the_noise_gives_way(webui: WebUI) -> None:
    """The seed's own is not seen there any more, and the picture's lowest frequency is as large as the step has it."""
    gray = torch.arange(16, dtype=torch.uint8) * 16
    fading = Image.fromarray(gray.repeat(16, 1).numpy()).convert("RGB")

    def first(seed: int = 7, **asked: Any) -> tuple[torch.Tensor, Any]:
        (seen,) = webui.txt2img(asked, sampler_name="Euler", seed=seed).seen
        return coefficients(seen.x.float(), 2)[0, :, 0, 1], seen

    followed = {"source": "picture", "picture": png(fading)}
    loud, seen = first(**followed, quiet=0)
    said = loud - first(source="none", quiet=0)[0]
    factor = (first(**followed)[0] / said).double()
    expected = min(math.sqrt(1 + seen.level**2 / (0.06 * seen.x.shape[-1] ** 2)), 1.5)
    strong = said.abs() > 0.1 * said.abs().max()  # a channel may know nothing of gray
    torch.testing.assert_close(factor[strong], torch.full_like(factor[strong], expected), rtol=2e-2, atol=0)
    torch.testing.assert_close(first(8, **followed)[0], first(7, **followed)[0], rtol=1e-2, atol=1e-2)


def test_every_memory_policy_makes_the_same_picture(webui: WebUI) -> None:
    made = []
    try:
        for policy in ("keep on the device", "keep in RAM", "drop after use", "keep on the device"):
            webui.options(oms_memory_policy=policy)
            made.append(webui.txt2img(True, "Automatic", "night", 1.5, sampler_name="Euler").pixels)
    finally:
        webui.options(oms_memory_policy="keep in RAM")
    assert all(pixels == made[0] for pixels in made)


def upscaler(webui: WebUI) -> str:
    """One for hires. fix that needs no network: "Latent", which Forge Neo does not have, or "None"."""
    modes = webui.get("/sdapi/v1/latent-upscale-modes")
    names = [mode["name"] for mode in modes.json()] if modes.status_code == 200 else ["Latent"]
    return "Latent" if "Latent" in names else "None"


def test_hires_pass_is_left_alone(webui: WebUI, module: OMSModule, alphas_cumprod: torch.Tensor) -> None:
    fields = {
        **{"enable_hr": True, "hr_scale": 2, "hr_upscaler": upscaler(webui), "denoising_strength": 0.7, "steps": 3},
        **{"sampler_name": "Euler", "hr_additional_modules": ["Use same choices"]},
    }
    noise = noise_of(webui)
    plain = webui.txt2img(**fields)
    made = webui.txt2img(True, "Automatic", "night", **fields)
    first, second = made.seen
    assert_close(webui, first.x, expected_latent(module, noise, "night", first.level, alphas_cumprod), "first")
    assert second.x.shape[2:] == (16, 16)
    assert "OMS: True" in made.infotext
    assert second.level == plain.seen[1].level
    assert made.pixels != plain.pixels


def test_noise_of_another_extension_is_where_it_starts_from(
    webui: WebUI, module: OMSModule, alphas_cumprod: torch.Tensor
) -> None:
    noise = -2 * noise_of(webui)
    (seen,) = webui.txt2img(True, "Automatic", "night", sampler_name="Euler", state="modified noise").seen
    assert_close(webui, seen.x, expected_latent(module, noise, "night", seen.level, alphas_cumprod), "modified noise")


def test_what_is_written_for_the_main_model_does_no_harm(
    webui: WebUI, module: OMSModule, alphas_cumprod: torch.Tensor
) -> None:
    """Prompt editing, alternation, AND, an embedding's name and a LoRA that is not there; no OMS prompt."""
    prompt = "[a red:a blue:0.5] circle, [dark|light] AND (night:1.2) BREAK stars"
    noise = noise_of(webui)
    made = webui.txt2img(True, "Automatic", prompt=f"{prompt}<lora:none:0.5>", sampler_name="Euler")
    (seen,) = made.seen
    assert_close(webui, seen.x, expected_latent(module, noise, prompt, seen.level, alphas_cumprod), prompt)
    assert "OMS: True" in made.infotext


def test_real_lora_changes_the_picture_and_not_the_step(
    webui: WebUI, module: OMSModule, alphas_cumprod: torch.Tensor
) -> None:
    if not isinstance(webui, RealWebUI):
        pytest.skip("the miniature WebUI's own tests have its LoRA")
    if is_sd2(loaded_checkpoint(webui)):
        pytest.skip("the LoRA is none of SD2.x, which Forge says with HTTP 500")
    noise = noise_of(webui)
    without = webui.txt2img(True, "Automatic", sampler_name="Euler")
    made = webui.txt2img(True, "Automatic", prompt=f"a red circle<lora:{LORA}:1>", sampler_name="Euler")
    if made.pixels == without.pixels:
        pytest.skip("the loaded checkpoint is no SD1.x: the LoRA does not fit it")
    (seen,) = made.seen
    expected = expected_latent(module, noise, "a red circle", seen.level, alphas_cumprod)
    assert_close(webui, seen.x, expected, "LoRA")
    assert webui.txt2img(True, "Automatic", sampler_name="Euler").pixels == without.pixels


def test_real_controlnet_steers_the_picture_and_not_the_step(
    webui: WebUI, module: OMSModule, alphas_cumprod: torch.Tensor
) -> None:
    if not isinstance(webui, RealWebUI):
        pytest.skip("the miniature WebUI has no ControlNet")
    answer = webui.get("/controlnet/model_list")
    models = [name for name in answer.json()["model_list"] if name != "None"] if answer.status_code == 200 else []
    if not models:
        pytest.skip("this WebUI has no ControlNet, or no model for it")
    shape = io.BytesIO()
    Image.radial_gradient("L").convert("RGB").save(shape, "PNG")
    image = base64.b64encode(shape.getvalue()).decode()
    control = {"ControlNet": [{"enabled": True, "module": "None", "model": models[0], "image": image, "weight": 1.0}]}
    noise = noise_of(webui)
    without = webui.txt2img(True, "Automatic", "night", sampler_name="Euler")
    made = webui.txt2img(True, "Automatic", "night", sampler_name="Euler", scripts=control)
    (seen,) = made.seen
    assert_close(webui, seen.x, expected_latent(module, noise, "night", seen.level, alphas_cumprod), "ControlNet")
    assert "ControlNet 0: " in made.infotext
    assert "OMS: True" in made.infotext
    assert made.pixels[0] != without.pixels[0], "the ControlNet has an effect here"
    assert webui.txt2img(True, "Automatic", "night", sampler_name="Euler").pixels == without.pixels


@pytest.mark.parametrize(("name", "held_as"), [("x-mixclip", "conditioner."), ("x-clip", "cond_stage_model.transf")])
def test_real_sdxl_or_sd1_lends_its_text_encoders(webui: WebUI, name: str, held_as: str) -> None:
    """The main prompt's business stays out of it, and nothing of ours stays in the host. tests/webui/test_host_text.py
    has SDXL's numbers; SD1.x's are here, too.
    """
    if not isinstance(webui, RealWebUI):
        pytest.skip("tests/webui/test_host_text.py has the miniature WebUI's")
    checkpoint = loaded_checkpoint(webui)
    if not any(key.startswith(held_as) for key in kind_of(checkpoint)):
        pytest.skip("the loaded checkpoint is of another family, or a .ckpt whose weights are not named")
    webui.options(CLIP_stop_at_last_layers=1)
    plain = webui.txt2img(sampler_name="Euler")
    with_lora = webui.txt2img(prompt=f"a red circle<lora:{LORA}:1>", sampler_name="Euler")
    assert with_lora.pixels != plain.pixels, "the LoRA has an effect here"
    business = [{}, {"prompt": f"a red circle<lora:{LORA}:1>"}, {"override_settings": {"CLIP_stop_at_last_layers": 3}}]
    webui.options(oms_memory_policy="drop after use")  # forgets what was encoded
    try:
        nights = [webui.txt2img(True, name, "night", 1.5, sampler_name="Euler", **more) for more in business]
        day = webui.txt2img(True, name, "a day", 1.5, sampler_name="Euler")
        plainly = webui.txt2img(True, name, "night", sampler_name="Euler")
    finally:
        webui.options(oms_memory_policy="keep in RAM")
    for made in nights:
        assert f"OMS model: {name} [" in made.infotext
        assert torch.equal(made.seen[0].x, nights[0].seen[0].x)
    assert not torch.equal(day.seen[0].x, nights[0].seen[0].x)
    if name == "x-clip":
        noise, (seen,) = noise_of(webui), plainly.seen
        with torch.no_grad():
            v = tiny_psi(SD1_WIDTH)(noise, night(clip_l_of(checkpoint)))
        assert_close(webui, seen.x, seen.level * noise - v, "SD1.x's own text")
    # Loaded anew the pair is the same, though Forge Neo takes the main prompt's conditioning out of its cache then and
    # has not turned the embeddings to float32 yet.
    requests.post(f"{webui.url}/sdapi/v1/unload-checkpoint", timeout=300).raise_for_status()
    requests.post(f"{webui.url}/sdapi/v1/reload-checkpoint", timeout=300)  # Forge Neo has none and does it by itself
    anew = webui.txt2img(True, name, "night", 1.5, sampler_name="Euler")
    assert torch.equal(anew.seen[0].x, nights[0].seen[0].x)
    assert anew.pixels == nights[0].pixels
    assert webui.txt2img(sampler_name="Euler").pixels == plain.pixels
    assert webui.txt2img(prompt=f"a red circle<lora:{LORA}:1>", sampler_name="Euler").pixels == with_lora.pixels


def test_real_sd2_lends_its_text_encoder(webui: WebUI) -> None:
    """Out of its file, or where that is no .safetensors out of the loaded model; transformers computes the same. The
    main prompt's LoRA stays out of it, and nothing of ours in the host. A loaded SD1.x takes it from the one SD2.x
    among the checkpoints, all that Forge Neo can do with that.
    """
    if not isinstance(webui, RealWebUI):
        pytest.skip("the miniature WebUI's model is no SD2.x")
    loaded = checkpoint = loaded_checkpoint(webui)
    if not is_sd2(loaded) and loaded.suffix == ".safetensors":
        files = [Path(model["filename"]) for model in webui.get("/sdapi/v1/sd-models").json()]
        there = [file for file in files if file.suffix == ".safetensors" and is_sd2(file)]
        if len(there) == 1 and not any(name.startswith("conditioner.") for name in kind_of(loaded)):
            checkpoint = there[0]
    if not is_sd2(checkpoint):
        pytest.skip("there is no SD2.x, loaded or beside a loaded SD1.x, or a .ckpt whose weights are not named")
    text_model = text_model_of(checkpoint)
    psi, noise = tiny_psi(WIDTH), noise_of(webui)
    lora = f"a red circle<lora:{LORA_SD2 if loaded == checkpoint else LORA}:1>"
    plain = webui.txt2img(sampler_name="Euler")
    with_lora = webui.txt2img(prompt=lora, sampler_name="Euler")
    assert with_lora.pixels != plain.pixels, "the LoRA has an effect here"
    webui.options(oms_memory_policy="drop after use")  # so that it is read anew, whatever state the host's is in
    try:
        for prompt, count, weight in (("night", 1, 1.0), ("(night:1.3)", 1, 1.3), ("night " * 80, 80, 1.0)):
            with torch.no_grad():
                v = psi(noise, night(text_model, count, weight))
            for main in ("a red circle", lora):
                (seen,) = webui.txt2img(True, "x-openclip", prompt, prompt=main, sampler_name="Euler").seen
                assert_close(webui, seen.x, seen.level * noise - v, f"{prompt[:12]!r} under {main}")
    finally:
        webui.options(oms_memory_policy="keep in RAM")
    assert webui.txt2img(sampler_name="Euler").images == plain.images
    assert webui.txt2img(prompt=lora, sampler_name="Euler").images == with_lora.images


def loaded_checkpoint(webui: WebUI) -> Path:
    """The file of the checkpoint that is loaded."""
    infotext = webui.txt2img(sampler_name="Euler").infotext  # hosts differ in what their option says of it
    loaded = re.search(r"Model: ([^,]+)", infotext)
    assert loaded, infotext
    models = webui.get("/sdapi/v1/sd-models").json()
    return next(Path(model["filename"]) for model in models if model["model_name"] == loaded[1])


def kind_of(checkpoint: Path) -> frozenset[str]:
    """Whose text encoders a checkpoint's are, by the names of their token embeddings: SD1.x's, SD2.x's or SDXL's."""
    if checkpoint.suffix != ".safetensors":
        return frozenset()
    with safe_open(checkpoint, "pt") as file:
        return frozenset(name for name in file.keys() if "token_embedding" in name)  # noqa: SIM118  no mapping


def test_real_refiner_goes_on_working(webui: WebUI, module: OMSModule, alphas_cumprod: torch.Tensor) -> None:
    if not isinstance(webui, RealWebUI):
        pytest.skip("the miniature WebUI has no refiner")
    loaded = loaded_checkpoint(webui)
    models = webui.get("/sdapi/v1/sd-models").json()
    others = {Path(model["filename"]): model["title"] for model in models if Path(model["filename"]) != loaded}
    other = next((title for file, title in others.items() if kind_of(file) == kind_of(loaded)), None)
    if other is None:
        pytest.skip("this WebUI has no second checkpoint of the same kind")
    noise = noise_of(webui)
    counts_sigmas = webui.get("/sdapi/v1/options").json().get("refiner_use_steps") is False  # Forge Neo
    if counts_sigmas:
        webui.options(refiner_use_steps=True)
    try:
        refiner = {"refiner_checkpoint": other, "refiner_switch_at": 0.5}
        made = webui.txt2img(True, "Automatic", "night", sampler_name="Euler", steps=4, **refiner)
    finally:
        if counts_sigmas:
            webui.options(refiner_use_steps=False)
    (seen,) = made.seen
    assert_close(webui, seen.x, expected_latent(module, noise, "night", seen.level, alphas_cumprod), "refiner")
    assert "Refiner: " in made.infotext
    assert "OMS: True" in made.infotext


def test_real_img2img_and_inpainting_know_nothing_of_it(webui: WebUI) -> None:
    picture = webui.txt2img(True, "Automatic", "night", sampler_name="Euler").images[0]
    mask = io.BytesIO()
    Image.new("L", (SIZE, SIZE), 255).save(mask, "PNG")
    for more in ({}, {"mask": base64.b64encode(mask.getvalue()).decode(), "inpainting_fill": 2}):
        body = {"prompt": "a red circle", "init_images": [picture], "steps": STEPS, "seed": 7, "width": SIZE, **more}
        answer = requests.post(f"{webui.url}/sdapi/v1/img2img", json={**body, "height": SIZE}, timeout=300)
        assert answer.status_code == 200, answer.text
        assert "OMS" not in answer.json()["info"]


# Other extensions, where they are installed


def scripts_of(webui: WebUI, start: str) -> str:
    """The full title of an always-on script for txt2img."""
    if not isinstance(webui, RealWebUI):
        pytest.skip("the miniature WebUI has no other extensions")
    for name in webui.get("/sdapi/v1/scripts").json()["txt2img"]:
        if name.startswith(start):
            return name
    pytest.skip(f"{start} is not installed")


@pytest.fixture
def adetailer(webui: WebUI) -> Iterator[dict[str, list]]:
    """ADetailer's arguments: it refines what its first detector finds. By default it takes other scripts' hooks along
    into its own passes only where it knows them; here all of them.
    """
    scripts_of(webui, "adetailer")
    detectors = [name for name in webui.get("/adetailer/v1/ad_model").json()["ad_model"] if name.endswith(".pt")]
    if not detectors:
        pytest.skip("ADetailer has no detector")
    webui.options(ad_only_selected_scripts=False)
    yield {"ADetailer": [True, False, {"ad_model": detectors[0], "ad_mask_k": 1}]}
    webui.options(ad_only_selected_scripts=True)


def detailed(webui: WebUI, picture: str, adetailer: dict[str, list]) -> bytes:
    """ADetailer's own passes alone, over a picture that is there: img2img, which the step is no part of."""
    own = [True, True, *adetailer["ADetailer"][2:]]  # the second: refine the picture itself, skip img2img
    body = {
        **{"prompt": "a red circle", "init_images": [picture], "seed": 7, "steps": STEPS, "cfg_scale": 3},
        **{"width": SIZE, "height": SIZE, "sampler_name": "Euler", "alwayson_scripts": {"ADetailer": {"args": own}}},
    }
    answer = requests.post(f"{webui.url}/sdapi/v1/img2img", json=body, timeout=600)
    assert answer.status_code == 200, answer.text
    return Made(answer.json()["images"], {}, []).pixels[0]


def test_real_adetailers_own_passes_are_left_alone(webui: WebUI, adetailer: dict[str, list]) -> None:
    oms = (True, "Automatic", "night", 2.0)
    first = webui.txt2img(*oms, sampler_name="Euler")
    both = webui.txt2img(*oms, sampler_name="Euler", scripts=adetailer)
    assert both.pixels != first.pixels
    assert both.pixels == [detailed(webui, first.images[0], adetailer)]
    assert "OMS: True, " in both.infotext
    assert "ADetailer model: " in both.infotext
    assert len(both.seen) > 1  # the watcher was there in its passes, and so were we
    assert torch.equal(both.seen[0].x, first.seen[0].x)

    plain = webui.txt2img(sampler_name="Euler", scripts=adetailer)
    off = webui.txt2img(False, "Automatic", "night", 2.0, sampler_name="Euler", scripts=adetailer)
    assert off.images == plain.images
    assert "OMS" not in off.infotext


def test_real_adetailer_does_not_make_a_picture_without_the_step_say_that_it_had_it(
    webui: WebUI, adetailer: dict[str, list]
) -> None:
    webui.options(oms_on_failure="continue without it")
    try:
        made = webui.txt2img(True, "lost", sampler_name="Euler", scripts=adetailer)
    finally:
        webui.options(oms_on_failure="stop the request")
    assert "OMS skipped: " in made.infotext
    assert "OMS: True" not in made.infotext


def test_real_dynamic_prompts_give_each_picture_its_own(
    webui: WebUI, adetailer: dict[str, list], module: OMSModule, alphas_cumprod: torch.Tensor
) -> None:
    """The step follows the prompt that was chosen for each picture; with ADetailer beside it, too."""
    dynamic = {scripts_of(webui, "dynamic prompts"): [True]}
    asked = {"prompt": "a {red|green|blue} {circle|square|star}", "n_iter": 2, "sampler_name": "Euler"}
    for guests in (dynamic, {**dynamic, **adetailer}):
        made = webui.txt2img(True, **asked, scripts=guests)
        prompts = [text.partition("\n")[0] for text in made.info["infotexts"]]
        assert len(set(prompts)) == 2
        assert not any("{" in prompt for prompt in prompts)
        first = [seen for seen in made.seen if seen.level == made.seen[0].level]
        for i, (seen, prompt) in enumerate(zip(first, prompts, strict=True)):
            noise = noise_of(webui, seed=7 + i)
            assert_close(webui, seen.x, expected_latent(module, noise, prompt, seen.level, alphas_cumprod), prompt)
        off = webui.txt2img(False, **asked, scripts=guests)
        assert off.images == webui.txt2img(**asked, scripts=guests).images


def test_real_xyz_plot_beside_adetailer(webui: WebUI, adetailer: dict[str, list]) -> None:
    made = plot(webui, ("OMS guidance scale", "1, 2"), oms=(True, "Automatic", "night"), scripts=adetailer)
    singles = [webui.txt2img(True, "Automatic", "night", scale, **quick({}), scripts=adetailer) for scale in (1.0, 2.0)]
    assert made.pixels[1:] == [single.pixels[0] for single in singles]
    for text, single in zip(cells(made), singles, strict=True):
        assert text.partition("OMS: ")[2] == single.infotext.partition("OMS: ")[2] != ""


def test_real_settings_stand_in_a_category(webui: WebUI) -> None:
    """The host writes a category's name over its first section, and puts those without one last."""
    if not isinstance(webui, RealWebUI):
        pytest.skip("the miniature WebUI shows no categories")
    components = [component["props"] for component in webui.get("/config").json()["components"]]
    (told,) = [props["value"] for props in components if props.get("elem_id") == "settings_json"]
    first = {category: section for section, category in json.loads(told)["_categories"]}
    titles = [props.get("label") for props in components if str(props.get("elem_id")).startswith("settings_")]
    at = titles.index("One More Step")
    assert titles.index(first["Stable Diffusion"]) < at < titles.index(first["User Interface"])


def test_no_request_chooses_where_modules_are_read(webui: WebUI, tmp_path: Path) -> None:
    write_module(tmp_path / "elsewhere", "sd")
    folders = {"override_settings": {"oms_module_folders": str(tmp_path)}}
    with pytest.raises(RequestFailed, match="no OMS model named 'elsewhere'"):
        webui.txt2img(True, "elsewhere", **quick({}), **folders)
    assert "OMS: True" in webui.txt2img(True, **quick({}), **folders).infotext


def test_real_console_has_no_traceback_of_ours(webui: WebUI) -> None:
    if not isinstance(webui, RealWebUI):
        pytest.skip("the miniature WebUI prints into this process")
    # Refusals on purpose end in the sampler's call; a hook that broke is reported as such.
    assert not re.findall(r"Error (?:running|calling) \w+: .*one_more_step", webui.console)
