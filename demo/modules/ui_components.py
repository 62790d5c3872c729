"""Components that extensions import (host file: modules/ui_components.py)."""

import html
from functools import wraps
from typing import Any

import gradio as gr
from modules import gradio_compat


def plaintext_to_html(text: str, classname: str | None = None) -> str:
    """(host file: modules/ui_common.py)"""
    lines = "<br>\n".join(html.escape(line) for line in text.split("\n"))
    return f"<p class='{classname}'>{lines}</p>" if classname else f"<p>{lines}</p>"


class ToolButton(gr.Button):
    """A small button with one symbol as its text."""

    @wraps(gr.Button.__init__)  # gradio 4 reads from the signature what it sends to the browser
    def __init__(self, value: str = "", tooltip: str | None = None, **kwargs: Any) -> None:
        classes = kwargs.pop("elem_classes", None) or []
        classes = [classes] if isinstance(classes, str) else classes
        super().__init__(value=value, elem_classes=["tool", *classes], **kwargs)

    def get_block_name(self) -> str:
        """What the browser knows it by."""
        return "button"


class InputAccordion(gr.Checkbox):
    """An accordion whose being open is a value: True while it is ticked.

    A hidden checkbox that stands for the accordion, and an accordion that page/demo.js gives a visible tick box; the
    script there keeps the three the same. elem_ids as in the host: ID, ID-checkbox, ID-visible-checkbox.
    """

    _count = 0

    @wraps(gr.Checkbox.__init__)
    def __init__(
        self, value: bool = False, label: str = "Accordion", elem_id: str | None = None, **kwargs: Any
    ) -> None:
        if elem_id is None:
            elem_id = f"input-accordion-{InputAccordion._count}"
            InputAccordion._count += 1
        hidden = {**kwargs, "visible": False}
        super().__init__(value=value, label=label, elem_id=f"{elem_id}-checkbox", **hidden)
        if kwargs.get("render") is False:  # gradio 4 makes a fresh checkbox for each update of this one
            return
        self.change(fn=None, inputs=[self], **{gradio_compat.JS: f"(on) => demo.accordionChecked('{elem_id}', on)"})
        self.accordion = gr.Accordion(
            label=label, elem_id=elem_id, elem_classes=["input-accordion"], open=value,
            **{k: v for k, v in kwargs.items() if k == "visible"},
        )

    def __enter__(self) -> "InputAccordion":
        self.accordion.__enter__()
        return self

    def __exit__(self, *exc: Any) -> None:
        self.accordion.__exit__(*exc)

    def get_block_name(self) -> str:
        return "checkbox"
