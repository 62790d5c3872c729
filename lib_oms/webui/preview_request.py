"""The body of a request for a preview."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from modules import sd_samplers, shared

from lib_oms.errors import SettingError
from lib_oms.settings import OMSSettings, close_to
from lib_oms.webui.first_pass import Wanted
from lib_oms.webui.given import settled

SETTINGS = "oms"
"""The name in the body under which the settings stand."""
_NAMES = (*(field.name for field in fields(Wanted)), SETTINGS)
_WHOLE = {
    "seed": (-1, 2**63 - 1),  # what torch takes for one
    "subseed": (-1, 2**63 - 1),
    "width": (64, 4096),
    "height": (64, 4096),
    "steps": (1, 1000),
}


def read(body: Any) -> tuple[Wanted, OMSSettings]:
    """What a request asks for. The step is taken for wanted, whatever the settings say of `enabled`.

    Raises:
        SettingError: it is no object, has an unknown name, or a value that is not allowed.
    """
    if not isinstance(body, Mapping):
        raise SettingError(f"the body has to be an object with some of the names {', '.join(_NAMES)}.")
    for name in body:
        if name not in _NAMES:
            raise SettingError(
                f"there is no {reprlib.repr(name)}.{close_to(name, _NAMES)} Allowed are {', '.join(_NAMES)}."
            )
    settings = {} if body.get(SETTINGS) is None else body[SETTINGS]
    if not isinstance(settings, Mapping):
        raise SettingError(f"{SETTINGS} has to be an object of settings by name, see /oms/v1/settings.")
    given = {name: _checked(name, value) for name, value in body.items() if name != SETTINGS and value is not None}
    return Wanted(**given), settled(OMSSettings.from_args([{**settings, "enabled": True}]))


def _checked(name: str, value: Any) -> Any:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if name in _WHOLE:
        lowest, highest = _WHOLE[name]
        if not is_number or not lowest <= value <= highest or value != int(value):
            raise _refusal(name, value, f"a whole number from {lowest} to {highest}")
        return int(value)
    if name == "subseed_strength":
        if not is_number or not 0 <= value <= 1:
            raise _refusal(name, value, "a number from 0 to 1")
        return float(value)
    if name == "styles":
        if not isinstance(value, list) or not all(isinstance(style, str) for style in value):
            raise _refusal(name, value, "a list of names")
        return value
    if name == "override_settings":
        return _options(name, value)
    if not isinstance(value, str):
        raise _refusal(name, value, "a text")
    if name == "sampler_name":
        known = [sampler.name for sampler in sd_samplers.all_samplers]
        if value not in known:
            raise SettingError(f"{name}: there is no sampler {reprlib.repr(value)}.{close_to(value, known)}")
    return value


def _options(name: str, value: Any) -> Any:
    if not isinstance(value, Mapping):
        raise _refusal(name, value, "an object of the WebUI's options by name")
    for option in value:
        if option not in shared.opts.data_labels:
            raise SettingError(
                f"{name}: the WebUI has no option {reprlib.repr(option)}.{close_to(option, shared.opts.data_labels)}"
            )
    return value


def _refusal(name: str, value: Any, allowed: str) -> SettingError:
    return SettingError(f"{name}: {reprlib.repr(value)} is not allowed, only {allowed}.")
