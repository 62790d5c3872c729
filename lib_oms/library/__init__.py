"""OMS models on disk and on the hub: which there are and what they fit, their text encoders, and how they come here.

A `ModuleEntry` is one of them, told by its headers; `Places` are where to look for what it reads.
"""

from lib_oms.library.entries import UNKNOWN, ModuleEntry, describe, fits, scan
from lib_oms.library.text_sources import Places, TextSource, find_source

__all__ = ["UNKNOWN", "ModuleEntry", "Places", "TextSource", "describe", "find_source", "fits", "scan"]
