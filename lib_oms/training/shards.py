"""Pictures with captions in shards, which are read from front to back: WebDataset's .tar files, Hugging Face datasets.

The libraries that read them are no part of a WebUI, and are imported only here and only when such data is named.
"""

from __future__ import annotations

import glob
import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from lib_oms.errors import OMSError
from lib_oms.training.dataset import PICTURE_SUFFIXES, hash_json
from lib_oms.training.optional import library

HUB = "hf:"
SAVED = ("dataset_dict.json", "dataset_info.json")  # what datasets' save_to_disk writes
PARTS_OF_SAVED = 64  # what lies on disk as one can be begun anywhere, so it is cut into as many shards

Place = int | dict[str, Any] | None
"""Where in a shard the next sample begins, as its library says it (JSON); None for the beginning."""


@dataclass(frozen=True)
class Sample:
    """A picture's file, its caption, and where it came from, for messages."""

    picture: bytes
    caption: str
    where: str


class Reading:
    """A shard that is being read."""

    def __init__(self, samples: Iterator[Sample], place: Callable[[int], Place]):
        self._samples, self._place, self._count = samples, place, 0

    def take(self, count: int) -> list[Sample]:
        """The next samples; fewer where the shard ends."""
        taken = list(itertools.islice(self._samples, count))
        self._count += len(taken)
        return taken

    def place(self) -> Place:
        """Where the next sample begins."""
        return self._place(self._count)


class Shards(Protocol):
    """Data in parts. `identity` is another one for other data, as far as that is known without reading it."""

    identity: str

    def __len__(self) -> int:
        """How many shards there are."""

    def read(self, shard: int, place: Place) -> Reading:
        """Goes on reading a shard where it was left."""


def find_shards(data: str, image_column: str, caption_column: str) -> Shards | None:
    """The shards that `data` names; None where it is a folder of pictures, or nothing.

    Args:
        data: .tar or .parquet files (names with {000..099} or *, for .tar also addresses), a folder of them, a folder
            that datasets' save_to_disk wrote, or "hf:" and a dataset of the hub, which is streamed from there.
        image_column: of Hugging Face datasets.
        caption_column: of Hugging Face datasets, and of a WebDataset's .json; where it has none, its .txt is read.

    Raises:
        OMSError: the library that reads them is missing; no file has such a name; a folder of this and that.
    """
    if data.startswith(HUB):
        return HuggingFaceShards(_from_hub(data.removeprefix(HUB)), hash_json(data), image_column, caption_column)
    folder = Path(data)
    if not folder.is_dir():
        if data.lower().endswith(".tar"):
            return TarShards(data, caption_column)
        if data.lower().endswith(".parquet"):
            files = sorted(glob.glob(data))
            if not files:
                raise OMSError(f"data {data}: there is no such file.")
            return HuggingFaceShards(_from_parquet(files), _names_and_sizes(files), image_column, caption_column)
        return None
    if any((folder / name).is_file() for name in SAVED):
        files = sorted(map(str, folder.rglob("*.arrow")))
        return HuggingFaceShards(_from_disk(folder), _names_and_sizes(files), image_column, caption_column)
    tars, tables = (sorted(map(str, folder.rglob(f"*.{kind}"))) for kind in ("tar", "parquet"))
    if not tars and not tables:
        return None
    if (tars and tables) or any(path.suffix.lower() in PICTURE_SUFFIXES for path in folder.rglob("*")):
        raise OMSError(
            f"data {data}: the folder holds shards and other data: keep one of them there, or name the shards, as in "
            f"{data}/*.tar."
        )
    if tars:
        return TarShards(tars, caption_column)
    return HuggingFaceShards(_from_parquet(tables), _names_and_sizes(tables), image_column, caption_column)


class TarShards:
    """WebDataset: .tar files in which a picture and its caption (.txt, or a column of its .json) have one name."""

    def __init__(self, names: str | Sequence[str], caption_column: str):
        self._library = library("webdataset", ".tar shards are read by")
        if isinstance(names, str) and "://" not in names and not names.startswith("pipe:"):
            names = [name for pattern in self._library.shardlists.expand_urls(names)
                     for name in (sorted(glob.glob(pattern)) or [pattern])]  # fmt: skip
            missing = [name for name in names if not Path(name).is_file()]
            if missing:
                raise OMSError(f"data: {len(missing)} of {len(names)} shards do not exist, the first is {missing[0]}.")
        self._names = list(self._library.shardlists.expand_urls(names)) if isinstance(names, str) else list(names)
        self._column = caption_column
        self.identity = _names_and_sizes(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def read(self, shard: int, place: Place) -> Reading:
        """Goes on reading a shard; what came before is passed over, for a .tar has no list of what it holds."""
        name, start = self._names[shard], int(place) if isinstance(place, int) else 0
        # The shards are dealt out and shuffled by us, so that it is the same with any number of processes.
        rows = self._library.WebDataset([name], shardshuffle=False, nodesplitter=None, empty_check=False)
        return Reading(self._samples(name, rows.slice(start, None)), lambda count: start + count)

    def _samples(self, name: str, rows: Any) -> Iterator[Sample]:
        try:
            for row in rows:
                where = f"{row['__key__']} in {name}"
                picture = next((row[key] for key in row if f".{key.lower()}" in PICTURE_SUFFIXES), None)
                if picture is None:
                    raise OMSError(f"{where}: no picture; the endings there: {', '.join(_endings(row)) or 'none'}.")
                yield Sample(picture, self._caption(row, where), where)
        except OMSError:
            raise
        except Exception as error:  # what is raised depends on where the shard is: OSError, tarfile's, urllib's, ...
            raise OMSError(f"The shard {name} cannot be read ({error}): fetch it again, or leave it out.") from error

    def _caption(self, row: Mapping[str, Any], where: str) -> str:
        try:
            told = json.loads(row["json"]) if "json" in row else {}
            caption = told.get(self._column) if isinstance(told, dict) else None
            if isinstance(caption, str):
                return caption.strip()
            return row["txt"].decode("utf-8").strip()
        except KeyError:
            raise OMSError(
                f"{where}: no caption; it has neither a .txt nor a .json with the column {self._column!r} (the "
                f"endings there: {', '.join(_endings(row))})."
            ) from None
        except ValueError as error:
            raise OMSError(f"{where}: the caption cannot be read ({error}).") from error


class HuggingFaceShards:
    """A dataset of Hugging Face's library, on disk or streamed."""

    def __init__(self, dataset: Any, identity: str, image_column: str, caption_column: str):
        self._dataset, self.identity = dataset, identity
        self._image, self._caption = image_column, caption_column

    def __len__(self) -> int:
        return int(self._dataset.num_shards)

    def read(self, shard: int, place: Place) -> Reading:
        """Goes on reading a shard, by the library's own state."""
        rows = self._dataset.shard(num_shards=len(self), index=shard)
        if isinstance(place, dict):
            rows.load_state_dict(place)
        return Reading((self._sample(row) for row in rows), lambda _: rows.state_dict())

    def _sample(self, row: Mapping[str, Any]) -> Sample:
        for option, column in (("image-column", self._image), ("caption-column", self._caption)):
            if row.get(column) is None:
                columns = ", ".join(row)
                raise OMSError(f"data: a row has nothing in the column {column!r}: give --{option} (of {columns}).")
        picture, caption = row[self._image], row[self._caption]
        if isinstance(picture, Mapping):
            name, picture = picture.get("path"), picture.get("bytes")
            if picture is None and name and Path(name).is_file():
                picture = Path(name).read_bytes()
        if not isinstance(picture, bytes) or not isinstance(caption, str):
            raise OMSError(
                f"data: the columns {self._image!r} and {self._caption!r} must hold a picture's file and a text."
            )
        return Sample(picture, caption.strip(), f"a row with the caption {caption[:60]!r}")


def _from_hub(name: str) -> Any:
    datasets = library("datasets", "Hugging Face datasets are read by")
    try:
        return datasets.load_dataset(name, split="train", streaming=True).decode(False)
    except Exception as error:  # of its own, of the hub's client, of the network's
        raise OMSError(f"data {HUB}{name}: the dataset cannot be opened ({error}).") from error


def _from_parquet(files: Sequence[str]) -> Any:
    datasets = library("datasets", "Hugging Face datasets are read by")
    try:
        dataset = datasets.load_dataset("parquet", data_files=list(files), split="train", streaming=True)
        return dataset.decode(False)
    except Exception as error:
        raise OMSError(f"data {files[0]}: the dataset cannot be opened ({error}).") from error


def _from_disk(folder: Path) -> Any:
    datasets = library("datasets", "Hugging Face datasets are read by")
    try:
        dataset = datasets.load_from_disk(str(folder))
        if isinstance(dataset, datasets.DatasetDict):
            dataset = dataset["train"]
        shards = max(1, min(PARTS_OF_SAVED, len(dataset)))
        return dataset.to_iterable_dataset(num_shards=shards).decode(False)
    except Exception as error:
        raise OMSError(f"data {folder}: the dataset cannot be opened ({error}).") from error


def _endings(row: Mapping[str, Any]) -> list[str]:
    return [key for key in row if not key.startswith("__")]


def _names_and_sizes(files: Sequence[str]) -> str:
    """What tells one set of files from another without reading terabytes."""
    return hash_json([[Path(file).name, Path(file).stat().st_size if Path(file).is_file() else 0] for file in files])
