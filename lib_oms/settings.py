"""The settings of One More Step, each written down once.

The dataclass below is the list: the accordion, the check of what the API sends, infotext and its way back, and the
tables in the documentation are all read from its fields. A new setting goes last, so that positional API calls and
old pictures keep their meaning.
"""

from __future__ import annotations

import difflib
import json
import math
import re
import reprlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from types import MappingProxyType
from typing import Any

from lib_oms.errors import SettingError

_NONE: Mapping[str, Any] = MappingProxyType({})
AUTOMATIC = "Automatic"
"""The module's name that stands for "whichever fits the loaded model"."""
CHOICE = "OMS model choice"
"""Infotext's label beside the module that was used, where that was Automatic's choice; the text is AUTOMATIC."""


@dataclass(frozen=True)
class Setting:
    """One setting: what the page calls it, what it may be, and how a picture's infotext spells it."""

    name: str
    label: str
    infotext: str
    help: str
    default: bool | float | str
    minimum: float = -math.inf
    maximum: float = math.inf
    step: float | None = None

    @property
    def type(self) -> type:
        """bool, float or str."""
        return type(self.default)

    @property
    def schema(self) -> dict[str, Any]:
        """JSON schema of the setting's value."""
        kinds = {bool: "boolean", float: "number", str: "string"}
        bounds = {"minimum": self.minimum, "maximum": self.maximum} if self.type is float else {}
        facts = {"title": self.label, "description": self.help, "type": kinds[self.type], "default": self.default}
        return {**facts, **bounds}

    @property
    def allowed(self) -> str:
        """What may be given, in words for an error message."""
        if self.type is bool:
            return "true or false"
        if self.type is float:
            return f"a number from {self.minimum:g} to {self.maximum:g}"
        return "a text"

    def check(self, value: Any) -> bool | float | str:
        """`value` in the setting's own type.

        true is no number here and 1 is not true: the API hands over JSON unchecked, and whoever wrote "yes" should
        hear of it.

        Raises:
            SettingError: it is not allowed; names the setting, the value and what is.
        """
        if self.type is float and isinstance(value, (int, float)) and not isinstance(value, bool):
            if self.minimum <= value <= self.maximum:  # False for NaN too
                return float(value) + 0.0  # -0.0 becomes 0.0
        elif self.type is not float and isinstance(value, (bool, str)) and isinstance(value, self.type):
            _refuse_half_letters(f"{self.infotext} ({self.name})", value)
            return value
        raise SettingError(f"{self.infotext} ({self.name}): {reprlib.repr(value)} is not allowed, only {self.allowed}.")

    def parse(self, text: str) -> bool | float | str:
        """`check` for a value that stands in an infotext.

        Raises:
            SettingError: as `check`.
        """
        if self.type is bool:
            return self.check({"True": True, "False": False}.get(text, text))
        if self.type is float:
            try:
                return self.check(float(text))
            except ValueError as error:
                raise SettingError(f"{self.infotext}: {text!r} is not {self.allowed}.") from error
        return text


def _setting(default: bool | float | str, **facts: Any) -> Any:
    return field(default=default, metadata={"default": default, **facts})


@dataclass(frozen=True)
class OMSSettings:
    """What a person asked for, checked: every instance holds values that are allowed.

    Raises:
        SettingError: a value of the wrong type or out of its range.
    """

    enabled: bool = _setting(
        False,
        label="One More Step",
        infotext="OMS",
        help="Start sampling from a latent whose brightness and color obey the prompt.",
    )
    module: str = _setting(
        AUTOMATIC,
        label="OMS model",
        infotext="OMS model",
        help="The OMS model that takes the step. Automatic: the one made for the latents of the loaded checkpoint.",
    )
    prompt: str = _setting(
        "",
        label="OMS prompt",
        infotext="OMS prompt",
        help="What brightness, color and layout should follow, such as 'black background'. Empty: the main prompt.",
    )
    guidance_scale: float = _setting(
        1.0,
        label="OMS guidance scale",
        infotext="OMS guidance scale",
        help="How strongly the OMS prompt acts. 1 is the plain step and the fastest; 1.5 to 2 exaggerate it.",
        minimum=0.0,
        maximum=10.0,
        step=0.05,
    )
    eta: float = _setting(
        0.0,
        label="OMS eta",
        infotext="OMS eta",
        help="0 (DDIM) keeps the composition of the seed; 1 (DDPM) adds the step's answer to fresh noise instead.",
        minimum=0.0,
        maximum=1.0,
        step=0.05,
    )
    negative_prompt: str = _setting(
        "",
        label="OMS negative prompt",
        infotext="OMS negative prompt",
        help="What guidance leads away from, at any OMS guidance scale but 1. Published OMS models know only empty.",
    )

    def __post_init__(self) -> None:
        for setting in SETTINGS:
            object.__setattr__(self, setting.name, setting.check(getattr(self, setting.name)))

    @classmethod
    def from_args(cls, args: Sequence[Any], axes: Mapping[str, Any] = _NONE) -> OMSSettings:
        """Settings from what the host passes to a script.

        A dict that stands where `enabled` belongs asks for the step unless it says `"enabled": false`, and so do
        axes: whoever names an OMS prompt wants it used.

        Args:
            args: a list in the order of the fields, or a shorter one, or one that holds a dict of names and values,
                which win over the rest of the list.
            axes: names and values that an X/Y/Z plot gives to the picture; they win over both.

        Raises:
            SettingError: a wrong type, a value out of range, an unknown name, a second dict, too long a list.
        """
        if len(args) > len(SETTINGS):
            raise SettingError(f"{len(args)} values for {len(SETTINGS)} settings, which are {_names()}.")
        values: dict[str, Any] = {}
        named: Mapping[str, Any] | None = None
        for setting, value in zip(SETTINGS, args, strict=False):
            if not isinstance(value, Mapping):
                values[setting.name] = value
                continue
            if named is not None:
                raise SettingError("the list of settings holds two dicts, only one is allowed.")
            named = value
            if setting.name == "enabled":
                values["enabled"] = True
        for name in named or {}:
            if name not in _BY_NAME:
                raise SettingError(
                    f"there is no setting {reprlib.repr(name)}.{close_to(name, _BY_NAME)} Allowed are {_names()}."
                )
        return cls(**{**values, **(named or {}), **_asking(axes)})

    @staticmethod
    def asked_for(args: Sequence[Any], axes: Mapping[str, Any] = _NONE) -> bool:
        """Whether these arguments ask for the step at all; whatever else they hold is not looked at.

        Raises:
            SettingError: `enabled` is neither true nor false.
        """
        named = next((value for value in args if isinstance(value, Mapping)), {})
        first = args[0] if args else False
        enabled = named.get("enabled", True if isinstance(first, Mapping) else first)
        return _BY_NAME["enabled"].check(_asking(axes).get("enabled", enabled)) is True

    def as_dict(self) -> dict[str, bool | float | str]:
        """Name and value of every setting, in their order."""
        return asdict(self)

    def to_infotext(self, module: str) -> dict[str, str]:
        """What a picture's infotext must say for the picture to be made again, as label and text.

        `module` names the module that was really used, with what tells its content apart. Empty texts are left out.
        Nothing at all where the step was not asked for. A module that Automatic chose is named like any other, and
        beside it stands whose choice it was.
        """
        if not self.enabled:
            return {}
        values = {**self.as_dict(), "module": module}
        texts = {s.infotext: _quoted(str(values[s.name]), s.infotext) for s in SETTINGS if values[s.name] != ""}
        return {**texts, CHOICE: AUTOMATIC} if is_automatic(self.module) else texts


def _refuse_half_letters(name: str, value: Any) -> None:
    """JSON can hold one half of a letter of two (a surrogate), which neither a file nor a tokenizer takes."""
    if isinstance(value, str) and (found := re.search("[\ud800-\udfff]", value)):
        raise SettingError(
            f"{name}: its letter {found.start() + 1} is only one half of a letter (U+{ord(found[0]):04X}), which no "
            "text can hold. Write it anew."
        )


SETTINGS: tuple[Setting, ...] = tuple(Setting(name=f.name, **f.metadata) for f in fields(OMSSettings))
"""The settings in their order."""

_BY_NAME = {setting.name: setting for setting in SETTINGS}


def _names() -> str:
    return ", ".join(_BY_NAME)


def close_to(name: Any, names: Iterable[str]) -> str:
    """The one of `names` that is closest to one that does not exist, as a question with a blank before it; nothing
    where none is close.
    """
    by_small = {known.casefold(): known for known in names}
    close = difflib.get_close_matches(str(name)[:100].strip().casefold(), by_small, n=1)
    return f" Did you mean {by_small[close[0]]!r}?" if close else ""


def is_automatic(module: str) -> bool:
    """Whether a module's name stands for "whichever fits"."""
    return module.strip().casefold() == AUTOMATIC.casefold()


def _asking(axes: Mapping[str, Any]) -> dict[str, Any]:
    return {"enabled": True, **axes} if axes else {}


def json_schema() -> dict[str, Any]:
    """JSON schema (2020-12) of the dict that the API takes; the order of its properties is that of positional calls."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "One More Step",
        "description": "Settings by name. In a list they stand in this order, and what is missing is the default.",
        "type": "object",
        "properties": {setting.name: setting.schema for setting in SETTINGS},
        "additionalProperties": False,
    }


def from_infotext(setting: Setting, params: Mapping[str, Any]) -> bool | float | str | None:
    """The value that the picture's infotext gives to a setting. `params` are label and text as the host parsed them.

    A picture made without the step gives enabled False, and None (leave it alone) for every other setting; one made
    with it gives the default to what is not mentioned.

    Raises:
        SettingError: the infotext holds what the setting does not allow.
    """
    made_with_oms = _BY_NAME["enabled"].infotext in params
    if setting.name == "enabled":
        return setting.parse(params[setting.infotext]) if made_with_oms else False
    if not made_with_oms:
        return None
    width, height = params.get(f"{setting.infotext}-1"), params.get(f"{setting.infotext}-2")
    if setting.infotext not in params and width is not None and height is not None:
        return setting.parse(f"{width}x{height}")  # the host takes any text like 512x768 for a picture's size
    text = params.get(setting.infotext)
    return setting.default if text is None else setting.parse(str(text))


def was_automatic(params: Mapping[str, Any]) -> bool:
    """Whether the picture's infotext says that Automatic chose the module which it names."""
    return params.get(CHOICE) == AUTOMATIC


def _quoted(text: str, label: str) -> str:
    """`text` so that it comes back unchanged through the host's infotext, where it stands beside `label`.

    The host puts quotes around what holds a comma, a colon or a newline (A1111 modules/infotext_utils.py quote), takes
    quotes away from whatever begins and ends with one, and takes a value that only begins with one to go on to the
    next quote, wherever that is; a value that equals its label is dropped (modules/processing.py create_infotext).
    Texts that would not survive, or that could end another extension's open quote, get the quotes here.
    """
    if re.search(r"[,:\n]", text):
        return text
    if '"' in text or text != text.strip() or re.search(r"[\x00-\x1f]", text) or text == label:
        return json.dumps(text, ensure_ascii=False)
    return text
