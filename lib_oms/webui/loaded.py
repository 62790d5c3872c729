"""The OMS modules that are kept in memory between requests."""

from __future__ import annotations

from lib_oms.module_cache import ModuleCache
from lib_oms.webui import memory, sources

LOADED = ModuleCache(sources.source_of, memory.forget)
