"""What the extension's script adds to the page, in real Chromium: words below the OMS prompt, the host's keys, the
count of tokens, pictures dropped from the page itself; and that the page works without it.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from browser_helpers import DemoProcess, WebUIPage, contrast

pytest.importorskip("gradio")

if TYPE_CHECKING:
    from playwright.sync_api import BrowserContext, Locator


@pytest.fixture(params=["light"])
def ui(request: pytest.FixtureRequest, demo: DemoProcess, context: "BrowserContext") -> Iterator[WebUIPage]:
    ui = WebUIPage(context, demo.url, request.param)
    ui.open_accordion()
    ui.find("oms_chips", "button").wait_for()
    yield ui
    ui.page.close()
    assert ui.troubles == []


def chip(ui: WebUIPage, word: str) -> "Locator":
    return ui.page.locator("#oms_chips").get_by_role("button", name=word, exact=True)


def pressed(ui: WebUIPage) -> list[str]:
    return ui.page.locator("#oms_chips button[aria-pressed=true]").all_inner_texts()


def wait_for_lit(ui: WebUIPage, *words: str) -> None:
    """gradio tells of a change some time after it."""
    lit = "[...document.querySelectorAll('#oms_chips [aria-pressed=true]')].map((chip) => chip.innerText).join()"
    ui.page.wait_for_function(f"words => {lit} === words.join()", arg=list(words))


def prompt(ui: WebUIPage) -> str:
    return ui.text("oms_prompt").input_value()


def wait_for_count(ui: WebUIPage, count: str) -> None:
    ui.page.wait_for_function(
        "count => document.querySelector('#oms_prompt_count')?.innerText.trim() === count", arg=count
    )


CLICKS = (
    ("", "night", "night"),
    ("a lighthouse", "night", "a lighthouse, night"),
    ("a lighthouse, ", "night", "a lighthouse, night"),
    ("a lighthouse, night", "night", "a lighthouse"),
    ("Night, a lighthouse", "night", "a lighthouse"),
    ("a lighthouse, (night:1.2), moon", "night", "a lighthouse, moon"),
    ("a lighthouse, ((night))", "night", "a lighthouse"),
    ("(night and moon:1.2)", "night", "( and moon:1.2)"),
    ("deep blue sky", "blue", "deep sky"),
    ("bluebell, sunlight", "blue", "bluebell, sunlight, blue"),
    ("night, nights, night, night", "night", "nights"),
    ("pitch  black", "pitch black", ""),
    ("one\nnight, two", "night", "one\n, two"),
)
"""The prompt before, the word that is clicked, the prompt after."""


def test_a_click_puts_a_word_in_or_takes_it_out(ui: WebUIPage) -> None:
    for before, word, after in CLICKS:
        ui.write("oms_prompt", before)
        chip(ui, word).click()
        assert prompt(ui) == after, before


def test_words_are_lit_while_they_are_in_the_prompt(ui: WebUIPage) -> None:
    assert pressed(ui) == []
    ui.write("oms_prompt", "Night, a lighthouse, deep blue sky")
    wait_for_lit(ui, "night", "blue")
    chip(ui, "blue").click()
    wait_for_lit(ui, "night")
    ui.paste("a red circle\nSteps: 1, Sampler: Euler, Seed: 1, OMS: True, OMS prompt: bright daylight")
    wait_for_lit(ui, "daylight", "bright")


def test_what_a_chip_wrote_is_what_is_generated(ui: WebUIPage) -> None:
    ui.write("txt2img_prompt", "a red circle")
    ui.set_number("txt2img_steps", 1)
    chip(ui, "pitch black").click()
    chip(ui, "night").click()
    ui.tick.check()
    ui.generate()
    assert 'OMS prompt: "pitch black, night"' in ui.infotext


def test_words_are_pressed_with_the_keyboard_alone(ui: WebUIPage) -> None:
    ui.text("oms_prompt").focus()
    ui.page.keyboard.press("Tab")
    assert ui.page.evaluate("document.activeElement.innerText") == "pitch black"
    ui.page.keyboard.press("Space")
    assert prompt(ui) == "pitch black"
    ui.page.keyboard.press("Enter")
    assert prompt(ui) == ""
    assert ui.page.evaluate("document.activeElement.innerText") == "pitch black"
    group = ui.page.get_by_role("group", name="Words for the OMS prompt")
    assert group.get_by_role("button").count() > 10


def test_own_words_win_and_are_shown_as_they_are(ui: WebUIPage, demo: DemoProcess) -> None:
    folder = demo.modules.parent / "outputs" / "one-more-step"
    folder.mkdir(exist_ok=True)
    own = folder / "chips.txt"
    own.write_text('# mine\n\n  neon   glow \n<b onclick="x">\'&\nneon glow\nfog (thin)\n', encoding="utf-8")
    try:
        ui.reload()
        ui.open_accordion()
        ui.page.locator("#oms_chips").get_by_role("button", name="neon glow", exact=True).wait_for()
        words = ["neon glow", '<b onclick="x">\'&', "fog (thin)"]
        assert ui.page.locator("#oms_chips button").all_inner_texts() == words
        for word in words:
            chip(ui, word).click()
        assert prompt(ui) == ", ".join(words)
        for word in words:
            chip(ui, word).click()
        assert prompt(ui) == ""
    finally:
        own.unlink()


def test_the_host_s_attention_keys_serve_the_oms_prompt(ui: WebUIPage) -> None:
    ui.write("oms_prompt", "a bright night")
    for key, expected in (
        ("Control+ArrowUp", "a bright (night:1.1)"),
        ("Control+ArrowUp", "a bright (night:1.2)"),
        ("Control+ArrowDown", "a bright (night:1.1)"),
        ("Control+ArrowDown", "a bright night"),
    ):
        ui.text("oms_prompt").press(key)
        assert prompt(ui) == expected
    wait_for_lit(ui, "night", "bright")


def test_tokens_are_counted_below_the_prompt(ui: WebUIPage) -> None:
    wait_for_count(ui, "0/75")
    ui.write("oms_prompt", "black background, black background, (night:1.2)")
    wait_for_count(ui, "7/75")
    ui.write("oms_prompt", "[PROMPT], black")
    wait_for_count(ui, "2/75")
    ui.write("oms_prompt", "black BREAK black black")
    wait_for_count(ui, "77/150")
    ui.write("oms_prompt", "black " * 76)
    wait_for_count(ui, "76/150")
    ui.page.locator("#oms_start_from").get_by_role("button", name="White page", exact=True).click()
    wait_for_count(ui, "2/75")


DROP = """async (place) => {
    const image = new OffscreenCanvas(8, 8);
    const context = image.getContext("2d");
    context.fillStyle = place.color;
    context.fillRect(0, 0, 8, 8);
    const address = URL.createObjectURL(await image.convertToBlob());
    const dropped = new DataTransfer();
    dropped.setData("text/uri-list", address);
    const target = document.querySelector(place.on);
    for (const type of ["dragenter", "dragover", "drop"]) {
        const facts = {dataTransfer: dropped, bubbles: true, cancelable: true, composed: true};
        target.dispatchEvent(new DragEvent(type, facts));
    }
}"""


def test_a_result_is_dropped_onto_the_place_for_a_picture(ui: WebUIPage) -> None:
    ui.follow("picture")
    ui.find("oms_picture_image").wait_for(state="visible")
    text = "document.querySelector('#oms_picture :is(textarea, input)')?.value ?? ''"
    seen = ""
    for color in ("navy", "orange"):  # an empty place, and one that holds a picture
        ui.page.evaluate(DROP, {"on": "#oms_picture_image > *", "color": color})
        ui.page.wait_for_function(f"seen => ({text}).length > 50 && ({text}) !== seen", arg=seen)
        seen = ui.page.evaluate(text)


@pytest.mark.parametrize("ui", ["light", "dark"], indirect=True)
def test_both_themes_are_readable(ui: WebUIPage) -> None:
    chip(ui, "night").click()
    wait_for_count(ui, "1/75")
    for selector in ("#oms_chips [aria-pressed=true]", "#oms_chips [aria-pressed=false]", ".oms-count"):
        assert contrast(ui.page, selector) > 4.5, selector


def test_without_the_script_no_dead_button_is_shown(demo: DemoProcess, context: "BrowserContext") -> None:
    context.route("**/one_more_step.js*", lambda route: route.fulfill(body="", content_type="text/javascript"))
    try:
        ui = WebUIPage(context, demo.url)
        ui.open_accordion()
        ui.write("txt2img_prompt", "a red circle")
        ui.set_number("txt2img_steps", 1)
        ui.write("oms_prompt", "night")
        ui.generate()
        assert "OMS prompt: night" in ui.infotext
        assert not ui.find("oms_chips", "button").is_visible()
        ui.page.close()
        assert ui.troubles == []
    finally:
        context.unroute("**/one_more_step.js*")
