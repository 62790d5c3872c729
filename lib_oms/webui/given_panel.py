"""Where a picture is put or painted, and what becomes of it: the text that infotexts and the API have."""

from __future__ import annotations

import html
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
from PIL import Image

from lib_oms.given import small_picture
from lib_oms.settings import BRUSH, PICTURE
from lib_oms.webui.controls import elem_id, textbox, unsaved

_SIZE = 256, 192
"""Pixels of the canvas: coarse, as 16 of them are kept."""
_SHEET = Path(__file__).with_name("sheet.png")
"""Medium gray, which says nothing. A file, as gradio writes one of a picture from memory, and hosts say where: Forge
Neo into a folder that is missing at its first start.
"""
_COLORS = ("#000000", "#ffffff", "#1f4e79", "#f28c28")
"""gradio 4.40 shows four, whatever more it is given; the eraser brings the gray back, and + any other color."""
_READY = {"Dark left": (1, 0), "Dark right": (-1, 0), "Dark above": (0, 1), "Dark below": (0, -1)}
"""Sketches that need no hand: where it gets brighter, as steps to the right and downward."""


def picture() -> gr.Textbox:
    """A place for a picture; gives the text."""
    image = gr.Image(label="Picture to follow", type="pil", height=200, elem_id=elem_id("picture_image"))
    text = _text(PICTURE)
    image.change(fn=_picture_as_text, inputs=[image], outputs=[text], show_progress=False)
    return text


def brush() -> gr.Textbox:
    """A canvas, and sketches that are there already; gives the text."""
    canvas = _canvas()
    with gr.Row(elem_id=elem_id("brush_ready")):
        ready = [
            unsaved(
                gr.Button(name, size="sm", min_width=60, elem_id=elem_id(f"brush_{name.lower().replace(' ', '_')}"))
            )
            for name in _READY
        ]
    text = _text(BRUSH)
    canvas.change(fn=_drawing_as_text, inputs=[canvas], outputs=[text], show_progress=False)
    canvas.clear(fn=lambda: "", inputs=[], outputs=[text], show_progress=False)
    for name, button in zip(_READY, ready, strict=True):
        # The text alone: gradio 3's canvas shows nothing but what was drawn by hand, and gradio 4's tells, when a
        # sketch is put there, what was there before.
        button.click(fn=_ready(name), inputs=[], outputs=[text], show_progress=False)
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
    text.change(fn=_as_html, inputs=[text], outputs=[shown], show_progress=False)
    return text


def _canvas() -> Any:
    """gradio's own editor, of either generation: a sheet of medium gray, which says nothing, or of white."""
    facts: dict[str, Any] = {"label": "Paint dark, bright, colors", "type": "pil", "elem_id": elem_id("brush_canvas")}
    if not hasattr(gr, "ImageEditor"):
        return gr.Image(source="canvas", tool="color-sketch", shape=_SIZE, brush_radius=24, height=240, **facts)
    return gr.ImageEditor(
        value={"background": str(_SHEET), "layers": [], "composite": None},
        sources=(),
        transforms=(),
        layers=False,
        canvas_size=_SIZE,
        height=276,
        brush=gr.Brush(colors=list(_COLORS), default_size=40),
        **facts,
    )


def _drawing_as_text(drawing: Any) -> Any:
    """A drawing as the canvas gives it: gradio 3 the image, or None where it was taken away; gradio 4 an image in
    parts. A sheet on which nothing is painted changes nothing: gradio 4 tells of it whenever the canvas comes into
    sight, as when another drawing was pasted.
    """
    if not isinstance(drawing, dict):
        return "" if drawing is None else small_picture(drawing, BRUSH)
    whole = drawing.get("composite")
    text = "" if whole is None else small_picture(whole, BRUSH)
    return gr.update() if text in ("", small_picture(Image.open(_SHEET), BRUSH)) else text


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
