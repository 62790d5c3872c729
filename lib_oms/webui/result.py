"""What became of it: the brightness and the mean color of each picture that was made, for its infotext and the page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from lib_oms.errors import SettingError
from lib_oms.settings import OMSSettings
from lib_oms.webui import host, infotext, options, trouble, xyz
from lib_oms.webui.numbers import Numbers


@dataclass(frozen=True)
class _OfOnePicture:
    """A text for one picture's infotext, and not for a grid's: hosts call what can be called with the names of
    create_infotext (modules/processing.py).
    """

    text: str

    def __call__(self, use_main_prompt: bool = False, **rest: Any) -> str | None:
        return None if use_main_prompt else self.text

    def __str__(self) -> str:
        return self.text


def tell(p: Any, args: Sequence[Any], picture: Image.Image) -> None:
    """Writes the numbers of a picture that was asked for with the step, where the settings page says so; none of what a
    detailer makes on its way.

    To be called for each picture before its infotext is written.
    """
    if not options.tells_result() or (host.is_img2img(p) and not host.of_img2img_tab(p)):
        return
    try:
        if not OMSSettings.asked_for(args, xyz.values_of(p)):
            return
    except SettingError:  # has been told
        return
    numbers = str(Numbers.of(picture))
    index = p.iteration * p.batch_size + getattr(p, "batch_index", 0)
    p.extra_generation_params[infotext.RESULT] = _OfOnePicture(numbers)
    p.comment(f"{trouble.NAME}: picture {index + 1} has brightness {numbers}")
