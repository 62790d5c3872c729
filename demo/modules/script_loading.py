"""Loading of extension code (host file: modules/script_loading.py)."""

import argparse
import importlib.util
from pathlib import Path
from types import ModuleType

from modules import errors

loaded_scripts: dict[str, ModuleType] = {}


def load_module(path: str) -> ModuleType:
    """Runs a script as a module that bears its bare FILE name and is not entered in sys.modules, as hosts do.

    Dataclasses with postponed annotations and pickle look their module up there and notice.
    """
    spec = importlib.util.spec_from_file_location(Path(path).name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    loaded_scripts[path] = module
    return module


def preload_extensions(folders: list[Path], parser: argparse.ArgumentParser) -> None:
    """Lets each extension's preload.py add its command line arguments."""
    for script in (folder / "preload.py" for folder in folders):
        try:
            if script.is_file():
                load_module(str(script)).preload(parser)
        except Exception:
            errors.report(f"Error running preload() for {script}", exc_info=True)
