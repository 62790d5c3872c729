"""*Start from*: presets that set the controls; and where one's own are saved, deleted and shared."""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gradio as gr

from lib_oms.errors import SettingError
from lib_oms.presets import LEFT_ALONE, Preset, Presets, to_json
from lib_oms.settings import SETTINGS
from lib_oms.webui import host, module_note
from lib_oms.webui.controls import AT_ONCE, BY_NAME, elem_id, holding, small_button, unsaved

NAMED = tuple(setting.name for setting in SETTINGS if setting.name not in LEFT_ALONE)
"""The settings of a preset, in their order."""
_LINE = "font-size: 0.9em; padding: 2px 4px; overflow-wrap: anywhere"


def presets() -> Presets:
    """Those of this host and of the extension."""
    return Presets(host.user_folder() / "presets", Path(__file__).resolve().parents[2] / "presets.json")


class Panel:
    """The buttons, made where they are to stand; then `fold` makes what is folded away, and `connect` lets both act,
    once all controls of the settings are made.
    """

    def __init__(self) -> None:
        with gr.Column(elem_id=elem_id("start_from"), min_width=240):
            gr.HTML("<span class='oms-label'>Start from</span>")
            with gr.Row(elem_classes=["oms-buttons"]):
                self._to_begin_with = [
                    small_button(preset.name, f"preset_{i}")
                    for i, preset in enumerate(presets().all())
                    if preset.is_built_in and not preset.problem
                ]
            self._told = gr.HTML("", elem_id=elem_id("preset_told"))

    def fold(self) -> None:
        """Makes the part in which a person's own presets are saved, loaded, deleted and shared."""
        with gr.Accordion("Presets: save, load, share", open=False, elem_id=elem_id("presets")):
            self._name = unsaved(
                gr.Dropdown(
                    _names(presets().all()),
                    label="Preset",
                    info="Choose one, or write the name of a new one. All settings but the OMS model are in it.",
                    allow_custom_value=True,
                    elem_id=elem_id("preset"),
                )
            )
            with gr.Row(elem_classes=["oms-buttons"]):
                self._load = small_button("Load preset", "preset_load")
                self._save = small_button("Save preset", "preset_save")
                self._delete = small_button("Delete preset", "preset_delete")
            self._text = unsaved(
                gr.Textbox(
                    label="Preset as JSON",
                    placeholder="Show a preset to share it, or put here what somebody shared.",
                    lines=2,
                    max_lines=8,
                    elem_id=elem_id("preset_json"),
                )
            )
            with gr.Row(elem_classes=["oms-buttons"]):
                self._show = small_button("Show as JSON", "preset_show")
                self._add = small_button("Add from JSON", "preset_add")
            self._broken = gr.HTML("", elem_id=elem_id("presets_broken"))

    @property
    def shown(self) -> tuple[gr.Dropdown, gr.HTML]:
        """The components that `now` gives values for."""
        return self._name, self._broken

    def connect(self, controls: Mapping[str, Any]) -> None:
        """Lets a preset set `controls`, by the settings' names."""
        settings = [controls[name] for name in NAMED]
        loaded = [*settings, self._told]
        for button in self._to_begin_with:
            button.click(fn=_load, inputs=[button], outputs=loaded, **AT_ONCE)
        self._load.click(fn=_load, inputs=[self._name], outputs=loaded, **AT_ONCE)
        listed = [self._name, self._broken, self._told]
        self._save.click(fn=_save, inputs=[self._name, *settings], outputs=listed, **AT_ONCE)
        self._delete.click(fn=_delete, inputs=[self._name], outputs=listed, **AT_ONCE)
        self._show.click(fn=_show, inputs=[self._name], outputs=[self._text, self._told], **AT_ONCE)
        self._add.click(fn=_add, inputs=[self._text], outputs=listed, **AT_ONCE)


def _names(there: list[Preset]) -> list[str]:
    return [preset.name for preset in there if not preset.problem]


def now() -> tuple[Any, str]:
    """Values for the components of `Panel.shown`."""
    return gr.update(choices=_names(presets().all())), _broken()


def _load(name: Any) -> list[Any]:
    try:
        preset = presets().usable(str(name or ""))
    except SettingError as error:
        return [*(gr.update() for _ in NAMED), _error(error)]
    return [*(holding(BY_NAME[name], preset.values[name]) for name in NAMED), _done(f"{preset.name} is set.")]


def _save(name: Any, *values: Any) -> tuple[Any, str, str]:
    there = presets()
    return _changed(lambda: there.save(str(name or ""), dict(zip(NAMED, values, strict=True))), f"{name} is saved.")


def _add(text: Any) -> tuple[Any, str, str]:
    return _changed(lambda: presets().add(str(text or "")), "It is added.")


def _delete(name: Any) -> tuple[Any, str, str]:
    def delete() -> None:
        presets().delete(str(name or ""))

    return _changed(delete, f"{name} is deleted.")


def _changed(change: Callable[[], Preset | None], told: str) -> tuple[Any, str, str]:
    """Makes a change: the dropdown, the list of broken ones and the line that says what was done."""
    try:
        preset = change()
    except SettingError as error:
        return gr.update(), _broken(), _error(error)
    names = _names(presets().all())
    return gr.update(choices=names, value=None if preset is None else preset.name), _broken(), _done(told)


def _show(name: Any) -> tuple[Any, str]:
    try:
        return to_json(presets().usable(str(name or ""))), ""
    except SettingError as error:
        return gr.update(), _error(error)


def _broken() -> str:
    """Those that cannot be used, with the reason; names come from files and are escaped."""
    broken = [preset for preset in presets().all() if preset.problem]
    if not broken:
        return ""
    lines = "".join(f"<li>{html.escape(preset.name)}: {html.escape(preset.problem)}</li>" for preset in broken)
    return f"<div style='{_LINE}'>Cannot be used:<ul style='padding-left: 1.2em; list-style: disc'>{lines}</ul></div>"


def _done(text: str) -> str:
    return f"<div role='status' style='{_LINE}'>{html.escape(text)}</div>"


def _error(error: SettingError) -> str:
    text = str(error)
    told = html.escape(text[:1].upper() + text[1:])
    return f"<div role='alert' class='error' style='{_LINE}; {module_note.RED}'>{told}</div>"
