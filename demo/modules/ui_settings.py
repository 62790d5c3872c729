"""The settings tab, made from the options (host file: modules/ui_settings.py)."""

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import gradio as gr
from modules import shared
from modules.shared import opts
from modules.ui_components import ToolButton, plaintext_to_html

refresh_symbol = "↻"  # hosts have an emoji here, for which a bare machine has no font


def create_setting_component(key: str) -> Any:
    """The component of one option, showing its value, with a button that looks again what there is to choose."""
    info = opts.data_labels[key]
    arguments = info.component_args() if callable(info.component_args) else dict(info.component_args or {})
    if info.comment_after:
        arguments["info"] = info.comment_after
    component = info.component or _component_for(info.default)
    made = component(label=info.label, value=getattr(opts, key), elem_id=f"setting_{key}", **arguments)
    if info.refresh is not None:

        def refresh() -> Any:
            info.refresh()
            arguments = info.component_args()
            for name, value in arguments.items():  # what the server holds the next choice against
                setattr(made, name, value)
            return gr.update(**arguments)

        button = ToolButton(value=refresh_symbol, elem_id=f"refresh_{key}", tooltip="Refresh")
        button.click(fn=refresh, inputs=[], outputs=[made])
    return made


def _component_for(default: Any) -> Callable[..., Any]:
    if isinstance(default, bool):
        return gr.Checkbox
    return gr.Number if isinstance(default, (int, float)) else gr.Textbox


def create_ui() -> None:
    sections: dict[tuple, list[str]] = defaultdict(list)
    for key, info in opts.data_labels.items():
        sections[info.section or ("other", "Other")].append(key)
    components = {}
    with gr.Row():
        apply = gr.Button("Apply settings", variant="primary", elem_id="settings_submit")
    result = gr.HTML(elem_id="settings_result")
    with gr.Tabs(elem_id="settings", selected=next(iter(sections))[0]):
        for (section_id, title), keys in sections.items():
            with gr.Tab(title, id=section_id, elem_id=f"settings_{section_id}"):
                components |= {key: create_setting_component(key) for key in keys}

    def run_settings(*values: Any) -> str:
        """Sets and saves what differs from the values in force."""
        changed = [key for key, value in zip(components, values, strict=True) if _set(key, value)]
        opts.save(shared.config_filename)
        return plaintext_to_html(f"{len(changed)} settings changed{': ' + ', '.join(changed) if changed else ''}.")

    apply.click(fn=run_settings, inputs=list(components.values()), outputs=[result])


def _set(key: str, value: Any) -> bool:
    default = opts.data_labels[key].default
    if isinstance(default, (int, float)) and not isinstance(default, bool) and value is not None:
        value = type(default)(value)  # the page's numbers may be of the other kind
    return value != getattr(opts, key) and opts.set(key, value)


def run_one(value: Any, key: str) -> Any:
    """Sets one option as soon as its component above the tabs changes."""
    if value is not None and opts.set(key, value):
        opts.save(shared.config_filename)
    return gr.update(value=getattr(opts, key))
