"""The one OMS module that is kept in memory between requests."""

from __future__ import annotations

import threading
from typing import Any

import torch

from lib_oms.library import ModuleEntry
from lib_oms.module import OMSModule


class ModuleCache:
    """Holds the module that was used last, until another one, another dtype or a changed file is asked for."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._key: tuple[Any, ...] | None = None
        self._module: OMSModule | None = None

    def get(self, entry: ModuleEntry, fingerprint: str, dtype: torch.dtype) -> OMSModule:
        """The module of `entry`, read from disk if it is not the one that is held.

        Raises ModuleFileError where it cannot be loaded; nothing is held then.
        """
        key = (entry.path, fingerprint, dtype)
        with self._lock:
            if self._key != key:
                self.clear()
                print(f"Loading OMS module {entry.name}")
                self._module = OMSModule.from_pretrained(entry.path, dtype=dtype)
                self._key = key
            return self._module

    def clear(self) -> None:
        """Lets the memory go."""
        self._key = self._module = None


LOADED = ModuleCache()
