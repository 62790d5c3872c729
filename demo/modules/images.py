"""Pictures: grids, files, and the infotext in PNG (host file: modules/images.py)."""

import datetime
import io
import math
import os
import re
from pathlib import Path
from typing import Any

from modules import paths_internal, script_callbacks, shared
from PIL import Image, PngImagePlugin


def read(source: Any) -> Image.Image:
    image = Image.open(source)
    image.load()
    return image


def image_grid(images: list[Image.Image], batch_size: int = 1, rows: int | None = None) -> Image.Image:
    """All pictures on one, as near a square as rows without gaps allow."""
    rows = rows or next(n for n in range(math.isqrt(len(images)), 0, -1) if len(images) % n == 0)
    columns = math.ceil(len(images) / rows)
    width, height = images[0].size
    grid = Image.new("RGB", (columns * width, rows * height), "black")
    for i, image in enumerate(images):
        grid.paste(image, ((i % columns) * width, (i // columns) * height))
    return grid


def png_bytes(image: Image.Image) -> bytes:
    """A PNG with the texts of `image.info`."""
    texts = PngImagePlugin.PngInfo()
    for key, value in image.info.items():
        if isinstance(key, str) and isinstance(value, str):
            texts.add_text(key, value)
    with io.BytesIO() as buffer:
        image.save(buffer, format="PNG", pnginfo=texts)
        return buffer.getvalue()


def read_info_from_image(image: Image.Image) -> tuple[str | None, dict]:
    """The infotext of a picture and its other texts."""
    items = {k: v for k, v in image.info.items() if isinstance(v, str)}
    return items.pop("parameters", None), items


def save_image(
    image: Image.Image, path: str, basename: str, seed: int | None = None, prompt: str | None = None,
    extension: str = "png", info: str | None = None, p: Any = None, grid: bool = False,
) -> tuple[str, None]:
    """Writes the picture to a folder inside the data folder, one a day, numbered; gives the file's name."""
    data = Path(paths_internal.data_path)
    folder = (data / path / datetime.date.today().isoformat()).resolve()
    if data not in folder.parents:
        raise ValueError(f"{path!r} is outside of the data folder {data}: pictures are saved inside it only.")
    folder.mkdir(parents=True, exist_ok=True)
    numbers = [int(m[1]) for name in os.listdir(folder) if (m := re.match(rf"{basename}-?(\d{{4,}})", name))]
    stem = f"{max(numbers, default=-1) + 1:05}" if seed is None else f"{max(numbers, default=-1) + 1:05}-{seed}"
    filename = str(folder / f"{basename}{'-' if basename else ''}{stem}.png")
    pnginfo = {"parameters": info} if info is not None else {}
    params = script_callbacks.ImageSaveParams(image, p, filename, pnginfo)
    script_callbacks.call("before_image_saved", params)
    image = params.image
    image.info = {**image.info, **(params.pnginfo if shared.opts.enable_pnginfo else {})}
    Path(params.filename).write_bytes(png_bytes(image))
    image.already_saved_as = params.filename
    script_callbacks.call("image_saved", params)
    return params.filename, None
