"""The host's styles in an OMS prompt: `[STYLE: name]`.

They are put in before anything else is done, so that the infotext says what the picture was made with, whatever becomes
of the style.
"""

from __future__ import annotations

import re
from typing import Any

from modules import shared

from lib_oms.errors import SettingError
from lib_oms.settings import OMSSettings, close_to

_style = re.compile(r"\s*,?\s*\[STYLE:([^\[\]]*)\]")


def put_in(settings: OMSSettings) -> OMSSettings:
    """These settings with the text of each style that their OMS prompt or negative prompt names, put to the rest as the
    host puts it to its own prompts.

    Raises:
        SettingError: the host has no style of that name, or no styles.
    """
    prompt, negative = _applied(settings.prompt, "prompt"), _applied(settings.negative_prompt, "negative_prompt")
    if (prompt, negative) == (settings.prompt, settings.negative_prompt):
        return settings
    return settings.replaced(prompt=prompt, negative_prompt=negative)


def _applied(text: str, setting: str) -> str:
    names = [found.strip() for found in _style.findall(text)]
    if not names:
        return text
    styles: Any = getattr(shared, "prompt_styles", None)
    there = getattr(styles, "styles", {})
    for name in names:
        if name not in there:
            raise SettingError(
                f"OMS {setting.replace('_', ' ')} ({setting}): the WebUI has no style {name[:80]!r}."
                f"{close_to(name, there)}"
            )
    rest = _style.sub("", text).strip().lstrip(",").lstrip()
    apply = styles.apply_styles_to_prompt if setting == "prompt" else styles.apply_negative_styles_to_prompt
    return apply(rest, names)
