"""The styles that are here, by name."""

from __future__ import annotations

from lib_oms.given import styles
from lib_oms.webui import host


def names() -> list[str]:
    """What may be chosen: every style in a folder `styles` of the folders with OMS models."""
    return list(styles(host.module_folders()))
