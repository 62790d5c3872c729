"""The axes of the host's X/Y/Z plot: one for every setting, and one that searches and replaces in the OMS prompt.

The plot makes a shallow copy of p for every cell and lets each axis write to it. What an axis gives stands in an
attribute of that copy, replaced and never changed, so that neither the next cell nor the next request sees it.

The plot swallows what goes wrong while a cell is made, and leaves the cell black, but neither what `confirm` raises,
before the first cell, nor what `apply` raises. So values are checked there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from modules import errors, scripts, shared

from lib_oms.errors import OMSError, SettingError
from lib_oms.settings import SETTINGS, OMSSettings, Setting
from lib_oms.webui import host, offer, options, styles, trouble
from lib_oms.webui.first_step import NotApplicable

SEARCH_AND_REPLACE = "OMS prompt S/R"
_ATTRIBUTE = "oms_axes"
_DIGITS = 8
"""The plot's own labels show so many; ranges such as 0-1 (+0.1) give 0.30000000000000004 without."""


@dataclass(frozen=True)
class Cell:
    """What the axes give to one picture: values by setting, and what was replaced in the OMS prompt."""

    values: Mapping[str, Any] = field(default_factory=dict)
    replaced: tuple[tuple[str, str], ...] = ()


def values_of(p: Any) -> Mapping[str, Any]:
    """Settings by name that the axes give to this picture; none outside of an X/Y/Z plot."""
    return _cell(p).values


def _cell(p: Any) -> Cell:
    return getattr(p, _ATTRIBUTE, None) or Cell()


def _set(p: Any, name: str, value: Any, replaced: tuple[tuple[str, str], ...] = ()) -> None:
    cell = _cell(p)
    setattr(p, _ATTRIBUTE, replace(cell, values={**cell.values, name: value}, replaced=(*cell.replaced, *replaced)))


def register() -> None:
    """Adds the axes to every X/Y/Z plot that the host has loaded; those that are there already stay.

    Callback of on_before_ui, when all scripts are loaded. Where the host runs without its page it lists the axes
    before, so this is called while loading, too.
    """
    try:
        for plot in _plots():
            present = {option.label for option in plot.axis_options}
            plot.axis_options.extend(option for option in _options(plot) if option.label not in present)
    except Exception:  # a plot of another make is no reason to go without the rest of the extension
        errors.report("One More Step could not add its axes to the X/Y/Z plot", exc_info=True)


def _plots() -> list[Any]:
    """The X/Y/Z script, which is in the host's list of scripts and in no other, as a module."""
    found = {id(data.module): data.module for data in scripts.scripts_data if Path(data.path).name == "xyz_grid.py"}
    return [module for module in found.values() if hasattr(module, "AxisOption") and hasattr(module, "axis_options")]


def _options(plot: Any) -> list[Any]:
    """The axes, made with the plot's own class, for the tabs alone that have the step, where it can tell."""
    axis = plot.AxisOption if options.acts_in_img2img() else getattr(plot, "AxisOptionTxt2Img", plot.AxisOption)

    def option(label: str, kind: Callable, apply: Callable, *, confirm: Callable, **more: Any) -> Any:
        return axis(label, kind, _telling(apply), confirm=_telling(confirm), **more)

    plain = {"format_value": plot.format_value} if hasattr(plot, "format_value") else {}
    axes = []
    for setting in SETTINGS:
        axes.append(_axis(option, setting))
        if setting.name == "prompt":
            axes.append(option(SEARCH_AND_REPLACE, str, _apply_replacement, confirm=_confirm_replacement, **plain))
    return axes


def _telling(call: Callable[..., None]) -> Callable[..., None]:
    """`call`, whose first argument is the host's p; what it refuses ends the request in words."""

    def telling(p: Any, *args: Any) -> None:
        try:
            call(p, *args)
        except OMSError as error:
            raise trouble.refusal(p, str(error)) from None

    return telling


def _name(setting: Setting) -> str:
    """What the axis is called among all others of the host: as infotext calls the setting."""
    return setting.label if setting.name == "enabled" else setting.infotext


def _axis(option: Callable[..., Any], setting: Setting) -> Any:
    name, confirm = _name(setting), _confirm(setting)
    if setting.name == "module":
        return option(name, str, _apply(setting), confirm=confirm, cost=0.5, choices=offer.choices)
    if setting.name == "prompt":
        return option(name, str, _apply_prompt, confirm=confirm)
    if setting.name == "style":
        return option(name, str, _apply(setting), confirm=confirm, choices=styles.names)
    if setting.choices:
        return option(name, str, _apply(setting), confirm=confirm, choices=lambda: list(setting.choices))
    if setting.type is bool:
        return option(name, _switch(setting), _apply(setting), confirm=confirm, choices=lambda: ["True", "False"])
    return option(name, setting.type, _apply(setting), confirm=confirm)


def _switch(setting: Setting) -> Callable[[str], bool]:
    """The type of an axis that switches something on and off: from text, in any case of letters."""

    def switch(text: str) -> bool:
        try:
            return setting.parse({"true": "True", "false": "False"}.get(text.strip().lower(), text)) is True
        except SettingError as error:
            raise trouble.Refusal(str(error)) from None

    return switch


def _confirm(setting: Setting) -> Callable[[Any, Sequence[Any]], None]:
    def confirm(p: Any, values: Sequence[Any]) -> None:
        _some(_name(setting), values)
        for value in values:
            setting.check(_rounded(value))
            if setting.name == "module":
                offer.check(value)

    return confirm


def _some(label: str, values: Sequence[Any]) -> None:
    if not values:
        raise SettingError(f"X/Y/Z plot: the axis {label!r} has no values.")


def _rounded(value: Any) -> Any:
    return round(value, _DIGITS) if isinstance(value, float) else value


def _apply(setting: Setting) -> Callable[[Any, Any, Sequence[Any]], None]:
    def apply(p: Any, value: Any, values: Sequence[Any]) -> None:
        _set(p, setting.name, setting.check(_rounded(value)))
        if setting.name == "module":
            _refuse_misfits(p, values)

    return apply


def _refuse_misfits(p: Any, modules: Sequence[str]) -> None:
    """Raises SettingError where the model is known that all cells will be made with, and a module does not fit it."""
    axes = (getattr(getattr(shared.state, f"xyz_plot_{name}", None), "axis", None) for name in "xyz")
    if options.continues_on_failure() or any(getattr(axis, "label", "") == "Checkpoint name" for axis in axes):
        return
    model = host.settled_model(p)
    for module in modules if model is not None else ():
        with suppress(NotApplicable):
            offer.choose(module, host.latents_of(model), host.without_latents(model))


def _apply_prompt(p: Any, prompt: str, values: Sequence[str]) -> None:
    """The OMS prompt, in which an axis before this one may have replaced something."""
    for search, replacement in _cell(p).replaced:
        prompt = _replaced(prompt, search, replacement)
    _set(p, "prompt", prompt)


def _confirm_replacement(p: Any, values: Sequence[str]) -> None:
    _some(SEARCH_AND_REPLACE, values)
    if not values[0]:
        raise SettingError(f"X/Y/Z plot: the first value of {SEARCH_AND_REPLACE!r} is what to search for, it is empty.")


def _apply_replacement(p: Any, replacement: str, values: Sequence[str]) -> None:
    """The OMS prompt of the request or of an axis before this one, with the first of `values` replaced."""
    search = values[0]
    values_so_far = _cell(p).values
    prompt = values_so_far.get("prompt")
    if prompt is None:
        prompt = OMSSettings.from_args(host.own_args(p), values_so_far).prompt
    _set(p, "prompt", _replaced(prompt, search, replacement), replaced=((search, replacement),))


def _replaced(prompt: str, search: str, replacement: str) -> str:
    if search not in prompt:
        where = f"the OMS prompt {prompt[:200]!r}" if prompt.strip() else "the OMS prompt, which is empty"
        raise SettingError(
            f"X/Y/Z plot: {SEARCH_AND_REPLACE} did not find {search[:200]!r} in {where}. Write it there, or where "
            "another axis sets the OMS prompt, put that axis before this one."
        )
    return prompt.replace(search, replacement)
