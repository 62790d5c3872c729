"""The OMS modules on disk: found, told apart and looked up by name, from headers and configs only.

A name that came from a page or an API is never made a path: it is compared with the names of what was found.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from lib_oms.errors import ModuleFileError, SettingError
from lib_oms.module_files import (
    CONFIG_NAME,
    FP16_WEIGHTS_NAME,
    MODULE_FOLDER,
    WEIGHTS_NAME,
    ModuleFile,
    inspect_module,
    read_json,
)

UNKNOWN = "unknown"
LATENTS_KEY = "oms.latents"
TEXT_ENCODER_KEY = "oms.text_encoder"
# Base modules for SD and for SDXL have the same tensors; only what they were published as tells them apart.
_PUBLISHED = {"oms_b_openclip_15_21": "sd", "oms_b_openclip_xl": "sdxl", "oms_l_mixclip_xl": "sdxl"}
_TEXT_ENCODERS = {1024: "openclip", 2048: "mixclip"}
_INDEX_NAME = "model_index.json"
_WORD = re.compile(r"[\w.+-]{1,64}")


@dataclass(frozen=True)
class ModuleEntry:
    """One module as found.

    name is its path below the scanned folder, with / and without suffix; latents is "sd" (SD1.x, SD2.x), "sdxl",
    another name from the file's metadata, or "unknown"; text_encoder is "openclip", "mixclip", another name or
    "unknown"; size is that of psi's weights in bytes; problem says why it cannot be used, or is None.
    """

    name: str
    path: Path
    latents: str
    text_encoder: str
    size: int
    problem: str | None = None


def scan(folders: Iterable[str | os.PathLike[str]]) -> list[ModuleEntry]:
    """List the modules in folders and their sub-folders, sorted by name; broken ones with their problem.

    Folders that do not exist are passed over, links out of a folder are not followed, and no tensor is read. Where two
    modules have one name, the first folder's counts and the other is listed with that problem.
    """
    found: dict[str, ModuleEntry] = {}
    clashes = []
    for folder in folders:
        root = Path(folder)
        for path in _candidates(root):
            entry = _describe(path, root)
            first = found.setdefault(entry.name, entry)
            if first is not entry and first.path.resolve() != entry.path.resolve():
                clashes.append(replace(entry, problem=f"{path}: has the same name as {first.path}; rename one of them"))
    return sorted((*found.values(), *clashes), key=lambda entry: (entry.name.casefold(), entry.name, str(entry.path)))


def find(name: str, folders: Iterable[str | os.PathLike[str]]) -> ModuleEntry:
    """Look a name up in what `scan` lists.

    Raises:
        SettingError: no module has this name; the message lists those there are.
        ModuleFileError: the module of this name cannot be used; the message says why.
    """
    entries = scan(folders)
    named = [entry for entry in entries if entry.name == name]
    usable = [entry for entry in named if entry.problem is None]
    if usable:
        return usable[0]
    if named:
        raise ModuleFileError(f"OMS model {named[0].name!r} cannot be used: {named[0].problem}")
    allowed = ", ".join(repr(entry.name) for entry in entries if entry.problem is None)
    raise SettingError(
        f"OMS model {_short(name)} is not known; "
        + (f"allowed are {allowed}" if allowed else "no usable OMS module was found: put one in the models folder")
    )


def fits(entry: ModuleEntry, latents: str, *, chosen: bool = False) -> bool:
    """Whether a module can be used for a model with these latents.

    A module whose latents are unknown fits only where a person chose it: nothing in the file can tell, and with the
    wrong latents the picture would only be wrong, not fail.
    """
    if entry.problem is not None:
        return False
    return entry.latents == latents or (chosen and entry.latents == UNKNOWN)


def identify(path: str | os.PathLike[str]) -> tuple[str, str]:
    """The latents and the text encoder of one module, as in its ModuleEntry; for a path that a program was given.

    Raises:
        ModuleFileError: not an OMS module.
    """
    module = inspect_module(path)
    encoder = _text_encoder(module)
    return _latents(module, encoder, Path(os.path.abspath(path)).with_suffix("").as_posix()), encoder


def _candidates(root: Path) -> Iterator[Path]:
    for current, folders, files in os.walk(root):
        here = Path(current)
        if _is_module_folder(here, folders, files):
            folders.clear()
            yield here
            continue
        if _is_text_encoder(here, files):
            folders.clear()
            continue
        # Hidden folders are other programs' caches; hidden files are downloads that are not whole yet.
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (
            here / name
            for name in sorted(files)
            if name.lower().endswith(".safetensors") and not name.startswith(".")
        )


def _is_module_folder(here: Path, folders: list[str], files: list[str]) -> bool:
    return MODULE_FOLDER in folders or _INDEX_NAME in files or WEIGHTS_NAME in files or FP16_WEIGHTS_NAME in files


def _is_text_encoder(here: Path, files: list[str]) -> bool:
    if CONFIG_NAME not in files:
        return False
    try:
        return "model_type" in read_json(here / CONFIG_NAME)
    except ModuleFileError:
        return False


def _describe(path: Path, root: Path) -> ModuleEntry:
    relative = path.relative_to(root)
    name = relative.with_suffix("").as_posix() if path.suffix.lower() == ".safetensors" else relative.as_posix()
    if name == ".":
        name = path.resolve().name
    entry = ModuleEntry(name, path, UNKNOWN, UNKNOWN, 0)
    try:
        _refuse_links(path, root)
        module = inspect_module(path)
        encoder = _text_encoder(module)
        return replace(
            entry,
            latents=_latents(module, encoder, name),
            text_encoder=encoder,
            size=module.weights.stat().st_size,
        )
    except (ModuleFileError, OSError) as error:
        return replace(entry, size=_size(path), problem=str(error))


def _refuse_links(path: Path, root: Path) -> None:
    inside = root.resolve()
    folders = (path, path / MODULE_FOLDER)
    files = [folder / name for folder in folders for name in (CONFIG_NAME, WEIGHTS_NAME, FP16_WEIGHTS_NAME)]
    for part in (*folders, *files, path / _INDEX_NAME):
        try:
            outside = part.exists() and not part.resolve().is_relative_to(inside)
        except (OSError, RuntimeError):  # a link that leads to itself
            outside = True
        if outside:
            raise ModuleFileError(f"{part}: is a link out of {root}, which is not followed; put the file itself here")


def _text_encoder(module: ModuleFile) -> str:
    known = _TEXT_ENCODERS.get(module.config.cross_attention_dim, UNKNOWN)
    return _word(module.metadata.get(TEXT_ENCODER_KEY)) or known


def _latents(module: ModuleFile, encoder: str, name: str) -> str:
    told = _word(module.metadata.get(LATENTS_KEY))
    if told:
        return told
    if encoder == "mixclip":  # SDXL's own pair of text encoders
        return "sdxl"
    return next((_PUBLISHED[part] for part in _published_as(module, name) if part in _PUBLISHED), UNKNOWN)


def _published_as(module: ModuleFile, name: str) -> Iterator[str]:
    """Names the module may have been published under: what its configs record first, then where it lies."""
    recorded = [module.raw_config.get("_name_or_path")]
    if (module.path / _INDEX_NAME).is_file():
        recorded.append(read_json(module.path / _INDEX_NAME).get("_name_or_path"))
    for text in (*recorded, name):
        if isinstance(text, str):
            # The hub's cache writes owner/name as models--owner--name.
            yield from reversed(re.split(r"[/\\]|--", text))


def _word(text: str | None) -> str | None:
    return text if text is not None and _WORD.fullmatch(text) else None


def _size(path: Path) -> int:
    try:
        return path.stat().st_size if path.is_file() else 0
    except OSError:
        return 0


def _short(name: object) -> str:
    text = repr(name)
    return text if len(text) <= 100 else text[:97] + "..."
