"""What a VAE makes of colors and pictures, each asked once.

A flat color is the same vector everywhere but at the picture's edge; a picture is encoded small and its low frequencies
are carried over to the size that is wanted. So neither depends on the size of the picture that is made.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lib_oms.errors import OMSError
from lib_oms.given.pictures import flat, pixels
from lib_oms.settings import ALL_DETAIL, COLOR, OMSSettings
from lib_oms.step import REFERENCE_COLORS, Directions, Trims, resized

Encode = Callable[[Tensor], Tensor]
"""Pictures [1, 3, H, W], 0 to 1, to scaled latents [1, C, H/8, W/8]: the VAE's mean, in any dtype on any device."""

SIDE = 256
"""Pixels of the longer side of what is encoded."""
_KEPT = 64
_VAES = 4


class VAELatents:
    """The latents that one VAE has been asked for."""

    def __init__(self) -> None:
        self._known: OrderedDict[tuple, Tensor] = OrderedDict()

    def color(self, color: str, encode: Encode) -> Tensor:
        """The latent of the flat color "#rrggbb", [C], float32 on the CPU.

        Raises:
            OMSError: the VAE gives what is not finite.
        """

        def ask() -> Tensor:
            latent = _encoded(flat(color).expand(1, 3, SIDE, SIDE).contiguous(), encode)
            edge = latent.shape[-1] // 8  # where the VAE sees beyond the picture
            return latent[0, :, edge:-edge, edge:-edge].mean(dim=(-2, -1))

        return self._ask(("color", color), ask)

    def picture(self, small: str, height: int, width: int, encode: Encode) -> Tensor:
        """The low frequencies of a picture (`small_picture`'s text), stretched to [1, C, height, width]; float32 on the
        CPU.

        Raises:
            OMSError: as `color`.
        """
        longer = max(height, width)
        high, wide = (max(64, round(SIDE * side / longer / 8) * 8) for side in (height, width))

        def ask() -> Tensor:
            shown = F.interpolate(pixels(small), size=(high, wide), mode="bicubic", align_corners=False)
            return _encoded(shown.clamp(0, 1), encode)

        return resized(self._ask((small, high, wide), ask), height, width, ALL_DETAIL)

    def followed(self, settings: OMSSettings, height: int, width: int, encode: Encode) -> Tensor:
        """The latent of the color, picture or sketch that the settings follow, [1, C, height, width]; float32 on the
        CPU.

        Raises:
            OMSError: as `color`.
        """
        if settings.source == COLOR:
            return self.color(settings.color, encode)[None, :, None, None].expand(1, -1, height, width)
        return self.picture(getattr(settings, settings.source), height, width, encode)

    def directions(self, encode: Encode) -> Directions:
        """What brighter and more colored mean to this VAE; raises as `color`."""
        return Directions(*(self.color(color, encode) for color in REFERENCE_COLORS))

    def _ask(self, key: tuple, ask: Callable[[], Tensor]) -> Tensor:
        if key not in self._known:
            self._known[key] = ask()
            while len(self._known) > _KEPT:
                self._known.popitem(last=False)
        else:
            self._known.move_to_end(key)
        return self._known[key]


_KNOWN: OrderedDict[str, VAELatents] = OrderedDict()
_TURN = threading.Lock()


def latents_of(vae: nn.Module | None) -> VAELatents:
    """What is known of this VAE. Hosts put another one's weights into the same object, so it is known by these; of one
    that is not to be found nothing is kept.
    """
    key = None if vae is None else _fingerprint(vae)
    if key is None:
        return VAELatents()
    with _TURN:
        known = _KNOWN.setdefault(key, VAELatents())
        _KNOWN.move_to_end(key)
        while len(_KNOWN) > _VAES:
            _KNOWN.popitem(last=False)
        return known


def trims_of(settings: OMSSettings, vae: Callable[[], tuple[VAELatents, Encode]]) -> Trims:
    """The trims of the settings; the VAE is asked for, and for its directions, only where there are any.

    Raises:
        OMSError: as `VAELatents.color`, and what `vae` raises.
    """
    wanted = Trims(settings.brightness, settings.saturation)
    if not wanted:
        return wanted
    known, encode = vae()
    return Trims(settings.brightness, settings.saturation, known.directions(encode))


def _fingerprint(vae: nn.Module) -> str | None:
    """Of the encoder's first and last layer: two VAEs that agree in these were not trained apart."""
    weights = [weight for name, weight in vae.named_parameters() if "decoder" not in name and "post_quant" not in name]
    if not weights or any(weight.device.type == "meta" for weight in (weights[0], *weights[-4:])):
        return None
    digest = hashlib.sha256(f"{len(weights)}".encode())
    for weight in (weights[0], *weights[-4:]):
        digest.update(weight.detach().to("cpu").to(torch.float32).numpy().tobytes())
    return digest.hexdigest()


def _encoded(picture: Tensor, encode: Encode) -> Tensor:
    """`encode`'s answer as it is kept, without moving anybody's random numbers on: some VAEs draw from them."""
    with torch.random.fork_rng(devices=range(torch.cuda.device_count()) if torch.cuda.is_initialized() else []):
        torch.manual_seed(0)
        latent = encode(picture).detach().to("cpu").to(torch.float32).clone()
    if not bool(torch.isfinite(latent).all()):
        raise OMSError(
            "the VAE makes NaN of a plain picture, so color, picture and trims cannot be used with it. In half "
            "precision some VAEs do that: start the WebUI with --no-half-vae, or choose another VAE"
        )
    return latent
