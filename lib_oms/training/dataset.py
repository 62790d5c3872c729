"""Pictures with captions on disk: Hugging Face's ImageFolder, or a .txt beside each picture."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import ExifTags, Image, ImageOps

from lib_oms.errors import OMSError

PICTURE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif"})
METADATA_NAMES = ("metadata.jsonl", "metadata.csv")
_HALF_CHARACTER = re.compile("[\ud800-\udfff]")  # one of two escapes in JSON that stand for a character together


@dataclass(frozen=True)
class Example:
    """One picture with one caption. A picture with several captions is several examples."""

    picture: Path
    caption: str


def read_image_folder(folder: str | Path, caption_column: str = "text") -> list[Example]:
    """Lists the pictures under `folder`, sub-folders too, with their captions, in an order that never changes.

    A caption comes from the `metadata.jsonl` or `metadata.csv` of the picture's folder or of one above it (columns
    `file_name`, relative to that file, and `caption_column`), else from a `.txt` of the same name beside the picture.

    Raises:
        OMSError: no folder, no pictures, a picture without caption, a metadata file that cannot be read or that
            names a picture that is not there.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise OMSError(f"The picture folder {folder} does not exist.")
    files = [p for p in sorted(folder.rglob("*")) if not _is_hidden(p.relative_to(folder)) and p.is_file()]
    pictures = [path for path in files if path.suffix.lower() in PICTURE_SUFFIXES]
    if not pictures:
        raise OMSError(f"No pictures in {folder}: put files with the ending {_listed(PICTURE_SUFFIXES)} there.")

    captions: dict[Path, list[str]] = {}
    for path in files:
        if path.name in METADATA_NAMES:
            _refuse_two_metadata_files(path)
            for where, name, caption in _metadata_rows(path, caption_column):
                picture = path.parent / name
                if not picture.is_file():
                    raise OMSError(f"{where}: the picture {name!r} is not in {path.parent}.")
                captions.setdefault(picture.resolve(), []).append(caption)

    examples, without = [], []
    for picture in pictures:
        found = captions.get(picture.resolve())
        beside = picture.with_suffix(".txt")
        if found is None and beside.is_file():
            found = [_read_text(beside).strip()]
        if found is None:
            without.append(picture)
        else:
            examples += [Example(picture, caption) for caption in found]
    if without:
        raise OMSError(
            f"{len(without)} of {len(pictures)} pictures in {folder} have no caption, the first is "
            f"{without[0].relative_to(folder)}: name them in a metadata.jsonl or metadata.csv (columns file_name and "
            f"{caption_column}), or put a .txt with the caption beside each."
        )
    return examples


def load_picture(picture: str | Path | bytes, size: int | tuple[int, int], where: str = "") -> torch.Tensor:
    """Loads a picture: resized so that it fills `size`, then cut around the center.

    Args:
        picture: path, or what a file holds.
        size: (width, height), or a square's side.
        where: what messages call it; its path, if not given.

    Returns:
        [3, height, width], float32, -1 (black) to 1 (white), as diffusers' VAEs take it.

    Raises:
        OMSError: the file is no picture, is cut off, or cannot be read.
    """
    with _opened(picture, where) as opened:
        whole = _to_rgb(ImageOps.exif_transpose(opened))
    fitting = ImageOps.fit(whole, (size, size) if isinstance(size, int) else size, Image.Resampling.LANCZOS)
    pixels = np.asarray(fitting, dtype=np.float32)
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous() / 127.5 - 1.0


def picture_size(picture: str | Path | bytes, where: str = "") -> tuple[int, int]:
    """(width, height) of a picture as it is seen; only its header is read. Raises OMSError as `load_picture`."""
    with _opened(picture, where) as opened:
        on_its_side = opened.getexif().get(ExifTags.Base.Orientation, 1) > 4
        return (opened.height, opened.width) if on_its_side else opened.size


@contextmanager
def _opened(picture: str | Path | bytes, where: str) -> Iterator[Image.Image]:
    try:
        with Image.open(io.BytesIO(picture) if isinstance(picture, bytes) else picture) as opened:
            yield opened
    # What Pillow raises for a damaged file depends on the format: OSError, SyntaxError, ValueError, struct.error, ...
    except Exception as error:
        name = where or picture
        raise OMSError(
            f"The picture {name!s} cannot be read ({error}): replace it, or remove it and its caption."
        ) from error


def hash_file(path: str | Path) -> str:
    """SHA-256 of a file's content, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def hash_json(value: object) -> str:
    """SHA-256 of a JSON value, the same for equal values."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _to_rgb(picture: Image.Image) -> Image.Image:
    if picture.mode.startswith("I"):
        # 16 bits a pixel: Pillow's own conversion clips at 255 and would make the picture white.
        bytes_ = (np.asarray(picture).astype(np.float32) / 257).round().clip(0, 255).astype(np.uint8)
        return Image.fromarray(bytes_).convert("RGB")
    if picture.mode == "F":
        # Pillow's own conversion takes the numbers for 0 to 255.
        pixels = np.asarray(picture)
        if not (pixels.min() >= 0 and pixels.max() <= 1):  # nor where one is no number
            raise ValueError(
                f"floating-point numbers from {pixels.min():g} to {pixels.max():g}, where only those from 0 (black) "
                "to 1 (white) are understood"
            )
        return Image.fromarray((pixels * 255).round().astype(np.uint8)).convert("RGB")
    if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
        # What lies under full transparency is arbitrary, often black; a page shows white there.
        picture = picture.convert("RGBA")
        white = Image.new("RGBA", picture.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, picture).convert("RGB")
    return picture.convert("RGB")


def _metadata_rows(path: Path, caption_column: str) -> Iterator[tuple[str, str, str]]:
    """Yields (where, file name, caption) of each row of a metadata file."""
    text = _read_text(path)
    rows: Iterable[tuple[int, dict[str, Any]]]
    if path.suffix == ".csv":
        rows = enumerate(csv.DictReader(io.StringIO(text, newline="")), start=2)
    else:
        rows = ((n, _json_row(path, n, line)) for n, line in enumerate(text.split("\n"), start=1) if line.strip())
    for number, row in rows:
        where = f"{path}, line {number}"
        for column in ("file_name", caption_column):
            if not isinstance(row.get(column), str):
                columns = ", ".join(str(name) for name in row)
                raise OMSError(f"{where}: no text in the column {column!r} (the columns there: {columns}).")
        half = _HALF_CHARACTER.search(row[caption_column])
        if half:  # no tokenizer takes it
            raise OMSError(f"{where}: the caption holds half of a character, {half[0]!r}: write it anew.")
        yield where, row["file_name"], row[caption_column].strip()


def _json_row(path: Path, number: int, line: str) -> dict:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise OMSError(f"{path}, line {number}: not JSON ({error}).") from error
    if not isinstance(row, dict):
        raise OMSError(f"{path}, line {number}: a JSON object was expected, with file_name and the caption.")
    return row


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise OMSError(f"{path} is not UTF-8 text: save it as UTF-8.") from error


def _refuse_two_metadata_files(path: Path) -> None:
    if all((path.parent / name).is_file() for name in METADATA_NAMES):
        raise OMSError(f"{path.parent} has both {' and '.join(METADATA_NAMES)}: keep one of them.")


def _is_hidden(relative: Path) -> bool:
    return any(part.startswith(".") for part in relative.parts)


def _listed(names: frozenset[str]) -> str:
    return ", ".join(sorted(names))
