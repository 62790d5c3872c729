"""Infotext: written, parsed, and pasted back into the page (host file: modules/infotext_utils.py)."""

import json
import re
from collections.abc import Callable
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import gradio as gr
from modules import errors, paths, shared

from lib_oms.text.prompt import parse_prompt

re_param = re.compile(r'\s*(?P<key>\w[\w \-/]+):\s*(?P<value>"(?:\\.|[^\\"])+"|[^,]*)(?:,|$)')
_SIZE = re.compile(r"^(\d+)x(\d+)$")

_ABSENT = {"RNG": "GPU", "Schedule type": "Automatic", "Schedule max sigma": 0, "Schedule min sigma": 0,
           "Schedule rho": 0}
"""What a key that is not there means."""


class PasteField(NamedTuple):
    """A component and the infotext key, or the function of all parameters, that fills it.

    `api` is the request's field that it stands for in API calls with "infotext".
    """

    component: Any
    target: str | Callable[[dict], Any]
    api: str | None = None

    def read(self, params: dict) -> Any:
        """What infotext says, None where it does not."""
        return self.target(params) if callable(self.target) else params.get(self.target)


txt2img_fields: list[PasteField] = []


def quote(value: Any) -> Any:
    """A value as infotext has it: as a JSON string where it holds a comma, a colon or a newline."""
    if not any(c in str(value) for c in ",\n:"):
        return value
    return json.dumps(value, ensure_ascii=False)


def unquote(text: str) -> str:
    if text.startswith('"') and text.endswith('"'):
        with suppress(ValueError):
            return json.loads(text)
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
    spans = chain.from_iterable(section for text in texts.values() for section in parse_prompt("\n".join(text)))
    if "Emphasis" not in result and any(span.weight != 1.0 for span in spans):
        result["Emphasis"] = "Original"
    return result


def get_override_settings(params: dict) -> dict[str, Any]:
    """Every option that the infotext has other than it is set now; not the checkpoint, which a text does not change."""
    values = _options_in({key: value for key, value in params.items() if key != "Model hash"})
    return {name: value for name, value in values.items() if value != getattr(shared.opts, name)}


def to_override_settings(params: dict) -> Any:
    """An update of the page's override settings: the options that an infotext asks for."""
    labels = [shared.opts.data_labels[name].infotext for name in get_override_settings(params)]
    pairs = [f"{label}: {params[label]}" for label in labels]
    return gr.update(value=pairs, choices=pairs, visible=bool(pairs))


def create_override_settings_dict(text_pairs: list[str]) -> dict[str, Any]:
    """What the page's override settings, such as "ENSD: 31337", mean."""
    return _options_in({key: value.strip() for key, value in (pair.split(":", 1) for pair in text_pairs)})


def _options_in(params: dict) -> dict[str, Any]:
    options = shared.opts
    named = {name: info.infotext for name, info in options.data_labels.items() if info.infotext in params}
    return {name: options.cast_value(name, params[key]) for name, key in named.items()}


def _update(field: PasteField, params: dict) -> Any:
    """What one component is given: an update of nothing where the infotext does not say."""
    try:
        value = field.read(params)
        if value is None or isinstance(value, type(gr.update())):
            return value or gr.update()
        kind = type(field.component.value)
        if kind is bool and value == "False":
            return gr.update(value=False)
        return gr.update(value=float(value) if kind is int else kind(value))
    except Exception:
        errors.report(f"Error executing {field.target}", exc_info=True)
        return gr.update()


def connect_paste(button: Any, source: Any) -> None:
    """Makes `button` paste the text of `source`, or params.txt of the last generation where that is empty."""

    def paste(text: str) -> list:
        last = Path(paths.data_path) / "params.txt"
        if not text and last.is_file():
            text = last.read_text(encoding="utf8")
        params = parse_generation_parameters(text)
        return [_update(field, params) for field in txt2img_fields]

    button.click(fn=paste, inputs=[source], outputs=[f.component for f in txt2img_fields], show_progress=False)
