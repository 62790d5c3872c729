"""The OMS models that are published, and the repositories that hold the text encoders they read.

Nothing but these is ever downloaded: a name from a page, an API or a downloaded config is looked up here.
"""

from __future__ import annotations

from dataclasses import dataclass

from lib_oms.errors import SettingError

REVISION = "main"


@dataclass(frozen=True)
class Published:
    """One published module. repositories are tried in their order: the authors' own, then mirrors of the same weights.
    size is that of psi's weights in half precision, in bytes, as far as known beforehand.
    """

    name: str
    repositories: tuple[str, ...]
    latents: str
    text_encoder: str
    size: int
    license: str = "OpenRAIL++"


MODULES = (
    Published("oms_b_openclip_15_21", ("h1t/oms_b_openclip_15_21",), "sd", "openclip", 308_000_000),
    Published(
        "oms_b_openclip_xl",
        ("h1t/oms_b_openclip_xl", "kaeru-shigure/oms_b_openclip_xl"),
        "sdxl",
        "openclip",
        308_000_000,
    ),
    Published("oms_l_mixclip_xl", ("h1t/oms_l_mixclip_xl",), "sdxl", "mixclip", 5_086_000_000),
)


def published(name: object) -> Published:
    """The published module of this name, or of this repository.

    Raises:
        SettingError: there is none; the message lists those there are.
    """
    for module in MODULES:
        if name in (module.name, *module.repositories):
            return module
    shown = repr(name)
    shown = shown if len(shown) <= 100 else shown[:97] + "..."
    raise SettingError(f"no OMS model {shown} is published; there are {', '.join(module.name for module in MODULES)}")
