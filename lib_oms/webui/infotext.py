"""What the picture's infotext says of the step, and how it comes back into the page."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lib_oms.library import ModuleEntry
from lib_oms.settings import CHOICE, SETTINGS, OMSSettings, Setting, from_infotext, was_automatic
from lib_oms.webui import offer, options
from lib_oms.webui.controls import holding, update

SKIPPED = "OMS skipped"
RESULT = "OMS result"
"""Brightness and mean color of the picture. Nothing reads it back."""
(_SOURCE,) = (setting for setting in SETTINGS if setting.name == "source")
_LABELS = (*(setting.infotext for setting in SETTINGS), CHOICE, SKIPPED, RESULT)


def write(p: Any, settings: OMSSettings, entry: ModuleEntry | None) -> None:
    """Everything that is needed to make the picture again; `entry` is the module that has a part in it."""
    p.extra_generation_params.update(settings.to_infotext(None if entry is None else offer.label(entry)))


def write_skipped(p: Any, reason: str) -> None:
    """That the picture was made without the step, and why."""
    p.extra_generation_params[SKIPPED] = reason


def skipped(p: Any) -> str | None:
    """What write_skipped has written."""
    return p.extra_generation_params.get(SKIPPED)


def clear(p: Any) -> None:
    """Takes back whatever was written, for this picture or, as an X/Y/Z plot's cells share the dict, for another."""
    for label in _LABELS:
        p.extra_generation_params.pop(label, None)


def fields(controls: Sequence[Any]) -> list[tuple[Any, Callable[[Mapping[str, Any]], Any]]]:
    """The host's `infotext_fields` for controls in the order of SETTINGS.

    Functions, not labels: with a label alone the host would read "False" as true (bool of a text that is not empty).
    """
    return [(control, _reader(setting)) for setting, control in zip(SETTINGS, controls, strict=True)]


def _reader(setting: Setting) -> Callable[[Mapping[str, Any]], Any]:
    def read(params: Mapping[str, Any]) -> Any:
        value = from_infotext(setting, params)
        if setting.name == "enabled" and value is False and setting.infotext not in params:
            return False if options.paste_unticks() else None
        if setting.infotext not in params and not setting.acts(params.get(_SOURCE.infotext, _SOURCE.default)):
            return None  # such as the color, where no color was followed: what the page shows may stay
        if setting.name == "module" and isinstance(value, str):
            return _to_choose(offer.restored(value, automatic=was_automatic(params)))
        return holding(setting, value)

    return read


def _to_choose(module: str) -> dict[str, Any]:
    """An update of the dropdown that chooses `module` and shows it even where it is none of the choices."""
    return update(value=module, choices=offer.choices(module))
