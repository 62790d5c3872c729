"""The accordion on the txt2img page."""

from __future__ import annotations

from typing import Any

import gradio as gr
from modules import ui_components

from lib_oms.settings import SETTINGS, Setting
from lib_oms.webui import library_panel, offer

_BY_NAME = {setting.name: setting for setting in SETTINGS}


def elem_id(name: str) -> str:
    """The stable id of a setting's control in the page's HTML."""
    return f"oms_{name}"


def build() -> list[Any]:
    """Makes the accordion. Returns the controls in the order of SETTINGS, which is that of the script's arguments."""
    choices = offer.choices()  # before anything stands on the page, as reading folders may fail
    controls: dict[str, Any] = {}
    with _accordion(controls):
        with gr.Row():
            controls["module"] = _module_dropdown(_BY_NAME["module"], choices)
            refresh = _refresh_button(controls["module"])
        controls["prompt"] = _textbox(_BY_NAME["prompt"], lines=2)
        with gr.Row():
            controls["guidance_scale"] = _slider(_BY_NAME["guidance_scale"])
            controls["eta"] = _slider(_BY_NAME["eta"])
        controls["negative_prompt"] = _textbox(_BY_NAME["negative_prompt"], lines=2)
        # Who has no module yet finds the button that brings one at once.
        library_panel.build(controls["module"], refresh, unfold=len(choices) == 1)
    return [controls[setting.name] for setting in SETTINGS]


def _accordion(controls: dict[str, Any]) -> Any:
    """The frame, entered as a context. Its own tick is `enabled` where the host can do that, else a box inside is."""
    setting = _BY_NAME["enabled"]
    input_accordion = getattr(ui_components, "InputAccordion", None)
    if input_accordion is not None:
        controls["enabled"] = input_accordion(setting.default, label=setting.label, elem_id=elem_id("enabled"))
        return controls["enabled"]
    accordion = gr.Accordion(setting.label, open=False, elem_id=elem_id("accordion"))
    with accordion:
        controls["enabled"] = gr.Checkbox(
            setting.default, label=f"Enable {setting.label}", info=setting.help, elem_id=elem_id("enabled")
        )
    return accordion


def _module_dropdown(setting: Setting, choices: list[str]) -> gr.Dropdown:
    return gr.Dropdown(
        choices=choices,
        value=setting.default,
        label=setting.label,
        info=setting.help,
        elem_id=elem_id(setting.name),
    )


def _refresh_button(dropdown: gr.Dropdown) -> gr.Button:
    button = ui_components.ToolButton(value="\U0001f504", elem_id=elem_id("module_refresh"))
    button.click(fn=lambda: gr.update(choices=offer.choices()), inputs=[], outputs=[dropdown])
    return button


def _textbox(setting: Setting, lines: int) -> gr.Textbox:
    return gr.Textbox(
        value=setting.default,
        label=setting.label,
        placeholder=setting.help,
        lines=lines,
        elem_id=elem_id(setting.name),
    )


def _slider(setting: Setting) -> gr.Slider:
    return gr.Slider(
        minimum=setting.minimum,
        maximum=setting.maximum,
        step=setting.step,
        value=setting.default,
        label=setting.label,
        info=setting.help,
        elem_id=elem_id(setting.name),
    )
