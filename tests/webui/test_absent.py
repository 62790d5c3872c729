"""The WebUI without the extension, and with one that cannot make its page: it starts, and says what is wrong."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from browser_helpers import host_style
from extension_helpers import RequestFailed, WebUI
from untrained_helpers import place_untrained

pytest.importorskip("gradio")

QUICK = {"sampler_name": "Euler", "steps": 1}
MADE_WITH = "a red circle\nSteps: 1, Sampler: Euler, Seed: 7, Size: 64x64, OMS: True, OMS model: demo [0123456789]"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "untrained"
    place_untrained(folder)
    return folder


@pytest.fixture
def uninstalled(tmp_path: Path, model: Path) -> Iterator[WebUI]:
    """A WebUI that has our options, defaults of the page and infotext in its files, but the extension is gone."""
    (tmp_path / "webui" / "data").mkdir(parents=True)
    (tmp_path / "webui" / "data" / "config.json").write_text(
        json.dumps({"oms_on_failure": "continue without it", "oms_memory_policy": "keep in RAM"}), encoding="utf-8"
    )
    (tmp_path / "webui" / "data" / "ui-config.json").write_text(
        json.dumps({"customscript/one_more_step.py/txt2img/One More Step/value": True}), encoding="utf-8"
    )
    (tmp_path / "empty").mkdir()
    webui = WebUI(tmp_path / "webui", host_style(), model, extension=tmp_path / "empty")
    yield webui
    webui.close()


def test_uninstalled_it_leaves_a_webui_that_works(uninstalled: WebUI) -> None:
    assert "one more step" not in uninstalled.get("/sdapi/v1/scripts").json()["txt2img"]
    assert uninstalled.get("/oms/v1/settings").status_code == 404
    made = uninstalled.txt2img(infotext=MADE_WITH, styles=[], **QUICK)
    assert made.seen
    assert "OMS" not in made.infotext
    uninstalled.options(samples_save=False)  # saves config.json with what it does not know


@pytest.fixture
def misfit(tmp_path: Path, model: Path) -> Iterator[WebUI]:
    """A host that lacks a component which the accordion is made of, while everything can be imported."""
    from modules import ui_components

    kept = ui_components.ToolButton
    del ui_components.ToolButton
    try:
        webui = WebUI(tmp_path / "misfit", host_style(), model)
        yield webui
        webui.close()
    finally:
        ui_components.ToolButton = kept


def test_an_accordion_that_cannot_be_made_says_why(uninstalled: WebUI, request: pytest.FixtureRequest) -> None:
    uninstalled.close()  # it made the host's modules importable
    webui = request.getfixturevalue("misfit")
    assert "One More Step cannot be used: AttributeError" in webui.get("/config").text
    assert webui.txt2img(**QUICK).seen
    assert webui.txt2img(False, **QUICK).seen
    with pytest.raises(RequestFailed, match=r"cannot be used: AttributeError: .*ToolButton"):
        webui.txt2img(True, "Automatic", "night", **QUICK)
