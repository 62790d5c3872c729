"""install.py: what it decides, and what it really does to a real environment, offline."""

import base64
import hashlib
import os
import runpy
import shutil
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
INSTALL = runpy.run_path(str(ROOT / "install.py"), run_name="install")


def test_nothing_is_missing_where_diffusers_is_there_in_any_version() -> None:
    assert INSTALL["missing"](lambda package: True) == []


def test_diffusers_is_missing_in_a1111() -> None:
    assert INSTALL["missing"](lambda package: package != "diffusers") == ["diffusers==0.31.0"]


def test_constraints_hold_every_package_at_its_version() -> None:
    text = INSTALL["constraints"](metadata.distributions())
    assert f"torch=={metadata.version('torch')}\n" in text
    names = [line.split("==")[0] for line in text.splitlines()]
    assert len(names) == len(set(names))


def test_pip_trouble_becomes_one_line() -> None:
    error = RuntimeError("Couldn't install it.\nstderr: a\nERROR: first\n  b\nERROR: No matching distribution\n\n")
    assert INSTALL["_reason"](error) == "No matching distribution"
    clash = "failed\nstderr: ERROR: Cannot install a and b\nwhy\nERROR: ResolutionImpossible: see x\n"
    assert INSTALL["_reason"](RuntimeError(clash)) == "Cannot install a and b"
    assert INSTALL["_reason"](RuntimeError("")) == "RuntimeError"
    assert INSTALL["_reason"](RuntimeError("no pip here")) == "no pip here"


def _wheel(folder: Path, name: str, version: str, requires: str = "") -> None:
    """A real, tiny wheel of a package with one module."""
    info = f"{name}-{version}.dist-info"
    files = {
        f"{name}.py": f'__version__ = "{version}"\n',
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        + (f"Requires-Dist: {requires}\n" if requires else ""),
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{path},sha256={_digest(text)},{len(text)}\n" for path, text in files.items())
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as wheel:
        for path, text in files.items():
            wheel.writestr(path, text)
        wheel.writestr(f"{info}/RECORD", f"{record}{info}/RECORD,,\n")


def _digest(text: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()


class Environment:
    """A virtual environment whose pip knows one folder of wheels and no network, and a host to run install.py in."""

    def __init__(self, folder: Path, root: Path) -> None:
        self.root = root
        self.extension = folder / "extension"
        self.extension.mkdir()
        shutil.copy(root / "install.py", self.extension)
        self.wheels = folder / "wheels"
        self.wheels.mkdir()
        # The host's folder has a space in it: paths must survive the way to pip.
        self.temporary = folder / "a b"
        self.temporary.mkdir()
        subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True)
        self.python = folder / "venv" / ("Scripts" if os.name == "nt" else "bin") / "python"

    @property
    def variables(self) -> dict[str, str]:
        return os.environ | {
            "PYTHONPATH": str(self.root / "demo"),  # where the demo's `launch` is, as in a WebUI's folder
            "PIP_NO_INDEX": "1",
            "PIP_FIND_LINKS": self.wheels.as_uri(),
            "TMPDIR": str(self.temporary),
        }

    def run(self, *args: str | Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run([self.python, *args], env=self.variables, capture_output=True, text=True, check=False)

    def freeze(self) -> set[str]:
        return set(self.run("-m", "pip", "freeze").stdout.split())

    def install_py(self) -> str:
        result = self.run(self.extension / "install.py")
        assert result.returncode == 0, result.stderr
        return result.stdout

    @property
    def kept(self) -> list[str]:
        """What it leaves for the accordion to show."""
        file = self.extension / "install-failed.txt"
        return file.read_text(encoding="utf-8").splitlines() if file.exists() else []


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory, root_folder: Path) -> Environment:
    environment = Environment(tmp_path_factory.mktemp("install"), root_folder)
    _wheel(environment.wheels, "safetensors", "0.4.2")
    _wheel(environment.wheels, "safetensors", "0.5.0")
    _wheel(environment.wheels, "regex", "2024.1.1")
    environment.run("-m", "pip", "install", "safetensors==0.4.2")
    assert environment.freeze() == {"safetensors==0.4.2"}
    return environment


@pytest.fixture(scope="module")
def root_folder() -> Path:
    return ROOT


@pytest.mark.slow
def test_environment_gains_what_it_lacks_and_keeps_what_it_has(environment: Environment) -> None:
    before = environment.freeze()

    # Offline, with nothing to be had: one readable line, nothing changed, and no failure that the host would print.
    out = environment.install_py()
    told = [line for line in out.splitlines() if "could not be installed" in line]
    assert len(told) == 1
    assert "No matching distribution found for diffusers==0.31.0" in told[0]
    assert environment.freeze() == before
    line, command = environment.kept
    assert told == [f"One More Step: {line}"]
    # The command is for a person to run, in whatever shell: here it fails for the same reason.
    result = subprocess.run(command, shell=True, capture_output=True, text=True, check=False, env=environment.variables)
    assert "No matching distribution found for diffusers==0.31.0" in result.stderr

    # A diffusers that wants another safetensors than the host has: refused, nothing changed.
    _wheel(environment.wheels, "diffusers", "0.31.0", "safetensors>=0.5")
    assert "could not be installed" in environment.install_py()
    assert environment.freeze() == before

    # One that lives with what is there: it is added with what it needs, and safetensors 0.5.0 stays away.
    _wheel(environment.wheels, "diffusers", "0.31.0", "regex")
    assert "could not be installed" not in environment.install_py()
    assert not environment.kept, "what went wrong before is past"
    assert environment.freeze() - before == {"diffusers==0.31.0", "regex==2024.1.1"}
    assert before <= environment.freeze()

    # And then there is nothing more to do.
    assert environment.install_py() == ""


def test_there_is_nothing_to_do_here(root_folder: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(root_folder / "demo"), "PIP_NO_INDEX": "1"}
    result = subprocess.run(
        [sys.executable, root_folder / "install.py"], env=environment, capture_output=True, text=True, check=False
    )
    assert (result.returncode, result.stdout) == (0, "")
