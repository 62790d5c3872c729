"""The list of modules as a person sees it: those on disk with their state, and those that could be downloaded."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from lib_oms import catalogue
from lib_oms.errors import ModuleFileError, readable
from lib_oms.library import ModuleEntry, scan
from lib_oms.text_sources import Finder, Places

READY = "ready"
NEEDS_TEXT_ENCODER = "needs text encoder"
NOT_DOWNLOADED = "not downloaded"
BROKEN = "broken"


@dataclass(frozen=True)
class Listed:
    """One line of the list. size is in bytes; `why` says what a state other than ready comes from, and of a ready
    module where its text encoder comes from.
    """

    name: str
    latents: str
    text_encoder: str
    size: int
    state: str
    why: str = ""


def listing(places: Places) -> list[Listed]:
    """The modules in the models folders, sorted by name, then the published ones that are not there."""
    entries = scan(places.folders)
    finder = Finder(places)
    there = [_listed(entry, places, finder) for entry in entries]
    return [*there, *map(_offered, not_downloaded(entries))]


def not_downloaded(entries: Iterable[ModuleEntry]) -> list[catalogue.Published]:
    """The published modules that no usable entry stands for."""
    names = {part for entry in entries if not entry.problem for part in entry.name.split("/")}
    return [
        module
        for module in catalogue.MODULES
        if module.name not in names and not (module.name.endswith("_mirror") and _original(module) in names)
    ]


def state(entry: ModuleEntry, places: Places, finder: Finder | None = None) -> tuple[str, str]:
    """State of a module and what it comes from; `finder` is one for `places`, where there are many modules."""
    if entry.problem is not None:
        return BROKEN, entry.problem
    if entry.text_encoder in places.lends:
        return READY, "the loaded model"
    try:
        return READY, readable((finder or Finder(places)).find(entry).where)
    except ModuleFileError as error:
        if entry.text_encoder in places.will_lend:
            return NEEDS_TEXT_ENCODER, "it borrows that of an SDXL checkpoint as soon as one is loaded"
        return NEEDS_TEXT_ENCODER, str(error)


def human_size(count: int) -> str:
    """Bytes in the unit that suits them."""
    value = float(count)
    for unit in ("B", "kB", "MB"):
        if value < 1000:
            return f"{value:.0f} {unit}"
        value /= 1000
    return f"{value:.1f} GB"


def _original(module: catalogue.Published) -> str:
    return module.repository.split("/")[1]


def _listed(entry: ModuleEntry, places: Places, finder: Finder) -> Listed:
    return Listed(entry.name, entry.latents, entry.text_encoder, entry.size, *state(entry, places, finder))


def _offered(module: catalogue.Published) -> Listed:
    return Listed(
        module.name, module.latents, module.text_encoder, module.size, NOT_DOWNLOADED,
        f"python -m lib_oms download {module.name}",
    )  # fmt: skip
