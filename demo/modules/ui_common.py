"""Pieces of the page (host file: modules/ui_common.py)."""

import html
from collections.abc import Callable
from typing import Any

import gradio as gr
from modules.ui_components import ToolButton

refresh_symbol = "↻"  # hosts have an emoji here, for which a bare machine has no font


def plaintext_to_html(text: str, classname: str | None = None) -> str:
    lines = "<br>\n".join(html.escape(line) for line in text.split("\n"))
    return f"<p class='{classname}'>{lines}</p>" if classname else f"<p>{lines}</p>"


def create_refresh_button(
    refresh_component: Any, refresh_method: Callable, refreshed_args: dict | Callable[[], dict], elem_id: str
) -> ToolButton:
    """A button that calls `refresh_method` and gives the component(s) what `refreshed_args` says then."""
    components = refresh_component if isinstance(refresh_component, list) else [refresh_component]

    def refresh() -> Any:
        refresh_method()
        args = refreshed_args() if callable(refreshed_args) else refreshed_args
        for component in components:
            for key, value in args.items():
                setattr(component, key, value)
        updates = [gr.update(**args) for _ in components]
        return updates if len(updates) > 1 else updates[0]

    button = ToolButton(value=refresh_symbol, elem_id=elem_id, tooltip="Refresh")
    button.click(fn=refresh, inputs=[], outputs=components)
    return button
