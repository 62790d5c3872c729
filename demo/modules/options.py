"""Settings: their descriptions and their values (host file: modules/options.py)."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

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
    comment_after: str = ""
    infotext: str | None = None
    restrict_api: bool = False
    category_id: str | None = None

    def info(self, text: str) -> "OptionInfo":
        self.comment_after += f"({text})"
        return self

    def needs_reload_ui(self) -> "OptionInfo":
        return self.info("requires Reload UI")


def options_section(section: tuple, options: dict[str, OptionInfo]) -> dict[str, OptionInfo]:
    """Puts all `options` in one section: (identifier, title) or (identifier, title, category)."""
    for info in options.values():
        info.section = section[:2]
        info.category_id = section[2] if len(section) > 2 else None
    return options


class OptionsCategories:
    """What the host's settings page groups its sections under; this page shows them without."""

    def __init__(self) -> None:
        self.mapping: dict[str, SimpleNamespace] = {}

    def register_category(self, category_id: str, label: str) -> str:
        self.mapping.setdefault(category_id, SimpleNamespace(id=category_id, label=label))
        return category_id


categories = OptionsCategories()


class Options:
    """Values as attributes. `data` holds what config.json has and what add_option added: NOT every default.

    override_settings therefore restores only keys that are in `data`; this is the host's behaviour.
    """

    def __init__(self, data_labels: dict[str, OptionInfo]) -> None:
        self.data_labels = data_labels
        self.data = {key: info.default for key, info in data_labels.items()}

    def __setattr__(self, key: str, value: Any) -> None:
        if key in ("data_labels", "data") or key not in {**self.data, **self.data_labels}:
            super().__setattr__(key, value)
        elif self._is_locked(key):
            raise RuntimeError(f"changing {key} is disabled")
        else:
            self.data[key] = value

    def _is_locked(self, key: str) -> bool:
        info = self.data_labels.get(key, OptionInfo())
        hidden = isinstance(info.component_args, dict) and not info.component_args.get("visible", True)
        section = info.section[0] if info.section else None
        names, sections = (
            [name.strip() for name in (text or "").split(",")]
            for text in (cmd_opts.freeze_specific_settings, cmd_opts.freeze_settings_in_sections)
        )
        return hidden or cmd_opts.freeze_settings or key in names or section in sections

    def __getattr__(self, item: str) -> Any:
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
        if (is_api and option.restrict_api) or self._is_locked(key):
            return False
        setattr(self, key, value)
        if run_callbacks and option.onchange is not None:
            try:
                option.onchange()
            except Exception:
                errors.report(f"Error changing setting {key} to {value}", exc_info=True)
                setattr(self, key, old)
                return False
        return True

    def add_option(self, key: str, info: OptionInfo) -> None:
        self.data_labels[key] = info
        self.data.setdefault(key, info.default)

    def save(self, filename: str) -> None:
        Path(filename).write_text(json.dumps(self.data, indent=4, ensure_ascii=False), encoding="utf8")

    def load(self, filename: str) -> None:
        """Replaces all values by those of the file; without one every option has its default."""
        self.data = {}
        try:
            if Path(filename).exists():
                self.data = json.loads(Path(filename).read_text(encoding="utf8"))
        except Exception:
            errors.report(f"Could not load settings from {filename}; using the defaults", exc_info=True)

    def cast_value(self, key: str, value: Any) -> Any:
        """`value` in the type of the option's default; the text "False" is False."""
        default = self.data_labels[key].default
        if value is None or default is None:
            return None
        return False if isinstance(default, bool) and value == "False" else type(default)(value)
