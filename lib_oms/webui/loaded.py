"""The one OMS module that is held in memory between requests."""

from __future__ import annotations

import threading
from typing import Any

import torch

from lib_oms.library import ModuleEntry
from lib_oms.module import OMSModule
from lib_oms.text import TextEncoder
from lib_oms.webui import memory


class ModuleCache:
    """Holds the module that was used last, until another one, another dtype or text encoder, or a changed file is
    asked for.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._key: tuple[Any, ...] | None = None
        self._module: OMSModule | None = None

    def get(
        self, entry: ModuleEntry, fingerprint: str, dtype: torch.dtype, text_encoder: TextEncoder | None = None
    ) -> OMSModule:
        """The module of `entry`, read from disk if it is not the one that is held.

        `text_encoder`, where given, is used instead of one of the module's own, which is then not read.

        Raises ModuleFileError where it cannot be loaded; nothing is held then.
        """
        key = (entry.path, fingerprint, dtype, id(text_encoder))  # the module holds the encoder, so the id is its own
        with self._lock:
            if self._key != key:
                self.clear()
                print(f"Loading OMS module {entry.name}")
                self._module = OMSModule.from_pretrained(entry.path, dtype=dtype, text_encoder=text_encoder)
                self._key = key
            return self._module

    def clear(self) -> None:
        """Lets the memory go, the device's too."""
        if self._module is not None:
            memory.forget(self._module.psi, self._module.text_encoder)
        self._key = self._module = None


LOADED = ModuleCache()
