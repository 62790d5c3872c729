"""The settings of One More Step, each written down once.

The dataclass below is the list: the accordion, the check of what the API sends, infotext and its way back, and the
tables in the documentation are all read from its fields.

A new setting goes last, and says by `before` what it was before it existed. That is what a picture means whose infotext
does not name it, and an API call that does not: both come out as they always have. The page may begin with another
value, the `default`.
"""

from __future__ import annotations

import difflib
import json
import math
import re
import reprlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from types import MappingProxyType
from typing import Any

from lib_oms.errors import SettingError

_NONE: Mapping[str, Any] = MappingProxyType({})
AUTOMATIC = "Automatic"
"""The module's name that stands for "whichever fits the loaded model"."""
CHOICE = "OMS model choice"
"""Infotext's label beside the module that was used, where that was Automatic's choice; the text is AUTOMATIC."""
ALL_DETAIL = 16
"""The value of `detail` at which x0hat passes as it is."""
LONGEST_PICTURE = 48_000_000
"""Letters of a picture in base64: 36 MB."""


PROMPT, COLOR, PICTURE, BRUSH, NONE, STYLE = "prompt", "color", "picture", "brush", "none", "style"
"""What a picture's brightness and color may follow: the values of the setting `source`."""

Value = bool | int | float | str

_NOT_SAID: Any = object()
"""Stands in a dataclass' argument that nobody gave."""


class FilledIn:
    """Marks a value that no person and no page gave: hosts fill what is missing in an API's list from the controls of
    the page, by the very objects that stand there (init_default_script_args in modules/api/api.py). They also turn
    what an infotext holds into the class of that object; calling the classes below gives plain values, so that these
    are not marked.
    """


class _FilledInNumber(FilledIn, int):
    def __new__(cls, value: Any) -> Any:
        return int(value)


class _FilledInText(FilledIn, str):
    def __new__(cls, value: Any) -> Any:
        return str(value)


@dataclass(frozen=True)
class Setting:
    """One setting: what the page calls it, what it may be, and how a picture's infotext spells it.

    default: what the page begins with.
    before: what it was before it existed, if that is something else, see above.
    by_source: what it is where a request does not name it, for some values of `source`.
    slider: where the page's slider ends, if that is below the maximum: what lies beyond is of little use.
    choices: the values a text may have.
    words: what the page calls each of the choices; nothing but the page knows them.
    pattern, allowed_text: what else a text has to match, empty or not, and that in words.
    longest: how many letters a text may have.
    acts_for: the values of `source` for which it does something; None is all of them.
    """

    name: str
    label: str
    infotext: str
    help: str
    default: Value
    before: Value = _NOT_SAID
    by_source: Mapping[str, Value] = field(default_factory=dict)
    minimum: float = -math.inf
    maximum: float = math.inf
    step: float | None = None
    slider: float = math.inf
    choices: tuple[str, ...] = ()
    words: tuple[str, ...] = ()
    pattern: str = ""
    allowed_text: str = "a text"
    longest: int = 0
    acts_for: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if self.before is _NOT_SAID:
            object.__setattr__(self, "before", self.default)

    @property
    def type(self) -> type:
        """bool, int, float or str."""
        return type(self.default)

    @property
    def schema(self) -> dict[str, Any]:
        """JSON schema of the setting's value."""
        kinds = {bool: "boolean", int: "integer", float: "number", str: "string"}
        facts: dict[str, Any] = {"title": self.label, "description": self.help, "type": kinds[self.type]}
        facts["default"] = self.before
        if self.type in (int, float):
            facts.update(minimum=self.minimum, maximum=self.maximum)
        if self.choices:
            facts["enum"] = list(self.choices)
        if self.pattern:
            facts["pattern"] = f"^({self.pattern})?$"
        if self.longest:
            facts["maxLength"] = self.longest
        return facts

    @property
    def allowed(self) -> str:
        """What may be given, in words for an error message."""
        if self.type is bool:
            return "true or false"
        if self.type in (int, float):
            return f"a {'whole ' if self.type is int else ''}number from {self.minimum:g} to {self.maximum:g}"
        return f"one of {', '.join(self.choices)}" if self.choices else self.allowed_text

    @property
    def filled_in(self) -> Value:
        """The default, marked where that is not what an API call means that does not name the setting."""
        if self.default == self.before and not self.by_source:
            return self.default
        if isinstance(self.default, str):
            return str.__new__(_FilledInText, self.default)
        assert isinstance(self.default, int), "no marks for numbers of this type; json libraries know none either"
        return int.__new__(_FilledInNumber, self.default)

    def unsaid(self, source: str) -> Value:
        """What it is in a request that names this source, and not this setting."""
        return self.by_source.get(source, self.before)

    def acts(self, source: str) -> bool:
        """Whether it does anything where this source is followed."""
        return self.acts_for is None or source in self.acts_for

    def check(self, value: Any) -> Value:
        """`value` in the setting's own type.

        true is no number here and 1 is not true: the API hands over JSON unchecked, and whoever wrote "yes" should
        hear of it.

        Raises:
            SettingError: it is not allowed; names the setting, the value and what is.
        """
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if self.type in (int, float) and is_number and self.minimum <= value <= self.maximum:  # False for NaN too
            if self.type is float:
                return float(value) + 0.0  # -0.0 becomes 0.0
            if value == int(value):
                return int(value)
        elif self.type is bool and isinstance(value, bool):
            return value
        elif self.type is str and isinstance(value, str):
            return self._check_text(value)
        raise self._refusal(value)

    def _check_text(self, text: str) -> str:
        _refuse_half_letters(f"{self.infotext} ({self.name})", text)
        if self.longest and len(text) > self.longest:
            raise SettingError(
                f"{self.infotext} ({self.name}): it has {len(text)} letters, at most {self.longest} are allowed."
            )
        if self.choices and text not in self.choices:
            raise self._refusal(text, close_to(text, self.choices))
        if text and self.pattern:
            if not re.fullmatch(self.pattern, text):
                raise self._refusal(text)
            text = text.lower()
        return str(text)  # of a text that a host filled in, without the mark

    def _refusal(self, value: Any, hint: str = "") -> SettingError:
        return SettingError(
            f"{self.infotext} ({self.name}): {reprlib.repr(value)} is not allowed, only {self.allowed}.{hint}"
        )

    def parse(self, text: str) -> Value:
        """`check` for a value that stands in an infotext.

        Raises:
            SettingError: as `check`.
        """
        if self.type is bool:
            return self.check({"True": True, "False": False}.get(text, text))
        if self.type in (int, float):
            try:
                return self.check(float(text))
            except (ValueError, OverflowError) as error:
                raise SettingError(f"{self.infotext}: {text!r} is not {self.allowed}.") from error
        return self.check(text) if self.choices or self.pattern else text


def _setting(default: Value, **facts: Any) -> Any:
    unsaid = _NOT_SAID if facts.get("by_source") else facts.get("before", default)
    return field(default=unsaid, metadata={"default": default, **facts})


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
        help="Start sampling from a latent that has the brightness and the color that you ask for.",
    )
    module: str = _setting(
        AUTOMATIC,
        label="OMS model",
        infotext="OMS model",
        help="Takes the step where a prompt is followed. Automatic: the one made for the loaded checkpoint.",
    )
    prompt: str = _setting(
        "",
        label="Brightness and color as in",
        infotext="OMS prompt",
        help="The OMS prompt, such as 'black background, one candle'. Empty: the main prompt.",
    )
    guidance_scale: float = _setting(
        1.0,
        label="Guidance",
        infotext="OMS guidance scale",
        help="How hard the OMS prompt pulls. 1: plain, the fastest; 1.5 to 2 exaggerate it.",
        minimum=0.0,
        maximum=10.0,
        slider=3.0,
        step=0.05,
    )
    eta: float = _setting(
        0.0,
        label="Variation",
        infotext="OMS eta",
        help="0 keeps the composition of the seed; 1 puts what is asked into fresh noise instead.",
        minimum=0.0,
        maximum=1.0,
        step=0.05,
    )
    negative_prompt: str = _setting(
        "",
        label="Away from",
        infotext="OMS negative prompt",
        help="A negative prompt; idle at guidance 1, its usual value. Published OMS models know only an empty one.",
    )
    source: str = _setting(
        PROMPT,
        label="Follow",
        infotext="OMS source",
        help="Where brightness and color come from. Only a prompt needs an OMS model.",
        choices=(PROMPT, COLOR, PICTURE, BRUSH, NONE, STYLE),
        words=("Prompt", "Color", "Picture", "Brush", "Only the sliders", "Style"),
    )
    color: str = _setting(
        "#808080",
        before="",
        label="The picture's ground color",
        infotext="OMS color",
        help="The color on which the picture is painted, where the source is color.",
        pattern="#[0-9a-fA-F]{6}",
        allowed_text="a color such as #336699",
        acts_for=(COLOR,),
    )
    picture: str = _setting(
        "",
        label="Picture as text",
        infotext="OMS picture",
        help="The picture whose brightness, colors and rough layout to follow, where the source is picture: base64.",
        longest=LONGEST_PICTURE,
        acts_for=(PICTURE,),
    )
    brush: str = _setting(
        "",
        label="Brush as text",
        infotext="OMS brush",
        help="A sketch of where it is to be bright, dark or colored, where the source is brush: a picture in base64.",
        longest=LONGEST_PICTURE,
        acts_for=(BRUSH,),
    )
    prompt_weight: float = _setting(
        0.0,
        label="Mixed with the prompt",
        infotext="OMS prompt weight",
        help="0: not at all; 1: the prompt alone. Above 0 it needs an OMS model.",
        minimum=0.0,
        maximum=1.0,
        step=0.05,
        acts_for=(COLOR, PICTURE, BRUSH, NONE, STYLE),
    )
    strength: float = _setting(
        1.0,
        label="How strongly",
        infotext="OMS strength",
        help="0: off, 1: as asked, up to 2: more.",
        minimum=0.0,
        maximum=2.0,
        step=0.05,
    )
    detail: int = _setting(
        ALL_DETAIL,
        label="Layout",
        infotext="OMS detail",
        help=f"1: one mean color for the whole picture; {ALL_DETAIL}: its layout, too.",
        minimum=1,
        maximum=ALL_DETAIL,
        step=1,
    )
    quiet: int = _setting(
        1,
        before=0,
        label="Exactness",
        infotext="OMS quiet",
        help="0 keeps the seed's own tint, 1 suits prompts, 6 gives exactly the color that is asked.",
        by_source={COLOR: 6, PICTURE: 6, BRUSH: 6, NONE: 0, STYLE: 6},
        minimum=0,
        maximum=16,
        step=1,
    )
    guidance_rescale: float = _setting(
        0.0,
        label="Softer guidance",
        infotext="OMS guidance rescale",
        help="Keeps a guidance above 1 from overshooting: 0 not at all, 1 as far as possible.",
        minimum=0.0,
        maximum=1.0,
        step=0.05,
    )
    brightness: float = _setting(
        0.0,
        label="Brightness",
        infotext="OMS brightness",
        help="Below 0 darker, above 0 brighter; 1 is as far as from medium gray to white.",
        minimum=-1.0,
        maximum=1.0,
        step=0.05,
    )
    saturation: float = _setting(
        0.0,
        label="Color",
        infotext="OMS saturation",
        help="Below 0 less color, -1 leaves grays; above 0 more, 1 doubles it.",
        minimum=-1.0,
        maximum=1.0,
        step=0.05,
    )
    style: str = _setting(
        "",
        label="Style to draw from",
        infotext="OMS style",
        help="Brightness and colors of a folder of pictures, drawn anew for each seed: a file in styles.",
        acts_for=(STYLE,),
    )

    def __post_init__(self) -> None:
        source = str(_BY_NAME["source"].check(self.source))
        for setting in SETTINGS:
            value = getattr(self, setting.name)
            value = setting.unsaid(source) if value is _NOT_SAID else value
            object.__setattr__(self, setting.name, setting.check(value))
        if source in _GIVEN and not getattr(self, source).strip():
            raise SettingError(
                f"{_BY_NAME['source'].infotext} (source) is {source!r}, but {_BY_NAME[source].infotext} ({source}) is "
                f"empty. Give {_GIVEN[source]}, or another source."
            )

    @property
    def uses_prompt(self) -> bool:
        """Whether the OMS prompt has any part in the picture, so that an OMS model is needed."""
        return self.source == PROMPT or self.prompt_weight > 0

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
            if isinstance(value, FilledIn):
                continue
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

    def replaced(self, **values: Any) -> OMSSettings:
        """These settings with some of them changed, by name; raises as the class itself."""
        return replace(self, **values)

    def as_dict(self) -> dict[str, Value]:
        """Name and value of every setting, in their order."""
        return asdict(self)

    def to_infotext(self, module: str | None) -> dict[str, str]:
        """What a picture's infotext must say for the picture to be made again, as label and text.

        `module` names the module that was really used, with what tells its content apart; None where none was. Empty
        texts are left out, and what is as it was before the setting existed, or has no part in the picture. Nothing at
        all where the step was not asked for. A module that Automatic chose is named like any other, and beside it
        stands whose choice it was.
        """
        if not self.enabled:
            return {}
        values = {**self.as_dict(), "module": module or ""}
        texts = {s.infotext: _quoted(str(values[s.name]), s.infotext) for s in SETTINGS if self._is_told(s, values)}
        return {**texts, CHOICE: AUTOMATIC} if module and is_automatic(self.module) else texts

    def _is_told(self, setting: Setting, values: Mapping[str, Value]) -> bool:
        value = values[setting.name]
        if setting.name in _FIRST:
            return value != ""
        return value != setting.before and setting.acts(self.source)


_GIVEN = {
    COLOR: "a color, such as #336699",
    PICTURE: "a picture in base64",
    BRUSH: "a picture in base64",
    STYLE: "a style's name",
}
"""What the setting of the source's own name has to hold."""
_FIRST = ("enabled", "module", "prompt", "guidance_scale", "eta", "negative_prompt")
"""The settings that every infotext has named from the first version on."""


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
        "description": (
            "Settings by name. In a list they stand in this order. What is missing is the default, or what suits the "
            "source: "
            + "; ".join(
                f"{setting.name} is {value} for {source}"
                for setting in SETTINGS
                for source, value in setting.by_source.items()
            )
        ),
        "type": "object",
        "properties": {setting.name: setting.schema for setting in SETTINGS},
        "additionalProperties": False,
    }


def from_infotext(setting: Setting, params: Mapping[str, Any]) -> Value | None:
    """The value that the picture's infotext gives to a setting. `params` are label and text as the host parsed them.

    A picture made without the step gives enabled False, and None (leave it alone) for every other setting; one made
    with it gives to what is not mentioned what that was before the setting existed.

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
    return setting.before if text is None else setting.parse(str(text))


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
