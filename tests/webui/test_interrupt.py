"""While the step is at work the page says what it does, and Interrupt and Skip are heeded between its parts.

Each part is held up where it begins until the interruption has come in over the API; then the real part goes on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import requests
from extension_helpers import WebUI

from lib_oms.library import text_sources
from lib_oms.module import OMSModule
from lib_oms.text import TextEncoder

pytest.importorskip("gradio")

MODULE = "untrained"
PARTS = ("load text encoder", "load psi", "encode", "encode", "psi", "psi")
"""In their order, for two pictures at a guidance scale other than 1."""
TOLD = {
    "load text encoder": f"Loading the text encoder of OMS model {MODULE}",
    "load psi": f"Loading OMS model {MODULE}",
    "encode": "One More Step: reading the prompt",
    "psi": "One More Step",
}


@pytest.fixture(scope="module")
def webui(start_webui: Callable[..., WebUI]) -> WebUI:
    return start_webui("forge")


class Parts(list):
    """The parts that were begun, with what the page said then; `then` is called as the one of number `at` begins."""

    at, then = -1, staticmethod(lambda: None)

    def begun(self, webui: WebUI, part: str) -> None:
        self.append((part, webui.get("/sdapi/v1/progress").json()["textinfo"]))
        if len(self) - 1 == self.at:
            self.then()


@pytest.fixture
def parts(webui: WebUI, monkeypatch: pytest.MonkeyPatch) -> Parts:
    from lib_oms.webui.loaded import LOADED

    LOADED.clear()
    parts = Parts()

    def told(owner: Any, name: str, part: str) -> None:
        real: Callable[..., Any] = getattr(owner, name)

        def begins(*args: Any, **kwargs: Any) -> Any:
            if not kwargs.get("headers_only"):
                parts.begun(webui, part)
            return real(*args, **kwargs)

        monkeypatch.setattr(owner, name, begins)

    told(text_sources, "load_text_encoder", "load text encoder")
    told(OMSModule, "from_pretrained", "load psi")
    told(TextEncoder, "encode_each", "encode")
    told(OMSModule, "answer", "psi")
    return parts


def ask(webui: WebUI) -> Any:
    return webui.txt2img(True, MODULE, "night", 1.5, sampler_name="Euler", batch_size=2)


def textinfo(webui: WebUI) -> str | None:
    return webui.get("/sdapi/v1/progress").json()["textinfo"]


def test_the_page_says_what_is_done(webui: WebUI, parts: Parts) -> None:
    made = ask(webui)
    assert parts == [(part, TOLD[part]) for part in PARTS]
    assert "OMS: True" in made.infotext
    assert textinfo(webui) is None


@pytest.mark.parametrize("how", ["interrupt", "skip"])
@pytest.mark.parametrize("at", range(len(PARTS) - 1), ids=[f"{i} {part}" for i, part in enumerate(PARTS[:-1])])
def test_after_an_interruption_no_other_part_begins(webui: WebUI, parts: Parts, at: int, how: str) -> None:
    parts.at = at
    parts.then = lambda: requests.post(f"{webui.url}/sdapi/v1/{how}", timeout=60).raise_for_status()
    made = ask(webui)
    assert [part for part, _ in parts] == list(PARTS[: at + 1])
    assert made.seen == [], "the host itself ends the picture before its first step"
    assert "OMS skipped: the picture was interrupted before the step was taken" in made.infotext
    assert "OMS: True" not in made.infotext
    assert textinfo(webui) is None
    parts.clear()
    parts.at = -1
    assert "OMS: True" in ask(webui).infotext, "and the next picture has it again"


def test_an_interruption_is_no_failure(webui: WebUI, parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    """The picture is that which an interruption leaves where the step is off."""
    from modules import shared

    parts.at, parts.then = 1, shared.state.interrupt
    interrupted = ask(webui)
    denoiser = _interrupted_at_once(webui, monkeypatch)
    assert interrupted.pixels == denoiser.pixels


def _interrupted_at_once(webui: WebUI, monkeypatch: pytest.MonkeyPatch) -> Any:
    from modules import processing, shared

    real = processing.StableDiffusionProcessingTxt2Img.sample

    def sample(*args: Any, **kwargs: Any) -> Any:
        shared.state.interrupt()
        return real(*args, **kwargs)

    monkeypatch.setattr(processing.StableDiffusionProcessingTxt2Img, "sample", sample)
    return webui.txt2img(sampler_name="Euler", batch_size=2)


def test_to_stop_after_this_picture_leaves_this_one_whole(webui: WebUI, parts: Parts) -> None:
    from modules import shared

    parts.at, parts.then = 0, shared.state.stop_generating
    assert "OMS: True" in ask(webui).infotext
    assert len(parts) == len(PARTS)
