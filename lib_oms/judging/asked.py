"""What a WebUI is asked for when it is judged: captions of a file, SingDiffusion's four prompts, forty colors."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lib_oms.errors import OMSError
from lib_oms.judging.webui_api import Pair

BRIGHTNESS_PROMPTS = {
    "black": "solid black background",
    "white": "solid white background",
    "logo-on-black": "Monochrome line-art logo on a black background",
    "logo-on-white": "Monochrome line-art logo on a white background",
}
"""SingDiffusion's (Zhang et al., CVPR 2024), by the beginning of their files' names."""
COLORS = {
    "black": "#000000", "white": "#ffffff", "gray": "#808080", "silver": "#c0c0c0", "red": "#ff0000",
    "green": "#008000", "blue": "#0000ff", "yellow": "#ffff00", "cyan": "#00ffff", "magenta": "#ff00ff",
    "maroon": "#800000", "olive": "#808000", "navy": "#000080", "purple": "#800080", "teal": "#008080",
    "lime": "#00ff00", "orange": "#ffa500", "pink": "#ffc0cb", "brown": "#a52a2a", "gold": "#ffd700",
    "beige": "#f5f5dc", "coral": "#ff7f50", "crimson": "#dc143c", "indigo": "#4b0082", "ivory": "#fffff0",
    "khaki": "#f0e68c", "lavender": "#e6e6fa", "orchid": "#da70d6", "peru": "#cd853f", "plum": "#dda0dd",
    "salmon": "#fa8072", "sienna": "#a0522d", "tan": "#d2b48c", "tomato": "#ff6347", "turquoise": "#40e0d0",
    "violet": "#ee82ee", "wheat": "#f5deb3", "chocolate": "#d2691e", "forest green": "#228b22",
    "sky blue": "#87ceeb",
}  # fmt: skip
"""Forty colors by CSS' names."""


def read_captions(path: Path, count: int | None = None) -> list[str]:
    """Captions of a text file, one a line, or of a .jsonl whose lines have `text` or `caption`; the first `count`.

    Raises:
        OMSError: the file cannot be read, has a line that is none, or has fewer captions than asked for.
    """
    try:
        with path.open(encoding="utf-8-sig") as file:
            captions = list(itertools.islice(_captions(path, file), count))
    except (OSError, UnicodeDecodeError) as error:
        raise OMSError(f"{path}: the captions cannot be read ({error})") from error
    if not captions or (count is not None and len(captions) < count):
        raise OMSError(f"{path}: holds {len(captions)} captions, {count or 'at least 1'} are asked for (--count)")
    return captions


def _captions(path: Path, lines: Iterator[str]) -> Iterator[str]:
    for number, line in enumerate(lines, 1):
        text: Any = line.strip()
        if text and path.suffix.lower() in (".jsonl", ".json"):
            try:
                row = json.loads(text)
                text = row.get("text", row.get("caption")) if isinstance(row, Mapping) else None
            except ValueError:
                text = None
            if not isinstance(text, str):
                raise OMSError(f'{path}, line {number}: is no JSON object with a "text" or "caption"')
            text = " ".join(text.split())
        if text:
            yield text


def caption_pairs(captions: Sequence[str], seed: int) -> list[Pair]:
    """A pair for each caption, seeds counted on from `seed`."""
    return [Pair(f"{index:06}", caption, seed + index) for index, caption in enumerate(captions)]


def brightness_pairs(each: int, seed: int) -> list[Pair]:
    """`each` pairs for each of BRIGHTNESS_PROMPTS, the same seeds for all four."""
    return [
        Pair(f"{name}_{index:04}", prompt, seed + index)
        for name, prompt in BRIGHTNESS_PROMPTS.items()
        for index in range(each)
    ]


def color_pairs(each: int, seed: int) -> list[Pair]:
    """`each` pairs for each of COLORS, by its name and by its code. One More Step follows the prompt that has the name,
    and where the prompt has the code, the color itself.
    """
    return [
        Pair(
            f"{way}-{name.replace(' ', '-')}_{index:04}",
            f"solid {name if way == 'name' else code} background",
            seed + index,
            {} if way == "name" else {"source": "color", "color": code},
        )
        for way in ("name", "code")
        for name, code in COLORS.items()
        for index in range(each)
    ]


def group(name: str) -> str:
    """What the files of one prompt share in their names."""
    return name.rpartition("_")[0]
