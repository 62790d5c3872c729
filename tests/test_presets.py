"""Presets as files: what was saved comes back, what is broken is told and never lost."""

import json
import os
import string
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib_oms.errors import SettingError
from lib_oms.presets import LEFT_ALONE, Presets, from_json, to_json
from lib_oms.settings import PROMPT, SETTINGS, OMSSettings

NIGHT = {"prompt": "night, no moon", "brightness": -0.25, "quiet": 2}


@pytest.fixture
def presets(tmp_path: Path) -> Presets:
    return Presets(tmp_path / "presets", tmp_path / "presets.json")


def put(presets: Presets, name: str, content: str | bytes) -> Path:
    """A file that a person puts into the folder."""
    presets.folder.mkdir(parents=True, exist_ok=True)
    path = presets.folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def values_of(setting: Any) -> st.SearchStrategy[Any]:
    if setting.choices:
        return st.sampled_from(setting.choices)
    if setting.name == "color":
        return st.from_regex(r"#[0-9a-f]{6}", fullmatch=True)
    if setting.type is str:
        return st.text(st.characters(blacklist_categories=["Cs"]), min_size=setting.name in ("picture", "brush"))
    kind = st.integers if setting.type is int else st.floats
    return kind(min_value=setting.minimum, max_value=setting.maximum)


every_setting = st.fixed_dictionaries({s.name: values_of(s) for s in SETTINGS if s.name not in LEFT_ALONE}).filter(
    lambda values: values["source"] not in ("picture", "brush", "style") or values[values["source"]].strip()
)


@given(values=every_setting, name=st.text(string.printable + "äß雪🌙/\\:.", min_size=1, max_size=40))
def test_what_is_saved_comes_back(tmp_path_factory: pytest.TempPathFactory, values: dict, name: str) -> None:
    presets = Presets(tmp_path_factory.mktemp("home") / "presets", Path("nowhere"))
    if not name.strip() or any(letter in name.strip() for letter in "\t\n\r\v\f"):
        with pytest.raises(SettingError, match="name"):
            presets.save(name, values)
        assert not presets.folder.exists()
        return
    saved = presets.save(name, values)
    (listed,) = presets.all()
    assert listed == saved
    assert listed.name == name.strip()
    expected = OMSSettings(**values).as_dict()
    assert listed.values == {key: value for key, value in expected.items() if key not in LEFT_ALONE}
    assert [path.parent for path in presets.folder.rglob("*")] == [presets.folder]  # and nowhere else
    shared = from_json(to_json(listed), "the text")
    assert (shared.name, shared.values) == (listed.name, listed.values)
    presets.delete(name)
    assert presets.all() == []


def test_a_preset_names_every_setting_but_two(presets: Presets) -> None:
    presets.save("Night", NIGHT)
    (preset,) = presets.all()
    assert [*preset.values] == [setting.name for setting in SETTINGS if setting.name not in LEFT_ALONE]
    (file,) = presets.folder.iterdir()
    assert json.loads(file.read_text(encoding="utf-8")) == {"name": "Night", "settings": preset.values}


def test_what_a_file_does_not_name_is_as_it_was_before_the_setting_existed(presets: Presets) -> None:
    """So that a preset of an older version makes the pictures that it has always made."""
    put(presets, "old.json", '{"name": "Old", "settings": {"source": "color", "color": "#336699"}}')
    (preset,) = presets.all()
    assert preset.values["quiet"] == next(s for s in SETTINGS if s.name == "quiet").by_source["color"]
    assert preset.values["strength"] == 1.0
    put(presets, "old.json", '{"name": "Old", "settings": {"prompt": "night"}}')
    (preset,) = presets.all()
    assert preset.values["quiet"] == 0
    assert preset.values["source"] == PROMPT
    assert preset.values["color"] == "#808080"  # has no part in it: as the page begins


def test_a_file_without_a_name_is_named_by_the_file(presets: Presets) -> None:
    put(presets, "blue hour.json", '{"settings": {"prompt": "blue"}}')
    assert [preset.name for preset in presets.all()] == ["blue hour"]


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"\xff\xfe", "is not JSON"),
        (b'{"name": "B', "is not JSON"),
        (b"[" * 100_000, "is not JSON"),
        (b"[1]", "is not a JSON object"),
        (b"{}", "settings"),
        (b'{"name": "B", "settings": 7}', "settings"),
        (b'{"name": 7, "settings": {}}', "name"),
        (b'{"name": " ", "settings": {}}', "name"),
        (b'{"name": "B", "settings": {}, "other": 1}', "'other'"),
        (b'{"name": "B", "settings": {"brightnes": 1}}', "Did you mean 'brightness'?"),
        (b'{"name": "B", "settings": {"brightness": 7}}', "a number from -1 to 1"),
        (b'{"name": "B", "settings": {"brightness": NaN}}', "a number from -1 to 1"),
        (b'{"name": "B", "settings": {"source": "color"}}', "OMS color (color) is empty"),
        (b'{"name": "B", "settings": {"module": "mine"}}', "leaves the OMS model"),
        (b'{"name": "B", "settings": {"enabled": true}}', "leaves"),
        (b'{"name": "\\ud800", "settings": {}}', "half of a letter"),
        (b'{"name": "B", "settings": {"prompt": "\\ud800"}}', "half of a letter"),
        (b" " * 2**21, "too large"),
    ],
)
def test_a_broken_one_is_listed_with_why_and_stays(presets: Presets, content: bytes, why: str) -> None:
    path = put(presets, "b.json", content)
    presets.save("Night", NIGHT)
    night, broken = presets.all()
    assert (night.name, night.problem) == ("Night", "")
    assert why in broken.problem
    assert "b.json" in broken.problem
    with pytest.raises(SettingError, match=r"b\.json"):
        presets.usable(broken.name)
    for change in (lambda: presets.save(broken.name, NIGHT), lambda: presets.delete(broken.name)):
        with pytest.raises(SettingError):
            change()
    assert path.read_bytes() == content


def test_the_second_file_of_a_name_is_broken(presets: Presets) -> None:
    put(presets, "a.json", '{"name": "Blue", "settings": {"prompt": "a"}}')
    put(presets, "b.json", '{"name": "blue", "settings": {"prompt": "b"}}')
    first, second = presets.all()
    assert (first.name, first.problem, first.values["prompt"]) == ("Blue", "", "a")
    assert "a.json" in second.problem
    presets.save("BLUE", NIGHT)
    assert json.loads((presets.folder / "a.json").read_text())["settings"]["prompt"] == NIGHT["prompt"]
    assert json.loads((presets.folder / "b.json").read_text())["settings"]["prompt"] == "b"


def test_a_file_that_stands_where_a_new_one_would_go_is_not_overwritten(presets: Presets) -> None:
    presets.save("Night", NIGHT)
    (file,) = presets.folder.iterdir()
    file.write_text("{torn", encoding="utf-8")
    with pytest.raises(SettingError, match=f"{file.name}"):
        presets.save("Night", NIGHT)
    assert file.read_text(encoding="utf-8") == "{torn"


def test_saving_again_replaces_the_values(presets: Presets) -> None:
    presets.save("Night", NIGHT)
    presets.save("night", {"prompt": "dusk"})
    (preset,) = presets.all()
    assert (preset.name, preset.values["prompt"]) == ("night", "dusk")


@pytest.mark.parametrize("name", ["", "  ", "a\nb", "x" * 81, "\x00", "\u202e"])
def test_a_name_that_cannot_be_read_is_refused(presets: Presets, name: str) -> None:
    with pytest.raises(SettingError, match="name"):
        presets.save(name, NIGHT)


@pytest.mark.parametrize("name", ["../../evil", "C:\\evil", "con", "a/b", ".", "..", "x" * 80, "雪" * 80])
def test_a_name_is_no_path(presets: Presets, name: str) -> None:
    presets.save(name, NIGHT)
    (file,) = presets.folder.iterdir()
    assert len(os.fsencode(file.name)) < 100
    assert presets.usable(name).values["prompt"] == NIGHT["prompt"]


def test_the_ones_to_begin_with_are_read_from_the_extension(presets: Presets, root: Path) -> None:
    presets = Presets(presets.folder, root / "presets.json")
    assert [preset.name for preset in presets.all()] == ["Night", "White page", "Muted", "Vivid"]
    assert all(preset.is_built_in and not preset.problem for preset in presets.all())
    for change in (lambda: presets.save("night", NIGHT), lambda: presets.delete("Night")):
        with pytest.raises(SettingError, match="comes with the extension"):
            change()


def test_a_torn_file_of_the_extension_is_told_and_own_presets_stay(presets: Presets) -> None:
    presets.built_in.write_text('{"Night": {"prompt": 7}}', encoding="utf-8")
    presets.save("Dusk", {"prompt": "dusk"})
    dusk, broken = presets.all()
    assert (dusk.name, broken.name) == ("Dusk", "Night")
    assert "presets.json" in broken.problem
    presets.built_in.write_text("{", encoding="utf-8")
    dusk, broken = presets.all()
    assert dusk.name == "Dusk"
    assert "presets.json" in broken.problem


def test_shared_text_is_added(presets: Presets) -> None:
    presets.save("Night", NIGHT)
    text = to_json(presets.usable("Night"))
    with pytest.raises(SettingError, match="there is a preset 'Night' already"):
        presets.add(text)
    presets.delete("Night")
    assert presets.add(text) == presets.usable("Night")
    with pytest.raises(SettingError, match=r"no preset 'Nigth'.*Did you mean 'Night'"):
        presets.usable("Nigth")
    with pytest.raises(SettingError, match="is not JSON"):
        presets.add("Night")
    with pytest.raises(SettingError, match="name"):
        presets.add('{"settings": {}}')


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    presets = Presets(tmp_path / "file" / "presets", tmp_path / "none.json")
    assert presets.all() == []
    with pytest.raises(SettingError, match="cannot be saved"):
        presets.save("Night", NIGHT)


def test_those_to_begin_with_leave_the_exactness_as_the_page_begins(tmp_path: Path) -> None:
    """Muted is less color, and not another exactness too."""
    begins = next(setting for setting in SETTINGS if setting.name == "quiet").default
    there = Presets(tmp_path, Path(__file__).parents[1] / "presets.json").all()
    assert {preset.name: preset.values["quiet"] for preset in there} == {preset.name: begins for preset in there}
    assert there
