"""What the page says of modules, in real Chromium: what Automatic stands for, what a pasted picture chooses, what is
there; anew whenever the page is loaded.
"""

import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import requests
from browser_helpers import PATIENCE, DemoProcess, WebUIPage
from safetensors.torch import load_file, save_file
from untrained_helpers import place_untrained

pytest.importorskip("gradio")

if TYPE_CHECKING:
    from playwright.sync_api import BrowserContext

SD, SDXL = "embedded", "embedded-second"
"""The two checkpoints: the host takes one for an SD1.x and the other for an SDXL."""
PROMPT = "a red circle"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "plain"
    place_untrained(folder)
    for part, family in (("unet", "sd1"), ("unet_second", "sdxl")):
        (weights,) = (folder / part).glob("*.safetensors")
        save_file(load_file(weights), weights, {"format": "pt", "demo.family": family})
    return folder


@pytest.fixture(scope="module")
def demo(browser: str, model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[DemoProcess]:
    with DemoProcess(tmp_path_factory.mktemp("demo"), "--model", str(model)) as running:
        yield running


@pytest.fixture(autouse=True)
def _no_modules_and_sd(demo: DemoProcess) -> None:
    for path in demo.modules.iterdir():
        shutil.rmtree(path)
    use(demo, SD)


@pytest.fixture
def ui(demo: DemoProcess, context: "BrowserContext") -> Iterator[WebUIPage]:
    ui = WebUIPage(context, demo.url)
    ui.unfold("library")
    yield ui
    ui.page.close()
    assert ui.troubles == []


def use(demo: DemoProcess, checkpoint: str) -> None:
    requests.post(f"{demo.url}/sdapi/v1/options", json={"sd_model_checkpoint": checkpoint}, timeout=60)


def add(demo: DemoProcess, model: Path, name: str, latents: str, factor: float = 1.0) -> None:
    """Puts a module for these latents into the models folder."""
    folder = demo.modules / name
    for part in ("oms_module", "text_encoder", "tokenizer"):
        shutil.copytree(model / part, folder / part)
    (weights,) = (folder / "oms_module").glob("*.safetensors")
    tensors = {key: tensor * factor for key, tensor in load_file(weights).items()}
    save_file(tensors, weights, {"oms.latents": latents, "oms.text_encoder": "openclip"})


def reload(ui: WebUIPage) -> None:
    ui.reload()
    ui.unfold("library")


def wait_for_note(ui: WebUIPage, words: str) -> str:
    ui.page.wait_for_function(
        "words => document.querySelector('#oms_module_note')?.innerText.includes(words)", arg=words
    )
    return ui.find("oms_module_note").inner_text()


def offered(ui: WebUIPage) -> list[str]:
    """The dropdown's choices, as it lists them."""
    ui.text("oms_module").click()
    ui.find("oms_module", "[data-testid=dropdown-option]").wait_for()
    found = ui.page.locator("#oms_module [data-testid=dropdown-option]").all_inner_texts()
    ui.text("oms_module").press("Tab")
    return [text.replace("\u2713", "").strip() for text in found]


def wait_for_offer(ui: WebUIPage, expected: list[str]) -> None:
    """The line below the dropdown also comes by the tick, so it may be there before the choices are."""
    give_up = time.monotonic() + PATIENCE
    while (found := offered(ui)) != expected and time.monotonic() < give_up:
        ui.page.wait_for_timeout(300)
    assert found == expected


def generate(ui: WebUIPage) -> str:
    ui.write("txt2img_prompt", PROMPT)
    ui.set_number("txt2img_steps", 1)
    ui.tick.check()
    ui.generate()
    return ui.infotext


def test_the_page_is_made_anew_whenever_it_is_loaded(ui: WebUIPage, demo: DemoProcess, model: Path) -> None:
    """No OMS model at first: a line on top says so as long as that is true."""
    banner = ui.find("oms_banner")
    wait_for_note(ui, "there is no OMS model yet for the checkpoint embedded (SD1/SD2). Press Download")
    banner.wait_for()
    assert "Prompts need an OMS model for this SD1/SD2 checkpoint." in banner.inner_text()
    assert "Download 989 MB" in banner.inner_text()
    assert offered(ui) == ["Automatic"]
    assert ui.find("oms_library", ".label-wrap").inner_text().startswith("OMS models: none for this checkpoint")

    add(demo, model, "dark", "sd")
    add(demo, model, "a-wide-one", "sdxl")
    reload(ui)
    wait_for_note(ui, "Automatic is now dark, for the checkpoint embedded (SD1/SD2).")
    wait_for_offer(ui, ["Automatic", "dark", "a-wide-one"])  # what fits stands first
    banner.wait_for(state="hidden")
    assert ui.find("oms_library", ".label-wrap").inner_text().startswith("OMS models: Automatic is dark")
    assert ui.chosen("oms_module") == "Automatic"

    shutil.rmtree(demo.modules / "dark")
    reload(ui)
    wait_for_note(ui, "there is no OMS model yet for the checkpoint embedded (SD1/SD2)")
    banner.wait_for()  # what is there is for other checkpoints


def test_the_line_below_the_dropdown_follows_it_and_the_checkpoint(
    ui: WebUIPage, demo: DemoProcess, model: Path
) -> None:
    add(demo, model, "dark", "sd")
    add(demo, model, "wide", "sdxl")
    ui.find("oms_module_refresh").click()
    wait_for_note(ui, "Automatic is now dark")
    ui.choose("oms_module", "wide")
    wait_for_note(
        ui,
        "wide is for SDXL; it cannot be used with the checkpoint embedded (SD1/SD2). Choose Automatic, "
        "which is now dark.",
    )
    use(demo, SDXL)
    ui.find("oms_module_refresh").click()
    wait_for_note(ui, "wide fits the checkpoint embedded-second (SDXL).")
    assert ui.chosen("oms_module") == "wide"
    ui.choose("oms_module", "Automatic")
    wait_for_note(ui, "Automatic is now wide, for the checkpoint embedded-second (SDXL).")


def test_a_picture_made_with_automatic_is_pasted_as_automatic(ui: WebUIPage, demo: DemoProcess, model: Path) -> None:
    add(demo, model, "dark", "sd")
    add(demo, model, "wide", "sdxl", factor=0.5)
    ui.find("oms_module_refresh").click()
    wait_for_note(ui, "Automatic is now dark")
    infotext = generate(ui)
    assert "OMS model: dark [" in infotext
    assert "OMS model choice: Automatic" in infotext
    ui.choose("oms_module", "wide")
    ui.paste(infotext)
    assert ui.chosen("oms_module") == "Automatic"
    ui.generate()
    assert ui.infotext == infotext

    # After a change to SDXL, Automatic is another module: the picture's own is named, and the page says that it
    # does not fit.
    use(demo, SDXL)
    ui.paste(infotext.partition(", Model hash")[0] + ", OMS" + infotext.partition(", OMS")[2])
    assert ui.chosen("oms_module") == "dark"
    wait_for_note(
        ui,
        "dark is for SD1/SD2; it cannot be used with the checkpoint embedded-second (SDXL). Choose "
        "Automatic, which is now wide.",
    )
    assert ui.find("oms_module_note", ".error").is_visible()

    # One that was chosen by its name comes back by its name.
    use(demo, SD)
    ui.choose("oms_module", "dark")
    infotext = generate(ui)
    assert "OMS model choice" not in infotext
    ui.choose("oms_module", "Automatic")
    ui.paste(infotext)
    assert ui.chosen("oms_module") == "dark"


def test_a_pasted_module_is_seen_whether_the_page_knew_it_or_not(ui: WebUIPage, demo: DemoProcess, model: Path) -> None:
    add(demo, model, "dark", "sd")
    # It was added after the page was made.
    ui.paste(f"{PROMPT}\nSteps: 1, Sampler: Euler, Seed: 1, OMS: True, OMS model: dark")
    assert ui.chosen("oms_module") == "dark"
    ui.generate()
    assert "OMS model: dark [" in ui.infotext

    ui.paste(f"{PROMPT}\nSteps: 1, Sampler: Euler, Seed: 1, OMS: True, OMS model: lost [0123456789]")
    assert ui.chosen("oms_module") == "lost [0123456789]"
    wait_for_note(
        ui, "There is no OMS model named lost [0123456789] here. Choose another one, or Automatic, which is now dark."
    )
    ui.generate()
    assert "lost [0123456789]" in ui.message
    ui.choose("oms_module", "Automatic")
    ui.generate()
    assert "OMS model: dark [" in ui.infotext


def test_the_list_shows_what_fits_first_and_neither_the_demo_nor_a_mirror(
    ui: WebUIPage, demo: DemoProcess, model: Path
) -> None:
    add(demo, model, "wide", "sdxl")
    add(demo, model, "dark", "sd")
    (demo.modules / "broken").mkdir()
    (demo.modules / "broken" / "x.safetensors").write_bytes(b"\0" * 20)
    reload(ui)
    ui.page.wait_for_function("document.querySelector('#oms_library_table').innerText.includes('broken/x')")
    ui.page.wait_for_function("document.querySelectorAll('.oms-offer b').length === 3")
    here, text = ui.find("oms_library_table").inner_text(), ui.find("oms_library").inner_text()
    order = [
        *("dark", "for this checkpoint", "wide", "for SDXL", "broken/x", "cannot be used"),
        *("oms_b_openclip_15_21", "for this checkpoint", "OpenRAIL++", "Download 989 MB"),
        *("oms_b_openclip_xl", "oms_l_mixclip_xl"),
    ]
    rest = text[text.index(here[:20]) :]
    for words in order:
        assert words in rest, words
        rest = rest[rest.index(words) + len(words) :]
    assert "demo" not in here
    assert "mirror" not in text
    assert str(demo.modules) not in text
    assert "ready, taken by Automatic" in here[here.index("dark") : here.index("wide")]
    assert not ui.find("oms_download_cancel").is_visible()
