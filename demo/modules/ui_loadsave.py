"""ui-config.json: defaults of the page, by label (host file: modules/ui_loadsave.py)."""

import json
from pathlib import Path
from typing import Any

import gradio as gr
from modules import errors
from modules.ui_components import InputAccordion, ToolButton

_FIELDS: dict[type, tuple[str, ...]] = {
    gr.Slider: ("value", "minimum", "maximum", "step"),
    gr.Radio: ("value",),
    gr.Checkbox: ("value",),
    gr.Textbox: ("value",),
    gr.Number: ("value",),
    gr.Dropdown: ("value",),
    gr.Button: (),
    ToolButton: (),
}
"""What the file says of a component of each type, besides whether it is visible."""


class UiLoadsave:
    """Gives components the defaults of the file; what the file lacks is added to it.

    A key is TAB/LABEL/FIELD, with customscript/FILE before it for a script's component: a label that changes or
    stands twice loses its entry.
    """

    def __init__(self, filename: str) -> None:
        self.filename = Path(filename)
        self.ui_settings: dict[str, Any] = {}
        self.error_loading = False
        try:
            if self.filename.exists():
                self.ui_settings = json.loads(self.filename.read_text(encoding="utf8"))
        except Exception as e:
            self.error_loading = True
            errors.display(e, "loading settings")

    def add_block(self, block: Any, path: str = "") -> None:
        """Goes through a block and all in it."""
        if hasattr(block, "children"):
            for child in block.children:
                self.add_block(child, path)
        elif getattr(block, "label", None) is not None:
            self._add_component(f"{path}/{block.label}", block)
        elif isinstance(block, gr.Button) and block.value is not None:
            self._add_component(f"{path}/{block.value}", block)

    def _add_component(self, path: str, component: Any) -> None:
        source = getattr(component, "custom_script_source", None)
        if type(component) is InputAccordion:
            self._apply(path, component, "value", source)
            component.accordion.open = component.value
            return
        fields = _FIELDS.get(type(component))
        if fields is None:
            return
        for field in (("visible",) if component.visible else ()) + fields:
            self._apply(path, component, field, source)

    def _apply(self, path: str, component: Any, field: str, source: str | None) -> None:
        if getattr(component, "do_not_save_to_config", False):
            return
        key = f"customscript/{source}/{path}/{field}" if source else f"{path}/{field}"
        saved = self.ui_settings.get(key)
        if saved is None:
            self.ui_settings[key] = getattr(component, field)
        elif field == "value" and isinstance(component, (gr.Radio, gr.Dropdown)):
            choices = [c[0] if isinstance(c, tuple) else c for c in component.choices or []]
            if all(value in choices for value in (saved if isinstance(saved, list) else [saved])):
                component.value = saved
        elif field == "value" and isinstance(component, gr.Textbox):
            component.value = str(saved)
        elif field == "value" and isinstance(component, gr.Number):
            component.value = float(saved)
        else:
            setattr(component, field, saved)

    def dump_defaults(self) -> None:
        """Writes the file, unless it is there and could not be read."""
        if self.error_loading and self.filename.exists():
            return
        self.filename.write_text(json.dumps(self.ui_settings, indent=4, ensure_ascii=False), encoding="utf8")
