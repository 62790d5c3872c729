"""A short name for what a module file holds, so that a picture's infotext can say which module made it."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

from lib_oms.errors import ModuleFileError
from lib_oms.files import file_stamp, read_json, written_whole
from lib_oms.psi import inspect_module
from lib_oms.psi.files import weights_of

_SAMPLES = 256
_SAMPLE_BYTES = 4096
_MOST_REMEMBERED = 4096  # files, of about 200 bytes each


def fingerprint(path: str | os.PathLike[str]) -> str:
    """Ten hexadecimal digits that tell a module's weights apart: of a folder, those of its main weights file.

    SHA-256 over the file's size, its beginning (where the header is) and 256 evenly spaced blocks of 4 KiB: a large
    module would take many seconds to read whole, this takes milliseconds, and any other training of the same
    architecture differs in every block. Remembered until the file changes.

    Raises ModuleFileError where there is no module or it cannot be read.
    """
    try:
        weights = weights_of(path)
        return _fingerprint(Path(path), weights, file_stamp(weights))
    except OSError as error:
        raise ModuleFileError(f"{path}: cannot be read: {error.strerror or error}") from error


class Remembered:
    """Fingerprints as they were when they were looked at last, on disk, so that a module is found by its own without
    reading all others: a megabyte each, which takes minutes on a slow share.

    A hint of where to look, by the files' paths, sizes and times, and nothing more: what is found was read. A file that
    is broken or cannot be written is as good as none.

    Args:
        file: a JSON object of paths and [size, time in ns, fingerprint]; several processes may share it.
    """

    def __init__(self, file: Path) -> None:
        self._file = file

    def find(self, wanted: str, modules: Iterable[Path]) -> Path | None:
        """The first of the modules' paths with this fingerprint."""
        known: dict[str, object] = self._read()
        fresh: dict[str, object] = {}
        try:
            for path in modules:
                with suppress(ModuleFileError, OSError):
                    weights = os.path.abspath(weights_of(path))
                    status = os.stat(weights)
                    when = [status.st_size, status.st_mtime_ns]
                    fact = known.get(weights)
                    if isinstance(fact, list) and fact[:2] == when and fact[2:] != [wanted]:
                        continue
                    digits = fingerprint(path)
                    if fact != [*when, digits]:
                        fresh[weights] = [*when, digits]
                    if digits == wanted:
                        return path
            return None
        finally:
            if fresh:
                self._write(fresh)

    def _read(self) -> dict[str, object]:
        try:
            return read_json(self._file, 8 * 2**20)
        except ModuleFileError:
            return {}

    def _write(self, fresh: dict[str, object]) -> None:
        others = {path: fact for path, fact in self._read().items() if path not in fresh}  # another process's, too
        kept = list({**others, **fresh}.items())[-_MOST_REMEMBERED:]
        with suppress(OSError):
            self._file.parent.mkdir(parents=True, exist_ok=True)
            with written_whole(self._file) as part:
                part.write_text(json.dumps(dict(kept)), encoding="utf-8")


@lru_cache(maxsize=256)
def _fingerprint(path: Path, weights: Path, stamp: object) -> str:  # stamp only tells old answers from new ones
    inspect_module(path)
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
