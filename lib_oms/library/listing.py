"""The list of modules as a person sees it: those on disk with their state, and those that could be downloaded."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

from lib_oms.errors import ModuleFileError, readable
from lib_oms.library import catalogue
from lib_oms.library.entries import UNKNOWN, ModuleEntry, describe, fits, scan
from lib_oms.library.text_sources import Finder, Places
from lib_oms.text import TEXT_ENCODERS

READY = "ready"
NEEDS_TEXT_ENCODER = "needs text encoder"
NOT_DOWNLOADED = "not downloaded"
BROKEN = "broken"


@dataclass(frozen=True)
class Listed:
    """One line of the list. size is in bytes, of what a download would bring where it is not here; `why` says what a
    state other than ready comes from, and of a ready module where its text encoder comes from; fits says whether it is
    made for the latents that were asked about; of a published one that is not here, license names what it is under and
    text_encoder_size how much of the size is its text encoder's.
    """

    name: str
    latents: str
    text_encoder: str
    size: int
    state: str
    why: str = ""
    fits: bool = False
    license: str = ""
    text_encoder_size: int = 0


def listing(places: Places, latents: str | None = None) -> list[Listed]:
    """The modules in the models folders, and the published ones that are not there.

    Those for these latents come first, then the others, and broken ones last; in each part what is here before what is
    not, by name.
    """
    entries = scan(places.folders)
    finder = Finder(places)
    there = [_listed(entry, places, finder, latents) for entry in entries]
    lines = [*there, *(_offered(module, places, finder, latents) for module in not_downloaded(entries))]
    return sorted(lines, key=lambda line: (line.state == BROKEN, not line.fits, line.state == NOT_DOWNLOADED))


def not_downloaded(entries: Iterable[ModuleEntry]) -> list[catalogue.Published]:
    """The published modules that no usable entry stands for."""
    names = {part for entry in entries if not entry.problem for part in entry.name.split("/")}
    return [module for module in catalogue.MODULES if module.name not in names]


def state(entry: ModuleEntry, places: Places, finder: Finder | None = None) -> tuple[str, str]:
    """State of a module and what it comes from; `finder` is one for `places`, where there are many modules."""
    if entry.problem is not None:
        return BROKEN, entry.problem
    if entry.text_encoder in places.lends:
        return READY, "the loaded model"
    try:
        return READY, readable((finder or Finder(places)).find(entry).where)
    except ModuleFileError as error:
        if will_borrow(entry, places.will_lend):
            family = TEXT_ENCODERS[entry.text_encoder].family
            return NEEDS_TEXT_ENCODER, f"it borrows that of an {family} checkpoint as soon as one is loaded"
        return NEEDS_TEXT_ENCODER, str(error)


def lacks_encoder(entry: ModuleEntry, places: Places, finder: Finder | None = None) -> bool:
    """Whether a usable module reads a text encoder that is not here and will not be lent either."""
    return state(entry, places, finder)[0] == NEEDS_TEXT_ENCODER and not will_borrow(entry, places.will_lend)


def will_borrow(module: ModuleEntry | Listed, will_lend: Collection[str]) -> bool:
    """Whether a module is going to be lent its text encoder of these kinds: by a checkpoint that it is made for."""
    kind = module.text_encoder
    return kind in will_lend and module.latents in (TEXT_ENCODERS[kind].latents, UNKNOWN)


def has_encoder(module: catalogue.Published, places: Places, finder: Finder | None = None) -> bool:
    """Whether a published module needs no text encoder downloaded, as one is there or will be lent; if the module is
    in the first of the folders already, its own is looked at, too.
    """
    kind = module.text_encoder
    if kind in places.will_lend:
        return True
    path = (places.folders[0] if places.folders else Path()) / module.name
    entry = describe(path)
    if entry.problem is not None:  # not there yet
        width = TEXT_ENCODERS[kind].width
        entry = ModuleEntry(module.name, path, module.latents, kind, 0, width=width)
    return state(entry, places, finder)[0] == READY


def human_size(count: int) -> str:
    """Bytes in the unit that suits them."""
    value = float(count)
    for unit in ("B", "kB", "MB"):
        if value < 1000:
            return f"{value:.0f} {unit}"
        value /= 1000
    return f"{value:.1f} GB"


def _listed(entry: ModuleEntry, places: Places, finder: Finder, latents: str | None) -> Listed:
    how, why = state(entry, places, finder)
    if how == BROKEN:
        why = _without_folders(why, places)
    fitting = latents is not None and fits(entry, latents)
    return Listed(entry.name, entry.latents, entry.text_encoder, entry.size, how, why, fitting)


def _without_folders(problem: str, places: Places) -> str:
    """A problem with its file named from the models folder on: the rest of the path says nothing of the file."""
    for folder in sorted(map(str, places.folders), key=len, reverse=True):
        problem = problem.replace(folder.rstrip(os.sep) + os.sep, "").replace(folder, "its folder")
    return problem


def _offered(module: catalogue.Published, places: Places, finder: Finder, latents: str | None) -> Listed:
    extra = 0 if has_encoder(module, places, finder) else TEXT_ENCODERS[module.text_encoder].size
    return Listed(
        module.name, module.latents, module.text_encoder, module.size + extra, NOT_DOWNLOADED,
        f"python -m lib_oms download {module.name}", module.latents == latents, module.license, extra,
    )  # fmt: skip
