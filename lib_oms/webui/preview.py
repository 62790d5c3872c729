"""What the step asks for, before a picture is made: only the step, for one seed, as a small picture with its numbers.

What is shown is what the denoiser reads at its first step: x0hat with the OMS prompt's weight, detail, trims and
strength, and the mean of the noise's own tint, as far as it is not quiet. So the preview and the picture go wrong in
the same way, where they do.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from PIL import Image

from lib_oms.given import png
from lib_oms.settings import OMSSettings, is_automatic
from lib_oms.webui import first_pass, hook, host, offer, progress
from lib_oms.webui.first_pass import Wanted
from lib_oms.webui.first_step import NotApplicable
from lib_oms.webui.numbers import Numbers

LARGEST_SIDE = 256
"""Pixels of the small picture."""


@dataclass(frozen=True)
class Preview:
    """What a preview has found.

    seed, width, height: of the picture that it is about; a random seed is told.
    skipped: why the step does not apply; empty where it does, and then there is all of the rest.
    picture: what is asked for, at most LARGEST_SIDE wide and high.
    asked, without: its numbers, and those of the noise alone.
    module: the OMS model that had a part in it, empty where none had; automatic: whether Automatic chose it.
    """

    seed: int
    width: int
    height: int
    skipped: str = ""
    picture: Image.Image | None = None
    asked: Numbers | None = None
    without: Numbers | None = None
    module: str = ""
    automatic: bool = False

    @property
    def text(self) -> str:
        """All of it in words."""
        if self.skipped:
            return f"The step would not apply: {self.skipped}."
        module = f" · OMS model {self.module}{' (Automatic)' if self.automatic else ''}" if self.module else ""
        asked, without = (str(numbers) for numbers in (self.asked, self.without))
        return f"asks for brightness {asked}; without the step: {without}{module} · seed {self.seed}"

    def as_json(self) -> dict[str, Any]:
        """The answer over the API."""
        facts = {"seed": self.seed, "width": self.width, "height": self.height, "text": self.text}
        if self.skipped:
            return {**facts, "applies": False, "reason": self.skipped}
        assert self.picture is not None
        assert self.asked is not None
        assert self.without is not None
        return {
            **facts,
            "applies": True,
            "image": png(self.picture),
            "asked": vars(self.asked),
            "without": vars(self.without),
            "module": self.module or None,
            "automatic": self.automatic,
        }


def preview(wanted: Wanted, settings: OMSSettings) -> Preview:
    """Takes the step for one picture, and makes no picture of it. Waits for its turn.

    Args:
        wanted: the picture.
        settings: with small pictures.

    Raises:
        OMSError: what generating would be refused for.
    """
    with first_pass.turn("One More Step: preview"), first_pass.about_to_sample(wanted) as (p, noise):
        facts = {"seed": p.seeds[0], "width": p.width, "height": p.height}
        try:
            entry, (start,) = hook.begin(p, settings, noise)
        except NotApplicable as reason:
            return Preview(**facts, skipped=str(reason).rstrip("."))
        except Exception as error:
            progress.let_go_of(error)
            raise
        picture, plain = (host.shown(latent) for latent in (start.read, start.read_without))
    return Preview(
        **facts,
        picture=_small(picture),
        asked=Numbers.of(picture),
        without=Numbers.of(plain),
        module="" if entry is None else offer.label(entry),
        automatic=entry is not None and is_automatic(settings.module),
    )


def _small(picture: Image.Image) -> Image.Image:
    picture = picture.convert("RGB")
    picture.thumbnail((LARGEST_SIDE, LARGEST_SIDE))
    return picture
