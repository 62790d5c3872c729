"""Judges pictures that exist: a folder of raw ones, one of OMS ones, and one of real ones where there is any.

Pictures are read one after another, so that folders may be of any size.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageColor, ImageOps
from tqdm import tqdm

from lib_oms.errors import OMSError
from lib_oms.judging import metrics
from lib_oms.judging.asked import BRIGHTNESS_PROMPTS, COLORS, group
from lib_oms.training.dataset import PICTURE_SUFFIXES

LONGEST_SIDE = 512
"""Pixels of the longer side at which edges and colors are compared; brightness is of the picture as it is."""


@dataclass(frozen=True)
class Folder:
    """The pictures of a folder, in the order of their names.

    paths: by name, which is the path in the folder without its ending.
    means: brightness, 0..1, [N]; grounds: the color of the background, RGB 0..1, [N, 3]; colorfulness: 0..1, [N].
    """

    path: Path
    paths: Mapping[str, Path]
    means: np.ndarray
    grounds: np.ndarray
    colorfulness: np.ndarray

    def chosen(self, names: Sequence[str]) -> Folder:
        """Only the pictures of these names."""
        place = {name: index for index, name in enumerate(self.paths)}
        rows = [place[name] for name in names]
        return Folder(
            self.path,
            {name: self.paths[name] for name in names},
            self.means[rows],
            self.grounds[rows],
            self.colorfulness[rows],
        )


@dataclass
class Findings:
    """What two folders show. Means 0..1, distances in gray levels (0..255); None: there is nothing to tell it by."""

    pictures_raw: int
    pictures_oms: int
    pairs: int
    pictures_reference: int
    mean_raw: float
    mean_oms: float
    mean_reference: float | None
    spread_raw: float
    spread_oms: float
    spread_reference: float | None
    """Standard deviation of the pictures' brightness."""
    wasserstein_raw: float | None
    wasserstein_oms: float | None
    ratio: float | None
    colorfulness_raw: float
    colorfulness_oms: float
    composition: float | None
    """How much of the composition pairs share: the correlation of their edges."""


@dataclass
class PromptBrightness:
    """The mean brightness of the pictures of one prompt of the brightness test, 0..1."""

    name: str
    pictures: int
    raw: float
    oms: float


@dataclass
class ColorErrors:
    """CIEDE2000 between the backgrounds and the colors asked for, by names or by codes; 2.3 is just noticeable."""

    way: str
    pictures: int
    mean_raw: float
    mean_oms: float
    p95_raw: float
    p95_oms: float


def read_folder(path: Path) -> Folder:
    """Reads what is judged of each picture in a folder and in the folders in it.

    Raises:
        OMSError: there is no such folder, it has no pictures, or one of them is broken.
    """
    if not path.is_dir():
        raise OMSError(f"{path} is no folder")
    files = sorted(file for file in path.rglob("*") if file.suffix.lower() in PICTURE_SUFFIXES and file.name[0] != ".")
    if not files:
        raise OMSError(f"{path} holds no pictures ({', '.join(sorted(PICTURE_SUFFIXES))})")
    paths: dict[str, Path] = {}
    for file in files:
        name = file.relative_to(path).with_suffix("").as_posix()
        if name in paths:
            raise OMSError(f"{file} and {paths[name]} have one name: pictures are told apart by it")
        paths[name] = file
    means, grounds, colorfulness = [], [], []
    for file in tqdm(files, desc=f"reading {path.name}", unit="picture"):
        picture = pixels(file)[None]
        means.append(metrics.picture_means(picture)[0])
        grounds.append(metrics.background_colors(picture)[0])
        colorfulness.append(metrics.colorfulness(picture)[0])
    return Folder(path, paths, np.array(means), np.array(grounds), np.array(colorfulness))


def pixels(file: Path, longest: int | None = None) -> np.ndarray:
    """A picture [H, W, 3], 0..1, as it is to be seen: turned as its camera says, made smaller where it is `longest`er.

    Raises:
        OMSError: it cannot be read.
    """
    try:
        with Image.open(file) as opened:
            picture = ImageOps.exif_transpose(opened).convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise OMSError(f"{file}: the picture cannot be read ({error})") from error
    if longest is not None:
        picture.thumbnail((longest, longest))
    return np.asarray(picture, dtype=np.float32) / np.float32(255)


def caption_of(file: Path) -> str | None:
    """The prompt in a picture's infotext, if it has one."""
    with Image.open(file) as picture:
        infotext = picture.info.get("parameters")
    return re.split(r"\n(?:Negative prompt|Steps): ", infotext)[0] if isinstance(infotext, str) else None


def pair_up(raw: Folder, oms: Folder) -> list[str]:
    """The names that both folders have."""
    return [name for name in raw.paths if name in oms.paths]


def judge(raw: Folder, oms: Folder, reference: Folder | None = None) -> Findings:
    """Compares brightness, and the pairs where names agree."""
    names = pair_up(raw, oms)
    agreements = [
        metrics.edge_agreement(first[None], second[None])
        for first, second in (
            (pixels(raw.paths[name], LONGEST_SIDE), pixels(oms.paths[name], LONGEST_SIDE))
            for name in tqdm(names, desc="comparing pairs", unit="pair")
        )
        if first.shape == second.shape
    ]
    distances = [metrics.wasserstein(side.means, reference.means) if reference else None for side in (raw, oms)]
    return Findings(
        pictures_raw=len(raw.paths), pictures_oms=len(oms.paths), pairs=len(names),
        pictures_reference=len(reference.paths) if reference else 0,
        mean_raw=float(raw.means.mean()), mean_oms=float(oms.means.mean()),
        mean_reference=float(reference.means.mean()) if reference else None,
        spread_raw=float(raw.means.std()), spread_oms=float(oms.means.std()),
        spread_reference=float(reference.means.std()) if reference else None,
        wasserstein_raw=distances[0], wasserstein_oms=distances[1],
        ratio=distances[0] / max(distances[1], 1e-9) if distances[0] is not None and distances[1] is not None else None,
        colorfulness_raw=float(raw.colorfulness.mean()), colorfulness_oms=float(oms.colorfulness.mean()),
        composition=float(np.mean(agreements)) if agreements else None,
    )  # fmt: skip


def judge_brightness(raw: Folder, oms: Folder) -> list[PromptBrightness]:
    """The mean brightness for each prompt of `asked.brightness_pairs`, over the pairs that are there."""
    found = []
    groups = _groups(raw, oms)
    for name in BRIGHTNESS_PROMPTS:
        if not (members := groups.get(name)):
            continue
        sides = [float(side.chosen(members).means.mean()) for side in (raw, oms)]
        found.append(PromptBrightness(name, len(members), *sides))
    return found


def judge_colors(raw: Folder, oms: Folder) -> list[ColorErrors]:
    """How far the backgrounds of `asked.color_pairs` are from the colors asked for."""
    codes = {name.replace(" ", "-"): code for name, code in COLORS.items()}
    found = []
    for way in ("name", "code"):
        members = {
            name: codes[prompt.partition("-")[2]]
            for prompt, names in _groups(raw, oms).items()
            if prompt.partition("-")[0] == way
            for name in names
        }
        if not members:
            continue
        asked = np.array([ImageColor.getrgb(code) for code in members.values()]) / 255
        errors = [metrics.color_differences(side.chosen(list(members)).grounds, asked) for side in (raw, oms)]
        found.append(
            ColorErrors(
                way, len(members), *(float(e.mean()) for e in errors), *(float(np.percentile(e, 95)) for e in errors)
            )
        )
    return found


def _groups(raw: Folder, oms: Folder) -> dict[str, list[str]]:
    grouped: dict[str, list[str]] = {}
    for name in pair_up(raw, oms):
        grouped.setdefault(group(name), []).append(name)
    return grouped
