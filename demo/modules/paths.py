"""Folders under the name that extensions import (host file: modules/paths.py)."""

from modules import paths_internal
from modules.paths_internal import extensions_dir, models_path, modules_path, script_path

__all__ = ["extensions_dir", "models_path", "modules_path", "script_path"]


def __getattr__(name: str) -> str:
    if name == "data_path":  # set when the host starts, so looked up and not copied
        return paths_internal.data_path
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
