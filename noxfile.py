"""The project's commands: `python -m nox -s demo`, `python -m nox -s tests`, `python -m nox -s lint`.

Each runs in an environment of its own. Tests run under the pins of three WebUI hosts (requirements/*.txt) and, for the
library part, under the newest diffusers and transformers.

Forge Neo runs Python 3.13 with torch 2.11.0. `python3.13 -m nox -s "tests(neo)"` has both; on any other Python its
remaining pins are tested with TORCH, which says so. OMS_TORCH says in pip's words which torch to install instead, such
as one without the 3 GB for a GPU: an index and a version, or a file.
"""

import os
import re
import shlex
import shutil
import sys
import tempfile
from pathlib import Path

import nox

TORCH = "torch==2.13.0"
NEO_PYTHON, NEO_TORCH = (3, 13), "torch==2.11.0"
OLD_PINS_END = (3, 12)
"""From this Python on AUTOMATIC1111's and Forge's Pillow and tokenizers have no files: they would be compiled."""
LAST = {"neo": ["fastapi==0.127.1", "starlette==0.50.0", "annotated-doc", "Pillow==12.2.0"]}
"""What a host has over the limits of others (our own for fastapi, gradio's for Pillow): installed when all else is."""
PARALLEL = ["-n", os.environ.get("OMS_TEST_PROCESSES", "2"), "--dist", "loadfile"]
"""Tests of one file share a WebUI, so a file is one process's; the suite is made for two cores."""
ONCE = ("test_step.py", "test_settings.py", "text/test_prompt.py", "library/test_download.py", "library/test_trust.py",
        "training/test_loop.py", "training/test_dataset.py")  # fmt: skip
"""Tests that touch no host: run under the pins of the oldest huggingface_hub and with the newest libraries alone."""
nox.options.sessions = ["tests"]
nox.options.default_venv_backend = "venv"

README_LINE = re.compile(r"(?:python -m )?pip install [^`\n]+")
# What shows that the environment, which an install line made, is good for something: added to the line that begins so.
AFTERWARDS = {
    "pip install pre-commit": " && pre-commit validate-config",
    "python -m pip install nox && python -m nox -s demo": " -- --once",
    "pip install": " && python -m pytest --collect-only -q >/dev/null"
    " && python -m pytest -q tests/webui/test_webuiapi.py",
}


def version(session: nox.Session) -> tuple[int, ...]:
    """Of the session's Python, such as (3, 11)."""
    told = session.run_install("python", "-c", "import sys; print(*sys.version_info[:2])", silent=True)
    return tuple(map(int, str(told).split()))


def install(session: nox.Session, extra: str, host: str | None, torch: str = TORCH) -> None:
    """Installs the project with a host's pins; torch first, so that no resolver picks another build of it."""
    pins = ["-c", f"requirements/{host}.txt"] if host else []
    session.install(*shlex.split(os.environ.get("OMS_TORCH", torch)))
    session.install("-e", f".[{extra}]", *pins)
    if host in LAST:
        session.install("--no-deps", *LAST[host])


@nox.session
def demo(session: nox.Session) -> None:
    """Serves the miniature WebUI and prints its address; `-- --once` makes one pair of pictures and ends."""
    install(session, "demo", "neo" if version(session) >= OLD_PINS_END else "forge")
    session.run("python", "-m", "demo", *session.posargs)


@nox.session
@nox.parametrize("host", ["a1111", "forge", "neo", "latest"], ids=["a1111", "forge", "neo", "latest"])
def tests(session: nox.Session, host: str) -> None:
    """Runs the tests; whatever follows `--` is handed to pytest.

    Slow tests run under one host's pins only, and so do those of ONCE, which the newest libraries' session has, too.
    """
    python = version(session)
    if host in ("a1111", "forge") and python >= OLD_PINS_END:
        session.skip("its pins are older than Python 3.12, and have no files for it")
    if host == "neo" and python < (3, 11):
        session.skip("its numpy has no files for Python 3.10")
    if host == "latest":
        install(session, "test-library", None)
    else:
        if host == "neo" and python != NEO_PYTHON:
            session.warn(f"Forge Neo runs Python 3.13 with {NEO_TORCH}: python3.13 -m nox -s 'tests(neo)' has both")
        install(session, "demo,test", host, NEO_TORCH if host == "neo" and python == NEO_PYTHON else TORCH)
        if not (shutil.which("chromium") or os.environ.get("CHROMIUM")):
            session.warn("chromium is missing: the tests in a browser will be skipped (apt-get install chromium)")
    whole = "neo" if python >= OLD_PINS_END else "forge"
    once = [f"--ignore=tests/{name}" for name in ONCE] if host not in (whole, "latest") else []
    chosen = session.posargs or (["-m", ""] if host == whole else once)
    session.run("python", "-m", "pytest", *PARALLEL, *chosen)


@nox.session(venv_backend="none")
def readme(session: nox.Session) -> None:
    """Runs every install line of README.md, CONTRIBUTING.md and docs/ in a fresh environment of its own, and tries it.

    Without constraints. All but `nox -s tests`: that is what calls this one in the gate.
    """
    pages = [Path("README.md"), Path("CONTRIBUTING.md"), *sorted(Path("docs").glob("*.md"))]
    lines = [line for page in pages for line in README_LINE.findall(page.read_text(encoding="utf-8"))]
    for line in dict.fromkeys(line.strip() for line in lines if "nox -s tests" not in line):
        ending = next((end for start, end in AFTERWARDS.items() if line.startswith(start)), None)
        if ending is None:
            session.error(f"nothing in AFTERWARDS tries what this line installs: {line}")
        with tempfile.TemporaryDirectory() as folder:
            session.run(sys.executable, "-m", "venv", folder, external=True)
            fresh = {"PATH": os.pathsep.join([f"{folder}/bin", os.environ["PATH"]]), "NOX_ENVDIR": f"{folder}/nox"}
            session.run("bash", "-euc", line + ending, env=fresh, external=True)


@nox.session
def lint(session: nox.Session) -> None:
    """Runs ruff."""
    session.install("ruff>=0.8")
    session.run("ruff", "check", ".")
