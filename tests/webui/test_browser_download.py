"""The list of modules on the page and its Download button, in real Chromium, from a hub on loopback."""

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from browser_helpers import DemoProcess, WebUIPage
from hub_server import Hub
from module_helpers import tiny_psi
from published_helpers import ENCODER_WEIGHTS, ENCODERS, MODULE, NAME

pytest.importorskip("gradio")

if TYPE_CHECKING:
    from playwright.sync_api import BrowserContext


@pytest.fixture(scope="module")
def demo(browser: str, hub: Hub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[DemoProcess]:
    with DemoProcess(tmp_path_factory.mktemp("demo"), hub=hub.url) as running:
        yield running


@pytest.fixture
def ui(demo: DemoProcess, context: "BrowserContext") -> "Iterator[WebUIPage]":
    ui = _page(context, demo.url)
    yield ui
    ui.page.close()


def _page(context: "BrowserContext", url: str) -> WebUIPage:
    ui = WebUIPage(context, url)
    ui.unfold("library")
    ui.download_button(NAME).wait_for()
    return ui


def press_download(ui: WebUIPage, before: str) -> None:
    """Presses until the text `before` is gone: gradio takes no press before it has shown the last one's end."""
    while before in ui.find("oms_download_status").inner_text():
        ui.download_button(NAME).click()
        ui.page.wait_for_timeout(500)


def test_download_fails_is_cancelled_and_succeeds(ui: WebUIPage, hub: Hub, demo: DemoProcess) -> None:
    table, status = ui.find("oms_library_table"), ui.find("oms_download_status")
    assert NAME not in table.inner_text()
    assert not ui.find("oms_download_cancel").is_visible()  # there is nothing to cancel

    ui.download_button("oms_l_mixclip_xl").click()
    ui.find("oms_download_status").get_by_text("the server wants to know who asks (401)").wait_for()
    assert ui.find("oms_download_status", ".error").is_visible()

    hub.slow = 0.5
    hub.repositories[ENCODERS[0]][ENCODER_WEIGHTS] += b"\0" * 30_000_000
    press_download(ui, before="(401)")
    ui.find("oms_download_status", "[role=progressbar]").wait_for()
    assert NAME in status.inner_text()
    ui.find("oms_download_cancel").click()
    hub.slow = 0
    ui.find("oms_download_status").get_by_text("start it again to continue").wait_for()
    assert not (demo.modules / NAME).exists()
    hub.repositories[ENCODERS[0]][ENCODER_WEIGHTS] = hub.repositories[ENCODERS[0]][ENCODER_WEIGHTS][:-30_000_000]

    hub.slow = 0.5
    hub.repositories[ENCODERS[0]][ENCODER_WEIGHTS] += b"\0" * 30_000_000
    press_download(ui, before="start it again")
    bar = ui.find("oms_download_status", "[role=progressbar]")
    bar.wait_for()
    ui.reload()
    bar.wait_for(state="attached")  # a download goes on when its page is loaded again, and is seen there
    ui.unfold("library")
    ui.find("oms_download_cancel").click()
    ui.find("oms_download_status").get_by_text("start it again to continue").wait_for()
    hub.slow = 0
    hub.repositories[ENCODERS[0]][ENCODER_WEIGHTS] = hub.repositories[ENCODERS[0]][ENCODER_WEIGHTS][:-30_000_000]

    press_download(ui, before="start it again")
    ui.find("oms_download_status").get_by_text(f"{NAME} is there.").wait_for()
    ui.page.wait_for_function(f"document.querySelector('#oms_library_table').innerText.includes('{NAME}')")
    (row,) = table.locator(".oms-line", has_text=NAME).all_inner_texts()
    assert "for SD1/SD2" in row
    assert "ready" in row
    assert not ui.download_button(NAME).is_visible()
    assert not ui.find("oms_download_cancel").is_visible()
    assert MODULE.split("/")[1] == NAME
    ui.choose("oms_module", NAME)
    assert ui.chosen("oms_module") == NAME
    assert f"Downloading {NAME}" in demo.log
    assert re.search(r"One More Step: +\d+%\|", demo.log), "progress in the console, too"

    # A file that somebody drops there appears when the page is loaded again, and by the refresh button.
    tiny_psi(24, metadata={"oms.latents": "sdxl"}).save_pretrained(demo.modules / "sub" / "dropped.safetensors")
    ui.find("oms_module_refresh").click()
    ui.page.wait_for_function("document.querySelector('#oms_library_table').innerText.includes('sub/dropped')")
    (demo.modules / "sub" / "dropped.safetensors").unlink()
    ui.reload()
    ui.page.wait_for_function("document.querySelector('#oms_library_table')?.textContent.includes('SD1/SD2')")
    assert "dropped" not in table.text_content()
