"""Where a picture is put or painted, and what becomes of it: the text that infotexts and the API have."""

from __future__ import annotations

import html
import re
from collections.abc import Callable
from typing import Any

import gradio as gr
import numpy as np
from PIL import Image

from lib_oms.given import small_picture
from lib_oms.settings import BRUSH, PICTURE
from lib_oms.webui.controls import AT_ONCE, elem_id, small_button, textbox

_SIZE = 256, 192
"""Pixels of the canvas: coarse, as 16 of them are kept."""
_COLORS = {"#000000": "black", "#ffffff": "white", "#1f4e79": "blue", "#f28c28": "orange"}
_READY = {"Dark left": (1, 0), "Dark right": (-1, 0), "Dark above": (0, 1), "Dark below": (0, -1)}
"""Sketches that need no hand: where it gets brighter, as steps to the right and downward."""


def picture() -> gr.Textbox:
    """A place for a picture; gives the text."""
    image = gr.Image(label="Picture to follow", type="pil", height=200, elem_id=elem_id("picture_image"))
    text = _text(PICTURE)
    image.change(fn=_picture_as_text, inputs=[image], outputs=[text], **AT_ONCE)
    return text


def brush() -> gr.Textbox:
    """A canvas, and sketches that are there already; gives the text.

    The canvas is the page's script's (javascript/one_more_step.js), and not there without it. gradio's own editors draw
    60 frames a second even out of sight (4.40), or show no sketch that comes from elsewhere (3.41).
    """
    gr.HTML(_canvas(elem_id(BRUSH)), elem_id=elem_id("brush_canvas"))
    with gr.Row(elem_id=elem_id("brush_ready")):
        ready = [small_button(name, f"brush_{name.lower().replace(' ', '_')}") for name in _READY]
    text = _text(BRUSH)
    for name, button in zip(_READY, ready, strict=True):
        button.click(fn=_ready(name), inputs=[], outputs=[text], **AT_ONCE)
    return text


def _ready(name: str) -> Callable[[], str]:
    return lambda: small_picture(sketch(name), BRUSH)


def sketch(name: str) -> Image.Image:
    """One of the sketches that are there already."""
    width, height = _SIZE
    right, down = _READY[name]
    x, y = np.linspace(-1, 1, width)[None, :], np.linspace(-1, 1, height)[:, None]
    light = np.clip(127.5 * (1 + right * x + down * y), 0, 255).astype(np.uint8)
    return Image.fromarray(np.broadcast_to(light, (height, width)).copy()).convert("RGB")


def _text(name: str) -> gr.Textbox:
    """The setting itself, which nobody has to see, and below it what it shows, also where it was pasted."""
    text = textbox(name, visible=False)
    shown = gr.HTML("", elem_id=elem_id(f"{name}_shown"))
    text.change(fn=_as_html, inputs=[text], outputs=[shown], **AT_ONCE)
    return text


def _canvas(field: str) -> str:
    """A sheet of medium gray, which says nothing, and what to paint on it with; for the text with the id `field`."""
    colors = "".join(
        f"<button type='button' aria-label='Paint {name}' aria-pressed='false' data-color='{color}' "
        f"style='background: {color}'></button>"
        for color, name in _COLORS.items()
    )
    width, height = _SIZE
    return (
        f"<div class='oms-paint' data-field='{field}' hidden>"
        f"<canvas width='{width}' height='{height}' role='img' aria-label='Paint dark, bright, colors'></canvas>"
        f"<div role='group' aria-label='Brush'>{colors}<input type='color' aria-label='Another color' value='#7a1f1f'>"
        "<button type='button' data-clear>Clear</button></div></div>"
    )


def _picture_as_text(image: Any) -> str:
    """A picture of the page (PIL, or None for one that was taken away) as the setting holds it."""
    return "" if image is None else small_picture(image, PICTURE)


def _as_html(text: Any) -> str:
    data = str(text or "").partition("base64,")[2] or str(text or "")
    if not re.fullmatch(r"[A-Za-z0-9+/=\s]+", data):
        return ""
    return (
        "<div class='oms-shown'><span>This is followed:</span>"
        f"<img alt='The picture as the step sees it' src='data:image/png;base64,{html.escape(data)}'></div>"
    )
