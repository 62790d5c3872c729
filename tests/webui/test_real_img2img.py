"""img2img at denoising strength 1 in the WebUI that OMS_WEBUI_DIR names (test_real_host.py), over the API."""

from collections.abc import Iterator

import pytest
import real_host_helpers
import torch
from extension_helpers import STEPS, flat
from module_helpers import write_module
from real_host_helpers import RealWebUI

from lib_oms.step import low

COLOR = {"enabled": True, "source": "color", "color": "#203040", "quiet": 4}
DARK, BRIGHT = "#000000", "#ffffff"
SAMPLERS = ["Euler", "Euler a", "DPM++ 2M", "DPM fast", "DPM adaptive", "Restart", "LCM", "DDIM", "PLMS", "UniPC"]


@pytest.fixture(scope="module")
def webui(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealWebUI]:
    if real_host_helpers.folder() is None:
        pytest.skip("OMS_WEBUI_DIR is not set")
    temporary = tmp_path_factory.mktemp("real")
    write_module(temporary / "models" / "tiny-sd", "sd")
    started = RealWebUI(temporary / "webui", temporary / "models", oms_img2img=True)
    started.img2img(steps=STEPS)  # hosts' VAEs draw from torch's generator, which the last request has left as it is
    yield started
    started.close()


@pytest.mark.parametrize("extra", [0, 0.2])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_real_a_black_and_a_white_picture_begin_in_the_color_that_was_asked(
    webui: RealWebUI, sampler: str, extra: float
) -> None:
    """What the denoiser is given first; beyond the low frequencies, what it would be given without."""
    if sampler not in [known["name"] for known in webui.get("/sdapi/v1/samplers").json()]:
        pytest.skip(f"this host has no {sampler}")
    asked = {"sampler_name": sampler, "steps": 6, "state": "one call is enough"}
    webui.options(img2img_extra_noise=extra)
    try:
        plain, made = (
            [webui.img2img(*oms, picture=picture, **asked).seen[0] for picture in (DARK, BRIGHT)]
            for oms in ([], [COLOR])
        )
    finally:
        webui.options(img2img_extra_noise=0)
    scale = float(plain[0].x.std())
    assert (low(plain[0].x, 4) - low(plain[1].x, 4)).abs().max() > 1e-2, "or there is nothing to mend"
    assert (low(made[0].x, 4) - low(made[1].x, 4)).abs().max() < 1e-4 * scale
    for before, after in zip(plain, made, strict=True):
        assert after.level == before.level
        difference = after.x - before.x
        assert (difference - low(difference, 4)).abs().max() < 1e-4 * scale
    # And no noise is left there, only the color.
    assert torch.allclose(low(made[0].x, 4), low(made[0].x, 1), atol=0.1)


def test_real_prompts_serve_too_and_what_keeps_the_picture_says_so(webui: RealWebUI) -> None:
    assert "OMS: True" in webui.img2img(True, "Automatic", "night").infotext
    for fields, reason in (
        ({"denoising_strength": 0.5}, "the step acts at 1"),
        ({"mask": flat("white", "L"), "inpainting_fill": 1}, "inpainting keeps a part of the picture"),
    ):
        _, plain, made = (webui.img2img(*oms, steps=STEPS, **fields) for oms in ([], [], [COLOR]))
        assert made.pixels == plain.pixels
        assert reason in made.infotext.partition("OMS skipped: ")[2]
        assert "OMS" not in plain.infotext


def test_real_no_id_is_twice_on_the_page(webui: RealWebUI) -> None:
    shown = [component["props"].get("elem_id") or "" for component in webui.get("/config").json()["components"]]
    ours = [elem_id for elem_id in shown if "oms_" in elem_id and not elem_id.startswith("setting_")]
    assert {"oms_prompt", "img2img_oms_prompt", "oms_preview"} <= set(ours)
    assert len(ours) == len(set(ours))
