"""The project's commands: `python -m nox -s demo`, `-s tests`, `-s tests-slow`, `-s types`, `-s lint`, `-s readme`,
`-s bench`.

Tests run under the pins of three WebUI hosts (requirements/*.txt) and, for the library part, under the newest diffusers
and transformers. These sessions share one environment per Python, in which only what differs is changed: making one
anew takes longer than the tests of most files.

virtualenv, which nox brings along, makes the environments. pip fetches torch, whose builds it is told of in its own
words, and uv the rest, which takes seconds instead of minutes; where uv finds no index, as behind one that only
pip.conf names, pip does all.

Forge Neo runs Python 3.13 with torch 2.11.0. `python3.13 -m nox -s "tests(neo)"` has both; on any other Python its
remaining pins are tested with TORCH, which says so. OMS_TORCH says in pip's words which torch to install instead, such
as one without the 3 GB for a GPU: an index and a version, or a file.
"""

import hashlib
import os
import re
import shlex
import shutil
import sys
import tempfile
from pathlib import Path

import nox
from nox.command import CommandFailed

os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # tests start dozens of processes, and compiling is half of each start
TORCH = "torch==2.13.0"
NEO_PYTHON, NEO_TORCH = (3, 13), "torch==2.11.0"
OLD_PINS_END = (3, 12)
"""From this Python on AUTOMATIC1111's and Forge's Pillow and tokenizers have no files: they would be compiled."""
LAST = {"neo": ["fastapi==0.127.1", "starlette==0.50.0", "annotated-doc", "Pillow==12.2.0"]}
"""What a host has over the limits of others (our own for fastapi, gradio's for Pillow): installed when all else is."""
PYTHON = sys.version_info[:2]
WHOLE = "neo" if PYTHON >= OLD_PINS_END else "forge"
"""The host under whose pins all tests run that a host has a part in, and most others."""
PARALLEL = ["-n", os.environ.get("OMS_TEST_PROCESSES", "2"), "--dist", "loadfile", "--no-loadscope-reorder"]
"""Tests of one file share a WebUI, so a file is one process's, in the order of tests/conftest.py; the suite is made for
two cores."""
NO_HOST = ("test_devices.py", "test_module_cache.py", "test_presets.py", "test_project.py", "test_readme.py",
           "test_settings.py", "step", "given", "commands", "embedded", "files", "judging",
           "library/test_download.py", "library/test_entries.py", "library/test_fingerprint.py",
           "library/test_trust.py", "text/test_prompt.py", "training")  # fmt: skip
"""Tests of what no host has a part in. They run under one host's pins (for downloads, those of the oldest client) and,
where a library has a part in them, with the newest ones."""
NO_PIN = (*NO_HOST, "webui/test_costs.py", "webui/test_interrupt.py", "webui/test_judging.py",
          "webui/test_manners.py", "webui/test_memory.py", "webui/test_real_host.py",
          "webui/test_samplers.py")  # fmt: skip
"""And those of torch and our own code in a host: no pin changes them, so they run under one host's as well."""
NO_LIBRARY = ("webui", "demo", "files", "judging", "commands", "test_devices.py", "test_install.py",
              "test_presets.py", "test_project.py", "test_readme.py", "test_settings.py", "step", "given",
              "library/test_entries.py", "library/test_fingerprint.py", "library/test_trust.py",
              "text/test_prompt.py")  # fmt: skip
"""What no library newer than the hosts' has a part in, besides torch."""
NEWEST_ALONE = ("training",)
"""What runs with the newest libraries alone: trainings have an environment of their own, as docs/training.md makes it.
Those that are started as a person does (tests-slow) run under a host's pins."""
SAME_AS_FORGE = {
    "a1111": ("psi", "test_pipeline.py"),
    "neo": ("test_pipeline.py", "webui/test_browser_banner.py", "webui/test_browser_chips.py",
            "webui/test_browser_download.py", "webui/test_browser_messages.py", "webui/test_browser_modules.py",
            "webui/test_browser_presets.py", "webui/test_browser_preview.py", "webui/test_extension.py"),
}  # fmt: skip
"""What stands on diffusers and safetensors alone, where those have the versions that Forge has; and, as Neo's gradio is
Forge's, what the page shows: of test_browser.py Neo's fastapi has the ways there and back (STYLES). What the step does
in a host of Neo's style is torch's alone, and tested beside Forge's style; test_webuiapi.py makes pictures by Neo's
pins. Nobody runs a pipeline of diffusers in Neo; of psi Neo's diffusers has the numbers and the published folder
(STYLES), and what reads and writes files has the oldest and the newest safetensors."""
STYLES = {
    "a1111": "not forge",
    "neo": "not a1111 and (not test_browser or back or tick_type or error_on_the_page)"
    " and (not test_unet or numbers or to_the_bit or published)",
    "forge": "not (a1111 and (test_extension or test_demo_host))",
}
"""Which tests of those files: the ways of hosts that the miniature WebUI has are tested under the pins that they meet
in life."""
nox.options.sessions = ["tests"]
nox.options.default_venv_backend = "virtualenv"

HOSTS = ["latest", "a1111", "neo", "forge"]
"""The newest libraries first: their environment is a new one. The last one's pins stay, for sessions that follow."""

README_LINE = re.compile(r"(?:python -m )?pip install [^`\n]+")
# What shows that the environment, which an install line made, is good for something: added to the line that begins so.
AFTERWARDS = {
    "pip install pre-commit": " && pre-commit validate-config",
    "python -m pip install nox && python -m nox -s demo": " -- --once",
    "pip install": " && python -m pytest --collect-only -q >/dev/null"
    " && python -m pytest -q tests/webui/test_webuiapi.py",
}


def pip(session: nox.Session, *what: str, python: str = "python") -> None:
    """pip install. Without compiling, which would take longer than the rest: Python does that for what is imported."""
    session.run_install(python, "-m", "pip", "install", "--quiet", "--no-compile", *what, external=True)


def install(session: nox.Session, *what: str, python: str = "python") -> None:
    """Installs what is no torch; what is there already stays where it will do."""
    try:
        session.run_install(python, "-m", "uv", "--quiet", "pip", "install", "--python", python, *what, external=True)
    except CommandFailed:
        session.warn("uv could not: now with pip")
        pip(session, *what, python=python)


def install_project(session: nox.Session, extras: str, host: str, python: str = "python") -> None:
    """The project with a host's pins, which change no other package that is there: torch comes before."""
    install(session, "-e", f".[{extras}]", "-c", f"requirements/{host}.txt", python=python)
    install_last(session, host, python)


def install_last(session: nox.Session, host: str, python: str = "python") -> None:
    if host in LAST:
        install(session, "--no-deps", *LAST[host], python=python)


def environment(session: nox.Session, host: str) -> str:
    """The Python of an environment with the pins of `host`, or with the newest libraries ("latest").

    One for all that run with the same torch, but the newest libraries are always installed where nothing else is;
    another pyproject.toml makes a new one.
    """
    torch = os.environ.get("OMS_TORCH") or (NEO_TORCH if host == "neo" and PYTHON == NEO_PYTHON else TORCH)
    asked = hashlib.sha256(Path("pyproject.toml").read_bytes() + torch.encode()).hexdigest()[:8]
    folder = Path(os.environ.get("NOX_ENVDIR") or ".nox").resolve() / f"shared-{PYTHON[0]}.{PYTHON[1]}-{asked}"
    interpreter = str(folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python"))
    if host == "neo" and PYTHON != NEO_PYTHON:
        session.warn(f"Forge Neo runs Python 3.13 with {NEO_TORCH}: python3.13 -m nox -s 'tests(neo)' has both")
    if host != "latest" and not (shutil.which("chromium") or os.environ.get("CHROMIUM")):
        session.warn("chromium is missing: the tests in a browser will be skipped (apt-get install chromium)")
    pins = Path(f"requirements/{host}.txt").read_text(encoding="utf-8") if host != "latest" else ""
    wanted = "\n".join([host, *LAST.get(host, ()), pins])
    kept = folder / "installed"
    installed = kept.read_text(encoding="utf-8") if kept.exists() else ""
    if host != "latest" and installed == wanted:
        return interpreter
    kept.unlink(missing_ok=True)  # what is cut short is done again
    if host == "latest" or not installed:
        make = [sys.executable, "-m", "virtualenv", "--quiet", "--clear", "--python", sys.executable]
        session.run_install(*make, str(folder), external=True)
        pip(session, "uv", *shlex.split(torch), python=interpreter)
    if host == "latest":
        install(session, "-e", ".[test-library,train]", python=interpreter)
    elif "gradio" not in installed:
        install_project(session, "demo,test,types", host, interpreter)
    else:
        install(session, "-r", f"requirements/{host}.txt", python=interpreter)
        install_last(session, host, interpreter)
    if kept.parent.exists():  # nox may only have said what it would do
        kept.write_text(wanted, encoding="utf-8")
    return interpreter


@nox.session
def demo(session: nox.Session) -> None:
    """Serves the miniature WebUI and prints its address; `-- --once` makes one pair of pictures and ends."""
    pip(session, "uv", *shlex.split(os.environ.get("OMS_TORCH", TORCH)))  # first: no resolver picks another build of it
    install_project(session, "demo", WHOLE, shutil.which("python", path=session.bin) or "python")
    session.run("python", "-m", "demo", *session.posargs)


@nox.session(venv_backend="none")
@nox.parametrize("host", HOSTS, ids=HOSTS)
def tests(session: nox.Session, host: str) -> None:
    """Runs all tests but the slow ones; whatever follows `--` is handed to pytest."""
    if host in ("a1111", "forge") and PYTHON >= OLD_PINS_END:
        session.skip("its pins are older than Python 3.12, and have no files for it")
    if host == "neo" and PYTHON < (3, 11):
        session.skip("its numpy has no files for Python 3.10")
    interpreter = environment(session, host)
    left_out: tuple[str, ...] = (*NO_PIN, *SAME_AS_FORGE.get(host, ()))
    if host == WHOLE:
        left_out = NEWEST_ALONE
    if host == "latest":
        left_out = NO_LIBRARY
    chosen = [f"--ignore=tests/{name}" for name in left_out]
    if host in STYLES and WHOLE == "forge":  # else it stands for them all
        chosen += ["-k", STYLES[host]]
    session.run(interpreter, "-m", "pytest", *PARALLEL, *(session.posargs or chosen), external=True)


@nox.session(name="tests-slow", venv_backend="none")
def tests_slow(session: nox.Session) -> None:
    """Runs the slow tests: trainings, pictures by the hundred, files by the ten thousand."""
    interpreter = environment(session, WHOLE)
    session.run(interpreter, "-m", "pytest", *PARALLEL[:2], "-m", "slow", *session.posargs, external=True)


@nox.session(venv_backend="none")
def bench(session: nox.Session) -> None:
    """Times the step, a request and the loading of an OMS model, on the first GPU or else the CPU: about ten minutes.

    The numbers go to outputs/bench as JSON.
    """
    interpreter, out = environment(session, WHOLE), Path("outputs/bench")
    out.mkdir(parents=True, exist_ok=True)
    for name in ("speed", "request"):
        session.run(interpreter, f"benchmarks/{name}.py", "--out", str(out / f"{name}.json"), external=True)
    session.run(interpreter, "benchmarks/load.py", external=True)


@nox.session(venv_backend="none")
def types(session: nox.Session) -> None:
    """Runs mypy, beside the libraries whose types it reads."""
    session.run(environment(session, WHOLE), "-m", "mypy", external=True)


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
            session.run(sys.executable, "-m", "virtualenv", "--quiet", folder, external=True)
            path = os.pathsep.join([f"{folder}/bin", os.environ["PATH"]])
            fresh = {"PATH": path, "NOX_ENVDIR": f"{folder}/nox", "PIP_NO_COMPILE": "1"}
            session.run("bash", "-euc", line + ending, env=fresh, external=True)


@nox.session
def lint(session: nox.Session) -> None:
    """Runs ruff, and import-linter on who may import whom."""
    session.install("ruff==0.17.6", "import-linter>=2.4")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("lint-imports", "--no-cache", env={"PYTHONPATH": "."})
