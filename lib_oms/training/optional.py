"""Libraries that only some trainings need, and that are no part of a WebUI."""

from __future__ import annotations

import importlib
from types import ModuleType

from lib_oms.errors import OMSError


def library(module: str, what: str) -> ModuleType:
    """Imports `module` for `what`, such as "--tensorboard needs". Raises OMSError, which says what to install."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        name = module.rpartition(".")[2]
        raise OMSError(f"{what} the library {name} ({error}): python -m pip install {name}") from error
