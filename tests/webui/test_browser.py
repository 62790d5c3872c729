"""The page in real headless Chromium: tick, type, Generate, see the darker picture, paste its infotext back."""

import base64
import io
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import requests
from browser_helpers import MODEL, DemoProcess, WebUIPage, brightness, contrast
from PIL import Image, ImageChops

pytest.importorskip("gradio")

if TYPE_CHECKING:
    from playwright.sync_api import BrowserContext

PROMPT = "a red circle"
OMS = (True, MODEL.name, 'night: "dark", moon\nno stars', 1.5, 0.25, "day, noon")
"""Values other than the defaults for every setting, and a prompt that infotext has to quote."""


@pytest.fixture(params=["light"])
def ui(request: pytest.FixtureRequest, demo: DemoProcess, context: "BrowserContext") -> Iterator[WebUIPage]:
    """A fresh page. Whatever a test does, the console stays clean and nothing leaves this machine."""
    ui = WebUIPage(context, demo.url, request.param)
    yield ui
    ui.page.close()
    assert ui.troubles == []
    assert ui.hosts == {"127.0.0.1"}


def fill_in(ui: WebUIPage, steps: int, seed: int = 1) -> None:
    ui.write("txt2img_prompt", PROMPT)
    ui.set_number("txt2img_steps", steps)
    ui.set_number("txt2img_cfg_scale", 3)
    ui.set_number("txt2img_seed", seed)


def set_oms(ui: WebUIPage, values: tuple) -> None:
    enabled, module, prompt, guidance_scale, eta, negative_prompt = values
    ui.unfold()
    ui.tick.set_checked(enabled)
    ui.choose("oms_module", module)
    ui.write("oms_prompt", prompt)
    ui.set_number("oms_guidance_scale", 2)  # beside 1, a negative prompt takes no words
    ui.write("oms_negative_prompt", negative_prompt)
    ui.set_number("oms_guidance_scale", guidance_scale)
    ui.set_number("oms_eta", eta)


def test_tick_type_generate_and_the_picture_is_dark(ui: WebUIPage) -> None:
    fill_in(ui, steps=20)
    ui.generate()
    raw = ui.picture
    assert raw.size == (256, 256)
    assert "OMS" not in ui.infotext
    assert brightness(raw) > 0.3

    ui.tick.check()
    ui.open_accordion()
    ui.write("oms_prompt", "black background")
    ui.generate()
    assert "OMS: True" in ui.infotext
    assert "OMS prompt: black background" in ui.infotext
    assert brightness(ui.picture) < 0.2  # the circle is a part of it
    assert brightness(ui.picture) < brightness(raw) - 0.2


def test_a_color_is_followed_without_words(ui: WebUIPage) -> None:
    fill_in(ui, steps=20)
    ui.tick.check()
    ui.open_accordion()
    assert not ui.find("oms_color").is_visible()
    ui.follow("color")
    ui.find("oms_color").wait_for(state="visible")  # the one that the page begins with is medium gray
    ui.generate()
    assert "OMS source: color" in ui.infotext
    assert "OMS color: #808080" in ui.infotext
    assert "OMS quiet: 6" in ui.infotext
    border = ui.picture.convert("RGB").crop((0, 0, 256, 16)).resize((1, 1)).getpixel((0, 0))
    assert all(abs(channel - 128) < 20 for channel in border), border


def test_an_uploaded_picture_is_followed_and_comes_back(ui: WebUIPage, tmp_path: Path) -> None:
    Image.new("RGB", (300, 200), (10, 10, 60)).save(tmp_path / "night.png")
    fill_in(ui, steps=20, seed=11)
    ui.tick.check()
    ui.open_accordion()
    ui.follow("picture")
    ui.find("oms_picture_image").wait_for(state="visible")
    ui.page.locator("#oms_picture_image input[type=file]").set_input_files(str(tmp_path / "night.png"))
    ui.page.wait_for_function("document.querySelector('#oms_picture textarea, #oms_picture input').value.length > 50")
    ui.generate()
    assert "OMS source: picture" in ui.infotext
    assert brightness(ui.picture) < 0.25
    picture, infotext = ui.picture, ui.infotext

    ui.follow("prompt")
    ui.paste(infotext)
    assert ui.page.locator("#oms_source input[value=picture]").is_checked()
    ui.generate()
    assert ui.picture.tobytes() == picture.tobytes()


def right_over_left(picture: Image.Image) -> float:
    """How much brighter the right quarter of a picture is than the left one, -1 to 1."""
    width, height = picture.size
    left, right = (picture.crop((x, 0, x + width // 4, height)) for x in (0, width - width // 4))
    return brightness(right) - brightness(left)


def test_a_drawing_is_followed_and_comes_back(ui: WebUIPage) -> None:
    fill_in(ui, steps=20, seed=11)
    ui.tick.check()
    ui.open_accordion()
    ui.follow("brush")
    canvas = ui.page.locator("#oms_brush_canvas canvas").first
    canvas.wait_for()
    box = canvas.bounding_box()
    assert box is not None
    for part in range(10):  # black, the brush's first color, over the left half
        x = box["x"] + box["width"] * (0.02 + part * 0.05)
        ui.page.mouse.move(x, box["y"] + 3)
        ui.page.mouse.down()
        ui.page.mouse.move(x, box["y"] + box["height"] - 3, steps=6)
        ui.page.mouse.up()
    ui.find("oms_brush_shown", "img").wait_for()  # what will be followed
    asked = brightness(wait_for_sketch(ui, "left"))
    ui.generate()
    assert "OMS source: brush" in ui.infotext
    picture, infotext = ui.picture, ui.infotext
    assert abs(brightness(picture) - asked) < 0.15
    assert right_over_left(picture) > 0.1

    ui.find("oms_brush_dark_right").click()  # one that needs no hand
    asked = brightness(wait_for_sketch(ui, "right"))
    ui.generate()
    assert abs(brightness(ui.picture) - asked) < 0.15
    assert right_over_left(ui.picture) < -0.1

    ui.follow("prompt")
    ui.paste(infotext)
    assert ui.page.locator("#oms_source input[value=brush]").is_checked()
    ui.generate()
    assert ui.picture.tobytes() == picture.tobytes()


def test_the_brush_paints_in_its_color_shows_what_is_followed_and_can_be_cleared(ui: WebUIPage) -> None:
    ui.open_accordion()
    ui.follow("brush")
    canvas = ui.page.locator("#oms_brush_canvas canvas")
    ui.page.get_by_role("button", name="Paint white").click()
    canvas.click()
    ui.page.wait_for_function("document.querySelector('#oms_brush :is(textarea, input)').value !== ''")
    sketch = Image.open(io.BytesIO(base64.b64decode(ui.text("oms_brush").input_value()))).convert("RGB")
    assert sketch.size == (16, 12)
    assert min(sketch.getpixel((8, 6))) > 230
    assert sketch.getpixel((1, 1)) == (128, 128, 128)  # the sheet, which says nothing
    ui.find("oms_brush_dark_right").click()
    shown = "document.querySelector('#oms_brush_canvas canvas').getContext('2d').getImageData(0, 96, 256, 1).data"
    ui.page.wait_for_function(f"{shown}[1000] < 20")
    assert ui.page.evaluate(f"{shown}[20]") > 235
    ui.page.locator("#oms_brush_canvas").get_by_role("button", name="Clear").click()
    assert ui.text("oms_brush").input_value() == ""
    assert ui.page.evaluate(f"{shown}[1000]") == 128


def test_a_page_load_asks_the_queue_for_one_thing(demo: DemoProcess) -> None:
    """Of several, gradio 4.40 loses what is asked for while it closes the stream after the first."""
    config = requests.get(f"{demo.url}/config", timeout=60).json()
    ids = {part["id"]: part["props"].get("elem_id") or "" for part in config["components"]}
    # gradio 3 names a load "load", with no target; gradio 4 by the target's event
    loads = [one for one in config["dependencies"] if one.get("trigger") == "load" or [None, "load"] in one["targets"]]
    assert [ids[output] for one in loads for output in one["outputs"] if "oms_" in ids[output]] == ["oms_page_loaded"]


def test_what_is_pressed_while_gradio_closes_its_stream_of_results_is_not_lost(ui: WebUIPage) -> None:
    fill_in(ui, steps=1)
    ui.open_accordion()
    ui.page.evaluate(CLOSES_LATE)
    ui.press_generate()
    ui.find("html_log_txt2img", ".performance").wait_for()
    ui.follow("color")
    ui.find("oms_color").wait_for(state="visible", timeout=20_000)
    ui.rest()


CLOSES_LATE = """() => {
    const ask = window.fetch;
    window.fetch = async (...asked) => {
        const answer = await ask(...asked);
        if (!answer.url.includes("/queue/data")) return answer;
        const reader = answer.body.getReader(), reads = new TextDecoder(), writes = new TextEncoder();
        const body = new ReadableStream({
            async start(stream) {
                for (let part = await reader.read(); !part.done; part = await reader.read()) {
                    for (const message of reads.decode(part.value).split(/(?<=\\n\\n)/)) {
                        if (message.includes("close_stream")) await new Promise((wait) => setTimeout(wait, 3000));
                        stream.enqueue(writes.encode(message));
                    }
                }
                stream.close();
            },
            cancel: (reason) => reader.cancel(reason),
        });
        return new Response(body, {headers: answer.headers, status: answer.status});
    };
}"""
"""Gradio 4's message that no result will come any more arrives three seconds after the last one, as if the machine or
the network were busy."""


def test_a_page_at_rest_draws_nothing(ui: WebUIPage) -> None:
    """What the sampler's GPU would have to do beside the picture."""
    ui.open_accordion()
    ui.follow("brush")
    ui.follow("prompt")
    ui.page.wait_for_timeout(3000)
    frames, asked = ui.page.evaluate(
        """() => new Promise((done) => {
            const ask = window.requestAnimationFrame.bind(window), began = performance.now();
            let frames = 0, asked = 0;
            window.requestAnimationFrame = (call) => { asked += 1; return ask(call); };
            const count = () => { frames += 1; performance.now() - began < 3000 ? ask(count) : done([frames, asked]); };
            ask(count);
        })"""
    )
    assert asked < frames / 2


def wait_for_sketch(ui: WebUIPage, dark: str) -> Image.Image:
    """What will be followed, as soon as its left or its right side is the dark one and has been for a while."""
    last = ""
    for _ in range(100):
        ui.page.wait_for_timeout(1000)
        text = ui.text("oms_brush").input_value()
        if text and text == last:
            sketch = Image.open(io.BytesIO(base64.b64decode(text))).convert("L")
            left, right = (sketch.getpixel((x, sketch.height // 2)) for x in (1, sketch.width - 2))
            if (dark == "left") == (left < right):
                return sketch
        last = text
    raise AssertionError(f"the sketch is {last!r}")


def test_a_pasted_exactness_stays_and_a_chosen_source_brings_its_own(ui: WebUIPage) -> None:
    ui.open_accordion()
    ui.follow("color")
    ui.page.wait_for_function("document.querySelector('#oms_quiet input[type=number]').value === '6'")
    for written, expected in (("OMS source: color, OMS color: #336699, OMS quiet: 2", "2"), ("OMS source: brush", "0")):
        ui.follow("none")
        ui.paste(f"{PROMPT}\nSteps: 1, Sampler: Euler, Seed: 1, OMS: True, {written}")
        ui.page.wait_for_timeout(1500)  # what follows a change of the source comes later
        assert ui.number("oms_quiet").input_value() == expected


def test_a_pasted_guidance_beyond_the_slider_stays_and_is_used(ui: WebUIPage) -> None:
    fill_in(ui, steps=1)
    ui.unfold("advanced")
    ui.paste(f"{PROMPT}\nSteps: 1, Sampler: Euler, Seed: 1, OMS: True, OMS prompt: night, OMS guidance scale: 5.0")
    field = ui.number("oms_guidance_scale")
    assert field.input_value() == "5"
    field.focus()  # gradio brings a number back into its slider's bounds where a person leaves the field
    field.press("Tab")
    ui.page.wait_for_timeout(1000)
    assert field.input_value() == "5"
    ui.generate()
    assert "OMS guidance scale: 5.0" in ui.infotext


def test_away_from_acts_only_beside_guidance(ui: WebUIPage) -> None:
    ui.unfold("advanced")
    assert ui.text("oms_negative_prompt").is_disabled()
    ui.set_number("oms_guidance_scale", 1.5)
    ui.page.wait_for_function("!document.querySelector('#oms_negative_prompt textarea').disabled")
    ui.write("oms_negative_prompt", "fog")
    ui.set_number("oms_guidance_scale", 1)
    ui.page.wait_for_function("document.querySelector('#oms_negative_prompt textarea').disabled")
    assert ui.text("oms_negative_prompt").input_value() == "fog"


def test_a_screen_reader_finds_a_name_for_every_control(ui: WebUIPage) -> None:
    """What is in sight, with everything unfolded, for every source."""
    ui.unfold()
    for source in ("prompt", "color", "picture", "brush", "style", "none"):
        ui.follow(source)
        ui.page.wait_for_timeout(500)
        assert ui.page.evaluate(NAMELESS) == [], source
    tree = ui.find("oms_enabled").aria_snapshot()
    for words in ('radio "Only the sliders"', "How strongly", "Exactness", "Layout", "Away from", "OMS model"):
        assert words in tree, words


NAMELESS = """() => {
    const named = (e) => e.getAttribute("aria-label") || e.title || e.alt || e.placeholder || e.innerText?.trim()
        || (e.id && document.querySelector(`label[for="${CSS.escape(e.id)}"]`)?.innerText.trim())
        || e.closest("label")?.innerText.trim();
    const others = "[type=file], .input-accordion-checkbox, [data-testid=number-input]:not([aria-label])";
    const seen = (e) => e.offsetParent !== null && !e.matches(others);
    return [...document.querySelectorAll("#oms_enabled :is(input, textarea, select, button)")]
        .filter((e) => seen(e) && !named(e)).map((e) => e.outerHTML.slice(0, 200));
}"""
"""The controls in sight that have neither a label nor another name. The tick in the header is the host's, and gradio 3
gives no name to the number beside a slider, which has one."""


def test_the_keyboard_is_enough(ui: WebUIPage) -> None:
    fill_in(ui, steps=1)
    ui.open_accordion()
    ui.page.locator("#oms_source input[value=prompt]").focus()
    color = ui.page.locator("#oms_source input[value=color]")
    ui.page.keyboard.press("ArrowRight")
    if not color.is_checked():  # gradio 4's radio buttons are no group: tab and space
        ui.page.keyboard.press("Tab")
        ui.page.keyboard.press("Space")
    assert color.is_checked()
    ui.find("oms_color").wait_for()
    ui.follow("prompt")
    ui.find("oms_prompt").wait_for()
    while ui.page.evaluate("document.activeElement.closest('#oms_source') !== null"):
        ui.page.keyboard.press("Tab")
    ui.page.keyboard.type("night")
    assert ui.text("oms_prompt").input_value() == "night"
    reached = []
    while "oms_library" not in reached and len(reached) < 60:
        ui.page.keyboard.press("Tab")
        reached.append(ui.page.evaluate("document.activeElement.closest('[id^=oms_]')?.id"))
        if reached[-1] == "oms_advanced":
            ui.page.keyboard.press("Enter")
            ui.find("oms_quiet").wait_for()
            ui.page.keyboard.press("Enter")
            ui.find("oms_quiet").wait_for(state="hidden")
    assert {"oms_chips", "oms_preview", "oms_strength", "oms_preset_0", "oms_presets", "oms_advanced"} <= set(reached)
    assert reached[-1] == "oms_library"


def test_the_infotext_below_the_picture_brings_everything_back(ui: WebUIPage) -> None:
    fill_in(ui, steps=3, seed=11)
    set_oms(ui, OMS)
    ui.generate()
    picture, infotext = ui.picture, ui.infotext
    for words in (
        PROMPT,
        "Steps: 3",
        "Seed: 11",
        "OMS: True",
        f"OMS model: {MODEL.name} [",
        "OMS guidance scale: 1.5",
        "OMS eta: 0.25",
        'OMS negative prompt: "day, noon"',
    ):
        assert words in infotext
    assert picture.info["parameters"] == infotext

    fill_in(ui, steps=5, seed=12)
    set_oms(ui, (False, "Automatic", "", 1.0, 0.0, ""))
    ui.generate()
    assert "OMS" not in ui.infotext
    assert ImageChops.difference(ui.picture, picture).getbbox()

    ui.paste(infotext)
    assert ui.oms_fields == OMS
    assert ui.text("txt2img_prompt").input_value() == PROMPT
    assert ui.number("txt2img_steps").input_value() == "3"
    assert ui.number("txt2img_seed").input_value() == "11"
    ui.generate()
    assert ui.infotext == infotext
    assert ui.picture.tobytes() == picture.tobytes()


def test_the_infotext_of_a_plain_picture_unticks(ui: WebUIPage) -> None:
    fill_in(ui, steps=1)
    ui.generate()
    ui.tick.check()
    ui.paste(ui.infotext)
    assert not ui.tick.is_checked()
    ui.generate()
    assert "OMS" not in ui.infotext


def test_a_module_that_is_gone_is_an_error_on_the_page(ui: WebUIPage, demo: DemoProcess) -> None:
    demo.add_module("vanishing")
    fill_in(ui, steps=1)
    ui.tick.check()
    ui.unfold("library")
    ui.find("oms_module_refresh").click()  # the module was added after the page was made
    ui.choose("oms_module", "vanishing")
    shutil.rmtree(demo.modules / "vanishing")
    ui.generate()
    assert "One More Step: there is no OMS model named 'vanishing'" in ui.message
    assert MODEL.name in ui.message  # what there is instead
    assert ui.find("html_log_txt2img", ".error").is_visible()
    assert ui.page.locator("#txt2img_gallery img").count() == 0

    ui.choose("oms_module", "Automatic")
    ui.generate()
    assert "OMS: True" in ui.infotext
    assert "One More Step" not in ui.message


def test_a_pasted_infotext_that_names_an_unknown_module_is_an_error_on_the_page(ui: WebUIPage) -> None:
    ui.paste(f"{PROMPT}\nSteps: 1, Sampler: Euler, Seed: 1, OMS: True, OMS model: lost [0123456789]")
    assert ui.tick.is_checked()
    ui.press_generate()
    ui.find("html_log_txt2img").get_by_text("lost [0123456789]").wait_for()
    assert ui.find("oms_module_note", ".error").is_visible()  # unfolded for that
    assert ui.page.locator("#txt2img_gallery img").count() == 0


def test_a_picture_to_which_the_step_does_not_apply_says_so_on_the_page(ui: WebUIPage) -> None:
    ui.paste(f"{PROMPT}\nSteps: 1, Sampler: DDIM, Seed: 1, OMS: True")
    ui.generate()
    assert ui.picture.size == (256, 256)
    assert "One More Step skipped: DDIM with 1 step does not call the model at all" in ui.message
    assert "OMS skipped: DDIM with 1 step" in ui.infotext
    assert "OMS: True" not in ui.infotext


@pytest.mark.parametrize("ui", ["light", "dark"], indirect=True)
def test_both_themes_are_readable(ui: WebUIPage, request: pytest.FixtureRequest) -> None:
    dark = request.node.callspec.params["ui"] == "dark"
    assert ui.page.evaluate("document.querySelector('.dark') !== null") == dark
    fill_in(ui, steps=1)
    ui.paste(f"{PROMPT}\nSteps: 1, Sampler: DDIM, Seed: 1, OMS: True")
    ui.generate()
    for selector in (
        "#oms_enabled .label-wrap span",
        "#oms_source label.selected span",
        "#oms_prompt textarea",
        "#oms_module input",
        "#oms_eta input[type=number]",
        "#html_info_txt2img p",
        "#html_log_txt2img .comments",
    ):
        assert contrast(ui.page, selector) > 4.5, selector
