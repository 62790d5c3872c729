"""Presets: all settings but two under a name, in a JSON file each.

Files of a person's own lie in one folder; those to begin with stand in one file of the extension. A file that cannot
be used is listed with the reason, and nothing here overwrites or deletes it. A name is looked up in the list and never
made part of a path.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lib_oms.errors import ModuleFileError, SettingError, readable
from lib_oms.files import json_object, read_json, written_whole
from lib_oms.settings import SETTINGS, OMSSettings, Value, close_to

LEFT_ALONE = ("enabled", "module")
"""The settings that a preset does not name: whether the step is taken is the moment's, and which OMS model there is the
machine's.
"""
LONGEST_NAME = 80
_LARGEST = 2**20  # bytes of a file: a picture that the page made is 2 KB
_WHOLE = {setting.name for setting in SETTINGS} - {*LEFT_ALONE}
_writing = threading.Lock()


@dataclass(frozen=True)
class Preset:
    """A preset of the list.

    values: of every setting but those LEFT_ALONE, by name; none where there is a problem.
    path: the file; None of one that comes with the extension, or from no file.
    problem: why it cannot be used; empty where it can.
    """

    name: str
    values: Mapping[str, Value] = field(default_factory=dict)
    path: Path | None = None
    problem: str = ""
    is_built_in: bool = False


class Presets:
    """The presets there are, read anew each time.

    Args:
        folder: of a person's own, a file each; it need not be there.
        built_in: the extension's file, one object of names and settings.
    """

    def __init__(self, folder: Path, built_in: Path) -> None:
        self.folder = folder
        self.built_in = built_in

    def all(self) -> list[Preset]:
        """Those that come with the extension in their order, a person's own by name, then those that are broken."""
        found = [*self._built_in(), *self._own()]
        return sorted(found, key=lambda preset: bool(preset.problem))

    def usable(self, name: str) -> Preset:
        """The preset of this name, capitals or not.

        Raises:
            SettingError: there is none, or it is broken.
        """
        there = self.all()
        found = _of_name(there, name)
        if found is None:
            meant = close_to(name, [preset.name for preset in there if not preset.problem])
            raise SettingError(f"there is no preset {name[:LONGEST_NAME]!r}.{meant}")
        if found.problem:
            raise SettingError(found.problem)
        return found

    def save(self, name: str, values: Mapping[str, Any]) -> Preset:
        """Writes a preset, in place of one's own of the same name.

        Raises:
            SettingError: the name or a value is not allowed, the name is taken by one that comes with the extension or
                by one that is broken, or the file cannot be written.
        """
        preset = _checked(name, values)
        with _writing:
            old = _of_name(self.all(), preset.name)
            if old is not None:
                _refuse_change(old)
            path = self._path_of(preset.name) if old is None or old.path is None else old.path
            if old is None and path.exists():
                raise SettingError(f"the preset cannot be saved: {path.name} is another one's; take another name.")
            text = to_json(preset)
            if len(text.encode()) > _LARGEST:
                raise SettingError("the preset cannot be saved: it holds more than 1 MB. Take a smaller picture.")
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                with written_whole(path) as part:
                    part.write_text(text, encoding="utf-8")
            except OSError as error:
                raise SettingError(f"the preset cannot be saved: {error}") from error
        return Preset(preset.name, preset.values, path)

    def add(self, text: str) -> Preset:
        """Saves the preset that somebody shared as text, if there is none of its name.

        Raises:
            SettingError: it is broken, or as `save`.
        """
        preset = from_json(text, "the text")
        if _of_name(self.all(), preset.name) is not None:
            raise SettingError(f"there is a preset {preset.name!r} already: delete it, or change the name in the text.")
        return self.save(preset.name, preset.values)

    def delete(self, name: str) -> None:
        """Deletes one's own preset.

        Raises:
            SettingError: it comes with the extension, is broken, or cannot be deleted.
        """
        with _writing:
            preset = self.usable(name.strip())
            _refuse_change(preset)
            assert preset.path is not None
            try:
                preset.path.unlink(missing_ok=True)
            except OSError as error:
                raise SettingError(f"the preset cannot be deleted: {error}") from error

    def _path_of(self, name: str) -> Path:
        """Where a new one goes: letters that every file system takes, and what tells names apart."""
        plain = re.sub(r"[^a-z0-9]+", "-", name.lower())[:40].strip("-")
        return self.folder / f"{plain or 'preset'}-{hashlib.sha256(name.casefold().encode()).hexdigest()[:8]}.json"

    def _built_in(self) -> Iterator[Preset]:
        if not self.built_in.is_file():
            return
        try:
            named = read_json(self.built_in, _LARGEST)
        except ModuleFileError as error:
            yield Preset(self.built_in.stem, problem=str(error), is_built_in=True)
            return
        for name, values in named.items():
            try:
                preset = _checked(name, _object(values))
                yield Preset(preset.name, preset.values, is_built_in=True)
            except SettingError as error:
                yield Preset(name, problem=f"{self.built_in.name}: {error}", is_built_in=True)

    def _own(self) -> list[Preset]:
        taken = {preset.name.casefold(): self.built_in for preset in self._built_in()}
        read: list[Preset] = []
        for path in _files(self.folder):
            preset = _read(path)
            other = taken.setdefault(preset.name.casefold(), path)
            if other != path and not preset.problem:
                why = f"{readable(path.name)}: there is another preset of this name, in {other.name}"
                preset = Preset(preset.name, path=path, problem=why)
            read.append(preset)
        return sorted(read, key=lambda preset: preset.name.casefold())


def to_json(preset: Preset) -> str:
    """What is in a preset's file, and what is shared."""
    return json.dumps({"name": preset.name, "settings": dict(preset.values)}, ensure_ascii=False, indent=2)


def from_json(text: str, source: str, name: str | None = None) -> Preset:
    """The preset that a text holds.

    Args:
        text: as `to_json` makes it.
        source: what it is, for messages.
        name: the preset's where the text gives none.

    Raises:
        SettingError: it is none: no JSON, a name or value that is not allowed, an unknown setting.
    """
    try:
        if len(text) > _LARGEST:
            raise SettingError(f"it is larger than {_LARGEST} letters, too large for a preset.")
        held = json_object(text, source)
        for key in held:
            if key not in ("name", "settings"):
                raise SettingError(f"a preset has a name and settings, and no {key[:LONGEST_NAME]!r}.")
        return _checked(held.get("name", name), _object(held.get("settings")))
    except ModuleFileError as error:
        raise SettingError(f"{error}.") from error
    except SettingError as error:
        raise SettingError(f"{source}: {error}") from error


def _checked(name: Any, values: Mapping[str, Any]) -> Preset:
    """A preset of these, every setting named; raises SettingError where one is not allowed."""
    name = _name(name)
    for key in values:
        if key in LEFT_ALONE:
            raise SettingError(f"a preset leaves the OMS model and the tick as they are, and does not name {key!r}.")
        if key not in _WHOLE:
            raise SettingError(f"there is no setting {key[:LONGEST_NAME]!r}.{close_to(key, _WHOLE)}")
    settings = OMSSettings(**values)
    said = settings.as_dict()
    # What has no part in the picture and is not named is as the page begins: a color picker needs a color.
    said.update({s.name: s.default for s in SETTINGS if s.name not in values and not s.acts(settings.source)})
    return Preset(name, {key: value for key, value in said.items() if key in _WHOLE})


def _name(name: Any) -> str:
    if not isinstance(name, str) or not name.strip():
        raise SettingError("a preset needs a name.")
    name = name.strip()
    if re.search("[\ud800-\udfff]", name):
        raise SettingError("the preset's name holds one half of a letter, which no text can hold.")
    if len(name) > LONGEST_NAME or any(unicodedata.category(letter) in ("Cc", "Cf", "Zl", "Zp") for letter in name):
        raise SettingError(f"a preset's name has at most {LONGEST_NAME} letters, and all of them can be seen.")
    return name


def _object(values: Any) -> Mapping[str, Any]:
    if not isinstance(values, dict):
        raise SettingError("a preset holds 'settings', an object of names and values.")
    return values


def _files(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.glob("*.json") if path.is_file() and not path.name.startswith("."))
    except OSError:
        return []


def _read(path: Path) -> Preset:
    """What a file holds; one that cannot be used is named as it says itself, if it does."""
    name = readable(path.stem)
    shown = readable(path.name)
    try:
        with path.open("rb") as file:
            content = file.read(_LARGEST + 1)
        if len(content) > _LARGEST:
            return Preset(name, path=path, problem=f"{shown}: is larger than {_LARGEST} bytes, too large for a preset")
        text = content.decode("utf-8-sig")
        preset = from_json(text, shown, name)
        return Preset(preset.name, preset.values, path)
    except UnicodeDecodeError:
        return Preset(name, path=path, problem=f"{shown}: is not JSON (it is no text in UTF-8)")
    except OSError as error:
        return Preset(name, path=path, problem=f"{shown}: cannot be read: {error.strerror or error}")
    except SettingError as error:
        return Preset(_name_in(text) or name, path=path, problem=str(error))


def _name_in(text: str) -> str | None:
    """The name that a broken preset gives itself."""
    try:
        return _name(json_object(text, "").get("name"))
    except (SettingError, ModuleFileError):
        return None


def _of_name(there: list[Preset], name: str) -> Preset | None:
    """A usable one, else a broken one."""
    return next((preset for preset in there if preset.name.casefold() == name.strip().casefold()), None)


def _refuse_change(preset: Preset) -> None:
    if preset.problem:
        raise SettingError(f"{preset.problem} It stays as it is: mend or remove the file, or take another name.")
    if preset.is_built_in:
        raise SettingError(f"the preset {preset.name!r} comes with the extension; take another name.")
