"""`import launch`, as install.py of an extension does it, and the version in infotext (host file: launch.py)."""

import importlib.util
import subprocess
import sys
from contextlib import suppress
from importlib import metadata


def git_tag() -> str:
    """The version that infotext shows; extensions see that it is no release of a real WebUI."""
    try:
        return "demo-" + metadata.version("sd-webui-one-more-step")
    except metadata.PackageNotFoundError:
        return "demo"


def is_installed(package: str) -> bool:
    """Whether a package can be imported, by distribution or by import name."""
    with suppress(metadata.PackageNotFoundError):
        return metadata.distribution(package) is not None
    with suppress(ModuleNotFoundError, ValueError):
        return importlib.util.find_spec(package) is not None
    return False


def run_pip(command: str, desc: str | None = None) -> str:
    """`pip COMMAND` in this interpreter's environment; RuntimeError with its output if it fails."""
    print(f"Installing {desc}", flush=True)
    pip = [sys.executable, "-m", "pip", *command.split(), "--prefer-binary"]
    result = subprocess.run(pip, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise RuntimeError(f"Couldn't install {desc}.\n{result.stdout}\n{result.stderr}")
    return result.stdout
