"""Which OMS modules a person can choose here, and which one a request means."""

from __future__ import annotations

import re

from lib_oms import library
from lib_oms.catalogue import LATENTS_NAMES
from lib_oms.errors import ModuleFileError, SettingError
from lib_oms.fingerprint import fingerprint
from lib_oms.library import ModuleEntry
from lib_oms.settings import AUTOMATIC
from lib_oms.webui import host
from lib_oms.webui.first_step import NotApplicable

_labelled = re.compile(r"(?P<name>.+) \[(?P<fingerprint>[0-9a-f]{10})\]", re.DOTALL)


def entries() -> list[ModuleEntry]:
    """The modules in the host's folders, as their headers describe them.

    Modules for latents that no published model has (such as the embedded demo's) are offered only where the host's
    model declares these latents.
    """
    return _offered(_all())


def _all() -> list[ModuleEntry]:
    return library.scan(host.module_folders())


def _offered(there: list[ModuleEntry]) -> list[ModuleEntry]:
    known = {*LATENTS_NAMES, library.UNKNOWN, host.latents_of(host.loaded_model())}
    return [entry for entry in there if entry.latents in known]


def choices() -> list[str]:
    """What the dropdown shows: Automatic and every module that can be used."""
    return [AUTOMATIC, *_usable(entries())]


def label(entry: ModuleEntry) -> str:
    """What infotext calls a module: its name, and its fingerprint in brackets."""
    return f"{entry.name} [{fingerprint(entry.path)}]"


def choose(module: str, latents: str) -> ModuleEntry:
    """The module that a request means, for a model with these latents.

    `module` is Automatic, a name, or a name with a fingerprint as infotext has it.

    Raises SettingError where there is no such module, ModuleFileError where it is broken, NotApplicable where it is for
    other latents; they name the modules that would do.
    """
    there = _all()
    offered = _offered(there)
    if module == AUTOMATIC:
        return _automatic(offered, latents)
    entry = _find(there, module)
    if entry is None:
        raise SettingError(f"there is no OMS module named {module[:200]!r}. {_instead(offered, latents)}")
    if entry.problem:
        raise ModuleFileError(f"the OMS module {entry.name!r} cannot be used: {entry.problem}")
    if not library.fits(entry, latents, chosen=True):
        raise NotApplicable(
            f"the OMS module {entry.name!r} is for {_latents_name(entry.latents)}, "
            f"which the loaded model does not have. {_instead(offered, latents)}"
        )
    return entry


def check(module: str) -> None:
    """Raises as `choose` does where nothing of this name could ever be used, whatever model is loaded."""
    if module == AUTOMATIC:
        return
    there = _all()
    entry = _find(there, module)
    if entry is None:
        there_are = ", ".join([AUTOMATIC, *_usable(_offered(there))])
        raise SettingError(f"there is no OMS module named {module[:200]!r}. There are {there_are}.")
    if entry.problem:
        raise ModuleFileError(f"the OMS module {entry.name!r} cannot be used: {entry.problem}")


def restored(module: str) -> str:
    """The name to choose for a module that an infotext mentions.

    A file that was renamed is known by its fingerprint. What is not here, or holds something else now, stays as
    infotext has it, so that generating says so instead of quietly making another picture.
    """
    offered = entries()
    entry = _find(offered, module) or _renamed(offered, module)
    return module if entry is None else entry.name


def _find(offered: list[ModuleEntry], module: str) -> ModuleEntry | None:
    """Looks a name up in the list; with a fingerprint, both must be right."""
    by_name = {entry.name: entry for entry in sorted(offered, key=lambda entry: not entry.problem)}  # usable ones win
    if module in by_name:
        return by_name[module]
    labelled = _labelled.fullmatch(module)
    entry = by_name.get(labelled["name"]) if labelled else None
    return entry if entry is not None and _has_fingerprint(entry, labelled["fingerprint"]) else None


def _renamed(offered: list[ModuleEntry], module: str) -> ModuleEntry | None:
    labelled = _labelled.fullmatch(module)
    if labelled is None:
        return None
    return next((entry for entry in offered if _has_fingerprint(entry, labelled["fingerprint"])), None)


def _has_fingerprint(entry: ModuleEntry, wanted: str) -> bool:
    try:
        return not entry.problem and fingerprint(entry.path) == wanted
    except ModuleFileError:
        return False


def _automatic(offered: list[ModuleEntry], latents: str) -> ModuleEntry:
    """The smallest module that fits (the published large one costs as much as a step of SDXL), first by name."""
    fitting = [entry for entry in offered if library.fits(entry, latents)]
    if fitting:
        return min(fitting, key=lambda entry: (entry.size, entry.name))
    broken = [f"{entry.name}: {entry.problem}" for entry in offered if entry.problem]
    why = f" ({'; '.join(broken)})" if broken else ""
    raise SettingError(f"there is no usable OMS module for the loaded model{why}. {_instead(offered, latents)}")


def _instead(offered: list[ModuleEntry], latents: str) -> str:
    fitting = [entry.name for entry in offered if library.fits(entry, latents)]
    if fitting:
        return f"Those for the loaded model are {', '.join(fitting)}."
    folders = " or ".join(str(folder) for folder in host.module_folders())
    put = f"one for {_latents_name(latents)} into {folders}; at present there is none."
    return f"Press Download below 'OMS modules', or put {put}" if latents in LATENTS_NAMES else f"Put {put}"


def _usable(offered: list[ModuleEntry]) -> list[str]:
    return [entry.name for entry in offered if not entry.problem]


def _latents_name(latents: str) -> str:
    return f"latents of {LATENTS_NAMES.get(latents, repr(latents))}"
