"""What a request gives itself, by a color or a picture, as the loaded model's VAE sees it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lib_oms.errors import OMSError
from lib_oms.given import VAELatents, find_style, labelled_style, latents_of, small_picture, trims_of
from lib_oms.settings import BRUSH, COLOR, PICTURE, STYLE, OMSSettings
from lib_oms.step import Trims
from lib_oms.webui import host, host_styles


def settled(settings: OMSSettings) -> OMSSettings:
    """These settings as an infotext can hold them: the texts of the host's styles in place of their names, the picture
    that is followed as small as it is needed, and with the style's name what tells its content apart.

    Raises:
        SettingError: there is no such style, or it is another one now; the picture is none, broken, or too large.
        ModuleFileError: the style is broken.
    """
    settings = host_styles.put_in(settings)
    if settings.source == STYLE:
        return settings.replaced(style=labelled_style(settings.style, host.module_folders()))
    if settings.source not in (PICTURE, BRUSH):
        return settings
    name = settings.source
    return settings.replaced(**{name: small_picture(getattr(settings, name), name)})


def latent(model: Any, settings: OMSSettings, noise: Tensor) -> Tensor | None:
    """The latent of what the settings follow, [1, C, h, w] as `noise` [B, C, h, w], or [B, C, h, w] where pictures
    differ in it; None for a prompt, or nothing.

    Raises:
        OMSError: the model has no VAE that could encode it, or one of other latents; there is no such style.
    """
    if settings.source not in (COLOR, PICTURE, BRUSH, STYLE):
        return None
    style = find_style(settings.style, host.module_folders()) if settings.source == STYLE else None
    known, encode = _vae(model)
    if style is not None:
        style.check(known.directions(encode))
        return style.drawn(noise)
    _, channels, height, width = noise.shape
    made = known.followed(settings, height, width, encode)
    if made.shape[1] != channels:
        raise OMSError(
            f"the VAE makes latents of {made.shape[1]} channels, the loaded checkpoint samples {channels}; choose the "
            "checkpoint's own VAE"
        )
    return made


def trims(model: Any, settings: OMSSettings) -> Trims:
    """The trims of the settings, by the loaded model's VAE.

    Raises:
        OMSError: as `latent`.
    """
    return trims_of(settings, lambda: _vae(model))


def _vae(model: Any) -> tuple[VAELatents, Any]:
    def encode(picture: Tensor) -> Tensor:
        with torch.no_grad():
            return host.vae_encode(model, picture)

    return latents_of(host.vae_of(model)), encode
