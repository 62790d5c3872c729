"""The line below the dropdown: what Automatic stands for now, and whether a chosen module fits the checkpoint."""

from __future__ import annotations

import html
from typing import Any

from lib_oms.errors import OMSError
from lib_oms.files import LATENTS_NAMES
from lib_oms.library import UNKNOWN, ModuleEntry, fits
from lib_oms.library.listing import lacks_encoder
from lib_oms.settings import AUTOMATIC
from lib_oms.webui import host, offer, sources

# As light or dark as the theme's text; browsers that cannot mix colors take the first.
RED = "color: #dc2626; color: color-mix(in srgb, red 65%, var(--body-text-color)); font-weight: 600"
_STYLE = "padding: 2px 4px; font-size: 0.9em; overflow-wrap: anywhere"
_GET_ONE = "Press Download"


def as_html(module: Any) -> str:
    """What to say of the module that the dropdown shows. Names come from files and from infotexts, and are escaped."""
    fine, text = told(module)
    look = "color: var(--body-text-color-subdued)" if fine else RED
    kind = "" if fine else " class='error'"
    return f"<div{kind} style='{_STYLE}; {look}'>{html.escape(text)}</div>"


def told(module: Any) -> tuple[bool, str]:
    """Whether all is well with the module that the dropdown shows, and what to say of it."""
    try:
        return _of_automatic() if module == AUTOMATIC else _of_named(str(module))
    except (OMSError, OSError) as error:
        return False, str(error)


def checkpoint_in_words() -> str:
    """The checkpoint of the next picture, by its name where it is known, with what it is."""
    checkpoint, latents = host.checkpoint_now(), host.latents_now()
    name = getattr(checkpoint, "name_for_extra", None) or getattr(checkpoint, "name", None)
    kind = "" if latents is None else f" ({_latents(latents)})"
    return f"the checkpoint {name}{kind}" if name else f"the loaded checkpoint{kind}"


def _of_automatic() -> tuple[bool, str]:
    """Whether all is well, and what to say."""
    if host.checkpoint_now() is None and host.latents_now() is None:
        return True, "Automatic: the OMS model for the checkpoint, of which none is loaded yet."
    entry = offer.automatic()
    if entry is None:
        return _nothing_for_automatic()
    lack = _lack(entry)
    return not lack, f"Automatic is now {entry.name}, for {checkpoint_in_words()}.{lack}"


def _nothing_for_automatic() -> tuple[bool, str]:
    latents = host.latents_now()
    if latents is None and not host.checkpoint_is_loaded():
        return True, f"Automatic: the OMS model for {checkpoint_in_words()}, as soon as that is loaded."
    if latents is None:
        return True, f"Automatic: nothing for {checkpoint_in_words()}; pictures are made without One More Step."
    get = f" {_GET_ONE}." if latents in LATENTS_NAMES else ""
    return False, f"Automatic: there is no OMS model yet for {checkpoint_in_words()}.{get}"


def _of_named(module: str) -> tuple[bool, str]:
    entry = offer.named(module)
    if entry is None:
        name = module[:200]
        return False, f"There is no OMS model named {name} here. Choose another one, or Automatic{_stands_for()}."
    if entry.problem:
        return False, f"{entry.name} cannot be used: {entry.problem}"
    latents = host.latents_now()
    if latents is None:
        return True, f"{entry.name} is for {_latents(entry.latents)}."
    if not fits(entry, latents, chosen=True):
        return False, (
            f"{entry.name} is for {_latents(entry.latents)}; it cannot be used with {checkpoint_in_words()}. Choose "
            f"Automatic{_stands_for()}."
        )
    lack = _lack(entry)
    if entry.latents == UNKNOWN:
        return not lack, f"{entry.name} does not say which checkpoints it is for, so that is not checked.{lack}"
    other = offer.automatic()
    would = "" if other is None or other == entry else f" Automatic would be {other.name}."
    return not lack, f"{entry.name} fits {checkpoint_in_words()}.{lack or would}"


def _lack(entry: ModuleEntry) -> str:
    return f" It lacks its text encoder. {_GET_ONE}." if lacks_encoder(entry, sources.places()) else ""


def _stands_for() -> str:
    entry = offer.automatic()
    return "" if entry is None else f", which is now {entry.name}"


def _latents(latents: str) -> str:
    return LATENTS_NAMES.get(latents, f"latents {latents!r}")
