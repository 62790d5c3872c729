"""img2img at denoising strength 1, where the settings page asks for the step there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from browser_helpers import host_style
from extension_helpers import SIZE, RequestFailed, WebUI, flat

from lib_oms.step import low

pytest.importorskip("gradio")

COLOR = {"enabled": True, "source": "color", "color": "#203040", "quiet": 6}
DARK, BRIGHT = "#000000", "#ffffff"


@pytest.fixture(scope="module")
def webui(start_webui: Callable[..., WebUI], tmp_path_factory: pytest.TempPathFactory) -> WebUI:
    folder = tmp_path_factory.mktemp("img2img")
    (folder / "webui" / "data").mkdir(parents=True)
    (folder / "webui" / "data" / "config.json").write_text('{"oms_img2img": true}', encoding="utf-8")
    return start_webui(host_style(), folder=folder)


@pytest.mark.parametrize("sampler", ["Euler", "DPM++ 2M", "LCM", "DDIM", "UniPC"])
def test_two_start_pictures_begin_in_the_color_that_was_asked_and_in_their_own_detail(
    webui: WebUI, sampler: str
) -> None:
    """What the denoiser is given, of a black and of a white picture."""
    steps = {"sampler_name": sampler, "steps": 6}
    plain, made = (
        [webui.img2img(*oms, picture=picture, **steps).seen[0] for picture in (DARK, BRIGHT)] for oms in ([], [COLOR])
    )
    assert (low(plain[0].x, 4) - low(plain[1].x, 4)).abs().max() > 0.05, "or there is nothing to mend"
    torch.testing.assert_close(low(made[0].x, 6), low(made[1].x, 6), rtol=1e-4, atol=1e-4)
    for before, after in zip(plain, made, strict=True):
        assert after.level == before.level
        torch.testing.assert_close(after.x - low(after.x, 6), before.x - low(before.x, 6), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("sampler", ["Euler", "DDIM"])
def test_what_it_begins_with_is_what_the_color_says_at_the_first_call(webui: WebUI, sampler: str) -> None:
    """The same low frequencies as another color's, but for the difference of the two colors' own latents."""
    a, b = (webui.img2img({**COLOR, "color": color}, sampler_name=sampler, steps=6).seen[0] for color in (DARK, BRIGHT))
    assert (a.x - b.x).mean().abs() > 0.05
    alphas = _alphas()
    size = 1.0 if sampler == "Euler" else float(alphas[int(a.level)].sqrt())
    expected = size * low(_latent(DARK) - _latent(BRIGHT), 4)
    torch.testing.assert_close(low(a.x - b.x, 4), expected, rtol=1e-2, atol=1e-2)


def _alphas() -> torch.Tensor:
    from modules import shared

    return shared.sd_model.alphas_cumprod


def _latent(color: str) -> torch.Tensor:
    from modules import shared

    picture = torch.tensor([int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]).reshape(1, 3, 1, 1)
    return shared.sd_model.encode_first_stage(picture.expand(1, 3, SIZE, SIZE) * 2 - 1)


def test_a_prompts_picture_changes_and_says_so(webui: WebUI) -> None:
    plain, made = webui.img2img(), webui.img2img(True, "untrained", "night")
    assert made.pixels != plain.pixels
    assert "OMS: True" in made.infotext
    assert "OMS skipped" not in made.infotext
    assert "OMS" not in plain.infotext


def test_batches_are_what_their_pictures_are_alone(webui: WebUI) -> None:
    both = webui.img2img(COLOR, batch_size=2, do_not_save_grid=True).seen[0]
    alone = [webui.img2img(COLOR, seed=seed).seen[0].x for seed in (7, 8)]
    assert torch.equal(both.x, torch.cat(alone))


def test_strength_zero_changes_nothing(webui: WebUI) -> None:
    assert webui.img2img({**COLOR, "strength": 0}).pixels == webui.img2img().pixels


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"denoising_strength": 0.95}, "from the picture at denoising strength 0.95; the step acts at 1"),
        ({"mask": flat("white", "L")}, "inpainting keeps a part of the picture"),
    ],
)
def test_where_the_picture_is_to_stay_it_does_not_apply_and_says_so(
    webui: WebUI, fields: dict[str, Any], reason: str
) -> None:
    plain, made = webui.img2img(**fields), webui.img2img(COLOR, **fields)
    assert made.pixels == plain.pixels
    assert reason in made.infotext.partition("OMS skipped: ")[2]
    assert "OMS: True" not in made.infotext
    assert "OMS" not in plain.infotext


def test_what_cannot_be_ends_the_request(webui: WebUI) -> None:
    with pytest.raises(RequestFailed, match="no such module"):
        webui.img2img(True, "no such module")
    webui.options(oms_on_failure="continue without it")
    try:
        assert "OMS skipped" in webui.img2img(True, "no such module").infotext
    finally:
        webui.options(oms_on_failure="stop the request")


def test_what_fails_just_before_sampling_ends_the_request_too(webui: WebUI, monkeypatch: pytest.MonkeyPatch) -> None:
    from lib_oms.webui import given

    def broken(*args: Any) -> None:
        raise RuntimeError("the VAE is on fire")

    monkeypatch.setattr(given, "latent", broken)
    with pytest.raises(RequestFailed, match="on fire"):
        webui.img2img(COLOR)


def test_txt2img_is_as_it_was(webui: WebUI) -> None:
    made = webui.txt2img(COLOR, enable_hr=True, hr_scale=2)
    assert "OMS: True" in made.infotext
    assert len(made.seen) == 2


def test_the_tabs_share_no_id_and_only_txt2img_has_a_preview(webui: WebUI) -> None:
    from modules import scripts  # of the running host

    def ids(runner: Any) -> set[str]:
        (ours,) = [script for script in runner.alwayson_scripts if script.title() == "One More Step"]
        root = ours.controls[0]
        while root.parent is not None:
            root = root.parent
        found = [block.elem_id for block in _below(root) if getattr(block, "elem_id", None)]
        mine = [elem_id for elem_id in found if "oms_" in elem_id]
        assert len(mine) == len(set(mine))
        return set(mine)

    here, there = ids(scripts.scripts_txt2img), ids(scripts.scripts_img2img)
    assert {"oms_enabled", "oms_prompt", "oms_preview"} <= here
    assert {"img2img_oms_enabled", "img2img_oms_prompt", "img2img_oms_library"} <= there
    assert not here & there
    assert not [elem_id for elem_id in there if "preview" in elem_id or "compare" in elem_id]


def _below(block: Any) -> list[Any]:
    return [block, *(below for child in getattr(block, "children", []) for below in _below(child))]


def test_the_x_y_z_plot_of_img2img_has_its_axes(webui: WebUI) -> None:
    from xyz_helpers import axis_labels

    assert "OMS strength" in axis_labels(webui, img2img=True)
