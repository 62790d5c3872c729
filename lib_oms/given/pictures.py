"""Pictures as settings hold them: a few pixels, as text.

The first latent has room for a picture's lowest frequencies and no others (docs/steering.md), so a picture is made
small before anything else is done with it. That is short enough for an infotext, from which it comes back as it was.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import io
from collections import OrderedDict
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from lib_oms.errors import SettingError

LONGER_SIDE = 16
"""Pixels of a small picture's longer side: eight cycles, twice of what a first latent can tell."""
MOST_PIXELS = 8192 * 8192
_KEPT = 8
_BEHIND = (128, 128, 128)  # what shows through where a picture is transparent: medium gray, which says nothing


def small_picture(picture: str | Image.Image, name: str) -> str:
    """A picture as the settings hold it: PNG in base64, the longer side 16 pixels. A small one stays as it is.

    Args:
        picture: in base64, with or without "data:image/...;base64," before it; or an image.
        name: the setting's, for messages.

    Raises:
        SettingError: it is no picture, broken, or too large.
    """
    if not isinstance(picture, str):
        return png(_reduced(_upright(picture, name)))
    # A request asks before generating, and again for each batch.
    key = hashlib.sha256(picture.encode(errors="surrogatepass")).digest()
    small = _SMALL.get(key)
    if small is None:
        small = _SMALL[key] = png(_reduced(_upright(_opened(picture, name), name)))
        while len(_SMALL) > _KEPT:
            _SMALL.popitem(last=False)
    return small


_SMALL: OrderedDict[bytes, str] = OrderedDict()
"""Small pictures by what they were made of."""


def png(image: Image.Image) -> str:
    """A picture as a PNG in base64."""
    kept = io.BytesIO()
    image.save(kept, "PNG", optimize=True)
    return base64.b64encode(kept.getvalue()).decode()


def pixels(small: str, name: str = "picture") -> Tensor:
    """The pixels of `small_picture`'s text, [1, 3, h, w], 0 to 1."""
    image = _reduced(_upright(_opened(small, name), name))
    return torch.from_numpy(np.asarray(image, dtype=np.float32) / 255).permute(2, 0, 1)[None]


def flat(color: str) -> Tensor:
    """The one pixel of "#rrggbb", [1, 3, 1, 1], 0 to 1."""
    return torch.tensor([int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)])[None, :, None, None]


def _opened(text: str, name: str) -> Image.Image:
    if text.lstrip()[:7].lower().startswith(("http://", "https:/", "file://")):
        raise SettingError(f"OMS {name} ({name}): give the picture itself in base64, not its address.")
    encoded = text.partition(",")[2] if text.startswith("data:") else text
    try:
        return Image.open(io.BytesIO(base64.b64decode("".join(encoded.split()), validate=True)))
    except Image.DecompressionBombError as error:
        raise SettingError(f"OMS {name} ({name}): it has more than {MOST_PIXELS} pixels.") from error
    except (binascii.Error, ValueError) as error:
        raise SettingError(f"OMS {name} ({name}): {text[:20]!r}... is not base64: {error}.") from error
    except Exception as error:  # PIL has errors of many kinds for files that are none
        raise SettingError(f"OMS {name} ({name}): this is no picture that can be read.") from error


def _upright(image: Any, name: str) -> Image.Image:
    if image.width * image.height > MOST_PIXELS:  # told by its header; decoding has not begun
        raise SettingError(
            f"OMS {name} ({name}): it has {image.width} x {image.height} pixels, at most {MOST_PIXELS} are allowed."
        )
    try:
        image = ImageOps.exif_transpose(image)
        if image.mode.startswith("I;16"):
            image = image.convert("I").point(lambda value: value * (1 / 256)).convert("L")
        if image.has_transparency_data if hasattr(image, "has_transparency_data") else "A" in image.mode:
            shown = image.convert("RGBA")
            image = Image.new("RGBA", shown.size, (*_BEHIND, 255))
            image.alpha_composite(shown)
        return image.convert("RGB")
    except Exception as error:  # a file may be broken anywhere
        raise SettingError(f"OMS {name} ({name}): the picture is broken: {type(error).__name__}.") from error


def _reduced(image: Image.Image) -> Image.Image:
    scale = LONGER_SIDE / max(image.size)
    if scale >= 1:
        return image
    width, height = (max(1, round(side * scale)) for side in image.size)
    return image.resize((width, height), Image.Resampling.BOX)
