"""The control of each setting, as its line in the list of settings says."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import gradio as gr

from lib_oms.settings import NONE, SETTINGS, Setting

BY_NAME = {setting.name: setting for setting in SETTINGS}
JS = "_js" if gr.__version__.startswith("3.") else "js"
"""What this gradio calls an event's part in the browser."""

AT_ONCE = {"queue": False, "show_progress": False}
"""Of an event whose work is short: it waits for no place in the queue, and its result comes with the answer.

Results of what is queued come by a stream that gradio 4.40 closes after the last one. Whatever is asked for while that
message is on its way counts on the stream, and waits for ever: be it the next event or the host's own Generate.
"""

_VALUES = {word: value for setting in SETTINGS for word, value in zip(setting.words, setting.choices, strict=False)}


class _Word(str):
    """What a radio button says, which is also equal to the value that it stands for: hosts look what their
    ui-config.json holds, a value, up among the words (radio_choices in modules/ui_loadsave.py).
    """

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        return str.__eq__(self, other) is True or _VALUES.get(str(self)) == other

    __hash__ = str.__hash__


_BEFORE_IDS: ContextVar[str] = ContextVar("before_ids", default="")


@contextmanager
def tab(is_img2img: bool) -> Iterator[None]:
    """What is made inside stands on that tab: both are one page, and no id may be on it twice."""
    token = _BEFORE_IDS.set("img2img_" if is_img2img else "")
    try:
        yield
    finally:
        _BEFORE_IDS.reset(token)


def elem_id(name: str) -> str:
    """The stable id of a setting's control in the page's HTML."""
    return f"{_BEFORE_IDS.get()}oms_{name}"


def unsaved(component: Any) -> Any:
    """`component`, of which hosts' ui-config.json does not hold a default: it is no setting."""
    component.do_not_save_to_config = True
    return component


def small_button(text: str, name: str) -> gr.Button:
    """One of several in a row."""
    return unsaved(gr.Button(text, size="sm", min_width=60, elem_id=elem_id(name)))


def textbox(name: str, placeholder: str = "", **more: Any) -> gr.Textbox:
    """A text; one that is not visible is told nothing about."""
    return gr.Textbox(placeholder=placeholder, **_of(name), **more)


def slider(name: str) -> gr.Slider:
    """A number."""
    setting = BY_NAME[name]
    end = min(setting.maximum, setting.slider)
    return gr.Slider(minimum=setting.minimum, maximum=end, step=setting.step, **_of(name))


def radio(name: str) -> gr.Radio:
    """One of a few, shown by words; what the page sends is the value."""
    setting = BY_NAME[name]
    return gr.Radio(choices=[(_Word(word), value) for word, value in _choices(setting)], **_of(name))


def dropdown(name: str, choices: list[str], **more: Any) -> gr.Dropdown:
    """One of many."""
    return gr.Dropdown(choices=choices, **_of(name), **more)


def color_picker(name: str) -> gr.ColorPicker:
    """A color."""
    return gr.ColorPicker(**_of(name))


def update(**facts: Any) -> dict[str, Any]:
    """An update of a control that pages and hosts' API take alike.

    Marked as gradio 3 marks updates: gradio 4 takes that, too, and it is the only mark by which hosts' API finds the
    value in an update (A1111 modules/api/api.py apply_infotext).
    """
    return {**gr.update(**facts), "__type__": "generic_update"}


def holding(setting: Setting, value: Any) -> Any:
    """What makes the setting's control hold `value`. Beyond a slider's end that end moves, too: gradio brings a number
    back between the ends as soon as a person leaves its field.
    """
    beyond = isinstance(value, (int, float)) and value > setting.slider
    return update(value=value, maximum=setting.maximum) if beyond else value


def _choices(setting: Setting) -> list[tuple[str, str]]:
    """Word and value of each; what follows nothing stands last."""
    words = [*setting.words, *setting.choices[len(setting.words) :]]
    return sorted(zip(words, setting.choices, strict=True), key=lambda pair: pair[1] == NONE)


def _of(name: str) -> dict[str, Any]:
    setting = BY_NAME[name]
    return {"value": setting.default, "label": setting.label, "info": setting.help, "elem_id": elem_id(name)}
