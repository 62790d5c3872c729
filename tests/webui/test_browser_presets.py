"""Presets on the page, in real Chromium: what they set, what they save, share and say; with the keyboard alone, too."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from browser_helpers import DemoProcess, WebUIPage, brightness

from lib_oms.settings import SETTINGS

pytest.importorskip("gradio")

if TYPE_CHECKING:
    from playwright.sync_api import BrowserContext

QUIET = next(setting for setting in SETTINGS if setting.name == "quiet").by_source["color"]


@pytest.fixture
def own(demo: DemoProcess) -> Iterator[Path]:
    """The folder of a person's own presets; empty."""
    folder = demo.modules.parent / "outputs" / "one-more-step" / "presets"
    folder.mkdir(parents=True, exist_ok=True)
    yield folder
    for file in folder.iterdir():
        file.unlink()


@pytest.fixture
def ui(demo: DemoProcess, own: Path, context: "BrowserContext") -> Iterator[WebUIPage]:
    ui = WebUIPage(context, demo.url)
    ui.open_accordion()
    yield ui
    ui.page.close()
    assert ui.troubles == []


def start_from(ui: WebUIPage, name: str) -> None:
    presets = ui.page.get_by_role("group", name="Start from")
    presets.get_by_role("button", name=name, exact=True).click()
    wait_until_told(ui, f"{name} is set.")


def wait_until_told(ui: WebUIPage, words: str) -> None:
    ui.page.wait_for_function(
        "words => document.querySelector('#oms_preset_told')?.innerText.includes(words)", arg=words
    )


def unfold(ui: WebUIPage) -> None:
    ui.find("oms_presets", ".label-wrap").click()
    ui.find("oms_preset_save").wait_for()


def name_preset(ui: WebUIPage, name: str) -> None:
    ui.write("oms_preset", name)
    ui.text("oms_preset").press("Enter")
    ui.text("oms_preset").press("Tab")


def wait_for_value(ui: WebUIPage, elem_id: str, value: str) -> None:
    ui.page.wait_for_function(
        "([id, value]) => document.querySelector(`#${id} :is(textarea, input)`).value === value", arg=[elem_id, value]
    )


def source(ui: WebUIPage) -> str:
    return ui.page.locator("#oms_source input:checked").get_attribute("value")


def test_night_is_dark_and_a_white_page_is_white(ui: WebUIPage) -> None:
    ui.write("txt2img_prompt", "a red circle")
    ui.set_number("txt2img_steps", 20)
    ui.set_number("txt2img_cfg_scale", 3)
    ui.set_number("txt2img_seed", 1)
    for name, least, most in (("Night", 0.0, 0.2), ("White page", 0.8, 1.0)):
        start_from(ui, name)
        ui.generate()
        assert least <= brightness(ui.picture) <= most, name
    assert "OMS prompt: white background" in ui.infotext


def test_settings_are_saved_and_come_back_with_their_source(ui: WebUIPage, own: Path) -> None:
    ui.write("oms_prompt", "dusk")
    ui.follow("color")
    ui.find("oms_color").wait_for(state="visible")
    ui.find("oms_advanced", ".label-wrap").click()
    wait_for_value(ui, "oms_quiet", str(QUIET))  # which suits a color, as a person chose it
    ui.set_number("oms_quiet", 9)
    ui.set_number("oms_strength", 0.5)
    unfold(ui)
    name_preset(ui, "Blue hour")
    ui.find("oms_preset_save").click()
    wait_until_told(ui, "Blue hour is saved.")
    (file,) = own.iterdir()
    assert json.loads(file.read_text(encoding="utf-8"))["settings"]["quiet"] == 9

    start_from(ui, "Vivid")
    wait_for_value(ui, "oms_prompt", "")
    assert source(ui) == "prompt"
    ui.find("oms_color").wait_for(state="hidden")
    ui.reload()
    ui.open_accordion()
    unfold(ui)
    ui.choose("oms_preset", "Blue hour")  # the page that has just been loaded knows it
    ui.find("oms_preset_load").click()
    wait_until_told(ui, "Blue hour is set.")
    ui.find("oms_color").wait_for(state="visible")
    assert source(ui) == "color"
    assert ui.text("oms_prompt").input_value() == "dusk"
    assert float(ui.number("oms_strength").input_value()) == 0.5
    ui.page.wait_for_timeout(1500)  # in which the source's own events would have set it
    assert ui.number("oms_quiet").input_value() == "9"

    ui.find("oms_preset_delete").click()
    wait_until_told(ui, "Blue hour is deleted.")
    assert [*own.iterdir()] == []


def test_a_preset_is_shared_as_text(ui: WebUIPage, own: Path) -> None:
    unfold(ui)
    ui.choose("oms_preset", "Night")
    ui.find("oms_preset_show").click()
    ui.page.wait_for_function("document.querySelector('#oms_preset_json textarea').value.includes('settings')")
    shared = json.loads(ui.text("oms_preset_json").input_value())
    assert shared["name"] == "Night"
    ui.find("oms_preset_add").click()
    wait_until_told(ui, "There is a preset 'Night' already")

    shared["name"], shared["settings"]["prompt"] = "Moon <b>", "moon"
    ui.write("oms_preset_json", json.dumps(shared))
    ui.find("oms_preset_add").click()
    wait_until_told(ui, "is added")
    wait_for_value(ui, "oms_preset", "Moon <b>")
    ui.find("oms_preset_load").click()
    wait_until_told(ui, "Moon <b> is set.")
    wait_for_value(ui, "oms_prompt", "moon")


def test_a_broken_one_is_listed_with_why_and_stays(ui: WebUIPage, own: Path) -> None:
    torn = own / "torn.json"
    torn.write_text('{"name": "Torn <i>", "settings": {"brightness": 7}}', encoding="utf-8")
    ui.reload()
    ui.open_accordion()
    unfold(ui)
    ui.page.get_by_text("Torn <i>: torn.json: OMS brightness (brightness): 7 is not allowed").wait_for()
    name_preset(ui, "Torn <i>")
    for button in ("save", "delete", "load"):
        ui.find(f"oms_preset_{button}").click()
        wait_until_told(ui, "7 is not allowed")
        ui.page.evaluate("document.querySelector('#oms_preset_told').querySelector('div').innerText = ''")
    assert json.loads(torn.read_text(encoding="utf-8"))["settings"] == {"brightness": 7}


def test_a_preset_is_set_with_the_keyboard_alone(ui: WebUIPage) -> None:
    ui.number("oms_strength").focus()
    for _ in range(10):
        ui.page.keyboard.press("Tab")
        if ui.page.evaluate("document.activeElement.innerText.trim()") == "Night":
            break
    ui.page.keyboard.press("Enter")
    wait_until_told(ui, "Night is set.")
    wait_for_value(ui, "oms_prompt", "night, black background")


def test_a_pasted_picture_keeps_its_own_quiet_noise(ui: WebUIPage) -> None:
    """An infotext names the source and not `quiet` where that was 0, which the source's own events must not change."""
    ui.find("oms_advanced", ".label-wrap").click()
    text = "a red circle\nSteps: 1, Sampler: Euler, Seed: 1, OMS: True, OMS source: color, OMS color: #336699"
    ui.paste(text)
    ui.find("oms_color").wait_for(state="visible")
    ui.page.wait_for_timeout(1500)
    assert ui.number("oms_quiet").input_value() == "0"
