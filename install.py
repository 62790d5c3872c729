"""Installs what the WebUI lacks for One More Step, and never another version of what it has.

Run by the WebUI at every start, in its folder. Forge and its relatives have everything; AUTOMATIC1111 lacks diffusers.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from contextlib import suppress
from importlib import metadata
from pathlib import Path

FAILED = Path(__file__).resolve().parent / "install-failed.txt"
"""What could not be done, in one line, and then what to run by hand; lib_oms/webui/trouble.py shows it."""

# diffusers 0.31.0 is what Forge pins, and the one release known to install and import beside AUTOMATIC1111's pins:
# 0.27 imports what huggingface_hub no longer has, newer ones ask for a newer huggingface_hub and safetensors.
REQUIRED = {"diffusers": "diffusers==0.31.0"}


def missing(is_installed: Callable[[str], bool]) -> list[str]:
    """The requirements to install: those of packages that are not there in any version."""
    return [requirement for package, requirement in REQUIRED.items() if not is_installed(package)]


def constraints(distributions: Iterable[metadata.Distribution]) -> str:
    """A pip constraints file that holds every installed package at the version it has."""
    versions: dict[str, str] = {}
    for distribution in distributions:
        name, version = distribution.metadata["Name"], distribution.version
        if name and version:
            versions.setdefault(name, version)  # the first on the path is the one that gets imported
    return "".join(f"{name}=={version}\n" for name, version in sorted(versions.items()))


def main() -> None:
    """Installs what is missing. A failure is one line in the console and on the page."""
    import launch  # the WebUI's own

    wanted = missing(launch.is_installed)
    with suppress(OSError):
        FAILED.unlink(missing_ok=True)  # of an earlier start
    if not wanted:
        return
    with tempfile.TemporaryDirectory() as folder:
        held = Path(folder) / "constraints.txt"
        held.write_text(constraints(metadata.distributions()), encoding="utf-8")
        try:
            # As a URL the path needs no quotes, whichever way the host takes its command apart.
            launch.run_pip(
                f"install {' '.join(wanted)} --constraint {held.as_uri()} --retries 1 --disable-pip-version-check",
                f"{', '.join(wanted)} for One More Step",
            )
        except Exception as error:
            told = f"{', '.join(wanted)} could not be installed: {_reason(error)}"
            print(f"One More Step: {told}")
            with suppress(OSError):
                FAILED.write_text(f"{told}\n{_by_hand(wanted)}\n", encoding="utf-8")


def _by_hand(wanted: list[str]) -> str:
    """The command that installs it into this environment, for the shell of this system."""
    command = [sys.executable, "-m", "pip", "install", *wanted]
    return subprocess.list2cmdline(command) if os.name == "nt" else shlex.join(command)


def _reason(error: Exception) -> str:
    """The line in which pip says what went wrong."""
    # Hosts write "stderr: " before the first line.
    stripped = (line.strip().removeprefix("stderr:").strip() for line in str(error).splitlines())
    lines = [line for line in stripped if line and "ResolutionImpossible" not in line]
    told = [line for line in lines if line.startswith("ERROR:")]
    return (told or lines or [type(error).__name__])[-1].removeprefix("ERROR:").strip()


if __name__ == "__main__":
    main()
