"""What the step asks for, before a picture is made: over the API of a running WebUI."""

from __future__ import annotations

import base64
import io
import re
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import requests
import torch
from browser_helpers import host_style
from extension_helpers import STEPS, RequestFailed, WebUI
from PIL import Image

from lib_oms.step import low

pytest.importorskip("gradio")

MODULE = "untrained"
SAME = {"prompt": "a red circle", "seed": 7, "width": 64, "height": 64, "steps": STEPS, "sampler_name": "Euler"}
"""As WebUI.txt2img asks for a picture."""


@pytest.fixture(scope="module")
def webui(start_webui: Callable[..., WebUI]) -> WebUI:
    return start_webui(host_style())


def ask(webui: WebUI, *, status: int = 200, oms: Any = None, **fields: Any) -> dict[str, Any]:
    body = {**SAME, **fields, "oms": {"module": MODULE} if oms is None else oms}
    answer = requests.post(f"{webui.url}/oms/v1/preview", json=body, timeout=120)
    assert answer.status_code == status, answer.text
    return answer.json()


def picture(answer: dict[str, Any]) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(answer["image"]))), dtype=np.float64) / 255


def decoded(webui: WebUI, latent: torch.Tensor) -> np.ndarray:
    from modules import sd_samplers_common

    return np.asarray(sd_samplers_common.sample_to_image(latent), dtype=np.float64) / 255


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Where each picture was begun, by previews and by generations alike."""
    from lib_oms.webui import hook

    begun: list[Any] = []
    real = hook.begin

    def begin(*args: Any) -> Any:
        answer = real(*args)
        begun.extend(answer[1])
        return answer

    monkeypatch.setattr(hook, "begin", begin)
    return begun


OMS = (
    {"module": MODULE, "prompt": "night", "guidance_scale": 1.5, "quiet": 3, "brightness": -0.3, "saturation": 0.5},
    {"module": MODULE, "strength": 0.5, "eta": 0.7, "detail": 2},
    {"source": "color", "color": "#102a6b"},
    {"module": MODULE, "source": "color", "color": "#102a6b", "prompt_weight": 0.4},
)


@pytest.mark.parametrize("sampler", ["Euler", "DDIM"])
@pytest.mark.parametrize("oms", OMS, ids=["prompt", "half", "color", "both"])
def test_it_is_what_generating_starts_from_to_the_bit(
    webui: WebUI, begun: list[Any], oms: dict[str, Any], sampler: str
) -> None:
    varied = {"subseed": 3, "subseed_strength": 0.3, "sampler_name": sampler}
    answer = ask(webui, oms=oms, **varied)
    made = webui.txt2img(oms, **varied)
    looked, taken = begun
    for name in ("x_T", "x0hat", "noise", "drawn"):
        assert torch.equal(getattr(looked, name), getattr(taken, name)), name
    assert np.allclose(picture(answer), decoded(webui, taken.read), atol=1 / 255)
    if sampler == "Euler":
        torch.testing.assert_close(low(made.seen[0].x, 1), low(taken.read, 1), rtol=1e-4, atol=1e-4)


def test_the_options_that_a_request_overrides_are_in_force_and_for_it_alone(webui: WebUI, begun: list[Any]) -> None:
    from modules import shared

    before = dict(shared.opts.data)
    options = {"sigma_max": 5.0, "sd_model_checkpoint": shared.opts.sd_model_checkpoint}
    for overrides in ({}, options):
        ask(webui, override_settings=overrides, scheduler="Karras")
        assert shared.opts.data == before
    webui.txt2img({"module": MODULE}, sampler_name="Euler", scheduler="Karras", override_settings=options)
    for other in ("embedded-second", ["embedded"], {"embedded": 1}):
        refused = ask(webui, status=409, override_settings={"sd_model_checkpoint": other})
        assert f"{other!r}. A preview is made with what is loaded" in refused["detail"]
    plain, looked, taken = begun
    assert torch.equal(looked.x_T, taken.x_T)
    assert not torch.equal(looked.x_T, plain.x_T)


def test_its_numbers_are_those_of_the_pictures_that_it_shows_and_of_the_noise_alone(
    webui: WebUI, begun: list[Any]
) -> None:
    answer = ask(webui, oms={"source": "color", "color": "#102a6b"})
    mean = picture(answer).mean(axis=(0, 1))
    assert answer["asked"]["brightness"] == pytest.approx(mean.mean(), abs=1 / 255)
    for part, value in zip(bytes.fromhex(answer["asked"]["color"][1:]), mean, strict=True):
        assert part / 255 == pytest.approx(value, abs=1.5 / 255)
    plain = webui.txt2img(sampler_name="Euler").seen[0].x
    assert answer["without"]["brightness"] == pytest.approx(decoded(webui, low(plain, 1)).mean(), abs=2 / 255)
    assert answer["module"] is None
    brightness, without = (round(100 * answer[name]["brightness"]) for name in ("asked", "without"))
    assert answer["text"] == (
        f"asks for brightness {brightness} %, {answer['asked']['color']}; without the step: {without} %, "
        f"{answer['without']['color']} · seed 7"
    )


def test_a_quiet_preview_of_a_color_is_that_color(webui: WebUI) -> None:
    """The VAE here has learned nothing: what it makes of a flat color is compared with what it makes of its latent."""
    quiet, loud = (ask(webui, oms={"source": "color", "color": "#f0f0f0", "quiet": k}) for k in (4, 0))
    other = ask(webui, oms={"source": "color", "color": "#f0f0f0", "quiet": 4}, seed=8)
    assert quiet["image"] == other["image"]
    assert quiet["image"] != loud["image"]


def test_the_module_is_named_and_whose_choice_it_was(webui: WebUI) -> None:
    answer = ask(webui, oms={})
    assert answer["module"].startswith(f"{MODULE} [")
    assert answer["automatic"] is True
    assert f"OMS model {answer['module']} (Automatic)" in answer["text"]
    assert ask(webui)["automatic"] is False


def test_a_random_seed_is_told_and_gives_the_same_again(webui: WebUI) -> None:
    one, other = ask(webui, seed=-1), ask(webui, seed=-1)
    assert one["seed"] != other["seed"]
    assert ask(webui, seed=one["seed"])["image"] == one["image"]


def test_the_enable_box_and_what_a_lora_is_called_do_not_matter(webui: WebUI) -> None:
    plain = ask(webui)
    assert ask(webui, oms={"module": MODULE, "enabled": False})["image"] == plain["image"]


def test_where_the_step_would_not_apply_it_says_why(webui: WebUI, monkeypatch: pytest.MonkeyPatch) -> None:
    from modules import shared

    model = shared.sd_model
    root = model.alphas_cumprod.sqrt()
    monkeypatch.setattr(model, "alphas_cumprod", torch.cat([root[:-1] ** 2, torch.tensor([4.9e-08])]))
    answer = ask(webui)
    assert answer["applies"] is False
    assert "zero terminal SNR" in answer["reason"]
    assert answer["text"] == f"The step would not apply: {answer['reason']}."
    assert "image" not in answer


def test_a_flow_model_has_no_step(webui: WebUI, monkeypatch: pytest.MonkeyPatch) -> None:
    from types import SimpleNamespace

    from modules import shared

    predictor = SimpleNamespace(prediction_type="const")
    objects = SimpleNamespace(unet=SimpleNamespace(model=SimpleNamespace(predictor=predictor)))
    monkeypatch.setattr(shared.sd_model, "forge_objects", objects, raising=False)
    monkeypatch.setattr(shared.sd_model, "oms_latents", None)
    answer = ask(webui, oms={"source": "color", "color": "#102a6b"})
    assert "flow model" in answer["reason"]


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"sede": 1}, "there is no 'sede'. Did you mean 'seed'?"),
        ({"seed": "7"}, "seed: '7' is not allowed, only a whole number from -1 to 9223372036854775807."),
        ({"seed": True}, "seed: True is not allowed"),
        ({"width": 20000}, "width: 20000 is not allowed, only a whole number from 64 to 4096."),
        ({"height": 64.5}, "height: 64.5 is not allowed"),
        ({"subseed_strength": 2}, "subseed_strength: 2 is not allowed, only a number from 0 to 1."),
        ({"prompt": ["a"]}, "prompt: ['a'] is not allowed, only a text."),
        ({"styles": "x"}, "styles: 'x' is not allowed, only a list of names."),
        ({"override_settings": []}, "override_settings: [] is not allowed, only an object of the WebUI's options"),
        ({"override_settings": {"sigma_maxx": 1}}, "the WebUI has no option 'sigma_maxx'. Did you mean 'sigma_max'?"),
        ({"sampler_name": "Eular"}, "there is no sampler 'Eular'. Did you mean 'Euler'?"),
        ({"oms": {"eta": 3}}, "OMS eta (eta): 3 is not allowed"),
        ({"oms": {"colour": "#000000"}}, "Did you mean 'color'?"),
        ({"oms": {"source": "picture", "picture": "no base64"}}, "OMS picture"),
        ({"oms": [True]}, "oms has to be an object of settings by name"),
    ],
)
def test_what_is_wrong_in_a_request_is_told(webui: WebUI, fields: dict[str, Any], told: str) -> None:
    assert told in ask(webui, status=422, **fields)["detail"]


def test_what_is_no_object_is_told(webui: WebUI) -> None:
    answer = requests.post(f"{webui.url}/oms/v1/preview", json=[1], timeout=60)
    assert answer.status_code == 422
    assert "has to be an object" in answer.json()["detail"]


def test_an_oms_model_that_is_not_there_is_told_as_generating_tells_it(webui: WebUI) -> None:
    assert "no OMS model named 'nobody'" in ask(webui, status=409, oms={"module": "nobody"})["detail"]


def test_what_the_webui_lacks_is_told_as_generating_tells_it(webui: WebUI, monkeypatch: pytest.MonkeyPatch) -> None:
    from modules import shared

    monkeypatch.setattr(shared.sd_model, "oms_latents", "nobody's")
    told = ask(webui, status=409, oms={})["detail"]
    with pytest.raises(RequestFailed, match=re.escape(told)):
        webui.txt2img({}, sampler_name="Euler")


def test_it_leaves_no_trace(webui: WebUI) -> None:
    """Neither a file nor a random number."""
    import random

    webui.txt2img(sampler_name="Euler")
    files = {path: path.stat().st_mtime_ns for path in webui.folder.rglob("*") if path.is_file()}
    states = torch.random.get_rng_state(), random.getstate()
    ask(webui, seed=-1, subseed_strength=0.5)
    assert torch.equal(torch.random.get_rng_state(), states[0])
    assert random.getstate() == states[1]
    assert files == {path: path.stat().st_mtime_ns for path in webui.folder.rglob("*") if path.is_file()}


def test_dropped_after_use_nothing_stays_in_memory(webui: WebUI, options: Callable[[str, Any], None]) -> None:
    from lib_oms.webui.loaded import LOADED
    from lib_oms.webui.options import DROP

    ask(webui)
    assert LOADED._modules
    options("oms_memory_policy", DROP)
    ask(webui)
    assert not LOADED._modules


def test_it_waits_for_a_generation_and_changes_no_bit_of_it(webui: WebUI, monkeypatch: pytest.MonkeyPatch) -> None:
    from modules import script_callbacks, shared

    oms = (True, MODULE, "night")
    fields = {"sampler_name": "Euler a", "steps": 6}
    alone = webui.txt2img(*oms, **fields)
    answers: list[tuple[str, dict[str, Any]]] = []

    def look() -> None:
        answers.append((shared.state.job, ask(webui, oms={"module": MODULE, "prompt": "day"})))
        order.append("preview")

    order: list[str] = []
    looking = threading.Thread(target=look)

    def at_each_step(params: Any) -> None:
        if params.sampling_step == 2 and not looking.ident:
            looking.start()
            time.sleep(1.0)  # longer than a preview takes
        order.append("step")

    script_callbacks.on_cfg_denoiser(at_each_step)
    try:
        beside = webui.txt2img(*oms, **fields)
    finally:
        script_callbacks.remove_callbacks_for_function(at_each_step)
    looking.join(timeout=60)
    assert order == ["step"] * 6 + ["preview"]
    assert beside.pixels == alone.pixels
    assert beside.infotext == alone.infotext
    assert answers[0][1]["applies"] is True
