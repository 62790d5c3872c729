"""What README.md, CONTRIBUTING.md and docs/ say is what there is, in one word for one thing."""

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from lib_oms.settings import SETTINGS

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
READ = [*PAGES, *sorted(ROOT.glob("models/*/README.md"))]
CODE = re.compile(r"^```.*?^```$|^    .*?$|`[^`\n]*`", re.M | re.S)
PYTHON = re.compile(r"^```python\n(.*?)^```$", re.M | re.S)


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def anchors(page: Path) -> set[str]:
    """The names that GitHub gives to the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", CODE.sub("", text_of(page)), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


# Tables and code


def test_the_table_of_settings_is_the_list_of_settings() -> None:
    rows = [
        "| on the page | API name | in the infotext | default | allowed | what it does |",
        "|---|---|---|---|---|---|",
    ]
    rows += [
        f"| {s.label} | `{s.name}` | {s.infotext} | `{json.dumps(s.default)}` | {s.allowed} | {s.help} |"
        for s in SETTINGS
    ]
    assert "\n".join(rows) in text_of(ROOT / "docs/settings.md")


def test_the_readme_has_what_stands_at_first_sight() -> None:
    by_name = {setting.name: setting for setting in SETTINGS}
    shown = [by_name[name] for name in ("enabled", "source", "prompt", "color", "strength")]
    rows = ["| setting | default | what it does |", "|---|---|---|"]
    rows += [f"| {s.label} | `{json.dumps(s.default)}` | {s.help} |" for s in shown]
    assert "\n".join(rows) in text_of(ROOT / "README.md")


def test_the_layers_are_those_that_are_checked() -> None:
    checked = re.search(r"^layers = \[\n(.*?)^\]", text_of(ROOT / "pyproject.toml"), re.M | re.S)
    assert checked
    layers = [layer.replace("lib_oms.", "") for layer in re.findall(r'"(.+?)"', checked[1])]
    flowchart = re.search(r"^flowchart TD\n(.*?)^```", text_of(ROOT / "docs/architecture.md"), re.M | re.S)
    assert flowchart
    assert re.findall(r'\["(.+?)"\]', flowchart[1]) == layers


def test_every_package_is_on_the_map() -> None:
    map_of_the_code = text_of(ROOT / "docs/architecture.md").partition("## The map")[2]
    there = [path for path in (ROOT / "lib_oms").iterdir() if not path.name.startswith("__")]
    for path in there:
        name = f"lib_oms/{path.name}{'/' if path.is_dir() else ''}"
        assert f"`{name}`" in map_of_the_code, f"{name} is missing"


def test_messages_are_those_of_the_code() -> None:
    """What troubleshooting.md has in italics, a message with ... for what differs, stands in the code."""
    said = []
    for file in (ROOT / "lib_oms").rglob("*.py"):
        for node in ast.walk(ast.parse(text_of(file))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                said.append(node.value)
            elif isinstance(node, ast.JoinedStr):
                said.append("".join(_literal(part) for part in node.values))
    rows = re.findall(r"^\| (.+?) \|", text_of(ROOT / "docs/troubleshooting.md"), re.M)
    messages = [message for row in rows for message in re.findall(r"\*([^*]+)\*", row)]
    assert len(messages) > 10
    for message in messages:
        parts = [re.escape(part.strip(" :")) for part in message.split("...") if part.strip(" :")]
        pattern = re.compile(".*".join(parts), re.S)
        assert any(pattern.search(text) for text in said), f"nothing says {message!r}"


def _literal(part: ast.expr) -> str:
    """A part of an f-string as far as it is known: its letters, and the name of the extension."""
    if isinstance(part, ast.Constant):
        return str(part.value)
    named = isinstance(part, ast.FormattedValue) and isinstance(part.value, ast.Name) and part.value.id == "NAME"
    return "One More Step" if named else "\0"


# Links, files and commands


@pytest.mark.parametrize("page", READ, ids=name_of)
def test_everything_that_is_linked_is_there(page: Path) -> None:
    for target in re.findall(r"\]\((?!http)([^)]+)\)", text_of(page)):
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        assert file.exists(), target
        assert not anchor or anchor in anchors(file), target


@pytest.mark.parametrize("page", [*READ, ROOT / "CHANGELOG.md"], ids=name_of)
def test_every_file_that_is_named_is_there(page: Path) -> None:
    ours = r"lib_oms|scripts|demo|tests|benchmarks|examples|requirements|docs|models/demo|models/demo-xl|\.ci|\.github"
    for name in re.findall(rf"(?<![\w/.-])(?:{ours})/(?:[\w./-]*[\w/])?", text_of(page)):  # in commands, too
        assert (ROOT / name).exists(), name


def test_every_page_is_linked_from_the_readme_which_is_short() -> None:
    readme = text_of(ROOT / "README.md")
    assert len(readme.splitlines()) <= 120
    for page in PAGES[1:]:
        assert f"]({name_of(page)})" in readme, page


def sessions() -> set[str]:
    """The names of nox's sessions."""
    found = re.findall(r"@nox\.session(\((?:[^()]|\([^()]*\))*\))?\n(?:@.*\n)*def (\w+)", text_of(ROOT / "noxfile.py"))
    return {named[1] if (named := re.search(r'name="(.+?)"', given or "")) else name for given, name in found}


def test_the_two_commands_are_sessions_of_nox() -> None:
    commands = re.findall(r"python -m nox -s ([\w-]+)", text_of(ROOT / "README.md"))
    assert set(commands) == {"demo", "tests"} <= sessions()


@pytest.mark.parametrize("page", ["CONTRIBUTING.md", ".ci/run", ".github/workflows/tests.yml"])
def test_every_session_that_is_called_exists(page: str) -> None:
    called = re.findall(r"-m nox -s ((?:[a-z-]+ ?)+)", text_of(ROOT / page))
    assert called
    assert {name for names in called for name in names.split()} <= sessions()


# Examples


@pytest.mark.parametrize("page", [page for page in READ if PYTHON.search(text_of(page))], ids=name_of)
def test_what_examples_import_is_there(page: Path) -> None:
    for example in PYTHON.findall(text_of(page)):
        imports = [node for node in ast.parse(example).body if isinstance(node, (ast.Import, ast.ImportFrom))]
        exec(compile(ast.Module(imports, []), name_of(page), "exec"), {})


@pytest.mark.slow
def test_the_example_for_diffusers_makes_a_picture() -> None:
    (example,) = PYTHON.findall(text_of(ROOT / "docs/diffusers.md"))
    shown = "import numpy; print(numpy.asarray(picture).mean())"
    done = subprocess.run([sys.executable, "-c", example + shown], cwd=ROOT, capture_output=True, text=True, check=True)
    assert float(done.stdout) < 64, "black background"


# One word, one spelling


BRITISH = re.compile(
    r"\b\w*(?:colour|grey|licence|behaviour|neighbour|favour|honour|centre|catalogue|cancelled|labelled|"
    r"(?:minim|optim|normal|initial|recogn|organ)is(?:e|ing|ation))\w*",
    re.I,
)


def prose(text: str) -> str:
    """Without code, without what is quoted from the page and from messages, and without the texts of settings."""
    for setting in SETTINGS:
        text = text.replace(f"| {setting.help} |", "")
    text = re.sub(r"^\| Folders with OMS modules \|", "", text, flags=re.M)
    return re.sub(r"\]\([^)]*\)|(?<!\*)\*[^*]+\*(?!\*)", "", CODE.sub("", text))


@pytest.mark.parametrize("page", READ, ids=name_of)
def test_spelling_is_american(page: Path) -> None:
    assert not BRITISH.findall(prose(text_of(page)))


@pytest.mark.parametrize("page", [page for page in READ if page.name != "CONTRIBUTING.md"], ids=name_of)
def test_what_takes_the_step_is_called_an_oms_model(page: Path) -> None:
    assert not re.findall(r".*\bmodules?\b.*", prose(text_of(page)), re.I)
