"""Words below the OMS prompt that a click puts in or takes out, and how many tokens the prompt has.

The page's script (javascript/one_more_step.js) brings both to life; without it neither is shown.
"""

from __future__ import annotations

import html
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gradio as gr

from lib_oms.errors import readable
from lib_oms.webui import host, token_count
from lib_oms.webui.controls import AT_ONCE, JS, unsaved

_FILE = "chips.txt"
_LARGEST = 2**16  # bytes that are read of a file
_MOST = 100
_LONGEST = 60


def build(controls: Mapping[str, Any]) -> gr.HTML:
    """Adds the words and the count, made to stand below the OMS prompt. Returns what shows the words, whose value
    `as_html` gives.
    """
    prompt = controls["prompt"]
    with gr.Row(elem_id="oms_words"):
        shown = gr.HTML(as_html(), elem_id="oms_chips")
        count = gr.HTML("", elem_id="oms_prompt_count")
        button = unsaved(gr.Button("Count", visible=False, elem_id="oms_prompt_count_button"))
    button.click(fn=_count, inputs=[prompt], outputs=[count], **AT_ONCE)
    # The browser tells no script of a text that a program has put into a field.
    prompt.change(fn=None, inputs=[prompt], outputs=[], **{JS: "(text) => { window.oneMoreStep?.promptChanged(); }"})
    return shown


def words() -> list[str]:
    """The words, read anew each time: a person's own file, else the extension's."""
    own, extension = host.user_folder() / _FILE, Path(__file__).resolve().parents[2] / _FILE
    for path in (own, extension):
        try:
            with path.open("rb") as file:
                lines = file.read(_LARGEST).decode("utf-8-sig", "replace").splitlines()
        except OSError:
            continue
        texts = (" ".join(line.split()) for line in lines)
        kept = {text.casefold(): text for text in texts if text and text[0] != "#" and len(text) <= _LONGEST}
        return list(kept.values())[:_MOST]
    return []


def as_html() -> str:
    """A button for each word, hidden until the script knows of them."""
    buttons = "".join(
        f"<button type='button' aria-pressed='false' data-word='{html.escape(word)}'>{html.escape(word)}</button>"
        for word in map(readable, words())
    )
    return f"<div class='oms-chips' role='group' aria-label='Words for the OMS prompt' hidden>{buttons}</div>"


def _count(prompt: Any) -> str:
    """The count, and of which text it is: the script asks again where that is another's by now."""
    text = str(prompt or "")
    title = "Tokens of the OMS prompt, and how many its chunks have room for"
    return f"<span class='oms-count' title='{title}' data-of='{html.escape(text)}'>{token_count.of(text)}</span>"
