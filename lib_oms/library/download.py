"""Published modules, with what they need of text encoder and tokenizer, into a models folder.

All is gathered in a hidden folder below the models folder and moved to its place when it is whole. Only safetensors,
json and a tokenizer's list of merges are taken; a text encoder that the machine has already is not.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from lib_oms.errors import DownloadError, SettingError
from lib_oms.library import catalogue, hub
from lib_oms.library.entries import TEXT_ENCODERS_FOLDER, describe
from lib_oms.library.hub import RemoteFile
from lib_oms.library.listing import has_encoder, human_size
from lib_oms.library.text_sources import Places
from lib_oms.psi.files import CONFIG_NAME, FP16_WEIGHTS_NAME, MODULE_FOLDER, WEIGHTS_NAME
from lib_oms.text import TEXT_ENCODERS
from lib_oms.text import files as text_files

if TYPE_CHECKING:
    from collections.abc import Iterator

STAGE = ".download"
ENCODER_NAMES = {f"text-encoder-{kind}": kind for kind in TEXT_ENCODERS}
NAMES = (*(module.name for module in catalogue.MODULES), *ENCODER_NAMES)
_MODULE_EXTRAS = (
    "model_index.json",
    f"{MODULE_FOLDER}/{CONFIG_NAME}",
    CONFIG_NAME,
    "oms_text_encoder/config.json",
    "oms_tokenizer/config.json",
)
_MODULE_WEIGHTS = (
    *(f"{MODULE_FOLDER}/{name}" for name in (FP16_WEIGHTS_NAME, WEIGHTS_NAME)),
    *(FP16_WEIGHTS_NAME, WEIGHTS_NAME),
)
_ENCODER_WEIGHTS = ("model.fp16.safetensors", "model.safetensors")
_TOKENIZER_FILES = ("vocab.json", "merges.txt", "tokenizer_config.json", "special_tokens_map.json", "tokenizer.json")
_SPARE = 16 * 2**20  # bytes of disk that are left alone


@dataclass(frozen=True)
class Progress:
    """How far a download is, in bytes; what: the name of the file at hand."""

    done: int
    total: int
    what: str

    @property
    def fraction(self) -> float:
        return self.done / self.total if self.total else 1.0


@dataclass(frozen=True)
class _Part:
    """Files that belong into one folder; its place is taken when all of them are there."""

    name: str
    place: Path
    files: dict[str, RemoteFile]


def download(
    name: str,
    root: Path,
    places: Places,
    *,
    progress: Callable[[Progress], None] = lambda _: None,
    cancelled: Callable[[], bool] = lambda: False,
) -> list[Path]:
    """Downloads a published module by its name in the catalogue, or a text encoder alone; returns what is new.

    Args:
        name: one of NAMES, or the repository of a module.
        root: the models folder; created where missing.
        places: where a text encoder may be that needs no download.
        progress: told about every piece that has come.
        cancelled: asked between the pieces.

    Raises:
        SettingError: nothing of this name is published.
        DownloadError: it did not come to its end; says what to do. Nothing half is under its name then, and a later
            call continues.
    """
    published = None if name in ENCODER_NAMES else catalogue.published(name)
    module = None if published is None or _is_there(published, root) else published
    encoder = ENCODER_NAMES.get(name)
    if published is not None and not has_encoder(published, replace(places, folders=(root, *places.folders))):
        encoder = published.text_encoder
    with _stage(root), _alone(root):
        try:
            parts = [] if module is None else [_module_part(module, root)]
            parts += [] if encoder is None else [_encoder_part(encoder, root)]
            _take(parts, root, progress, cancelled)
        except hub.Unreachable as error:
            raise DownloadError(f"{error}. {_by_hand(module, encoder, root)}") from error
        finally:
            _clear(root)
    return [part.place for part in parts]


def _by_hand(module: catalogue.Published | None, encoder: str | None, root: Path) -> str:
    """Which files to fetch by other means, and where to put them."""
    wanted = []
    if module is not None:
        files = f"{MODULE_FOLDER}/{CONFIG_NAME} and {MODULE_FOLDER}/{FP16_WEIGHTS_NAME}"
        wanted.append((root / module.name, files, module.repositories[0]))
    if encoder is not None:
        source = TEXT_ENCODERS[encoder]
        files = ", ".join(
            f"{folder}/vocab.json and {folder}/merges.txt"
            if folder.startswith("tokenizer")
            else f"{folder}/config.json, {' or '.join(f'{folder}/{name}' for name in _ENCODER_WEIGHTS)}"
            for folder in source.folders
        )
        wanted.append((root / TEXT_ENCODERS_FOLDER / encoder, files, source.repositories[0]))
    told = "; ".join(f"into {place}: {files} of {hub.endpoint()}/{name}" for place, files, name in wanted)
    return f"Or put the files there by hand, in folders of these names, {told}"


def _is_there(module: catalogue.Published, root: Path) -> bool:
    return _problem(root / module.name) is None


def _problem(folder: Path) -> str | None:
    """Why there is no usable module in `folder`, be it the published layout or a single file; None where there is."""
    problem = describe(folder).problem
    if problem and any(describe(path).problem is None for path in folder.glob("*.safetensors")):
        return None
    return problem


def _module_part(module: catalogue.Published, root: Path) -> _Part:
    """psi's files out of the first repository that has them.

    Raises:
        DownloadError: none has; says which were tried, and why each would not do.
    """
    tried = []
    for repository in module.repositories:
        try:
            files = {file.path: file for file in hub.list_files(repository, catalogue.REVISION)}
            weights = _module_weights(repository, files)
        except hub.Refused as refused:
            tried.append(refused)
            continue
        chosen = {path: files[path] for path in _MODULE_EXTRAS if path in files}
        # A mirror may hold the weights alone, under a name of its own: here they get their own place.
        place = weights if weights in _MODULE_WEIGHTS else _MODULE_WEIGHTS[0]
        return _Part(module.name, root / module.name, {**chosen, place: files[weights]})
    if len(tried) == 1:
        raise tried[0]
    raise DownloadError(f"{module.name} was found in none of its repositories. Tried: {'; '.join(map(str, tried))}")


def _module_weights(repository: str, files: dict[str, RemoteFile]) -> str:
    """psi's weights: halves where there are such, wherever the repository keeps them."""
    for path in _MODULE_WEIGHTS:
        if path in files:
            return path
    others = [path for path in files if path.endswith(".safetensors")]
    if len(others) != 1:
        raise hub.Refused(
            f"{hub.endpoint()}/{repository}: holds no OMS model any more, but {len(others)} .safetensors files "
            "that could be anything"
        )
    return others[0]


def _encoder_part(kind: str, root: Path) -> _Part:
    """The text encoder's files out of the first repository that has them.

    Raises:
        DownloadError: none has; says which were tried, and why each would not do.
    """
    source = TEXT_ENCODERS[kind]
    tried = []
    for repository in source.repositories:
        try:
            files = {file.path: file for file in hub.list_files(repository, catalogue.REVISION)}
            chosen = [path for folder in source.folders for path in _encoder_files(repository, folder, files)]
        except hub.Refused as refused:
            tried.append(str(refused))
            continue
        place = root / TEXT_ENCODERS_FOLDER / kind
        return _Part(f"text-encoder-{kind}", place, {path: files[path] for path in chosen})
    instead = f" {source.instead}," if source.instead else ""
    raise DownloadError(
        f"the text encoder ({kind}) was found in none of its repositories. Tried: {'; '.join(tried)}. Try later,"
        f"{instead} or put {' and '.join(source.folders)} into {root / TEXT_ENCODERS_FOLDER / kind}"
    )


def _encoder_files(repository: str, folder: str, files: dict[str, RemoteFile]) -> list[str]:
    if folder.startswith("tokenizer"):
        found = [f"{folder}/{name}" for name in _TOKENIZER_FILES if f"{folder}/{name}" in files]
        whole = {f"{folder}/vocab.json", f"{folder}/merges.txt"} <= set(found) or f"{folder}/tokenizer.json" in found
    else:
        weights = [f"{folder}/{name}" for name in _ENCODER_WEIGHTS if f"{folder}/{name}" in files][:1]
        found = [f"{folder}/config.json", *weights]
        whole = bool(weights) and f"{folder}/config.json" in files
    if not whole:
        raise hub.Refused(f"{hub.endpoint()}/{repository}: holds no whole {folder} as safetensors")
    return found


def _take(
    parts: Sequence[_Part], root: Path, progress: Callable[[Progress], None], cancelled: Callable[[], bool]
) -> None:
    wanted = [(root / STAGE / part.name / path, file) for part in parts for path, file in part.files.items()]
    total = sum(file.size for _, file in wanted)
    _refuse_full_disk(root, sum(file.size - _come(target) for target, file in wanted))
    done = 0
    for target, file in wanted:

        def gained(count: int, what: str = file.path) -> None:
            nonlocal done
            done += count
            progress(Progress(done, total, what))

        if hub.is_whole(target, file):
            gained(file.size)
        else:
            hub.fetch(file, target, gained=gained, cancelled=cancelled)
    for part in parts:
        _put_in_place(part, root)


def _come(target: Path) -> int:
    """How much of a file has come before: itself, or the hidden file that it grows in."""
    try:
        parts = list(target.parent.glob(f".{target.name}.*.part"))
        return max((path.stat().st_size for path in (target, *parts) if path.is_file()), default=0)
    except OSError:
        return 0


def _refuse_full_disk(root: Path, needed: int) -> None:
    free = shutil.disk_usage(root).free
    if needed + _SPARE > free:
        raise DownloadError(
            f"{root}: {human_size(needed)} are still needed and only {human_size(free)} are free. Make room, or name "
            "another folder with --oms-models-dir"
        )


def _put_in_place(part: _Part, root: Path) -> None:
    stage = root / STAGE / part.name
    if not part.name.startswith("text-encoder-"):
        problem = _problem(stage)
        if problem:
            shutil.rmtree(stage, ignore_errors=True)
            raise DownloadError(f"what the repository holds is no usable OMS model, so it was thrown away: {problem}")
    try:
        for path in [path for path in stage.rglob("*") if path.is_file()]:
            if path.relative_to(stage).as_posix() not in part.files:  # of a version that has been replaced since
                path.unlink()
        part.place.parent.mkdir(parents=True, exist_ok=True)
        if not part.place.exists():
            stage.replace(part.place)
            return
        for name in part.files:  # config files first: weights without their config could not be told
            (part.place / name).parent.mkdir(parents=True, exist_ok=True)
            (stage / name).replace(part.place / name)
        for path in _weights_of_old(part):
            path.unlink(missing_ok=True)
    except OSError as error:
        raise DownloadError(f"{part.place}: cannot be written: {error.strerror or error}") from error


def _weights_of_old(part: _Part) -> Iterator[Path]:
    """Weights under the other names, beside the new ones. What was there was of no use, and would be preferred."""
    for path in part.files:
        if path.endswith(".safetensors"):
            folder = (part.place / path).parent
            for name in {WEIGHTS_NAME, FP16_WEIGHTS_NAME, *text_files.WEIGHTS} - {Path(path).name}:
                yield folder / name


def _clear(root: Path) -> None:
    """Removes the hidden folder where nothing is left in it that could be continued."""
    for here, _, _ in os.walk(root / STAGE, topdown=False):
        with suppress(OSError):  # another download's beginning is in it
            Path(here).rmdir()


@contextmanager
def _stage(root: Path) -> Iterator[None]:
    """Makes the folders that a download needs, and removes those it made where nothing has come into them."""
    made = [folder for folder in (root / STAGE, root, *root.parents) if not folder.exists()]
    try:
        try:
            (root / STAGE).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DownloadError(f"{root}: cannot be written: {error.strerror or error}") from error
        yield
    finally:
        for folder in made:
            with suppress(OSError):  # one in which something is stays
                folder.rmdir()


@contextmanager
def _alone(root: Path) -> Iterator[None]:
    """Keeps out a second download into this folder, be it of another program."""
    from filelock import FileLock, Timeout

    busy = f"{root}: another download into this folder is under way; wait for its end"
    path = root / f"{STAGE}.lock"
    lock = FileLock(str(path))
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise SettingError(busy) from error
    try:
        if not path.exists():  # its last holder was about to remove it
            raise SettingError(busy)
        yield
    finally:
        with suppress(OSError):  # on Windows nobody can remove what is open, and the lock does it itself
            path.unlink()
        lock.release()
