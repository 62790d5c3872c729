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
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    loaded_scripts[path] = module
    return module


def preload_extensions(folders: list[str], parser: argparse.ArgumentParser) -> None:
    """Lets each extension's preload.py add its command line arguments."""
    for folder in folders:
        script = Path(folder) / "preload.py"
        if not script.is_file():
            continue
        try:
            module = load_module(str(script))
            if hasattr(module, "preload"):
                module.preload(parser)
        except Exception:
            errors.report(f"Error running preload() for {script}", exc_info=True)
