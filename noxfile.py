"""The project's commands: `python -m nox -s demo`, `python -m nox -s tests`, `python -m nox -s lint`.

Each runs in an environment of its own. Tests run under the pins of two WebUI hosts (requirements/*.txt) and, for the
library part, under the newest diffusers and transformers.
"""

import os
import re
import shutil
import sys
import tempfile
from pathlib import Path

import nox

TORCH = "torch==2.13.0"
nox.options.sessions = ["tests"]
nox.options.default_venv_backend = "venv"

README_LINE = re.compile(r"(?:python -m )?pip install [^`\n]+")
# What shows that the environment, which an install line made, is good for something: added to the line that begins so.
AFTERWARDS = {
    "python -m pip install nox && python -m nox -s demo": " -- --once",
    "pip install": " && python -m pytest --collect-only -q >/dev/null && python -m pytest -q tests/test_webuiapi.py",
}


def install(session: nox.Session, extra: str, host: str | None) -> None:
    """Installs the project with a host's pins; torch first, so that no resolver picks another build of it."""
    pins = ["-c", f"requirements/{host}.txt"] if host else []
    session.install(TORCH)
    session.install("-e", f".[{extra}]", *pins)


@nox.session
def demo(session: nox.Session) -> None:
    """Serves the miniature WebUI and prints its address; `-- --once` makes one pair of pictures and ends."""
    install(session, "demo", "forge")
    session.run("python", "-m", "demo", *session.posargs)


@nox.session
@nox.parametrize("host", ["a1111", "forge", "latest"], ids=["a1111", "forge", "latest"])
def tests(session: nox.Session, host: str) -> None:
    """Runs the tests; whatever follows `--` is handed to pytest. Slow tests run under one host's pins only."""
    if host == "latest":
        install(session, "test-library", None)
    else:
        install(session, "demo,test", host)
        if not (shutil.which("chromium") or os.environ.get("CHROMIUM")):
            session.warn("chromium is missing: the tests in a browser will be skipped (apt-get install chromium)")
    chosen = session.posargs or (["-m", ""] if host == "forge" else [])
    session.run("python", "-m", "pytest", *chosen)


@nox.session(venv_backend="none")
def readme(session: nox.Session) -> None:
    """Runs every install line of the README in a fresh environment of its own, without constraints, and tries it.

    All but `nox -s tests`: that is what calls this one in the gate.
    """
    lines = README_LINE.findall(Path("README.md").read_text(encoding="utf-8"))
    for line in dict.fromkeys(line.strip() for line in lines if "nox -s tests" not in line):
        ending = next((end for start, end in AFTERWARDS.items() if line.startswith(start)), None)
        if ending is None:
            session.error(f"nothing in AFTERWARDS tries what this line of the README installs: {line}")
        with tempfile.TemporaryDirectory() as folder:
            session.run(sys.executable, "-m", "venv", folder, external=True)
            fresh = {"PATH": os.pathsep.join([f"{folder}/bin", os.environ["PATH"]]), "NOX_ENVDIR": f"{folder}/nox"}
            session.run("bash", "-euc", line + ending, env=fresh, external=True)


@nox.session
def lint(session: nox.Session) -> None:
    """Runs ruff."""
    session.install("ruff>=0.8")
    session.run("ruff", "check", ".")
