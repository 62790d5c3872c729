"""The settings page's section, the JSON schema, and the defaults in ui-config.json, in a running WebUI."""

import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from browser_helpers import host_style
from extension_helpers import RequestFailed, WebUI

from lib_oms.settings import SETTINGS, json_schema

pytest.importorskip("gradio")

NAME = "untrained"
DEFAULTS = {
    "oms_module_folders": "",
    "oms_on_failure": "stop the request",
    "oms_memory_policy": "keep in RAM",
    "oms_paste_unticks": True,
    "oms_tell_result": False,
    "oms_img2img": False,
}
QUICK = {"sampler_name": "Euler", "steps": 1}


@pytest.fixture(scope="module")
def webui(start_webui: Callable[..., WebUI], tmp_path_factory: pytest.TempPathFactory) -> WebUI:
    home = tmp_path_factory.mktemp("home")
    (home / "webui" / "data").mkdir(parents=True)
    own = "customscript/one_more_step.py/txt2img"
    kept = {"Guidance": 1.75, "Brightness and color as in": "night", "One More Step": True}
    (home / "webui" / "data" / "ui-config.json").write_text(
        json.dumps({f"{own}/{label}/value": value for label, value in kept.items()}), encoding="utf-8"
    )
    return start_webui(host_style(), folder=home)


@pytest.fixture(autouse=True)
def _default_options(webui: WebUI) -> Iterator[None]:
    yield
    webui.options(**DEFAULTS)
    set_folders(DEFAULTS["oms_module_folders"])


def set_folders(value: Any) -> None:
    """As the settings page does: no API client may."""
    from modules import shared  # of the running host

    shared.opts.set("oms_module_folders", value)


def components(webui: WebUI) -> dict[str, dict[str, Any]]:
    """What the page shows, by elem_id."""
    shown = [component["props"] for component in webui.get("/config").json()["components"]]
    ids = [props["elem_id"] for props in shown if props.get("elem_id")]
    ours = [elem_id for elem_id in ids if "oms_" in elem_id]
    assert len(ours) == len(set(ours))
    return {props["elem_id"]: props for props in shown if props.get("elem_id")}


# The settings of a request


def test_schema_over_http_is_the_list_of_settings(webui: WebUI) -> None:
    answer = webui.get("/oms/v1/settings")
    assert answer.headers["content-type"] == "application/json"
    assert answer.json() == json_schema()
    assert list(answer.json()["properties"]) == [setting.name for setting in SETTINGS]
    assert webui.get("/openapi.json").json()["paths"]["/oms/v1/settings"]["get"]["responses"]["200"]


def test_ui_config_json_sets_the_pages_defaults(webui: WebUI) -> None:
    shown = components(webui)
    assert shown["oms_guidance_scale"]["value"] == 1.75
    assert shown["oms_prompt"]["value"] == "night"
    assert shown["oms_enabled-checkbox"]["value"] is True
    assert shown["oms_eta"]["value"] == 0.0
    saved = json.loads((webui.folder / "data" / "ui-config.json").read_text(encoding="utf-8"))
    kept = [setting for setting in SETTINGS if setting.name != "color"]  # hosts keep no color pickers
    for setting in kept:  # a label that stood twice would have one entry for two controls
        assert f"customscript/one_more_step.py/txt2img/{setting.label}/value" in saved


@pytest.mark.parametrize("saved", ["color", "none"])
def test_ui_config_json_holds_values_of_what_words_are_shown_for(webui: WebUI, tmp_path: Path, saved: str) -> None:
    import gradio as gr
    from modules.ui_loadsave import UiLoadsave  # of the running host

    from lib_oms.webui import controls

    file = tmp_path / "ui-config.json"
    file.write_text(json.dumps({"txt2img/Follow/value": saved}), encoding="utf-8")
    with gr.Blocks():
        radio = controls.radio("source")
    UiLoadsave(str(file)).add_block(radio, "txt2img")
    assert radio.value == saved


def test_elem_ids_are_made_of_the_settings_names(webui: WebUI) -> None:
    shown = components(webui)
    for setting in SETTINGS:
        assert f"oms_{setting.name}" in shown
    assert {"oms_module_refresh", *(f"setting_{name}" for name in DEFAULTS)} <= set(shown)


# The section of the settings page


def test_options_have_a_section_and_defaults(webui: WebUI) -> None:
    options = webui.get("/sdapi/v1/options").json()
    assert {name: options[name] for name in DEFAULTS} == DEFAULTS
    shown = components(webui)
    assert shown["settings_one_more_step"]["label"] == "One More Step"
    assert [choice[0] for choice in shown["setting_oms_memory_policy"]["choices"]] == [
        "keep on the device", "keep in RAM", "drop after use"
    ]  # fmt: skip


def test_the_docs_table_the_options(webui: WebUI, root: Path) -> None:
    from lib_oms.webui import options  # the running host has made its `modules` importable

    page = (root / "docs/settings.md").read_text(encoding="utf-8")
    for name, info in options._all().items():
        assert f"| {info.label} | `{name}` | `{json.dumps(info.default)}` |" in page


def test_modules_in_an_added_folder_are_found_without_a_restart(webui: WebUI, tmp_path: Path) -> None:
    folder = tmp_path / "a folder, with commas"
    for part in ("oms_module", "text_encoder", "tokenizer"):
        shutil.copytree(webui_models(webui) / NAME / part, folder / "added" / part)
    with pytest.raises(RequestFailed, match="no OMS model named 'added'"):
        webui.txt2img(True, "added", **QUICK)
    set_folders(f'\n  "{folder}"  \n{tmp_path / "is not there"}\n')
    assert "OMS model: added [" in webui.txt2img(True, "added", **QUICK).infotext


def test_a_folder_that_is_not_there_is_said_in_the_list(webui: WebUI, tmp_path: Path) -> None:
    from lib_oms.webui.library_list import here, look

    (tmp_path / "there").mkdir()
    assert "There is no folder" not in here(look()), "such as models/OMS, which nobody named"
    set_folders(f"{tmp_path / 'there'}\n{tmp_path / 'lost & gone'}")
    shown = here(look())
    assert shown.count("There is no folder") == 1
    assert f"{tmp_path}/lost &amp; gone, which the settings page names." in shown


def webui_models(webui: WebUI) -> Path:
    return Path(webui.get("/sdapi/v1/cmd-flags").json()["oms_models_dir"])


@pytest.mark.parametrize("folders", ["\0", "\n\n", "/", "~nobody/x", "x" * 5000])
def test_folders_that_cannot_be_harm_nothing(webui: WebUI, folders: str) -> None:
    if folders != "/":  # reading a whole disk is what was asked for then
        set_folders(folders)
    assert "OMS: True" in webui.txt2img(True, **QUICK).infotext


@pytest.mark.parametrize(
    ("args", "reason"),
    [
        ((True, "lost"), "there is no OMS model named 'lost'"),
        ((True, NAME, "", 99), "OMS guidance scale (guidance_scale): 99 is not allowed"),
        (("yes",), "OMS (enabled): 'yes' is not allowed, only true or false"),
    ],
)
def test_what_happens_when_it_fails(webui: WebUI, capfd: pytest.CaptureFixture[str], args: tuple, reason: str) -> None:
    with pytest.raises(RequestFailed, match=f"^{re.escape(reason)}"):
        webui.txt2img(*args, **QUICK)
    plain = webui.txt2img(**QUICK)
    webui.options(oms_on_failure="continue without it")
    capfd.readouterr()
    made = webui.txt2img(*args, **QUICK)
    assert made.pixels == plain.pixels
    assert f'OMS skipped: "it failed: {reason}' in made.infotext
    assert "OMS: True" not in made.infotext
    assert f"One More Step skipped: it failed: {reason}" in capfd.readouterr().out
    assert "OMS" not in webui.txt2img(**QUICK).infotext
    again = webui.txt2img(infotext=made.infotext, styles=[], **QUICK)
    assert again.pixels == plain.pixels


def test_a_module_that_fails_halfway_leaves_the_noise_alone(webui: WebUI, tmp_path: Path) -> None:
    import torch
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    broken = tmp_path / "x-nan"
    for part in ("oms_module", "text_encoder", "tokenizer"):
        shutil.copytree(webui_models(webui) / NAME / part, broken / part)
    weights = next((broken / "oms_module").glob("*.safetensors"))
    with safe_open(weights, framework="pt") as file:
        metadata = file.metadata()
    save_file({name: tensor * torch.nan for name, tensor in load_file(weights).items()}, weights, metadata)
    plain = webui.txt2img(**QUICK)
    set_folders(str(tmp_path))
    webui.options(oms_on_failure="continue without it")
    made = webui.txt2img(True, "x-nan", **QUICK)
    assert "NaN" in made.infotext
    assert made.pixels == plain.pixels


def test_anything_but_the_very_words_stops_the_request(webui: WebUI) -> None:
    for nonsense in ("Continue", None, True, 1):
        webui.options(oms_on_failure=nonsense)
        with pytest.raises(RequestFailed):
            webui.txt2img(True, "lost", **QUICK)


def test_readers_of_the_options_survive_nonsense(webui: WebUI) -> None:
    from lib_oms.webui import options

    assert options.memory_policy() == options.KEEP_IN_RAM
    for policy in options.MEMORY_POLICIES:
        webui.options(oms_memory_policy=policy)
        assert options.memory_policy() == policy
    set_folders(7)
    webui.options(oms_memory_policy=["x"], oms_paste_unticks="x", oms_tell_result="x")
    assert options.memory_policy() == options.KEEP_IN_RAM
    assert options.module_folders() == []
    assert options.paste_unticks()
    assert not options.tells_result()


@pytest.mark.parametrize(("unticks", "value"), [(True, False), (False, None)])
def test_pasting_the_infotext_of_a_plain_picture(webui: WebUI, unticks: bool, value: bool | None) -> None:
    """None leaves the tick as it is. What speaks of the step is restored in both cases."""
    from modules import infotext_utils, scripts

    ours = scripts.scripts_txt2img.script("one more step")
    _, read = ours.infotext_fields[0]
    webui.options(oms_paste_unticks=unticks)
    assert read(infotext_utils.parse_generation_parameters("a\nSteps: 1, Sampler: Euler, Seed: 1")) is value
    for said in (True, False):
        line = f"a\nSteps: 1, Sampler: Euler, Seed: 1, OMS: {said}"
        assert read(infotext_utils.parse_generation_parameters(line)) is said
