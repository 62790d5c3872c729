"""Where a module's text encoder can come from, without a download where the machine has it already.

Looked for in this order: the module's own folder; `text_encoders/<kind>` below a models folder, where downloads put it;
another module's folder; and for OpenCLIP ViT-H the loaded model, where it is an SD2.x, and any SD2.x checkpoint.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from lib_oms.errors import ModuleFileError, OMSError
from lib_oms.files import FLOATS, file_stamp, read_header, read_json
from lib_oms.library.entries import TEXT_ENCODERS_FOLDER, ModuleEntry, describe, own_folder
from lib_oms.text import TEXT_ENCODERS, OpenCLIPEncoder, TextEncoder, encoder_width, holds_encoder, load_text_encoder
from lib_oms.text.encoders import without_tokenizer
from lib_oms.text.files import build_model, load_tokenizer, model_width
from lib_oms.text.openclip import CHECKPOINT_PREFIX, TURBO_PREFIX, OpenCLIPTower, find_tower
from lib_oms.text.tokenizer import find_vocabulary, packaged_tokenizer

_PAD = "!"  # token 0, with which SD2.x's tokenizer fills up


@dataclass(frozen=True)
class LoadedModel:
    """The text tower of a model that the host holds: its tensors by name, without any LoRA's changes.

    The names are OpenCLIP's, or transformers' where `config` is the text model's own. Tensors are asked for one at a
    time, after one call of `fetch`.
    """

    name: str
    shapes: Mapping[str, tuple[int, ...]]
    tensor: Callable[[str], Tensor]
    config: Mapping[str, Any] | None = None
    fetch: Callable[[], None] = lambda: None


@dataclass(frozen=True)
class Places:
    """Where to look: models folders, folders of single-file checkpoints, tokenizer folders that the host brings along,
    the loaded model's text tower, if it has one, the kinds of text encoder that the host lends at need, and those that
    it will lend as soon as a checkpoint is loaded that has the latents for them.
    """

    folders: tuple[Path, ...] = ()
    checkpoints: tuple[Path, ...] = ()
    tokenizers: tuple[Path, ...] = ()
    loaded: LoadedModel | None = None
    lends: tuple[str, ...] = ()
    will_lend: tuple[str, ...] = ()


@dataclass(frozen=True)
class TextSource:
    """One place that holds a whole text encoder of the kind; `where` says it in words.

    `check` raises ModuleFileError where `load` would, as far as headers tell: before a tensor is read.
    """

    kind: str
    where: str
    load: Callable[[torch.dtype | None], TextEncoder]
    check: Callable[[], object] = lambda: None


class Finder:
    """Finds text encoders in `places` as they are now. What does not depend on the single module is looked at once, so
    a list of hundreds costs no more than their own folders: a finder is made for one list or one module and dropped.
    """

    def __init__(self, places: Places) -> None:
        self._places = places
        self._shared: dict[tuple[str, int], TextSource | None] = {}
        self._tried: dict[tuple[str, int], list[str]] = {}

    def find(self, entry: ModuleEntry) -> TextSource:
        """Where `entry`'s text encoder comes from; headers and folders are looked at, no tensor is read.

        Raises:
            ModuleFileError: nowhere; says what was tried and what to do.
        """
        kind, width = entry.text_encoder, entry.width
        if kind not in TEXT_ENCODERS:
            known = ", ".join(TEXT_ENCODERS)
            raise ModuleFileError(
                f"{entry.path}: reads text encoder {kind!r}, which is not known here; known are {known}"
            )
        own = own_folder(entry.path)
        if holds_encoder(own, kind):
            wrong = _wrong_in(own, kind, width)
            if wrong:
                raise ModuleFileError(
                    f"the OMS model {entry.name!r} cannot use its own text encoder: {wrong}. Put the right one there, "
                    "or delete it and press Download in the accordion"
                )
            return _folder_source(own, kind)
        if (kind, width) not in self._shared:
            self._shared[kind, width] = _shared_source(kind, width, self._places)
        source = self._shared[kind, width]
        if source is None:
            if (kind, width) not in self._tried:
                self._tried[kind, width] = _shared_places(kind, width, self._places)
            lonely = _without_tokenizer(own, kind, width, self._places)
            raise ModuleFileError(_nowhere(entry, lonely, [str(own), *self._tried[kind, width]]))
        return source


def find_source(entry: ModuleEntry, places: Places) -> TextSource:
    """Where one module's text encoder comes from; as `Finder.find`."""
    return Finder(places).find(entry)


def checkpoint_tower(path: str | os.PathLike[str]) -> OpenCLIPTower | None:
    """OpenCLIP's text tower in a checkpoint file, told by its header; None where there is none or the file is broken.

    Remembered until the file changes.
    """
    return _tower_of(os.fspath(path), file_stamp(path))


def load_checkpoint_encoder(
    path: str | os.PathLike[str], tokenizer: Any, dtype: torch.dtype | None = None, *, headers_only: bool = False
) -> TextEncoder:
    """SD2.x's text encoder out of a single-file checkpoint, on the CPU; float32 if no dtype is given. With
    `headers_only` without weights, on "meta".

    Raises:
        ModuleFileError: no SD2.x checkpoint, or it cannot be read.
    """
    tower = checkpoint_tower(path)
    if tower is None:
        raise ModuleFileError(f"{path}: holds no OpenCLIP text encoder, as checkpoints of SD2.x do")
    if headers_only:
        shapes = {name: info.shape for name, info in read_header(path).tensors.items()}

        def without_content(name: str) -> Tensor:
            return torch.empty(shapes[name], device="meta")

        return _build(
            tower.config, tower.names(), partial(tower.read, tensor=without_content), tokenizer, dtype, str(path)
        )
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            read = partial(tower.read, tensor=file.get_tensor)
            return _build(tower.config, tower.names(), read, tokenizer, dtype, str(path))
    except (SafetensorError, OSError) as error:
        raise ModuleFileError(f"{path}: cannot be read: {error}") from error


def find_tokenizer(vocabulary: int, places: Places) -> Callable[[], Any] | None:
    """How to make CLIP's tokenizer of so many tokens, padding as SD2.x does, from what lies here; None where it cannot
    be made.
    """
    for folder in (*_tokenizer_folders(places), *places.tokenizers):
        if _count_tokens(folder) == vocabulary:
            return partial(load_tokenizer, folder, _PAD)
    packaged = find_vocabulary()
    return None if packaged is None else partial(packaged_tokenizer, packaged, vocabulary, _PAD)


def _wrong_in(folder: Path, kind: str, width: int) -> str:
    """Why the text encoder in `folder` cannot be used for psi of this width, by its headers; empty where it can."""
    try:
        its = encoder_width(folder, kind)
    except ModuleFileError as error:
        return str(error)
    return "" if its == width else f"that in {folder} is of width {its}, the OMS model reads {width}"


def _folder_source(folder: Path, kind: str) -> TextSource:
    return TextSource(
        kind,
        str(folder),
        lambda dtype: load_text_encoder(folder, kind, dtype),
        lambda: load_text_encoder(folder, kind, headers_only=True),
    )


def _shared_source(kind: str, width: int, places: Places) -> TextSource | None:
    """What serves every module that reads this text and has no encoder of its own."""
    for folder in _shared_folders(kind, width, places):
        if holds_encoder(folder, kind) and not _wrong_in(folder, kind, width):
            return _folder_source(folder, kind)
    return _from_openclip(width, places) if kind == "openclip" else None


def _shared_folders(kind: str, width: int, places: Places) -> Iterator[Path]:
    for root in places.folders:
        yield root / TEXT_ENCODERS_FOLDER / kind
    # Another module's: only published layouts, whose encoder is told by what the module reads. The embedded
    # demo's is of the same kind and width as nobody else's.
    for root in places.folders:
        for other in _folders(root):
            if (other / "oms_module").is_dir() and holds_encoder(other, kind):
                found = describe(other)
                if (found.text_encoder, found.width) == (kind, width):
                    yield other


def _from_openclip(width: int, places: Places) -> TextSource | None:
    source = None if places.loaded is None else _from_loaded(places.loaded, width, places)
    if source is not None:
        return source
    for path in checkpoint_files(places.checkpoints):
        tower = checkpoint_tower(path)
        if tower is None or tower.width != width:
            continue
        tokenizer = find_tokenizer(tower.vocabulary, places)
        if tokenizer is not None:
            return TextSource("openclip", str(path), *_checkpoint_loader(path, tokenizer))
    return None


class _Tower(NamedTuple):
    """How to read a loaded model's text tower: its config, its tensors' names, and how to get some of them."""

    config: Mapping[str, Any]
    names: list[str]
    read: Callable[[list[str]], Iterable[tuple[str, Tensor]]]


def _loaded_tower(loaded: LoadedModel) -> _Tower | None:
    if loaded.config is not None:
        return _Tower(
            loaded.config, list(loaded.shapes), lambda wanted: ((name, loaded.tensor(name)) for name in wanted)
        )
    tower = find_tower(loaded.shapes, "")
    if tower is None:
        return None
    return _Tower(tower.config, tower.names(), lambda wanted: tower.read(wanted, loaded.tensor))


def _from_loaded(loaded: LoadedModel, width: int, places: Places) -> TextSource | None:
    tower = _loaded_tower(loaded)
    tokenizer = None if tower is None else find_tokenizer(tower.config["vocab_size"], places)
    if tower is None or tower.config["hidden_size"] != width or tokenizer is None:
        return None

    def load(dtype: torch.dtype | None) -> TextEncoder:
        loaded.fetch()
        return _build(tower.config, tower.names, tower.read, tokenizer(), dtype, loaded.name)

    return TextSource("openclip", f"the loaded model {loaded.name}", load)


def _checkpoint_loader(
    path: Path, tokenizer: Callable[[], Any]
) -> tuple[Callable[[torch.dtype | None], TextEncoder], Callable[[], object]]:
    return (
        lambda dtype: load_checkpoint_encoder(path, tokenizer(), dtype),
        lambda: load_checkpoint_encoder(path, tokenizer(), headers_only=True),
    )


def checkpoint_files(folders: Iterable[Path]) -> Iterator[Path]:
    """The .safetensors files in folders of checkpoints and their sub-folders, linked ones, too, and each folder once; a
    file given as such is itself.
    """
    seen: set[str] = set()  # links may form a loop
    for folder in folders:
        if folder.is_file():
            if folder.suffix.lower() == ".safetensors":
                yield folder
            continue
        for here, below, files in os.walk(folder, followlinks=True):
            real = os.path.realpath(here)
            if real in seen:
                below.clear()
                continue
            seen.add(real)
            below.sort()
            yield from (Path(here) / name for name in sorted(files) if name.lower().endswith(".safetensors"))


@lru_cache(maxsize=4096)
def _tower_of(path: str, stamp: tuple[int, ...]) -> OpenCLIPTower | None:  # stamp only tells old answers from new ones
    try:
        header = read_header(path)
    except ModuleFileError:
        return None
    shapes = {name: info.shape for name, info in header.tensors.items() if info.dtype in FLOATS}
    return find_tower(shapes, CHECKPOINT_PREFIX) or find_tower(shapes, TURBO_PREFIX)


def _build(
    config: Mapping[str, Any],
    names: Iterable[str],
    read: Callable[[list[str]], Iterable[tuple[str, Tensor]]],
    tokenizer: Any,
    dtype: torch.dtype | None,
    source: str,
) -> TextEncoder:
    model = build_model(config, names, read, projection=False, dtype=dtype, source=source)
    try:
        return OpenCLIPEncoder(model, tokenizer)
    except OMSError as error:
        raise ModuleFileError(f"{source}: {error}") from error


def _tokenizer_folders(places: Places) -> Iterator[Path]:
    for root in places.folders:
        for folder in (root / TEXT_ENCODERS_FOLDER / "openclip", *_folders(root)):
            yield from (folder / f"{prefix}tokenizer" for prefix in ("oms_", ""))


def _folders(root: Path) -> list[Path]:
    try:
        return sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    except OSError:
        return []


def _count_tokens(folder: Path) -> int:
    """How many tokens a tokenizer folder's vocabulary has; 0 where it has none, or one that is no CLIP's."""
    if not (folder / "merges.txt").is_file():
        return 0
    return _tokens_in(folder / "vocab.json", file_stamp(folder / "vocab.json"))


@lru_cache(maxsize=64)
def _tokens_in(vocabulary: Path, stamp: tuple[int, ...]) -> int:  # stamp only tells old answers from new ones
    try:
        words = read_json(vocabulary, 8 * 2**20)
    except ModuleFileError:
        return 0
    return len(words) if words.get(_PAD) == 0 else 0


def _shared_places(kind: str, width: int, places: Places) -> list[str]:
    """Where `_shared_source` looks, in words."""
    tried = []
    for root in places.folders:
        folder = root / TEXT_ENCODERS_FOLDER / kind
        wrong = _wrong_in(folder, kind, width) if holds_encoder(folder, kind) else ""
        tried.append(f"{folder} ({wrong})" if wrong else str(folder))
    if kind == "openclip":
        for place in places.checkpoints:
            count = sum(1 for _ in checkpoint_files([place]))
            tried.append(f"{count} checkpoints in {place}" if place.is_dir() else str(place))
    return [*tried, "the loaded model"]


def _without_tokenizer(own: Path, kind: str, width: int, places: Places) -> tuple[str, Path] | None:
    """What would serve if it had a tokenizer (a folder's weights, the loaded model, a checkpoint), and where that would
    be found.
    """
    for folder in (own, *(root / TEXT_ENCODERS_FOLDER / kind for root in places.folders)):
        parts = without_tokenizer(folder, kind)
        with suppress(ModuleFileError):
            if parts and sum(map(model_width, parts)) == width:
                put = parts[0].with_name(parts[0].name.replace("text_encoder", "tokenizer"))
                return " and ".join(map(str, parts)), put
    if kind != "openclip" or not places.folders:
        return None
    put = places.folders[0] / TEXT_ENCODERS_FOLDER / kind / "tokenizer"
    if places.loaded is not None:
        lent = _loaded_tower(places.loaded)
        if lent is not None and lent.config["hidden_size"] == width:
            return f"the loaded model {places.loaded.name}", put
    towers = ((path, checkpoint_tower(path)) for path in checkpoint_files(places.checkpoints))
    return next(((str(path), put) for path, tower in towers if tower is not None and tower.width == width), None)


def _nowhere(entry: ModuleEntry, lonely: tuple[str, Path] | None, tried: list[str]) -> str:
    kind = entry.text_encoder
    repositories = TEXT_ENCODERS[kind].repositories
    if lonely is not None:
        where, put = lonely
        return (
            f"the OMS model {entry.name!r} needs its text encoder ({kind}), and only its tokenizer is missing: "
            f"{where} holds the text encoder. Press Download in the accordion, run `python -m lib_oms download "
            f"text-encoder-{kind}`, or put vocab.json and merges.txt out of the folder tokenizer of one of "
            f"{', '.join(repositories)} into {put}. Looked for in {', '.join(tried)}"
        )
    instead = f"{TEXT_ENCODERS[kind].instead}, " if TEXT_ENCODERS[kind].instead else ""
    return (
        f"the OMS model {entry.name!r} needs its text encoder ({kind}): press Download in the accordion or run "
        f"`python -m lib_oms download text-encoder-{kind}`, {instead}or put its folders from one of "
        f"{', '.join(repositories)} beside oms_module. Looked for in {', '.join(tried)}"
    )
