"""The header of a .safetensors file, checked whole before anything trusts the file or takes memory for it.

Format: https://huggingface.co/docs/safetensors (8 bytes of length, JSON, then the tensors' bytes, packed).
"""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TypeGuard

from lib_oms.errors import ModuleFileError

# The largest published module needs about 250 kB; whole SDXL checkpoints about 300 kB.
MAX_HEADER_BYTES = 8 * 2**20
_BYTES = {
    **dict.fromkeys(("F64", "I64", "U64"), 8),
    **dict.fromkeys(("F32", "I32", "U32"), 4),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 2),
    **dict.fromkeys(("F8_E4M3", "F8_E5M2", "I8", "U8", "BOOL"), 1),
}
FLOATS = frozenset(("F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2"))
_MAX_RANK = 16
_WEB_PAGE_WITHIN = 64  # bytes: blanks may stand before its first tag


@dataclass(frozen=True)
class TensorInfo:
    """What a header says of one tensor; dtype is safetensors' code, such as "F16"."""

    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Header:
    """Tensors in the order of the file, and the file's metadata."""

    tensors: dict[str, TensorInfo]
    metadata: dict[str, str]


def read_header(path: str | os.PathLike[str]) -> Header:
    """Read and check the header of a .safetensors file; no tensor is read.

    Raises:
        ModuleFileError: not a regular file, unreadable, truncated, a pickle, or a header that lies.
    """
    path = Path(path)
    if not path.is_file():
        raise ModuleFileError(f"{path}: there is no such file")
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            start = file.read(8)
            _check_start(path, start + file.read(_WEB_PAGE_WITHIN), size)
            file.seek(8)
            length = int.from_bytes(start, "little")
            raw = file.read(length)
    except OSError as error:
        raise ModuleFileError(f"{path}: cannot be read: {error.strerror or error}") from error
    entries = _parse(path, raw)
    metadata = entries.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise ModuleFileError(f"{path}: is not a sound .safetensors file: its metadata is no table of texts")
    return Header(_check_tensors(path, entries, size - 8 - length), metadata)


def file_stamp(path: str | os.PathLike[str]) -> tuple[int, ...]:
    """Changes with the file (or link's target) at `path`; () where there is none. For what is remembered of a file."""
    try:
        status = os.stat(path)
    except OSError:
        return ()
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino, status.st_mode


def _check_start(path: Path, start: bytes, size: int) -> None:
    if size == 0:
        raise ModuleFileError(f"{path}: is empty; download it again")
    length = int.from_bytes(start[:8], "little")
    if size < 8:
        raise ModuleFileError(f"{path}: is truncated: it has only {size} bytes; download it again")
    if length <= min(MAX_HEADER_BYTES, size - 8):
        return
    # Looked at only now: a sound file's length may begin with the same bytes.
    if start[:1] == b"\x80" or start[:4] == b"PK\x03\x04":
        raise ModuleFileError(
            f"{path}: is a pickle or a torch zip archive, whatever its name says. Such files can run code and are "
            "never opened; get the .safetensors version of it"
        )
    if start.lstrip().lower().startswith((b"<!doctype", b"<html")):
        raise ModuleFileError(f"{path}: is a web page, whatever its name says. Download the file itself")
    if start.startswith(b"version https://git-lfs"):
        raise ModuleFileError(f"{path}: is a pointer of Git LFS, not the file itself; download that, or `git lfs pull`")
    if length > MAX_HEADER_BYTES:
        raise ModuleFileError(
            f"{path}: is not a .safetensors file, or a broken one: it does not begin as such files do"
        )
    raise ModuleFileError(f"{path}: is truncated: it ends within its header; download it again")


def _parse(path: Path, raw: bytes) -> dict:
    try:
        entries = json.loads(raw.decode("utf-8"), object_pairs_hook=_no_duplicates)
    except (ValueError, RecursionError) as error:
        raise ModuleFileError(f"{path}: is not a .safetensors file: its header is not JSON ({error})") from error
    if not isinstance(entries, dict):
        raise ModuleFileError(f"{path}: is not a .safetensors file: its header is no JSON object")
    return entries


def _no_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
    entries = dict(pairs)
    if len(entries) != len(pairs):
        raise ValueError("a name appears twice")
    return entries


def _check_tensors(path: Path, entries: dict, data_bytes: int) -> dict[str, TensorInfo]:
    spans = []
    tensors = {}
    for name, entry in entries.items():
        info, begin, end = _tensor(path, name, entry)
        tensors[name] = info
        spans.append((begin, end, name))
    position = 0
    for begin, end, name in sorted(spans):
        if begin != position:
            raise ModuleFileError(
                f"{path}: tensor {_quoted(name)} starts at byte {begin} of the data, expected {position}; "
                "tensors must neither overlap nor leave holes"
            )
        if end > data_bytes:
            raise ModuleFileError(
                f"{path}: is truncated: tensor {_quoted(name)} ends at byte {end} of the data, "
                f"but the file holds {data_bytes}"
            )
        position = end
    if position != data_bytes:
        raise ModuleFileError(f"{path}: holds {data_bytes} bytes of data, its header describes {position}")
    return tensors


def _tensor(path: Path, name: str, entry: object) -> tuple[TensorInfo, int, int]:
    wrong = ModuleFileError(
        f"{path}: tensor {_quoted(name)} is not described as .safetensors files do it (dtype, shape, data_offsets)"
    )
    if not isinstance(entry, dict):
        raise wrong
    dtype, shape, offsets = entry.get("dtype"), entry.get("shape"), entry.get("data_offsets")
    if not isinstance(dtype, str) or dtype not in _BYTES:
        known = ", ".join(_BYTES)
        raise ModuleFileError(f"{path}: tensor {_quoted(name)} has dtype {_quoted(dtype)}; known are {known}")
    if not _sizes(shape) or len(shape) > _MAX_RANK or not _sizes(offsets) or len(offsets) != 2:
        raise wrong
    begin, end = offsets
    if end - begin != math.prod(shape) * _BYTES[dtype]:
        raise ModuleFileError(
            f"{path}: tensor {_quoted(name)} of shape {_quoted(shape)} and dtype {dtype} does not take the "
            f"{end - begin} bytes that the header gives it"
        )
    return TensorInfo(dtype, tuple(shape)), begin, end


def _sizes(values: object) -> TypeGuard[list[int]]:
    return isinstance(values, list) and all(
        isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63 for value in values
    )


def _quoted(value: object) -> str:
    # Names come from the file: quoted, so that they cannot forge a message, and short, so that they cannot flood one.
    text = repr(value)
    return text if len(text) <= 160 else text[:157] + "..."
