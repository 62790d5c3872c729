"""The list of OMS models: those that are here, as HTML, and those that a button would bring."""

from __future__ import annotations

import html
from collections.abc import Collection
from dataclasses import dataclass

from lib_oms.embedded import LATENTS, XL_LATENTS
from lib_oms.errors import OMSError
from lib_oms.files import LATENTS_NAMES
from lib_oms.library import UNKNOWN
from lib_oms.library.download import ENCODER_NAMES, NAMES
from lib_oms.library.listing import (
    BROKEN,
    NEEDS_TEXT_ENCODER,
    NOT_DOWNLOADED,
    READY,
    Listed,
    human_size,
    listing,
    will_borrow,
)
from lib_oms.settings import AUTOMATIC
from lib_oms.text import TEXT_ENCODERS
from lib_oms.webui import host, module_note, offer, sources

_EMBEDDED = (LATENTS, XL_LATENTS)
_LONG, _SHORT = 240, 120  # letters of an explanation from which on it is folded, and those that then show


@dataclass(frozen=True)
class Offer:
    """What one button downloads. name is that of `NAMES`; size is in bytes; fits says whether the loaded checkpoint
    needs it.
    """

    name: str
    title: str
    told: str
    size: int
    fits: bool

    @property
    def button(self) -> str:
        return f"Download {human_size(self.size)}"

    @property
    def html(self) -> str:
        return _line(self.title, self.told, "", dim=not self.fits)


@dataclass(frozen=True)
class Look:
    """What there is at one moment: which latents the checkpoint has (None: not known, or others), which OMS model
    Automatic is, and the list; `problem` is why it could not be made.
    """

    latents: str | None = None
    automatic: str | None = None
    lines: tuple[Listed, ...] = ()
    lends: frozenset[str] = frozenset()
    problem: str = ""

    @property
    def offers(self) -> list[Offer]:
        """What can be downloaded, one for each of `NAMES` at most; what the loaded checkpoint needs comes first."""
        found: dict[str, Offer] = {}
        for line in self.lines:
            offered = _offer(line, self.lends)
            if offered is not None and not (offered.name in found and found[offered.name].fits):
                found[offered.name] = offered
        return sorted(found.values(), key=lambda one: not one.fits)

    @property
    def missing(self) -> Offer | None:
        """What prompts need for the loaded checkpoint; None where they need nothing, or nothing would help."""
        usable = (
            line.state == READY or (line.state == NEEDS_TEXT_ENCODER and will_borrow(line, self.lends))
            for line in self.lines
            if line.fits
        )
        if self.latents not in LATENTS_NAMES or any(usable):
            return None
        return min((one for one in self.offers if one.fits), key=lambda one: one.size, default=None)


def look() -> Look:
    """What there is now."""
    try:
        places, latents, automatic = sources.places(), host.latents_now(), offer.automatic()
        lines = tuple(line for line in listing(places, latents) if line.fits or line.latents not in _EMBEDDED)
    except (OMSError, OSError) as error:
        return Look(problem=str(error))
    name = None if automatic is None else automatic.name
    return Look(latents, name, lines, frozenset(places.will_lend))


def here(now: Look) -> str:
    """What is here, as HTML; names come from files and are escaped."""
    if now.problem:
        return error(now.problem)
    there = [line for line in now.lines if line.state != NOT_DOWNLOADED]
    return _missing_folders() + "".join(_of_file(line, now) for line in there)


def terms() -> str:
    """Where downloads come from, and where a person's own files go."""
    folder = host.download_folder()
    text = f"Downloads come from Hugging Face. Your own files go into {folder.parent.name}/{folder.name}."
    return f"<p class='oms-lead'>{html.escape(text)}</p>"


def error(text: str) -> str:
    """A line in red; hosts have the class, and no color for it outside of their own log."""
    return f"<div class='error' style='{module_note.RED}; overflow-wrap: anywhere'>{html.escape(text)}</div>"


def _offer(line: Listed, lends: Collection[str]) -> Offer | None:
    kind = line.text_encoder
    if line.state == NOT_DOWNLOADED:
        size = human_size(line.size - line.text_encoder_size)
        extra = f" + text encoder {human_size(line.text_encoder_size)}" if line.text_encoder_size else ""
        told = f"{_for(line)} · {size}{extra} · license {line.license}"
        return Offer(line.name, line.name, told, line.size, line.fits)
    if line.state != NEEDS_TEXT_ENCODER or will_borrow(line, lends) or kind not in ENCODER_NAMES.values():
        return None
    name = line.name if line.name in NAMES else f"text-encoder-{kind}"
    missing = TEXT_ENCODERS[kind].size
    return Offer(name, f"Text encoder of {line.name}", f"{_for(line)} · {human_size(missing)}", missing, line.fits)


def _of_file(line: Listed, now: Look) -> str:
    if line.state == BROKEN:
        return _line(line.name, "", "cannot be used", dim=False, why=line.why)
    chosen = line.name == now.automatic
    state = f"{line.state}, taken by {AUTOMATIC}" if chosen else line.state
    why = line.why if line.state == NEEDS_TEXT_ENCODER else ""
    return _line(line.name, f"{_for(line)} · {human_size(line.size)}", state, dim=not line.fits, why=why)


def _for(line: Listed) -> str:
    if line.fits:
        return "for this checkpoint"
    if line.latents == UNKNOWN:
        return "does not say what it is for"
    return f"for {LATENTS_NAMES.get(line.latents, line.latents)}"


def _line(title: str, told: str, state: str, *, dim: bool, why: str = "") -> str:
    explained = html.escape(why)
    if len(why) > _LONG:
        short = html.escape(why[:_SHORT].rpartition(" ")[0])
        explained = f"<details><summary>{short} ...</summary>{explained}</details>"
    explained = f"<div class='oms-why'>{explained}</div>" if why else ""
    return (
        f"<div class='oms-line{' oms-dim' if dim else ''}'><div><b>{html.escape(title)}</b>"
        f"<div>{html.escape(told)}</div></div><span>{html.escape(state)}</span></div>{explained}"
    )


def _missing_folders() -> str:
    """A line for every folder that a person named and that is not there."""
    missing = ((folder, where) for folder, where in host.named_folders() if not folder.is_dir())
    return "".join(error(f"There is no folder {folder}, which {where} names.") for folder, where in missing)
