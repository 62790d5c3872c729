"""Somebody's first time: nothing is there, one button brings what prompts need, and then it is out of the way."""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from browser_helpers import DemoProcess, WebUIPage
from hub_server import Hub
from published_helpers import ENCODER_WEIGHTS, ENCODERS, NAME
from safetensors.torch import load_file, save_file
from untrained_helpers import place_untrained

pytest.importorskip("gradio")

if TYPE_CHECKING:
    from playwright.sync_api import BrowserContext


@pytest.fixture(scope="module")
def demo(browser: str, hub: Hub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[DemoProcess]:
    """The host takes its checkpoint for an SD1.x."""
    model = place_untrained(tmp_path_factory.mktemp("models") / "plain")
    _like_sd1(model)
    with DemoProcess(tmp_path_factory.mktemp("demo"), "--model", str(model), hub=hub.url) as running:
        yield running


def _like_sd1(model: Path) -> None:
    (weights,) = (model / "unet").glob("*.safetensors")
    save_file(load_file(weights), weights, {"format": "pt", "demo.family": "sd1"})


def test_one_button_brings_what_prompts_need(demo: DemoProcess, hub: Hub, context: "BrowserContext") -> None:
    from playwright.sync_api import TimeoutError as Gone

    ui = WebUIPage(context, demo.url)
    ui.open_accordion()
    banner, button, status = (ui.find(f"oms_banner{part}") for part in ("", "_download", "_status"))
    banner.wait_for()
    assert "Color, Picture and Brush work without." in banner.inner_text()
    assert button.inner_text() == "Download 989 MB"
    assert not ui.find("oms_banner_cancel").is_visible()

    weights = hub.repositories[ENCODERS[0]]
    hub.slow, weights[ENCODER_WEIGHTS] = 0.5, weights[ENCODER_WEIGHTS] + b"\0" * 30_000_000
    button.click()
    ui.find("oms_banner_status", "[role=progressbar]").wait_for()
    assert NAME in status.inner_text()
    ui.find("oms_banner_cancel").click()
    hub.slow, weights[ENCODER_WEIGHTS] = 0, weights[ENCODER_WEIGHTS][:-30_000_000]
    status.get_by_text("start it again to continue").wait_for()
    ui.find("oms_banner_cancel").wait_for(state="hidden")
    assert banner.is_visible()

    while banner.is_visible():  # gradio takes no press before it has shown the last one's end
        with suppress(Gone):  # it may go just now
            button.click(timeout=1000)
        ui.page.wait_for_timeout(1000)
    assert (demo.modules / NAME).is_dir()
    ui.page.wait_for_function(f"document.querySelector('#oms_library').innerText.includes('Automatic is {NAME}')")
    ui.page.close()
