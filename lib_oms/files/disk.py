"""Small files: JSON that is read within bounds, and files that are written whole or not at all."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lib_oms.errors import ModuleFileError

_MAX_CONFIG_BYTES = 2**20


def read_json(path: Path, most: int = _MAX_CONFIG_BYTES) -> dict[str, Any]:
    """A JSON object of at most `most` bytes from disk; raises ModuleFileError where it is none."""
    try:
        with path.open("rb") as file:
            text = file.read(most + 1)
    except OSError as error:
        raise ModuleFileError(f"{path}: cannot be read: {error.strerror or error}") from error
    if len(text) > most:
        raise ModuleFileError(f"{path}: is larger than {most} bytes, too large for a config")
    return json_object(text, path)


def json_object(text: str | bytes, source: str | Path) -> dict[str, Any]:
    """The JSON object that `text` holds; `source` names it in the ModuleFileError that is raised where it is none."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ModuleFileError(f"{source}: is not JSON ({error})") from error
    if not isinstance(value, dict):
        raise ModuleFileError(f"{source}: is not a JSON object")
    return value


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Yield a path to write to; the file appears under `path` when the block ends well, and never half."""
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        yield part
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
