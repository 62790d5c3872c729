"""A short name for what a module file holds, so that a picture's infotext can say which module made it."""

from __future__ import annotations

import hashlib
import os
from functools import lru_cache
from pathlib import Path

from lib_oms.errors import ModuleFileError
from lib_oms.header import file_stamp
from lib_oms.module_files import inspect_module

_SAMPLES = 256
_SAMPLE_BYTES = 4096


def fingerprint(path: str | os.PathLike[str]) -> str:
    """Ten hexadecimal digits that tell a module's weights apart: of a folder, those of its main weights file.

    SHA-256 over the file's size, its beginning (where the header is) and 256 evenly spaced blocks of 4 KiB: a large
    module would take many seconds to read whole, this takes milliseconds, and any other training of the same
    architecture differs in every block. Remembered until the file changes.

    Raises ModuleFileError where there is no module or it cannot be read.
    """
    weights = inspect_module(path).weights
    try:
        return _fingerprint(weights, file_stamp(weights))
    except OSError as error:
        raise ModuleFileError(f"{weights}: cannot be read: {error.strerror or error}") from error


@lru_cache(maxsize=256)
def _fingerprint(weights: Path, stamp: object) -> str:  # stamp only tells old answers from new ones
    size = weights.stat().st_size
    digest = hashlib.sha256(size.to_bytes(8, "little"))
    stride = max(_SAMPLE_BYTES, size // _SAMPLES)
    with weights.open("rb") as file:
        for start in range(0, size, stride):
            file.seek(start)
            digest.update(file.read(_SAMPLE_BYTES))
        file.seek(max(0, size - _SAMPLE_BYTES))
        digest.update(file.read(_SAMPLE_BYTES))
    return digest.hexdigest()[:10]
