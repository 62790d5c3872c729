"""What a person who made a mistake sees on the page, in real Chromium, and what the console shows meanwhile."""

import re
import socket
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from browser_helpers import DemoProcess, WebUIPage, contrast
from safetensors.torch import load_file, save_file

pytest.importorskip("gradio")

if TYPE_CHECKING:
    from playwright.sync_api import BrowserContext

NAME = "oms_b_openclip_xl"


@pytest.fixture(scope="module")
def demo(browser: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[DemoProcess]:
    """The hub's address is one at which nobody answers; one module is for other latents than the demo's."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{taken.getsockname()[1]}"
        with DemoProcess(tmp_path_factory.mktemp("demo"), hub=nobody) as running:
            (weights,) = (running.add_module("wide") / "oms_module").glob("*.safetensors")
            save_file(load_file(weights), weights, {"oms.latents": "sdxl"})
            yield running


@pytest.fixture(params=["light", "dark"])
def ui(demo: DemoProcess, context: "BrowserContext", request: pytest.FixtureRequest) -> Iterator[WebUIPage]:
    ui = WebUIPage(context, demo.url, request.param)
    ui.open_accordion()
    yield ui
    ui.page.close()


def color(ui: WebUIPage, selector: str) -> tuple[int, ...]:
    told = ui.page.evaluate("selector => getComputedStyle(document.querySelector(selector)).color", selector)
    numbers = [float(number) for number in re.findall(r"[\d.]+", told)[:3]]
    return tuple(round(255 * number) for number in numbers) if "srgb" in told else tuple(map(int, numbers))


def test_a_module_that_does_not_fit(ui: WebUIPage, demo: DemoProcess) -> None:
    ui.set_number("txt2img_steps", 2)
    ui.unfold("library")
    ui.find("oms_module_refresh").click()
    ui.choose("oms_module", "wide")
    before = demo.log
    ui.generate()
    told = ui.find("html_log_txt2img", ".error").inner_text()
    assert told.startswith("One More Step: the OMS model 'wide' is for latents of SDXL, which the loaded checkpoint")
    assert "The one for the loaded checkpoint is " in told
    assert told.count("One More Step") == 1
    assert "Error" not in told
    said = demo.log.removeprefix(before)
    assert "exception occurred" not in said
    assert "direct cause" not in said
    assert len(said.splitlines()) < 30, said
    assert told in said
    assert ui.page.locator("#txt2img_gallery img").count() == 0


def test_no_network(ui: WebUIPage, demo: DemoProcess) -> None:
    ui.unfold("library")
    ui.download_button(NAME).click()
    error = ui.find("oms_download_status", ".error")
    error.wait_for()
    told = error.inner_text()
    assert re.match(r"http://127.0.0.1:\d+ cannot be reached: nothing answers there", told)
    assert f"Or put the files there by hand, in folders of these names, into {demo.modules / NAME}: oms_module/" in told
    assert "stabilityai" not in told
    red, green, blue = color(ui, "#oms_download_status .error")
    assert red > 2 * max(green, blue)
    assert contrast(ui.page, "#oms_download_status .error") > 4
    assert sorted(path.name for path in demo.modules.iterdir()) == ["wide"]
    assert not any(path.name.startswith(".download") for path in (demo.modules.parent).rglob("*"))
