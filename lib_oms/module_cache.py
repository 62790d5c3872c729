"""Modules kept in memory: each loaded once, and those that read the same text share the encoder."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torch

from lib_oms.library import ModuleEntry
from lib_oms.module import OMSModule
from lib_oms.text import TextEncoder
from lib_oms.text_sources import Places, TextSource, find_source

KEPT = 2  # as many as a person who compares two modules goes to and fro between


class ModuleCache:
    """Holds the modules that were used last. Those with the same text encoder share it.

    What has another dtype or text encoder, or a file that changed, is another module.

    Args:
        source_of: where a module's text encoder comes from; if not given, from the module's own folder.
        let_go: told about every module that is dropped, so that the device's memory can be freed.
    """

    def __init__(
        self,
        source_of: Callable[[ModuleEntry], TextSource] = lambda entry: find_source(entry, Places()),
        let_go: Callable[[OMSModule], None] = lambda _: None,
    ) -> None:
        self._source_of, self._let_go = source_of, let_go
        self._lock = threading.Lock()
        self._modules: OrderedDict[tuple[Any, ...], OMSModule] = OrderedDict()
        self._encoders: dict[tuple[str, torch.dtype], TextEncoder] = {}

    def get(
        self, entry: ModuleEntry, fingerprint: str, dtype: torch.dtype, text_encoder: TextEncoder | None = None
    ) -> OMSModule:
        """The module of `entry`, read from disk if it is not held; two requests at once read it once.

        `text_encoder`, where given, is used instead of one of the module's own, which is then not read. Else it is
        looked up each time where that comes from: a module with none of its own may read the loaded checkpoint's.

        Raises ModuleFileError where it cannot be loaded; what is held stays.
        """
        with self._lock:
            source = self._source_of(entry) if text_encoder is None else None
            # A module holds the encoder that it was given, so the id is its own.
            key = (entry.path, fingerprint, dtype, id(text_encoder) if source is None else source.where)
            if key not in self._modules:
                print(f"Loading OMS module {entry.name}")
                self._make_room(entry)
                encoder = text_encoder if source is None else self._encoder(source, dtype)
                self._modules[key] = OMSModule.from_pretrained(entry.path, dtype=dtype, text_encoder=encoder)
            self._modules.move_to_end(key)
            return self._modules[key]

    def clear(self) -> None:
        """Lets the memory go."""
        for key in list(self._modules):
            self._drop(key)
        self._encoders.clear()

    def _make_room(self, entry: ModuleEntry) -> None:
        """Drops what the new one replaces: the same file with other content, and the one that was used longest ago."""
        for key in [key for key in self._modules if key[0] == entry.path]:
            self._drop(key)
        while len(self._modules) >= KEPT:
            self._drop(next(iter(self._modules)))
        used = {id(module.text_encoder) for module in self._modules.values()}
        self._encoders = {key: encoder for key, encoder in self._encoders.items() if id(encoder) in used}

    def _drop(self, key: tuple[Any, ...]) -> None:
        self._let_go(self._modules.pop(key))

    def _encoder(self, source: TextSource, dtype: torch.dtype) -> TextEncoder:
        key = (source.where, dtype)
        if key not in self._encoders:
            self._encoders[key] = source.load(dtype)
        return self._encoders[key]
