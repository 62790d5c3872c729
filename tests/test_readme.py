"""What the README says is what there is."""

import json
import re
from pathlib import Path

import pytest

from lib_oms.settings import SETTINGS


@pytest.fixture(scope="module")
def readme(root: Path) -> str:
    return (root / "README.md").read_text(encoding="utf-8")


def test_the_table_of_settings_is_the_list_of_settings(readme):
    rows = ["| setting | API name | default | allowed | what it does |", "|---|---|---|---|---|"]
    rows += [f"| {s.label} | `{s.name}` | `{json.dumps(s.default)}` | {s.allowed} | {s.help} |" for s in SETTINGS]
    assert "\n".join(rows) in readme


def test_every_file_that_is_linked_or_mapped_exists(readme, root):
    linked = re.findall(r"\]\((?!http)([^)#]+)\)", readme)
    mapped = [name for row in re.findall(r"^\| (`.+?`) \|", readme, re.M) for name in re.findall(r"`([^`]+)`", row)]
    assert linked
    for name in [*linked, *(n for n in mapped if n.startswith(("lib_oms/", "scripts/", "demo/", "models/")))]:
        assert list(root.glob(name.rstrip("/"))), f"{name} is not there"


def test_the_two_commands_are_sessions_of_nox(readme, root):
    sessions = set(re.findall(r"^def (\w+)\(session", (root / "noxfile.py").read_text(encoding="utf-8"), re.M))
    commands = re.findall(r"python -m nox -s (\w+)", readme)
    assert set(commands) == {"demo", "tests"} <= sessions
    assert "nox -s lint readme tests" in (root / ".ci/run").read_text(encoding="utf-8")
