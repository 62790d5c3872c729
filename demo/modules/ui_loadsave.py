"""ui-config.json: defaults of the page, by label (host file: modules/ui_loadsave.py)."""

import json
from pathlib import Path
from typing import Any

import gradio as gr
from modules import errors
from modules.ui_components import InputAccordion, ToolButton

_FIELDS: dict[type, tuple[str, ...]] = {
    gr.Slider: ("value", "minimum", "maximum", "step"),
    **dict.fromkeys((gr.Radio, gr.Checkbox, gr.Textbox, gr.Number, gr.Dropdown), ("value",)),
    **dict.fromkeys((gr.Button, ToolButton), ()),
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
        except Exception:
            self.error_loading = True
            errors.report(f"Error loading {filename}", exc_info=True)

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
        if getattr(component, "do_not_save_to_config", False):
            return
        if source := getattr(component, "custom_script_source", None):
            path = f"customscript/{source}/{path}"
        is_accordion = type(component) is InputAccordion
        fields = ("value",) if is_accordion else _FIELDS.get(type(component), ())
        for field in (("visible",) if component.visible and type(component) in _FIELDS else ()) + fields:
            saved = self.ui_settings.get(f"{path}/{field}")
            if saved is None:
                self.ui_settings[f"{path}/{field}"] = getattr(component, field)
            elif field != "value" or _allows(component, saved):
                setattr(component, field, saved)
        if is_accordion:
            component.accordion.open = component.value

    def dump_defaults(self) -> None:
        """Writes the file, unless it could not be read."""
        if not self.error_loading:
            self.filename.write_text(json.dumps(self.ui_settings, indent=4, ensure_ascii=False), encoding="utf8")


def _allows(component: Any, value: Any) -> bool:
    """Whether the component has this value to choose, where it has choices."""
    if not isinstance(component, (gr.Radio, gr.Dropdown)):
        return True
    choices = [c[0] if isinstance(c, tuple) else c for c in component.choices or []]
    return all(one in choices for one in (value if isinstance(value, list) else [value]))
