"""A WebUI whose owner has locked something: its API behind a password, its settings or its folders out of reach."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests
from browser_helpers import host_style
from extension_helpers import WebUI
from untrained_helpers import place_untrained

pytest.importorskip("gradio")

OWN, SETTINGS_PATH = "/sdapi/v1/samplers", "/oms/v1/settings"
PREVIEW = {"width": 64, "height": 64, "seed": 1, "oms": {"source": "color", "color": "#101010"}}
USER = ("me", "a secret")


@contextmanager
def started(folder: Path, *locks: str, **config: Any) -> Iterator[WebUI]:
    place_untrained(folder / "models" / "tiny")
    (folder / "webui" / "data").mkdir(parents=True)
    (folder / "webui" / "data" / "config.json").write_text(json.dumps(config), encoding="utf-8")
    webui = WebUI(folder / "webui", host_style(), folder / "models" / "tiny", *locks)
    try:
        yield webui
    finally:
        webui.close()


def folders_shown(webui: WebUI) -> bool:
    components = [component["props"] for component in webui.get("/config").json()["components"]]
    (shown,) = [props for props in components if props.get("elem_id") == "setting_oms_module_folders"]
    return shown.get("visible", True)


def preview(webui: WebUI, auth: tuple[str, str] | None = None) -> requests.Response:
    return requests.post(f"{webui.url}/oms/v1/preview", json=PREVIEW, auth=auth, timeout=60)


@pytest.mark.parametrize("page", [(), ("--api-only",)])
def test_our_routes_ask_for_the_password_of_the_hosts_own(tmp_path: Path, page: tuple[str, ...]) -> None:
    with started(tmp_path, "--api-auth", "you:another,me:a secret", *page) as webui:
        for auth in (None, ("me", "wrong"), ("you", "a secret"), ("nobody", "")):
            for path in (OWN, SETTINGS_PATH):
                answer = requests.get(webui.url + path, auth=auth, timeout=60)
                assert answer.status_code == 401, (path, auth)
                assert "guidance_scale" not in answer.text
            answer = preview(webui, auth)
            assert answer.status_code == 401
            assert "brightness" not in answer.text
        for path in (OWN, SETTINGS_PATH):
            assert requests.get(webui.url + path, auth=USER, timeout=60).status_code == 200
        assert preview(webui, USER).json()["applies"] is True


def test_without_a_password_our_route_is_as_open_as_the_hosts_own(tmp_path: Path) -> None:
    with started(tmp_path, "--api-only") as webui:
        assert webui.get(OWN).status_code == webui.get(SETTINGS_PATH).status_code == preview(webui).status_code == 200


@pytest.mark.parametrize("value", ["/", "\\\\server\\share", "~"])
def test_no_api_client_chooses_where_modules_are_read(tmp_path: Path, value: str) -> None:
    with started(tmp_path, "--api-only", oms_module_folders="mine") as webui:
        webui.options(oms_module_folders=value)
        assert webui.get("/sdapi/v1/options").json()["oms_module_folders"] == "mine"
        from lib_oms.webui import options  # the running host has made its `modules` importable

        read = options.module_folders
        seen = []
        options.module_folders = lambda: seen.append(read()) or read()
        try:
            webui.txt2img(True, override_settings={"oms_module_folders": value}, steps=1)
        finally:
            options.module_folders = read
        assert {str(folder) for folders in seen for folder in folders} == {"mine"}


@pytest.mark.parametrize(
    "locks",
    [
        ("--hide-ui-dir-config",),
        ("--freeze-settings",),
        ("--freeze-settings-in-sections", "saving-images, one_more_step"),
        ("--freeze-specific-settings", "samples_save, oms_module_folders"),
    ],
)
def test_a_locked_page_offers_no_folders_and_keeps_those_that_are_set(tmp_path: Path, locks: tuple[str, ...]) -> None:
    with started(tmp_path, *locks, oms_module_folders="mine") as webui:
        assert not folders_shown(webui)
        from modules import shared

        # What "Apply settings" does with a value that a page made up.
        assert not shared.opts.set("oms_module_folders", "/")
        assert shared.opts.oms_module_folders == "mine"
        assert "OMS: True" in webui.txt2img(True, steps=1).infotext


def test_locks_of_other_settings_leave_the_folders_where_they_are(tmp_path: Path) -> None:
    with started(tmp_path, "--freeze-settings-in-sections", "sd", "--freeze-specific-settings", "eta_ddim") as webui:
        assert folders_shown(webui)
        from modules import shared

        assert shared.opts.set("oms_module_folders", "mine")


def test_the_settings_stand_in_a_category_of_the_host(tmp_path: Path) -> None:
    with started(tmp_path):
        from modules import options, shared

        names = ("module_folders", "on_failure", "memory_policy", "paste_unticks", "tell_result")
        for name in (f"oms_{name}" for name in names):
            info = shared.opts.data_labels[name]
            assert info.section == ("one_more_step", "One More Step")
            assert options.categories.mapping[info.category_id].label == "Stable Diffusion"
