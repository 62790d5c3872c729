"""Settings: their descriptions and their values (host file: modules/options.py)."""

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gradio as gr
from modules import errors
from modules.shared_cmd_options import cmd_opts


@dataclass
class OptionInfo:
    """One setting: default, label, component, and what infotext calls it."""

    default: Any = None
    label: str = ""
    component: Any = None
    component_args: dict | Callable[[], dict] | None = None
    onchange: Callable[[], None] | None = None
    section: tuple | None = None
    refresh: Callable[[], None] | None = None
    comment_before: str = ""
    comment_after: str = ""
    infotext: str | None = None
    restrict_api: bool = False
    category_id: str | None = None
    do_not_save = False

    def info(self, text: str) -> "OptionInfo":
        self.comment_after += f"<span class='info'>({text})</span>"
        return self

    def html(self, html: str) -> "OptionInfo":
        self.comment_after += html
        return self

    def link(self, label: str, url: str) -> "OptionInfo":
        self.comment_before += f"[<a href='{url}' target='_blank'>{label}</a>]"
        return self

    def needs_restart(self) -> "OptionInfo":
        return self.info("requires restart")

    def needs_reload_ui(self) -> "OptionInfo":
        return self.info("requires Reload UI")


class OptionHTML(OptionInfo):
    """Text on the settings page; it has no value."""

    def __init__(self, text: str) -> None:
        super().__init__(str(text).strip(), component=lambda **kwargs: gr.HTML(**kwargs))
        self.do_not_save = True


def options_section(section: tuple, options: dict[str, OptionInfo]) -> dict[str, OptionInfo]:
    """Puts all `options` in one section: (identifier, title) or (identifier, title, category)."""
    for info in options.values():
        info.section = section[:2]
        if len(section) > 2:
            info.category_id = section[2]
    return options


@dataclass(frozen=True)
class OptionsCategory:
    id: str
    label: str


class OptionsCategories:
    """What the host's settings page groups its sections under; this page shows them without."""

    def __init__(self) -> None:
        self.mapping: dict[str, OptionsCategory] = {}

    def register_category(self, category_id: str, label: str) -> str:
        self.mapping.setdefault(category_id, OptionsCategory(category_id, label))
        return category_id


categories = OptionsCategories()

_FIELDS = {"data_labels", "data"}


class Options:
    """Values as attributes. `data` holds what config.json has and what add_option added: NOT every default.

    override_settings therefore restores only keys that are in `data`; this is the host's behaviour.
    """

    def __init__(self, data_labels: dict[str, OptionInfo]) -> None:
        self.data_labels = data_labels
        self.data = {k: v.default for k, v in data_labels.items() if not v.do_not_save}

    def __setattr__(self, key: str, value: Any) -> None:
        if key in _FIELDS:
            super().__setattr__(key, value)
            return
        if key in self.data or key in self.data_labels:
            info = self.data_labels.get(key)
            self._refuse_where_locked(key, info)
            if info is None or not info.do_not_save:
                self.data[key] = value
            return
        super().__setattr__(key, value)

    @staticmethod
    def _refuse_where_locked(key: str, info: OptionInfo | None) -> None:
        def named(option: str | None) -> list[str]:
            return [name.strip() for name in (option or "").split(",")]

        arguments = info.component_args if info is not None else None
        hidden = isinstance(arguments, dict) and not arguments.get("visible", True)
        section = info.section[0] if info is not None and info.section else None
        if (
            hidden
            or cmd_opts.freeze_settings
            or key in named(cmd_opts.freeze_specific_settings)
            or section in named(cmd_opts.freeze_settings_in_sections)
        ):
            raise RuntimeError(f"changing {key} is disabled")

    def __getattr__(self, item: str) -> Any:
        if item in _FIELDS:
            raise AttributeError(item)
        if item in self.data:
            return self.data[item]
        if item in self.data_labels:
            return self.data_labels[item].default
        raise AttributeError(f"no option named {item!r}")

    def set(self, key: str, value: Any, is_api: bool = False, run_callbacks: bool = True) -> bool:
        """Sets an option and calls its onchange; whether anything changed."""
        old = self.data.get(key)
        if old == value:
            return False
        option = self.data_labels[key]
        if option.do_not_save or (is_api and option.restrict_api):
            return False
        try:
            setattr(self, key, value)
        except RuntimeError:
            return False
        if run_callbacks and option.onchange is not None:
            try:
                option.onchange()
            except Exception as e:
                errors.display(e, f"changing setting {key} to {value}")
                setattr(self, key, old)
                return False
        return True

    def get_default(self, key: str) -> Any:
        info = self.data_labels.get(key)
        return None if info is None else info.default

    def add_option(self, key: str, info: OptionInfo) -> None:
        self.data_labels[key] = info
        if key not in self.data and not info.do_not_save:
            self.data[key] = info.default

    def onchange(self, key: str, func: Callable[[], None], call: bool = True) -> None:
        self.data_labels[key].onchange = func
        if call:
            func()

    def save(self, filename: str) -> None:
        with open(filename, "w", encoding="utf8") as file:
            json.dump(self.data, file, indent=4, ensure_ascii=False)

    def load(self, filename: str) -> None:
        """Replaces all values by those of the file; without one every option has its default."""
        try:
            with open(filename, encoding="utf8") as file:
                self.data = json.load(file)
        except FileNotFoundError:
            self.data = {}
        except Exception:
            errors.report(f"Could not load settings from {filename}; using the defaults", exc_info=True)
            self.data = {}
        for key, value in self.data.items():
            info = self.data_labels.get(key)
            if info is not None and not _same_type(info.default, value):
                print(f"Warning: bad setting value: {key}: {value} ({type(value).__name__})", file=sys.stderr)

    def cast_value(self, key: str, value: Any) -> Any:
        """`value` in the type of the option's default; the text "False" is False."""
        default = self.data_labels[key].default
        if default is None:
            default = getattr(self, key, None)
        if value is None or default is None:
            return None
        return False if isinstance(default, bool) and value == "False" else type(default)(value)


def _same_type(a: Any, b: Any) -> bool:
    if a is None or b is None:
        return True
    kinds = [float if type(x) is int else type(x) for x in (a, b)]
    return kinds[0] is kinds[1]
