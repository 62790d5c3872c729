"""Infotext: written, parsed, and pasted back into the page (host file: modules/infotext_utils.py)."""

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr
from modules import errors, paths_internal, prompt_parser, script_callbacks, shared

sys.modules["modules.generation_parameters_copypaste"] = sys.modules[__name__]  # the name that older extensions use

re_param = re.compile(r'\s*(?P<key>\w[\w \-/]+):\s*(?P<value>"(?:\\.|[^\\"])+"|[^,]*)(?:,|$)')
_SIZE = re.compile(r"^(\d+)x(\d+)$")

_ABSENT = {"RNG": "GPU", "Schedule type": "Automatic", "Schedule max sigma": 0, "Schedule min sigma": 0,
           "Schedule rho": 0}
"""What a key that is not there means."""


class PasteField(tuple):
    """(component, target): the infotext key, or a function of all parameters, that fills the component.

    `api` is the request's field that it stands for in API calls with "infotext".
    """

    def __new__(cls, component: Any, target: str | Callable, *, api: str | None = None) -> "PasteField":
        return super().__new__(cls, (component, target))

    def __init__(self, component: Any, target: str | Callable, *, api: str | None = None) -> None:
        super().__init__()
        self.api = api
        self.component = component
        self.label = target if isinstance(target, str) else None
        self.function = target if callable(target) else None


paste_fields: dict[str, dict] = {}


def quote(value: Any) -> Any:
    """A value as infotext has it: as a JSON string where it holds a comma, a colon or a newline."""
    if not any(c in str(value) for c in ",\n:"):
        return value
    return json.dumps(value, ensure_ascii=False)


def unquote(text: str) -> str:
    if len(text) == 0 or text[0] != '"' or text[-1] != '"':
        return text
    try:
        return json.loads(text)
    except ValueError:
        return text


def parse_generation_parameters(x: str) -> dict[str, Any]:
    """Infotext as a dict. The last line is parameters if it has at least three, else it is prompt."""
    *lines, last = x.strip().split("\n")
    parameters = [(m["key"], m["value"]) for m in re_param.finditer(last)]
    if len(parameters) < 3:
        lines.append(last)
        parameters = []
    texts: dict[str, list[str]] = {"Prompt": [], "Negative prompt": []}
    target = "Prompt"
    for line in (line.strip() for line in lines):
        if line.startswith("Negative prompt:"):
            target = "Negative prompt"
            line = line[len("Negative prompt:"):].strip()
        if line or texts[target]:  # empty lines before any text go
            texts[target].append(line)
    result: dict[str, Any] = {}
    for key, value in parameters:
        value = unquote(value)
        if size := _SIZE.match(str(value)):
            result[f"{key}-1"], result[f"{key}-2"] = size.groups()
        else:
            result[key] = value
    result |= {name: "\n".join(lines) for name, lines in texts.items()}
    for key, value in _ABSENT.items():
        result.setdefault(key, value)
    attention = [piece for text in texts.values() for piece in prompt_parser.parse_prompt_attention("\n".join(text))]
    if "Emphasis" not in result and any(weight not in (1.0, -1) for _, weight in attention):
        result["Emphasis"] = "Original"
    return result


def add_paste_fields(tabname: str, init_img: Any, fields: list, override_settings_component: Any = None) -> None:
    fields = [f if isinstance(f, PasteField) else PasteField(*f) for f in fields or []]
    paste_fields[tabname] = {"fields": fields}


def get_override_settings(params: dict) -> list[tuple[str, str, Any]]:
    """(infotext name, option, value) of every option that the infotext has other than it is set now."""
    result = []
    for name, info in shared.opts.data_labels.items():
        if not info.infotext or params.get(info.infotext) is None:
            continue
        if name == "sd_model_checkpoint":  # the host's default: a pasted text does not change the checkpoint
            continue
        value = shared.opts.cast_value(name, params[info.infotext])
        if value != getattr(shared.opts, name, None):
            result.append((info.infotext, name, value))
    return result


def _component_value(field: PasteField, params: dict) -> Any:
    """What one component is given: an update of nothing where the infotext does not say."""
    if field.function:
        try:
            value = field.function(params)
        except Exception:
            errors.report(f"Error executing {field.function}", exc_info=True)
            value = None
    else:
        value = params.get(field.label)
    if value is None or isinstance(value, type(gr.update())):
        return gr.update() if value is None else value
    kind = type(field.component.value)
    try:
        if kind is bool and value == "False":
            return gr.update(value=False)
        return gr.update(value=float(value) if kind is int else kind(value))
    except Exception:
        return gr.update()


def connect_paste(button: Any, fields: list, input_comp: Any) -> None:
    """Makes `button` paste the text of `input_comp`, or params.txt of the last generation where that is empty."""

    def paste(text: str) -> list:
        if not text:
            last = Path(paths_internal.data_path) / "params.txt"
            text = last.read_text(encoding="utf8") if last.is_file() else ""
        params = parse_generation_parameters(text)
        script_callbacks.call("infotext_pasted", text, params)
        return [_component_value(field, params) for field in fields]

    outputs = [component for component, _ in fields]
    button.click(fn=paste, inputs=[input_comp], outputs=outputs, show_progress=False)
