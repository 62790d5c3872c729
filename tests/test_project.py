"""What the files around the code say of it: the version, and what WebUIs read about an extension."""

import configparser
import re
from pathlib import Path

import pytest

import lib_oms


def test_the_changelog_begins_with_this_version(root: Path) -> None:
    sections = re.findall(r"^## (.+)", (root / "CHANGELOG.md").read_text(encoding="utf-8"), re.M)
    assert re.fullmatch(rf"{re.escape(lib_oms.__version__)} (- \d{{4}}-\d\d-\d\d|\(unreleased\))", sections[0])


def test_the_version_stands_in_one_place(root: Path) -> None:
    """pip reads it there: pyproject.toml's dynamic version names that attribute."""
    project = (root / "pyproject.toml").read_text(encoding="utf-8")
    assert 'dynamic = ["version"]' in project
    assert 'version = { attr = "lib_oms.__version__" }' in project
    assert not re.search(r'^version = "', project, re.M)


@pytest.fixture
def extension(root: Path) -> configparser.ConfigParser:
    """metadata.ini as hosts read it: with the standard parser, in the encoding of the system, whatever that is."""
    parser = configparser.ConfigParser()
    assert parser.read(root / "metadata.ini", encoding="ascii")
    for section in parser.sections():
        parser.items(section)  # a percent sign would be read as the beginning of a reference
    return parser


def test_hosts_read_the_extensions_name(extension, root: Path) -> None:
    assert f'name = "{extension["Extension"]["Name"]}"' in (root / "pyproject.toml").read_text(encoding="utf-8")


def test_hosts_know_every_section_and_key_of_metadata_ini(extension, root: Path) -> None:
    """What they do not know they pass over, or, where a section is named for another folder, complain of."""
    for section in extension.sections():
        known = {"name", "requires"} if section == "Extension" else {"requires", "before", "after"}
        assert section == "Extension" or (root / section).is_file()
        assert {*extension[section]} <= known
