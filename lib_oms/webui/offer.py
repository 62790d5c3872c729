"""Which OMS modules a person can choose here, and which one a request means."""

from __future__ import annotations

import re
from collections.abc import Callable

from lib_oms.errors import ModuleFileError, SettingError
from lib_oms.files import LATENTS_NAMES
from lib_oms.library import UNKNOWN, ModuleEntry, fits, scan
from lib_oms.library.fingerprint import Remembered, fingerprint
from lib_oms.library.listing import lacks_encoder
from lib_oms.library.text_sources import Finder
from lib_oms.settings import AUTOMATIC, close_to, is_automatic
from lib_oms.webui import host, sources
from lib_oms.webui.first_step import NotApplicable

_labelled = re.compile(r"(?P<name>.+) \[(?P<fingerprint>[0-9a-f]{10})\]", re.DOTALL)


def entries() -> list[ModuleEntry]:
    """The modules in the host's folders, as their headers describe them.

    Modules for latents that no published model has (such as the embedded demo's) are offered only where the host's
    model declares these latents.
    """
    return _offered(_all())


def _all() -> list[ModuleEntry]:
    return scan(host.module_folders())


def _offered(there: list[ModuleEntry]) -> list[ModuleEntry]:
    known = {*LATENTS_NAMES, UNKNOWN, host.latents_of(host.loaded_model())}
    return [entry for entry in there if entry.latents in known]


def choices(chosen: str = AUTOMATIC) -> list[str]:
    """What the dropdown shows: Automatic and every module that can be used, those for the loaded model first.

    `chosen` is shown in any case, at the end where it is nothing of these: a value that a dropdown does not have would
    be sent without being seen.
    """
    there = entries()
    latents = host.latents_now()
    fitting = sorted(there, key=lambda entry: latents is None or not fits(entry, latents))
    return list(dict.fromkeys([AUTOMATIC, *_usable(fitting), chosen]))


def automatic() -> ModuleEntry | None:
    """The module that Automatic stands for now; None where that is none."""
    latents = host.latents_now()
    try:
        return None if latents is None else _automatic(entries(), latents)
    except SettingError:
        return None


def named(module: str) -> ModuleEntry | None:
    """The module of this name, or of this name and fingerprint; None where there is none. It may be broken."""
    return _find(_all(), module)


def label(entry: ModuleEntry) -> str:
    """What infotext calls a module: its name, and its fingerprint in brackets."""
    return f"{entry.name} [{fingerprint(entry.path)}]"


def choose(module: str, latents: str | None, why_none: str = "") -> ModuleEntry:
    """The module that a request means, for the model that is loaded.

    Args:
        module: Automatic, a name, or a name with a fingerprint as infotext has it.
        latents: the model's; None where no module is for the model.
        why_none: why that is, in words.

    Raises:
        SettingError: there is no such module, or it is for other latents; the text names those that would do.
        ModuleFileError: it is broken.
        NotApplicable: Automatic has nothing to do, as the latents are None. Who names a module wants that one.
    """
    there = _all()
    offered = _offered(there)
    if is_automatic(module):
        if latents is None:
            raise NotApplicable(why_none)
        return _automatic(offered, latents)
    entry = _named(there, module, lambda: _instead(offered, latents) if latents else f"And {why_none}.")
    if latents is None:
        raise SettingError(
            f"the OMS model {entry.name!r} cannot be used: {why_none}. No OMS model is made for it: untick the step, "
            "or choose Automatic, which leaves such a checkpoint alone."
        )
    if not fits(entry, latents, chosen=True):
        raise SettingError(
            f"the OMS model {entry.name!r} is for {_latents_name(entry.latents)}, which the loaded "
            f"checkpoint does not have. {_instead(offered, latents)}"
        )
    return entry


def check(module: str) -> None:
    """Looks whether what is of this name could be used with some model, loaded or not.

    Raises:
        SettingError, ModuleFileError: as `choose`.
    """
    if not is_automatic(module):
        there = _all()
        _named(there, module, lambda: f"There are {', '.join([AUTOMATIC, *_usable(_offered(there))])}.")


def restored(module: str, *, automatic: bool = False) -> str:
    """The name to choose for a module that an infotext mentions; `automatic` says that it was Automatic's choice.

    Automatic's choice is Automatic again where it would be the same module now.

    A file that was renamed is known by its fingerprint. What is not here, or holds something else now, stays as
    infotext has it, so that generating says so instead of quietly making another picture.
    """
    if is_automatic(module):
        return AUTOMATIC
    offered = entries()
    entry = _find(offered, module) or _renamed(offered, module)
    if entry is None:
        return module
    return AUTOMATIC if automatic and _is_automatic(offered, entry) else entry.name


def _is_automatic(offered: list[ModuleEntry], entry: ModuleEntry) -> bool:
    """Whether Automatic stands for this module, or for a copy of it. Where no model is known yet, for which Automatic
    would have to choose, it is asked as if one for this module came.
    """
    try:
        chosen = _automatic(offered, host.latents_now() or entry.latents)
        return chosen == entry or fingerprint(chosen.path) == fingerprint(entry.path)
    except (SettingError, ModuleFileError):
        return False


def _named(there: list[ModuleEntry], module: str, otherwise: Callable[[], str]) -> ModuleEntry:
    """The usable module of this name; raises as `choose` does, with what to do `otherwise`."""
    entry = _find(there, module)
    if entry is None:
        meant = close_to(module, [AUTOMATIC, *_usable(_offered(there))])
        raise SettingError(f"there is no OMS model named {module[:200]!r}.{meant} {otherwise()}")
    if entry.problem:
        raise ModuleFileError(f"the OMS model {entry.name!r} cannot be used: {entry.problem}")
    return entry


def _find(offered: list[ModuleEntry], module: str) -> ModuleEntry | None:
    """Looks a name up in the list; with a fingerprint, both must be right. Capitals and small letters are alike where
    no second name differs from it in nothing else.
    """
    by_name = {entry.name: entry for entry in sorted(offered, key=lambda entry: not entry.problem)}  # usable ones win
    labelled = _labelled.fullmatch(module)
    asked = [(module, None), *([(labelled["name"], labelled["fingerprint"])] if labelled else [])]
    for name, wanted in asked:
        alike = [other for other in by_name if other.casefold() == name.casefold()]
        found = by_name.get(name) or (by_name[alike[0]] if len(alike) == 1 else None)
        if found is not None and (wanted is None or _has_fingerprint(found, wanted)):
            return found
    return None


def _renamed(offered: list[ModuleEntry], module: str) -> ModuleEntry | None:
    labelled = _labelled.fullmatch(module)
    if labelled is None:
        return None
    usable = {entry.path: entry for entry in offered if not entry.problem}
    found = Remembered(host.cache_folder() / "oms-fingerprints.json").find(labelled["fingerprint"], usable)
    return None if found is None else usable.get(found)


def _has_fingerprint(entry: ModuleEntry, wanted: str) -> bool:
    try:
        return not entry.problem and fingerprint(entry.path) == wanted
    except ModuleFileError:
        return False


def _automatic(offered: list[ModuleEntry], latents: str) -> ModuleEntry:
    """The smallest module that fits (the published large one costs as much as a step of SDXL), first by name."""
    fitting = sorted((one for one in offered if fits(one, latents)), key=lambda entry: (entry.size, entry.name))
    if fitting:
        return _first_with_text(fitting)
    broken = [f"{entry.name}: {entry.problem}" for entry in offered if entry.problem]
    why = f" ({'; '.join(broken)})" if broken else ""
    raise SettingError(f"there is no usable OMS model for the loaded checkpoint{why}. {_instead(offered, latents)}")


def _first_with_text(fitting: list[ModuleEntry]) -> ModuleEntry:
    """Where they read different text encoders the first whose is here, as a loaded SD2.x does not lend SD1.x's; the
    first of all, where none is.
    """
    if len({entry.text_encoder for entry in fitting}) == 1:
        return fitting[0]
    places = sources.places()
    finder = Finder(places)
    return next((entry for entry in fitting if not lacks_encoder(entry, places, finder)), fitting[0])


def _instead(offered: list[ModuleEntry], latents: str) -> str:
    fitting = [entry.name for entry in offered if fits(entry, latents)]
    if fitting:
        are = "The one for the loaded checkpoint is" if len(fitting) == 1 else "Those for the loaded checkpoint are"
        return f"{are} {', '.join(fitting)}."
    folders = " or ".join(map(str, sorted(host.module_folders(), key=lambda folder: folder != host.download_folder())))
    put = f"one for {_latents_name(latents)} into {folders}; at present there is none."
    return f"Press Download below 'OMS models', or put {put}" if latents in LATENTS_NAMES else f"Put {put}"


def _usable(offered: list[ModuleEntry]) -> list[str]:
    return [entry.name for entry in offered if not entry.problem]


def _latents_name(latents: str) -> str:
    return f"latents of {LATENTS_NAMES.get(latents, repr(latents))}"
