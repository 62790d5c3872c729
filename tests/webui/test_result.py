"""The line that tells how bright and of which mean color a picture has become."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import requests
from browser_helpers import host_style
from extension_helpers import Made, WebUI

pytest.importorskip("gradio")

OMS = (True, "untrained", "night")


@pytest.fixture(scope="module")
def webui(start_webui: Callable[..., WebUI]) -> WebUI:
    return start_webui(host_style())


@pytest.fixture
def telling(options: Callable[[str, Any], None]) -> None:
    options("oms_tell_result", True)


def numbers(pixels: bytes) -> str:
    mean = np.frombuffer(pixels, dtype=np.uint8).reshape(-1, 3).astype(float).mean(axis=0)
    return f"{mean.mean() / 255:.0%}".replace("%", " %") + ", #" + "".join(f"{round(c):02x}" for c in mean)


def told(made: Made) -> list[bool]:
    return ["OMS result" in text for text in made.info["infotexts"]]


def test_nothing_is_told_unless_the_settings_page_says_so(webui: WebUI) -> None:
    assert told(webui.txt2img(*OMS)) == [False]


@pytest.mark.usefixtures("telling")
def test_each_picture_tells_its_own_and_a_grid_none(webui: WebUI) -> None:
    made = webui.txt2img(*OMS, batch_size=2, n_iter=2, save_images=True)
    assert made.info["index_of_first_image"] == 1
    grid, *singles = made.info["infotexts"]
    assert "OMS result" not in grid
    for text, pixels in zip(singles, made.pixels[1:], strict=True):
        assert f'OMS result: "{numbers(pixels)}"' in text


@pytest.mark.usefixtures("telling")
def test_only_pictures_that_were_asked_for_with_the_step_are_told_about(webui: WebUI) -> None:
    assert told(webui.txt2img()) == [False]
    assert told(webui.txt2img(False)) == [False]


@pytest.mark.usefixtures("telling")
def test_it_is_told_with_hires_fix_of_the_picture_that_comes_out(webui: WebUI) -> None:
    made = webui.txt2img(*OMS, enable_hr=True, hr_scale=2)
    assert f'OMS result: "{numbers(made.pixels[0])}"' in made.infotext


@pytest.mark.usefixtures("telling")
def test_pasting_it_makes_the_same_picture_again(webui: WebUI) -> None:
    made = webui.txt2img(*OMS)
    body = {"infotext": made.infotext, "override_settings": {}, "styles": []}
    again = requests.post(f"{webui.url}/sdapi/v1/txt2img", json=body, timeout=120).json()
    assert again["images"][0] == made.images[0]


@pytest.mark.usefixtures("telling")
def test_the_page_is_told(webui: WebUI, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the host's way of telling a person something, below the pictures."""
    from modules import processing

    comments: list[str] = []
    monkeypatch.setattr(processing.StableDiffusionProcessing, "comment", lambda self, text: comments.append(text))
    made = webui.txt2img(*OMS, batch_size=2, do_not_save_grid=True)
    first, second = (numbers(pixels) for pixels in made.pixels[-2:])
    assert comments == [
        f"One More Step: picture 1 has brightness {first}",
        f"One More Step: picture 2 has brightness {second}",
    ]
