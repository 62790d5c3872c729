"""The settings tab, made from the options (host file: modules/ui_settings.py)."""

import re
from collections.abc import Callable
from typing import Any

import gradio as gr
from modules import script_callbacks, shared, ui_common
from modules.options import OptionInfo


def create_setting_component(key: str) -> Any:
    """The component of one option, showing its value."""
    info: OptionInfo = shared.opts.data_labels[key]
    arguments = info.component_args() if callable(info.component_args) else dict(info.component_args or {})
    value = None if info.do_not_save else getattr(shared.opts, key)
    component = info.component or _component_for(info.default)
    if info.do_not_save:
        return component(value=info.default, **arguments)
    if info.comment_after:
        arguments.setdefault("info", re.sub(r"<[^>]*>", "", info.comment_after).strip())
    made = component(label=info.label, value=value, elem_id=f"setting_{key}", **arguments)
    if info.refresh is not None:
        ui_common.create_refresh_button(made, info.refresh, info.component_args, f"refresh_{key}")
    return made


def _component_for(default: Any) -> Callable[..., Any]:
    if isinstance(default, bool):
        return gr.Checkbox
    return gr.Number if isinstance(default, (int, float)) else gr.Textbox


class UiSettings:
    def __init__(self) -> None:
        self.component_dict: dict[str, Any] = {}

    def register_settings(self) -> None:
        """Lets extensions add their options."""
        script_callbacks.call("ui_settings")

    def create_ui(self) -> None:
        sections: dict[tuple, list[str]] = {}
        for key, info in shared.opts.data_labels.items():
            sections.setdefault(info.section or ("other", "Other"), []).append(key)
        with gr.Row():
            apply = gr.Button("Apply settings", variant="primary", elem_id="settings_submit")
        result = gr.HTML(elem_id="settings_result")
        with gr.Tabs(elem_id="settings", selected=next(iter(sections))[0]):
            for (section_id, title), keys in sections.items():
                with gr.Tab(title, id=section_id, elem_id=f"settings_{section_id}"):
                    for key in keys:
                        made = create_setting_component(key)
                        if not shared.opts.data_labels[key].do_not_save:
                            self.component_dict[key] = made
        apply.click(fn=self.run_settings, inputs=list(self.component_dict.values()), outputs=[result])

    def run_settings(self, *values: Any) -> str:
        """Sets and saves what differs from the values in force."""
        changed = []
        for key, value in zip(self.component_dict, values, strict=True):
            default = shared.opts.data_labels[key].default
            if isinstance(default, (int, float)) and not isinstance(default, bool) and value is not None:
                value = type(default)(value)
            if value != getattr(shared.opts, key) and shared.opts.set(key, value):
                changed.append(key)
        shared.opts.save(shared.config_filename)
        return ui_common.plaintext_to_html(
            f"{len(changed)} settings changed{': ' + ', '.join(changed) if changed else ''}."
        )

    def run_one(self, value: Any, key: str) -> Any:
        """Sets one option as soon as its component above the tabs changes."""
        if value is not None and shared.opts.set(key, value):
            shared.opts.save(shared.config_filename)
        return gr.update(value=getattr(shared.opts, key))
