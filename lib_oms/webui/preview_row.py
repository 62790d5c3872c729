"""The row of the accordion that shows what the step asks for, before a picture is made."""

from __future__ import annotations

import html
from collections.abc import Callable
from dataclasses import fields
from typing import Any

import gradio as gr
from modules import errors

from lib_oms.errors import OMSError
from lib_oms.settings import SETTINGS, OMSSettings
from lib_oms.webui import host, page_controls
from lib_oms.webui.first_pass import Wanted
from lib_oms.webui.given import with_small_pictures
from lib_oms.webui.numbers import Numbers
from lib_oms.webui.preview import Preview, preview

_BUTTON, _RESULT = "oms_preview", "oms_preview_result"
_SIDE = 92
_USED = (*(field.name for field in fields(Wanted)), page_controls.VARIES)
_SETTINGS = [setting.name for setting in SETTINGS if setting.name != "enabled"]  # who presses the button wants the step


def build() -> None:
    """Makes the row. What it does is known only when the whole page is there, see `component_made`."""
    with gr.Row(elem_id="oms_preview_row"):
        gr.Button("Preview", elem_id=_BUTTON, scale=0, min_width=110)
        gr.HTML("", elem_id=_RESULT)


def component_made(component: Any, elem_id: Callable[[str], str]) -> None:
    """To be called for each component of the page as the host makes it; `elem_id`: of the control of a setting.

    Where the last one is there the button gets its work, with the page's prompt, seed and size, wherever they stand.
    """
    if getattr(component, "elem_id", None) != page_controls.LAST:
        return
    made = page_controls.made_so_far()
    if _BUTTON not in made:
        return
    of_host = page_controls.of_host(made, _USED)
    own = {name: made[elem_id(name)] for name in _SETTINGS}

    def show(*values: Any) -> str:
        return _shown(dict(zip(of_host, values, strict=False)), dict(zip(own, values[len(of_host) :], strict=True)))

    made[_BUTTON].click(fn=show, inputs=[*of_host.values(), *own.values()], outputs=[made[_RESULT]])


def _shown(page: dict[str, Any], settings: dict[str, Any]) -> str:
    """What the page shows for what its controls hold."""
    try:
        wanted = Wanted(**page_controls.read(page))
        return as_html(preview(wanted, with_small_pictures(OMSSettings.from_args([settings]))))
    except Exception as error:
        if not isinstance(error, OMSError):
            errors.report("One More Step: the preview failed", exc_info=True)
        return f"<p class='error'>{html.escape(host.message(error))}</p>"


def as_html(shown: Preview) -> str:
    """A preview for the page."""
    if shown.asked is None or shown.without is None:
        return f"<p>{html.escape(shown.text)}</p>"
    about = [f"seed {shown.seed}"]
    if shown.module:
        about.append(f"OMS model {html.escape(shown.module)}{' (Automatic)' if shown.automatic else ''}")
    picture = (
        f"<img src='data:image/png;base64,{shown.png}' alt='{html.escape(shown.text)}' "
        f"style='max-width:{_SIDE}px;max-height:{_SIDE}px;border-radius:6px'>"
    )
    words = (
        f"<div>asks for brightness <b>{in_words(shown.asked)}</b><br>"
        f"without the step: {in_words(shown.without)}<br>{' · '.join(about)}</div>"
    )
    return f"<div style='display:flex;gap:12px;align-items:center'>{picture}{words}</div>"


def in_words(numbers: Numbers) -> str:
    """Numbers with a swatch of their color."""
    swatch = (
        f"<span style='display:inline-block;width:0.9em;height:0.9em;border-radius:3px;vertical-align:-0.1em;"
        f"border:1px solid var(--border-color-primary);background:{numbers.color}'></span>"
    )
    brightness, color = str(numbers).split(", ")
    return f"{brightness}, {swatch} {color}"
