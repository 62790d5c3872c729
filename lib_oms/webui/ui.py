"""The accordion on the txt2img page."""

from __future__ import annotations

import secrets
from typing import Any

import gradio as gr
from modules import ui_components

from lib_oms.given import small_picture
from lib_oms.settings import BRUSH, COLOR, PICTURE, SETTINGS, STYLE, Setting
from lib_oms.webui import library_panel, module_note, offer, preview_row, styles
from lib_oms.webui.library_panel import Panel

_BY_NAME = {setting.name: setting for setting in SETTINGS}
_FINE = ("brightness", "saturation", "prompt_weight", "detail", "quiet", "guidance_rescale")
_GIVEN = (COLOR, PICTURE, BRUSH, STYLE)


def elem_id(name: str) -> str:
    """The stable id of a setting's control in the page's HTML."""
    return f"oms_{name}"


def component_made(component: Any) -> None:
    """To be called for each component of the host's page, ours and others', as it is made."""
    preview_row.component_made(component, elem_id)


def build() -> list[Any]:
    """Makes the accordion. Returns the controls in the order of SETTINGS, which is that of the script's arguments."""
    choices = offer.choices()  # before anything stands on the page, as reading folders may fail
    controls: dict[str, Any] = {}
    with _accordion(controls):
        with gr.Row():
            controls["module"] = _module_dropdown(_BY_NAME["module"], choices)
            refresh = ui_components.ToolButton(value="\U0001f504", elem_id=elem_id("module_refresh"))
        note = gr.HTML("", elem_id=elem_id("module_note"))
        controls["source"] = _radio(_BY_NAME["source"])
        controls["prompt"] = _textbox(_BY_NAME["prompt"], lines=2)
        frames = {name: gr.Column(visible=False) for name in _GIVEN}
        for name, frame in frames.items():
            with frame:
                controls[name] = _MADE.get(name, _picture)(_BY_NAME[name])
        preview_row.build()
        controls["strength"] = _slider(_BY_NAME["strength"])
        with gr.Row():
            controls["guidance_scale"] = _slider(_BY_NAME["guidance_scale"])
            controls["eta"] = _slider(_BY_NAME["eta"])
        controls["negative_prompt"] = _textbox(_BY_NAME["negative_prompt"], lines=2)
        with gr.Accordion("Fine control", open=False, elem_id=elem_id("fine")):
            for name in _FINE:
                controls[name] = _slider(_BY_NAME[name])
        followed = [*frames.values(), controls["quiet"]]
        controls["source"].change(fn=_follow, inputs=[controls["source"]], outputs=followed, show_progress=False)
        _keep_up_to_date(controls, refresh, note, library_panel.build())
    for setting in SETTINGS:
        controls[setting.name].value = setting.filled_in
    return [controls[setting.name] for setting in SETTINGS]


def _follow(source: Any) -> list[Any]:
    """Shows what the source is given by, and sets the quiet noise that goes with it."""
    shown = [gr.update(visible=source == name) for name in _GIVEN]
    return [*shown, gr.update(value=_BY_NAME["quiet"].by_source.get(source, _BY_NAME["quiet"].default))]


def _keep_up_to_date(controls: dict[str, Any], refresh: gr.Button, note: gr.HTML, panel: Panel) -> None:
    """Makes what depends on files and on the loaded checkpoint anew: when the page is loaded, as what the server puts
    into every page is as it was at its own start; by the refresh button; when a download ends; and the line below the
    dropdown also when another module is chosen or pasted, and when the step is switched on.
    """
    module = controls["module"]
    # Another text at every load: its change is the one event of a page load that both generations of gradio have
    # wherever in the host's page the accordion stands.
    loaded = gr.Textbox(lambda: secrets.token_hex(8), visible=False, elem_id=elem_id("page_loaded"))
    loaded.change(fn=_at_page_load, inputs=[module], outputs=[module, note, panel.frame], show_progress=False)
    shown = {"fn": _now, "inputs": [module], "outputs": [module, note, panel.table], "show_progress": False}
    refresh.click(**shown)
    for download in panel.downloads:
        download.then(**shown)
    for control in (module, controls["enabled"]):
        control.change(fn=module_note.as_html, inputs=[module], outputs=[note], show_progress=False)


def _at_page_load(module: Any) -> tuple[Any, str, Any]:
    """The dropdown's choices, the line below it, and the list unfolded where somebody has to get a module first."""
    unfolded = gr.update(open=True) if offer.module_is_missing() else gr.update()  # it comes folded
    return _choices(module), module_note.as_html(module), unfolded


def _now(module: Any) -> tuple[Any, str, str]:
    return _choices(module), module_note.as_html(module), library_panel.table()


def _choices(module: Any) -> Any:
    return gr.update(choices=offer.choices(str(module)))


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
        maximum=min(setting.maximum, setting.slider),
        step=setting.step,
        value=setting.default,
        label=setting.label,
        info=setting.help,
        elem_id=elem_id(setting.name),
    )


def _radio(setting: Setting) -> gr.Radio:
    return gr.Radio(
        choices=list(setting.choices),
        value=setting.default,
        label=setting.label,
        info=setting.help,
        elem_id=elem_id(setting.name),
    )


def _color_picker(setting: Setting) -> gr.ColorPicker:
    return gr.ColorPicker(value=setting.default, label=setting.label, info=setting.help, elem_id=elem_id(setting.name))


def _picture(setting: Setting) -> gr.Textbox:
    """A place for a picture, and the text that it becomes: that is the setting, as infotexts and the API have it."""
    shown = setting.label.removeprefix("OMS ").capitalize()  # ui-config.json tells controls apart by their labels
    image = gr.Image(label=shown, type="pil", height=200, elem_id=elem_id(f"{setting.name}_image"))
    text = gr.Textbox(
        value=setting.default,
        label=setting.label,
        placeholder=setting.help,
        max_lines=1,
        elem_id=elem_id(setting.name),
    )
    image.change(fn=_picture_as_text, inputs=[image], outputs=[text], show_progress=False)
    return text


def _style_dropdown(setting: Setting) -> gr.Dropdown:
    """One can be named that the page does not know yet: styles are looked up when a picture is made."""
    return gr.Dropdown(
        choices=styles.names(),
        value=setting.default,
        label=setting.label,
        info=setting.help,
        allow_custom_value=True,
        elem_id=elem_id(setting.name),
    )


_MADE = {COLOR: _color_picker, STYLE: _style_dropdown}


def _picture_as_text(picture: Any) -> str:
    """A picture of the page (PIL, or None for one that was taken away) as the setting holds it."""
    return "" if picture is None else small_picture(picture, PICTURE)
