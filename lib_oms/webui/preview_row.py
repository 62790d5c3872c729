"""The row of the accordion that shows what the step asks for before a picture is made, and what it makes of one."""

from __future__ import annotations

import html
from collections.abc import Callable
from dataclasses import fields
from typing import Any

import gradio as gr
from modules import errors, scripts
from PIL import Image

from lib_oms.errors import OMSError
from lib_oms.given import png
from lib_oms.settings import SETTINGS, OMSSettings
from lib_oms.webui import host, page_controls, trouble
from lib_oms.webui.compare import compare
from lib_oms.webui.controls import elem_id
from lib_oms.webui.first_pass import Wanted
from lib_oms.webui.given import settled
from lib_oms.webui.numbers import Numbers
from lib_oms.webui.preview import Preview, preview

_BUTTON, _RESULT = "oms_preview", "oms_preview_result"
_COMPARE, _COMPARED = "oms_compare", "oms_compare_result"
_SIDE = 92
_LARGEST = 384
"""Pixels of the longer side that are shown, of a preview, and at most of a compared picture."""
_USED = (*(field.name for field in fields(Wanted)), page_controls.VARIES)
_SETTINGS = [setting.name for setting in SETTINGS if setting.name != "enabled"]  # who presses the button wants the step


def build() -> None:
    """Makes the row. What it does is known only when the whole page is there, see `component_made`."""
    with gr.Row(elem_id="oms_preview_row"):
        gr.Button("Preview", elem_id=_BUTTON, scale=0, min_width=110)
        gr.Button("Compare", elem_id=_COMPARE, scale=0, min_width=110)
    gr.HTML("", elem_id=_RESULT)
    gr.HTML("", elem_id=_COMPARED)


def component_made(component: Any) -> None:
    """To be called for each component of the page as the host makes it.

    Where the last one is there the buttons get their work, with the page's prompt, seed and size, wherever they stand.
    """
    if getattr(component, "elem_id", None) != page_controls.LAST:
        return
    made = page_controls.made_so_far()
    if _BUTTON not in made:
        return
    own = {name: made[elem_id(name)] for name in _SETTINGS}
    _listen(made[_BUTTON], made[_RESULT], page_controls.of_host(made, _USED), list(own.values()), _previewed)
    scripts_inputs = list(scripts.scripts_txt2img.inputs)
    _listen(made[_COMPARE], made[_COMPARED], page_controls.of_host(made), scripts_inputs, _compared)


def _listen(
    button: Any, result: Any, page: dict[str, Any], more: list[Any], work: Callable[[dict[str, Any], list[Any]], str]
) -> None:
    """Makes the button show what `work` says to the values of the page's controls, by name, and of `more`."""

    def show(*values: Any) -> str:
        held = page_controls.read(dict(zip(page, values, strict=False)))
        try:
            return work(held, list(values[len(page) :]))
        except Exception as error:
            if not isinstance(error, (OMSError, trouble.Refusal)):
                errors.report(f"{trouble.NAME}: {button.value} failed", exc_info=True)
            return f"<p class='error'>{html.escape(host.message(error))}</p>"

    button.click(fn=show, inputs=[*page.values(), *more], outputs=[result])


def _previewed(page: dict[str, Any], settings: list[Any]) -> str:
    asked = OMSSettings.from_args([dict(zip(_SETTINGS, settings, strict=True))])
    return as_html(preview(Wanted(**page), settled(asked)))


def _compared(page: dict[str, Any], script_args: list[Any]) -> str:
    pairs, comments = compare(page, script_args)
    rows = [
        f"<div style='display:flex;gap:12px'>{_figure(pair.without, 'without the step', pair.seed)}"
        f"{_figure(pair.with_step, 'with One More Step', pair.seed)}</div>"
        for pair in pairs
    ]
    said = "".join(f"<p>{html.escape(line)}</p>" for line in comments.splitlines() if line.strip())
    return "".join(rows) + said or "<p>There is no picture: it was interrupted.</p>"


def _figure(picture: Image.Image, what: str, seed: int) -> str:
    """A picture of a pair, at most as large as two of them find room, with its numbers."""
    numbers = Numbers.of(picture)
    shown = picture.convert("RGB")
    shown.thumbnail((_LARGEST, _LARGEST))
    return (
        f"<figure style='margin:0 0 8px;flex:0 1 {_LARGEST}px'>"
        f"<img src='data:image/png;base64,{png(shown)}' alt='seed {seed} {what}: {numbers}' style='max-width:100%'>"
        f"<figcaption>{what}: <b>{in_words(numbers)}</b> · seed {seed}</figcaption></figure>"
    )


def as_html(shown: Preview) -> str:
    """A preview for the page."""
    if shown.picture is None or shown.asked is None or shown.without is None:
        return f"<p>{html.escape(shown.text)}</p>"
    about = [f"seed {shown.seed}"]
    if shown.module:
        about.append(f"OMS model {html.escape(shown.module)}{' (Automatic)' if shown.automatic else ''}")
    width, height = (round(_SIDE * side / max(shown.picture.size)) for side in shown.picture.size)
    picture = (  # quick decoders give a pixel for 8 x 8
        f"<img src='data:image/png;base64,{png(shown.picture)}' alt='{html.escape(shown.text)}' "
        f"style='width:{width}px;height:{height}px;border-radius:6px'>"
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
