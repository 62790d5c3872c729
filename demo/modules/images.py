"""Pictures: grids, files, and the infotext in PNG (host file: modules/images.py)."""

import datetime
import math
import os
import re
from pathlib import Path
from typing import Any

from gradio.processing_utils import encode_pil_to_bytes  # with the texts of `image.info`
from modules import paths, shared
from PIL import Image


def read(source: Any) -> Image.Image:
    image = Image.open(source)
    image.load()
    return image


def image_grid(images: list[Image.Image]) -> Image.Image:
    """All pictures on one, as near a square as rows without gaps allow."""
    rows = next(n for n in range(math.isqrt(len(images)), 0, -1) if len(images) % n == 0)
    columns = math.ceil(len(images) / rows)
    width, height = images[0].size
    grid = Image.new("RGB", (columns * width, rows * height), "black")
    for i, image in enumerate(images):
        grid.paste(image, ((i % columns) * width, (i // columns) * height))
    return grid


def read_info_from_image(image: Image.Image) -> tuple[str | None, dict]:
    """The infotext of a picture and its other texts."""
    items = {k: v for k, v in image.info.items() if isinstance(v, str)}
    return items.pop("parameters", None), items


def save_image(image: Image.Image, path: str, basename: str, seed: int | None = None, info: str | None = None) -> str:
    """Writes the picture to a folder inside the data folder, one a day, numbered; gives the file's name."""
    data = Path(paths.data_path)
    folder = (data / path / datetime.date.today().isoformat()).resolve()
    if data not in folder.parents:
        raise ValueError(f"{path!r} is outside of the data folder {data}: pictures are saved inside it only.")
    folder.mkdir(parents=True, exist_ok=True)
    numbers = [int(m[1]) for name in os.listdir(folder) if (m := re.match(rf"{basename}-?(\d{{4,}})", name))]
    parts = [basename, f"{max(numbers, default=-1) + 1:05}", "" if seed is None else str(seed)]
    file = folder / f"{'-'.join(filter(None, parts))}.png"
    if info is not None and shared.opts.enable_pnginfo:
        image.info["parameters"] = info
    file.write_bytes(encode_pil_to_bytes(image))
    image.already_saved_as = str(file)
    return str(file)
