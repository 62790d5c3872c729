"""The preview on the page, in a real browser: it is about what Generate would make of the page's controls."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import pytest
from browser_helpers import MODEL, DemoProcess, WebUIPage, brightness
from PIL import Image

pytest.importorskip("gradio")

if TYPE_CHECKING:
    from playwright.sync_api import BrowserContext

NUMBERS = re.compile(r"(\d+) %,\s+(#[0-9a-f]{6})")


@pytest.fixture
def ui(demo: DemoProcess, context: BrowserContext) -> Iterator[WebUIPage]:
    ui = WebUIPage(context, demo.url)
    yield ui
    ui.page.close()
    assert ui.troubles == []
    assert ui.hosts == {"127.0.0.1"}


def preview(ui: WebUIPage, seen: str = "") -> str:
    """Presses Preview and waits for another text than the one seen before."""
    ui.find("oms_preview").click()
    ui.page.wait_for_function(
        "seen => { const shown = document.querySelector('#oms_preview_result'); const text = shown.innerText.trim();"
        " return !shown.querySelector('.progress-text') && /seed|OMS/.test(text) && text !== seen; }",
        arg=seen,
        timeout=60_000,
    )
    return ui.find("oms_preview_result").inner_text().strip()


def test_a_preview_tells_what_generating_then_makes(ui: WebUIPage) -> None:
    ui.write("txt2img_prompt", "black background")
    ui.set_number("txt2img_seed", 11)
    ui.set_number("txt2img_steps", 10)
    ui.set_number("txt2img_cfg_scale", 3)
    ui.open_accordion()
    text = preview(ui)
    assert "asks for brightness" in text
    assert "seed 11" in text
    assert MODEL.name in text
    assert "(Automatic)" in text
    (asked, _), (without, _) = NUMBERS.findall(text)
    assert int(asked) < 20
    assert 30 < int(without) < 70
    shown = ui.find("oms_preview_result", "img")
    assert shown.evaluate("image => image.naturalWidth") > 0
    assert shown.get_attribute("alt").startswith("asks for brightness")
    ui.generate()
    assert brightness(ui.picture) == pytest.approx(int(asked) / 100, abs=0.1)


def test_it_follows_the_controls_of_the_page(ui: WebUIPage) -> None:
    ui.write("txt2img_prompt", "a red circle")
    ui.set_number("txt2img_seed", 3)
    ui.open_accordion()
    ui.write("oms_prompt", "white background")
    bright = preview(ui)
    ui.write("oms_prompt", "black background")
    dark = preview(ui, bright)
    ui.set_number("txt2img_seed", 4)
    other = preview(ui, dark)
    found = [NUMBERS.findall(text) for text in (bright, dark, other)]
    assert int(found[0][0][0]) > 70
    assert int(found[1][0][0]) < 20
    assert found[0][1] == found[1][1], "without the step only the seed counts"
    assert found[1][1] != found[2][1]


def test_a_random_seed_is_told(ui: WebUIPage) -> None:
    ui.set_number("txt2img_seed", -1)
    ui.open_accordion()
    assert re.search(r"seed \d+", preview(ui))


def test_what_is_wrong_is_told(ui: WebUIPage) -> None:
    ui.open_accordion()
    ui.follow("picture")
    ui.find("oms_picture_image").wait_for()  # it pushes the buttons down
    assert "OMS picture (picture) is empty" in preview(ui)


def test_compare_shows_the_same_seeds_without_and_with_the_step(ui: WebUIPage, demo: DemoProcess) -> None:
    ui.write("txt2img_prompt", "a red circle")
    ui.set_number("txt2img_seed", 21)
    ui.set_number("txt2img_steps", 6)
    ui.set_number("txt2img_cfg_scale", 3)
    ui.set_number("txt2img_batch_size", 2)
    ui.open_accordion()
    ui.write("oms_prompt", "black background")
    ui.tick.set_checked(False)  # whether it is ticked makes no difference
    ui.open_accordion()
    ui.find("oms_compare").click()
    ui.page.locator("#oms_compare_result figure").nth(3).wait_for(timeout=120_000)
    captions = ui.page.locator("#oms_compare_result figcaption").all_inner_texts()
    assert [caption.split(":")[0] for caption in captions] == ["without the step", "with One More Step"] * 2
    assert [caption.rpartition("seed ")[2] for caption in captions] == ["21", "21", "22", "22"]
    without, with_step = (int(NUMBERS.search(caption)[1]) for caption in captions[:2])
    assert with_step < 20 < without
    ui.set_number("txt2img_batch_size", 1)
    ui.tick.set_checked(True)
    ui.generate()
    assert round(100 * brightness(ui.picture)) == pytest.approx(with_step, abs=1), "as Generate makes it"


def test_compare_heeds_the_options_that_an_infotext_overrides(ui: WebUIPage) -> None:
    text = "a red circle\nSteps: 4, Sampler: Euler, Schedule type: Karras, CFG scale: 3, Seed: 5, Size: 64x64"
    ui.open_accordion()
    ui.tick.set_checked(False)
    ui.paste(text)
    ui.generate()
    usual = np.asarray(ui.picture)
    ui.paste(f"{text}, Schedule max sigma: 2.0")
    ui.find("oms_compare").click()
    ui.page.locator("#oms_compare_result img").nth(1).wait_for(timeout=60_000)
    shown = ui.page.locator("#oms_compare_result img").first.get_attribute("src")
    ui.generate()
    made = np.asarray(ui.picture)
    compared = np.asarray(Image.open(io.BytesIO(base64.b64decode(shown.split(",")[1]))))
    assert np.array_equal(compared, made)
    assert not np.array_equal(made, usual)


def test_what_keeps_compare_from_it_is_told(ui: WebUIPage) -> None:
    ui.open_accordion()
    ui.set_number("txt2img_steps", 1)
    ui.follow("picture")
    ui.find("oms_picture_image").wait_for()  # it pushes the buttons down
    ui.find("oms_compare").click()
    told = ui.find("oms_compare_result", ".error")
    told.wait_for(timeout=60_000)
    assert "OMS picture (picture) is empty" in told.inner_text()
