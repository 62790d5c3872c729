"""What install.py of an extension may call (host file: modules/launch_utils.py)."""

import importlib.util
import subprocess
import sys
from importlib import metadata


def git_tag() -> str:
    """The version that infotext shows; extensions see that it is no release of a real WebUI."""
    try:
        return "demo-" + metadata.version("sd-webui-one-more-step")
    except metadata.PackageNotFoundError:
        return "demo"


def is_installed(package: str) -> bool:
    """Whether a package can be imported, by distribution or by import name."""
    try:
        metadata.distribution(package)
        return True
    except metadata.PackageNotFoundError:
        pass
    try:
        return importlib.util.find_spec(package) is not None
    except (ModuleNotFoundError, ValueError):
        return False


def run(command: list[str], desc: str | None = None, errdesc: str | None = None) -> str:
    """Runs a command; RuntimeError with its output if it fails."""
    if desc:
        print(desc, flush=True)
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise RuntimeError(f"{errdesc or 'Error running command'}.\n{result.stdout}\n{result.stderr}")
    return result.stdout


def run_pip(command: str, desc: str | None = None) -> str:
    """`pip COMMAND` in this interpreter's environment."""
    args = [sys.executable, "-m", "pip", *command.split(), "--prefer-binary"]
    return run(args, desc=f"Installing {desc}", errdesc=f"Couldn't install {desc}")
