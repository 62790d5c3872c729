"""A style: the low frequencies of a folder of pictures, and how they vary (signal-leak bias, arXiv 2309.15842).

The K x K lowest DCT coefficients of the pictures' latents, all channels in one vector c, have a mean and a covariance.
A picture in that style starts from a draw of its own,

    c = mean + covariance^(1/2) z,      z: the same coefficients of the noise that the host drew

z is N(0, 1), so that c has the folder's law; it belongs to the seed, moves with it as a variation's noise does, and is
what `quiet` takes out of the noise, which otherwise would say it twice. The root is the symmetric one, which every
machine computes alike. Coefficients are counted per sqrt(h w), so that the first is the mean whatever the size.

The file says whose latents they are by what that VAE makes of black, white and the primaries: the same of every copy of
a VAE, whatever its precision and its names for its weights.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from lib_oms.errors import ModuleFileError, OMSError, SettingError, readable
from lib_oms.files import FLOATS, file_stamp, read_header, written_whole
from lib_oms.settings import close_to
from lib_oms.step import Directions, coefficients, of_coefficients

FREQUENCIES = 6
"""K: as many as the noise gives way for a style."""
STYLES_FOLDER = "styles"
"""Below a folder with OMS models."""
_KIND = "style"
_MOST_FREQUENCIES, _MOST_CHANNELS = 16, 64
_labelled = re.compile(r"(?P<name>.+) \[(?P<fingerprint>[0-9a-f]{10})\]", re.DOTALL)
_SAME = 0.1
"""Two VAEs are of one kind whose flat colors differ by no more than this share of the way from black to white."""


@dataclass(frozen=True)
class Style:
    """mean: [C, K, K]; covariance: [C K K, C K K]; colors: [5, C], the latents of `REFERENCE_COLORS`; float64."""

    mean: Tensor
    covariance: Tensor
    colors: Tensor

    def drawn(self, noise: Tensor) -> Tensor:
        """The style's latent for each picture's noise [B, C, h, w], in that shape; float32 on the CPU.

        Raises:
            OMSError: the noise has other channels.
        """
        height, width = noise.shape[-2:]
        if noise.ndim != 4 or noise.shape[1] != len(self.mean):
            raise OMSError(f"the style has {len(self.mean)} channels, the noise has the shape {list(noise.shape)}")
        z = coefficients(noise, self.mean.shape[-1]).flatten(1)
        values = self.mean.flatten() + z @ self._root
        return of_coefficients(math.sqrt(height * width) * values.reshape(-1, *self.mean.shape), height, width)

    def check(self, directions: Directions) -> None:
        """Raises OMSError where the VAE of these directions makes other latents than the style was made of."""
        own = directions.latents
        if own.shape == self.colors.shape:
            black, white = own[:2]
            if float((own - self.colors).norm(dim=1).max()) <= _SAME * float((white - black).norm()):
                return
        raise OMSError(
            "the style was made of another VAE's latents. Make it anew for this one: python -m lib_oms style FOLDER "
            "--vae VAE"
        )

    @property
    def fingerprint(self) -> str:
        """Ten hexadecimal digits that tell it from a style that was made anew."""
        digest = hashlib.sha256()
        for tensor in (self.mean, self.covariance, self.colors):
            digest.update(tensor.float().contiguous().numpy().tobytes())
        return digest.hexdigest()[:10]

    @property
    def _root(self) -> Tensor:
        values, vectors = torch.linalg.eigh(self.covariance)
        return vectors @ torch.diag(values.clamp_min(0).sqrt()) @ vectors.T

    def save(self, path: Path) -> None:
        """Writes the file, whole or not at all."""
        values = {"mean": self.mean, "covariance": self.covariance, "colors": self.colors}
        tensors = {name: tensor.float().contiguous() for name, tensor in values.items()}
        path.parent.mkdir(parents=True, exist_ok=True)
        with written_whole(path) as part:
            save_file(tensors, part, {"oms.kind": _KIND})


def style_of(latents: Iterable[Tensor], directions: Directions) -> Style:
    """The style of pictures' latents, each [C, h, w] of any size, two or more; and of the VAE that they are from.

    Raises:
        OMSError: they are fewer.
    """
    rows = [coefficients(latent, FREQUENCIES) / math.sqrt(math.prod(latent.shape[-2:])) for latent in latents]
    if len(rows) < 2:
        raise OMSError(f"a style takes two pictures at least, to know how they differ; there are {len(rows)}")
    found = torch.stack(rows)
    return Style(found.mean(dim=0), torch.cov(found.flatten(1).T), directions.latents)


def load_style(path: Path) -> Style:
    """The style in a file; kept until the file changes.

    Raises:
        ModuleFileError: it holds none, or a broken one.
    """
    return _load(path, file_stamp(path))


@lru_cache(maxsize=4)
def _load(path: Path, stamp: tuple[int, ...]) -> Style:  # stamp only tells old answers from new ones
    header = read_header(path)
    if header.metadata.get("oms.kind") != _KIND or not {"mean", "covariance", "colors"} <= header.tensors.keys():
        raise ModuleFileError(f"{path}: is no style; `python -m lib_oms style FOLDER` makes one")
    mean, covariance, colors = (header.tensors[name].shape for name in ("mean", "covariance", "colors"))
    fits = len(mean) == 3 and 1 <= mean[0] <= _MOST_CHANNELS and 1 <= mean[1] == mean[2] <= _MOST_FREQUENCIES
    if (
        not fits
        or covariance != (math.prod(mean),) * 2
        or colors != (5, mean[0])
        or any(tensor.dtype not in FLOATS for tensor in header.tensors.values())
    ):
        raise ModuleFileError(f"{path}: its tensors are not those of a style")
    tensors = {name: tensor.to(torch.float64) for name, tensor in load_file(path).items()}
    if not all(bool(torch.isfinite(tensor).all()) for tensor in tensors.values()):
        raise ModuleFileError(f"{path}: holds NaN or infinity")
    return Style(tensors["mean"], tensors["covariance"], tensors["colors"])


def styles(folders: Iterable[Path]) -> dict[str, Path]:
    """The styles in folders with OMS models, by name; of two of one name the first folder's."""
    found: dict[str, Path] = {}
    for folder in folders:
        try:
            files = sorted((folder / STYLES_FOLDER).iterdir())
        except OSError:
            continue
        for path in files:
            name = readable(path.stem)
            if path.suffix.lower() == ".safetensors" and not name.startswith(".") and path.is_file():
                found.setdefault(name, path)
    return found


def find_style(name: str, folders: Iterable[Path]) -> Style:
    """The style of this name, or of this name and fingerprint; a name is looked up in what is there, and never made a
    path.

    Raises:
        SettingError: there is none, or it is another one now.
        ModuleFileError: as `load_style`.
    """
    return _find(name.strip(), folders)[1]


def labelled_style(name: str, folders: Iterable[Path]) -> str:
    """What infotext calls a style: its name, and its fingerprint in brackets. Raises as `find_style`."""
    found, style = _find(name.strip(), folders)
    return f"{found} [{style.fingerprint}]"


def _find(name: str, folders: Iterable[Path]) -> tuple[str, Style]:
    there = styles(folders)
    labelled = _labelled.fullmatch(name)
    if name not in there and labelled and labelled["name"] in there:
        name = labelled["name"]
        style = load_style(there[name])
        if style.fingerprint != labelled["fingerprint"]:
            raise SettingError(
                f"OMS style (style): the style {name!r:.80} was made anew since the picture that asks for it: it is "
                f"{style.fingerprint} now, and was {labelled['fingerprint']}. Choose {name!r:.80} to draw from it as "
                "it is."
            )
        return name, style
    if name not in there:
        known = f" There are {', '.join(there)}." if there else " There is none yet: python -m lib_oms style FOLDER."
        raise SettingError(f"OMS style (style): there is no style {name!r:.80}.{close_to(name, there)}{known}")
    return name, load_style(there[name])
