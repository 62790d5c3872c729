"""Modules kept in memory: each loaded once, and those that read the same text share the encoder."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from lib_oms.console import say
from lib_oms.library import ModuleEntry, Places, TextSource, find_source
from lib_oms.module import OMSModule
from lib_oms.psi import inspect_module
from lib_oms.text import TextEncoder

KEPT = 2  # as many as a person who compares two modules goes to and fro between


@dataclass
class _Held:
    """A module in memory, and how many use it at this moment."""

    module: OMSModule
    users: int = 0


class ModuleCache:
    """Holds the modules that were used last. Those with the same text encoder share it.

    What has another dtype or text encoder, or a file that changed, is another module.

    Args:
        source_of: where a module's text encoder comes from; if not given, from the module's own folder.
        let_go: called with the networks that are dropped together, psi and text encoders, as soon as nobody uses them
            any more. It may free their memory at once.
    """

    def __init__(
        self,
        source_of: Callable[[ModuleEntry], TextSource] = lambda entry: find_source(entry, Places()),
        let_go: Callable[..., None] = lambda *networks: None,
    ) -> None:
        self._source_of, self._let_go = source_of, let_go
        self._lock = threading.Lock()
        self._modules: OrderedDict[tuple[Any, ...], _Held] = OrderedDict()
        self._leaving: list[_Held] = []  # dropped, but somebody still uses them
        self._encoders: dict[tuple[str, torch.dtype], TextEncoder] = {}

    @contextmanager
    def use(
        self,
        entry: ModuleEntry,
        fingerprint: str,
        dtype: torch.dtype,
        text_encoder: TextEncoder | None = None,
        before: Callable[[str], None] = lambda what: None,
    ) -> Iterator[OMSModule]:
        """The module of `entry` for the body, read from disk if it is not held; two requests at once read it once.

        Whoever drops it meanwhile, its memory stays until the body is left.

        Args:
            entry: which module.
            fingerprint: of its content.
            dtype: of both networks.
            text_encoder: used instead of one of the module's own, which is then not read, and never let go. Else it is
                looked up each time where that comes from: a module with none of its own may read the loaded
                checkpoint's.
            before: told what is about to be read, part by part; may raise to stop.

        Raises:
            ModuleFileError: it cannot be loaded. A broken file is found out by its header, before anything is dropped
                or read; only where the reading itself fails is what had to make room gone.
        """
        with self._lock:
            held = self._get(entry, fingerprint, dtype, text_encoder, before)
            held.users += 1
        try:
            yield held.module
        finally:
            with self._lock:
                held.users -= 1
                self._release()

    def clear(self) -> None:
        """Lets the memory go; of what is in use, when that ends."""
        with self._lock:
            self._drop(list(self._modules))

    def _get(
        self,
        entry: ModuleEntry,
        fingerprint: str,
        dtype: torch.dtype,
        text_encoder: TextEncoder | None,
        before: Callable[[str], None],
    ) -> _Held:
        source = self._source_of(entry) if text_encoder is None else None
        wanted = None if source is None else (source.where, dtype)
        # A module holds the encoder that it was given, so the id is its own.
        key = (entry.path, fingerprint, dtype, id(text_encoder) if source is None else source.where)
        if key not in self._modules:
            inspect_module(entry.path)
            encoder = text_encoder if wanted is None else self._encoders.get(wanted)
            if source is not None and encoder is None:
                source.check()
            self._make_room(entry, wanted)
            if source is not None and encoder is None:
                before(f"Loading the text encoder of OMS model {entry.name}")
                encoder = self._encoders[source.where, dtype] = source.load(dtype)
            before(f"Loading OMS model {entry.name}")
            say(f"Loading OMS model {entry.name}")
            try:
                self._modules[key] = _Held(OMSModule.from_pretrained(entry.path, dtype=dtype, text_encoder=encoder))
            except BaseException:
                self._release()
                raise
        self._modules.move_to_end(key)
        return self._modules[key]

    def _make_room(self, entry: ModuleEntry, wanted: tuple[str, torch.dtype] | None) -> None:
        """Drops what the new one replaces: the same file with other content, and the one that was used longest ago."""
        replaced = [key for key in self._modules if key[0] == entry.path]
        others = [key for key in self._modules if key not in replaced]
        self._drop([*replaced, *others[: max(0, len(others) - KEPT + 1)]], wanted)

    def _drop(self, keys: Iterable[tuple[Any, ...]], wanted: tuple[str, torch.dtype] | None = None) -> None:
        self._leaving += [self._modules.pop(key) for key in keys]
        self._release(wanted)

    def _release(self, wanted: tuple[str, torch.dtype] | None = None) -> None:
        """Lets go of what nobody uses or is kept for: modules that were dropped, and text encoders without a module,
        but for the `wanted` one.
        """
        gone: list[nn.Module] = [held.module.psi for held in self._leaving if not held.users]
        self._leaving = [held for held in self._leaving if held.users]
        needed = {id(held.module.text_encoder) for held in (*self._modules.values(), *self._leaving)}
        for key, encoder in list(self._encoders.items()):
            if id(encoder) not in needed and key != wanted:
                gone.append(self._encoders.pop(key))
                encoder.forget()
        if gone:
            self._let_go(*gone)
