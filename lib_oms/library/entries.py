"""The OMS models on disk: found and told apart, from headers and configs only.

A name that came from a page or an API is never made a path: it is compared with the names of what was found
(lib_oms/webui/offer.py).
"""

from __future__ import annotations

import os
import re
import stat
import sys
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from operator import attrgetter
from pathlib import Path

from lib_oms.errors import ModuleFileError, readable
from lib_oms.files import file_stamp, read_json
from lib_oms.given.style import STYLES_FOLDER
from lib_oms.library import catalogue
from lib_oms.psi import ModuleFile, inspect_module
from lib_oms.psi.files import CONFIG_NAME, FP16_WEIGHTS_NAME, MODULE_FOLDER, WEIGHTS_NAME
from lib_oms.text import TEXT_ENCODERS

UNKNOWN = "unknown"
LATENTS_KEY = "oms.latents"
TEXT_ENCODER_KEY = "oms.text_encoder"
TEXT_ENCODERS_FOLDER = "text_encoders"  # below a models folder: encoders that modules share
# Base modules for SD and for SDXL have the same tensors; only what they were published as tells them apart.
_PUBLISHED = {
    name: module.latents
    for module in catalogue.MODULES
    for name in (module.name, *(repository.split("/")[1] for repository in module.repositories))
}
_TEXT_ENCODERS = {source.width: kind for kind, source in TEXT_ENCODERS.items()}
_INDEX_NAME = "model_index.json"
_WORD = re.compile(r"[\w.+-]{1,64}")


@dataclass(frozen=True)
class ModuleEntry:
    """One module as found.

    name is its path below the scanned folder, with / and without suffix; latents is "sd" (SD1.x, SD2.x), "sdxl",
    another name from the file's metadata, or "unknown"; text_encoder is one of lib_oms.text's KINDS, another name or
    "unknown"; size is that of psi's weights in bytes; problem says why it cannot be used, or is None; width is that of
    the text psi reads; why says what latents and text_encoder were told by.
    """

    name: str
    path: Path
    latents: str
    text_encoder: str
    size: int
    problem: str | None = None
    width: int = 0
    why: tuple[str, str] = ("", "")


def scan(folders: Iterable[str | os.PathLike[str]]) -> list[ModuleEntry]:
    """List the modules in folders and their sub-folders, sorted by name; broken ones with their problem.

    Folders that do not exist are passed over, links out of a folder are not followed, and no tensor is read. Where two
    modules have one name, the first folder's counts and the other is listed with that problem. A name that is not UTF-8
    is listed as a page can show it, and with that problem.
    """
    found: dict[str, ModuleEntry] = {}
    others = []
    for folder in folders:
        root = Path(folder)
        for candidate in _candidates(str(root)):
            path, entry = candidate.path, _describe(candidate, str(root))
            if readable(entry.name) != entry.name:
                problem = readable(f"{path}: its name is not UTF-8; rename it")
                others.append(replace(entry, name=readable(entry.name), problem=problem))
                continue
            first = found.setdefault(entry.name, entry)
            if first is not entry and first.path.resolve() != entry.path.resolve():
                problem = readable(f"{path}: has the same name as {first.path}; rename one of them")
                others.append(replace(entry, problem=problem))
    return sorted((*found.values(), *others), key=lambda entry: (entry.name.casefold(), entry.name, str(entry.path)))


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
        ModuleFileError: not an OMS model.
    """
    module = inspect_module(path)
    encoder, _ = _text_encoder(module)
    return _latents(module, encoder, _bare(Path(os.path.abspath(path))).as_posix())[0], encoder


def describe(path: str | os.PathLike[str]) -> ModuleEntry:
    """The entry of one module or file, whatever folder it is in; its name is the whole path's last part.

    What is no module, or a broken one, has its problem said, as in `scan`.
    """
    path = Path(path)
    whole = _bare(Path(os.path.abspath(path)))
    return replace(_remembered(path, whole.as_posix(), _stamp(path)), name=whole.name)


def own_folder(path: Path) -> Path:
    """Where a module's own text encoder lies: its folder, or the one that its file is in."""
    if path.suffix.lower() == ".safetensors" and not path.is_dir():
        return path.parent
    if path.name == MODULE_FOLDER and not any(path.glob("*text_encoder")):
        return path.absolute().parent
    return path


def _bare(path: Path) -> Path:
    """A module's name: of a file without suffix, while a folder may have dots in its own."""
    return path.with_suffix("") if path.suffix.lower() == ".safetensors" else path


@dataclass(frozen=True)
class _Candidate:
    """What may be a module: its folder or file, the links among the files that it is told by, and what changes with
    them.
    """

    path: str
    links: tuple[str, ...]
    stamp: object


def _candidates(root: str) -> Iterator[_Candidate]:
    """One call a folder and one a file: folders may be on a share, where each call takes a millisecond. Paths are texts
    here, for every request asks, and to make a `Path` takes longer than to look at the file.
    """
    waiting = [root]
    while waiting:
        here = waiting.pop()
        listed = _listed(here)
        folders = {entry.name: entry for entry in listed if _is_folder(entry)}
        files = [entry for entry in listed if entry.name not in folders]
        names = [entry.name for entry in files]
        if _is_module_folder(folders, names):
            yield _candidate(here, listed)
            continue
        if _is_text_encoder(here, names):
            continue
        # Hidden folders are other programs' caches; hidden files are downloads that are not whole yet.
        for entry in files:
            if entry.name.lower().endswith(".safetensors") and not entry.name.startswith("."):
                links = (entry.path,) if _is_link(entry) else ()
                yield _Candidate(entry.path, links, file_stamp(entry.path))
        if here == root:
            folders.pop(STYLES_FOLDER, None)
        below = (entry for name, entry in folders.items() if not name.startswith(".") and not _is_link(entry))
        waiting += reversed([entry.path for entry in below])


def _candidate(folder: str, listed: Sequence[os.DirEntry[str]]) -> _Candidate:
    """A module's folder, with what it holds."""
    told_by = _told_by(listed)
    stamp = tuple((entry.path, file_stamp(entry.path)) for entry in told_by if entry.name != MODULE_FOLDER)
    return _Candidate(folder, tuple(entry.path for entry in told_by if _is_link(entry)), stamp)


def _told_by(listed: Sequence[os.DirEntry[str]]) -> list[os.DirEntry[str]]:
    level = [entry for entry in listed if entry.name == MODULE_FOLDER and _is_folder(entry)]
    inside = _listed(level[0].path) if level else listed
    names = (CONFIG_NAME, WEIGHTS_NAME, FP16_WEIGHTS_NAME)
    files = [entry for entry in inside if entry.name in names]
    return [*level, *files, *(entry for entry in listed if entry.name == _INDEX_NAME)]


def _listed(folder: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=_name)
    except OSError:
        return []


_name = attrgetter("name")


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself
        return False


def _is_link(entry: os.DirEntry[str]) -> bool:
    """A link, or what Windows has of the kind besides."""
    if entry.is_symlink():
        return True
    if sys.platform == "win32":
        return entry.stat(follow_symlinks=False).st_reparse_tag == stat.IO_REPARSE_TAG_MOUNT_POINT
    return False


def _is_module_folder(folders: Collection[str], files: Collection[str]) -> bool:
    return MODULE_FOLDER in folders or _INDEX_NAME in files or WEIGHTS_NAME in files or FP16_WEIGHTS_NAME in files


def _is_text_encoder(here: str, files: Collection[str]) -> bool:
    if CONFIG_NAME not in files:
        return False
    try:
        return "model_type" in read_json(Path(here, CONFIG_NAME))
    except ModuleFileError:
        return False


def _describe(candidate: _Candidate, root: str) -> ModuleEntry:
    try:
        _refuse_links(candidate.links, root)
    except (ModuleFileError, OSError) as error:
        path = Path(candidate.path)
        return ModuleEntry(_name_below(path, root), path, UNKNOWN, UNKNOWN, _size(path), problem=str(error))
    return _described(candidate.path, root, candidate.stamp)


@lru_cache(maxsize=2048)
def _described(path: str, root: str, stamp: object) -> ModuleEntry:  # stamp only tells old answers from new ones
    """What the headers say. Remembered: a page asks again and again, and 200 headers are 10 MB of JSON."""
    return _facts(Path(path), _name_below(Path(path), root))


def _name_below(path: Path, root: str) -> str:
    name = _bare(path.relative_to(root)).as_posix()
    return path.resolve().name if name == "." else name


def _facts(path: Path, name: str) -> ModuleEntry:
    entry = ModuleEntry(name, path, UNKNOWN, UNKNOWN, 0)
    try:
        module = inspect_module(path)
        encoder, encoder_why = _text_encoder(module)
        latents, latents_why = _latents(module, encoder, name)
        size = module.weights.stat().st_size
    except (ModuleFileError, OSError) as error:
        return replace(entry, size=_size(path), problem=str(error))
    return replace(
        entry,
        latents=latents,
        text_encoder=encoder,
        size=size,
        width=module.config.cross_attention_dim,
        why=(latents_why, encoder_why),
    )


@lru_cache(maxsize=256)
def _remembered(path: Path, name: str, stamp: object) -> ModuleEntry:  # stamp only tells old answers from new ones
    return _facts(path, name)


def _stamp(path: Path) -> object:
    """Changes with every file that a module is told by."""
    return _candidate(str(path), _listed(str(path))).stamp if path.is_dir() else file_stamp(path)


def _refuse_links(links: Iterable[str], root: str) -> None:
    for part in map(Path, links):
        try:
            inside = Path(root).resolve()
            outside = part.exists() and not part.resolve().is_relative_to(inside)
        except (OSError, RuntimeError):  # a link that leads to itself
            outside = True
        if outside:
            raise ModuleFileError(f"{part}: is a link out of {root}, which is not followed; put the file itself here")


def _text_encoder(module: ModuleFile) -> tuple[str, str]:
    told = _word(module.metadata.get(TEXT_ENCODER_KEY))
    if told:
        return told, f"metadata {TEXT_ENCODER_KEY}"
    width = module.config.cross_attention_dim
    return _TEXT_ENCODERS.get(width, UNKNOWN), f"psi reads text of width {width}"


def _latents(module: ModuleFile, encoder: str, name: str) -> tuple[str, str]:
    told = _word(module.metadata.get(LATENTS_KEY))
    if told:
        return told, f"metadata {LATENTS_KEY}"
    own = TEXT_ENCODERS.get(encoder)
    if own is not None and own.latents is not None:
        return own.latents, f"the text encoder that it reads is {own.family}'s own"
    for part in _published_as(module, name):
        if part in _PUBLISHED:
            return _PUBLISHED[part], f"published as {part}"
    return UNKNOWN, f"neither metadata {LATENTS_KEY} nor a published name, and base OMS models have the same tensors"


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
    """Of a file, or of the weights in a module's folder, in bytes; whole or not."""
    folders = (path / MODULE_FOLDER, path)
    weights = [folder / name for folder in folders for name in (WEIGHTS_NAME, FP16_WEIGHTS_NAME)]
    try:
        return next((file.stat().st_size for file in (path, *weights) if file.is_file()), 0)
    except OSError:
        return 0
