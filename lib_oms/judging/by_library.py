"""What well-kept libraries say of pictures, by weights that a person has on this machine; nothing is downloaded.

FID by torchmetrics, precision, recall, density and coverage by prdc (Naeem et al.), both of the features of one
network; CLIP score by torchmetrics; PickScore by transformers, as its model is a CLIP; ImageReward by its own library.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from lib_oms.errors import OMSError
from lib_oms.judging.folders import caption_of, pixels
from lib_oms.judging.plots import to_image

BATCH = 16
NEAREST = 5
"""The neighbor whose distance is a point's own reach, as in the paper of density and coverage."""
OF_FEATURES = ("FID", "precision", "recall", "density", "coverage")
TOKENIZER = "bert-base-uncased"
"""ImageReward's, by the name under which its library asks for it."""
OPTIONS = {
    "CLIP score": "clip",
    "PickScore": "pickscore",
    "ImageReward": "imagereward",
    **dict.fromkeys(OF_FEATURES, "features"),
}
"""By which option of the command a measure gets its weights."""
EXTRA, BROUGHT = "judge", ("torchmetrics", "prdc", "sklearn")
"""The extra of pyproject.toml that brings libraries, and which."""


@dataclass(frozen=True)
class Weights:
    """Where the networks of the measures are; None: that measure is left out.

    features: a TorchScript file that makes features of pictures [B, 3, H, W] of 0 to 255, such as the Inception of FID
        (inception-2015-12-05.pt), or a folder that transformers reads, such as a DINOv2 or a CLIP.
    clip, pickscore: folders that transformers reads.
    imagereward: a folder with ImageReward.pt, med_config.json and the folder bert-base-uncased with that tokenizer.
    """

    features: Path | None = None
    clip: Path | None = None
    pickscore: Path | None = None
    imagereward: Path | None = None
    device: str = "cpu"

    def check(self) -> None:
        """Raises OMSError where one of them is not there: nobody shall hear of it hours later."""
        for option in dict.fromkeys(OPTIONS.values()):
            path = getattr(self, option)
            if path is not None and not path.exists():
                raise OMSError(f"--{option} {path}: there is nothing")


@dataclass(frozen=True)
class Measure:
    """One measure of both folders."""

    name: str
    raw: float
    oms: float


def measure(
    raw: Sequence[Path], oms: Sequence[Path], reference: Sequence[Path], weights: Weights
) -> tuple[list[Measure], list[str]]:
    """All that there is library, weights and data for, and what is left out, with the reason in words.

    Args:
        reference: real pictures, which the measures of features compare with.
    """
    found: list[Measure] = []
    left_out: list[str] = []

    def attempt(names: Sequence[str], needs: str | None, do: Callable[[Path], list[Measure]]) -> None:
        option = OPTIONS[names[0]]
        path = getattr(weights, option)
        listed = ", ".join(names)
        if path is None:
            left_out.append(f"{listed}: no weights given; give --{option}")
        elif needs is not None:
            left_out.append(f"{listed}: {needs}")
        else:
            try:
                found.extend(do(path))
            except ImportError as error:
                hint = f"; the extra {EXTRA!r} brings it" if error.name in BROUGHT else ""
                left_out.append(f"{listed}: the library {error.name or error} is not installed here{hint}")
            except Exception as error:  # whatever a library says of foreign weights
                left_out.append(f"{listed}: {path} cannot be used ({type(error).__name__}: {error})")

    no_data = None if reference else "no real pictures given; give --reference"
    captions = [[caption_of(file) for file in side] for side in (raw, oms)]
    no_text = None if all(map(all, captions)) else "not all pictures have a prompt in their infotext"
    texts = [[caption or "" for caption in side] for side in captions]
    sides = list(zip((raw, oms), texts, strict=True))

    def pair(name: str, score: Callable[[Sequence[Path], Sequence[str]], float]) -> list[Measure]:
        return [Measure(name, *(score(*side) for side in sides))]

    attempt(OF_FEATURES, no_data, lambda path: _by_features(_Features(path, weights.device), raw, oms, reference))
    attempt(["CLIP score"], no_text, lambda path: pair("CLIP score", _clip_score(path, weights.device)))
    attempt(["PickScore"], no_text, lambda path: pair("PickScore", _pick_score(path, weights.device)))
    attempt(["ImageReward"], no_text, lambda path: pair("ImageReward", _image_reward(path, weights.device)))
    return found, left_out


class _Features:
    """The network whose features are compared."""

    def __init__(self, path: Path, device: str) -> None:
        self._device = device
        self._processor: Any = None
        if path.is_file():
            self._network = torch.jit.load(str(path), map_location=device).eval()
            return
        from transformers import AutoImageProcessor, AutoModel

        network = AutoModel.from_pretrained(path, local_files_only=True)
        self._network = getattr(network, "vision_model", network).to(device).eval()  # of CLIP and its like a half
        self._processor = AutoImageProcessor.from_pretrained(path, local_files_only=True)

    @torch.no_grad()
    def of(self, files: Sequence[Path]) -> np.ndarray:
        """[N, D], float64."""
        return np.concatenate([self._batch(batch).double().cpu().numpy() for batch in _batches(files, "features")])

    def _batch(self, files: Sequence[Path]) -> Tensor:
        if self._processor is None:  # pictures may differ in size, which the network itself makes alike
            return torch.cat([self._scripted(_bytes(file).to(self._device)) for file in files])
        shown = self._processor(images=[_image(file) for file in files], return_tensors="pt")
        answer = self._network(pixel_values=shown["pixel_values"].to(self._device))
        pooled = getattr(answer, "pooler_output", None)
        return answer.last_hidden_state[:, 0] if pooled is None else pooled

    def _scripted(self, picture: Tensor) -> Tensor:
        named = {argument.name for argument in self._network.forward.schema.arguments}
        answer = self._network(picture, return_features=True) if "return_features" in named else self._network(picture)
        return answer.flatten(1)


def _by_features(
    network: _Features, raw: Sequence[Path], oms: Sequence[Path], reference: Sequence[Path]
) -> list[Measure]:
    from prdc import compute_prdc
    from torchmetrics.image.fid import FrechetInceptionDistance

    real, *made = (network.of(files) for files in (reference, raw, oms))
    if min(map(len, (real, *made))) <= NEAREST:
        raise OMSError(f"more than {NEAREST} pictures are needed in each folder")

    def fid(features: np.ndarray) -> float:
        given = torch.nn.Identity()  # the features are there already
        given.num_features = real.shape[1]  # type: ignore[assignment]
        distance = FrechetInceptionDistance(feature=given)
        distance.set_dtype(torch.float64)
        distance.update(torch.from_numpy(real), real=True)
        distance.update(torch.from_numpy(features), real=False)
        return float(distance.compute())

    with redirect_stdout(sys.stderr):  # it prints how many there are
        neighbors = [compute_prdc(real_features=real, fake_features=side, nearest_k=NEAREST) for side in made]
    return [
        Measure("FID", *map(fid, made)),
        *(Measure(name, *(float(side[name]) for side in neighbors)) for name in OF_FEATURES[1:]),
    ]


def _clip_score(path: Path, device: str) -> Callable[[Sequence[Path], Sequence[str]], float]:
    """As papers have it, 0..1."""
    from torchmetrics.multimodal import CLIPScore
    from transformers import CLIPModel, CLIPProcessor

    def load() -> tuple[Any, Any]:
        return tuple(part.from_pretrained(path, local_files_only=True) for part in (CLIPModel, CLIPProcessor))

    metric = CLIPScore(model_name_or_path=load).to(device)

    def score(files: Sequence[Path], captions: Sequence[str]) -> float:
        metric.reset()
        for batch, texts in zip(_batches(files, "CLIP score"), _cut(captions), strict=True):
            metric.update([_bytes(file)[0].to(device) for file in batch], list(texts))
        return float(metric.compute()) / 100

    return score


def _pick_score(path: Path, device: str) -> Callable[[Sequence[Path], Sequence[str]], float]:
    from transformers import AutoModel, AutoProcessor

    model = AutoModel.from_pretrained(path, local_files_only=True).to(device).eval()
    processor = AutoProcessor.from_pretrained(path, local_files_only=True)

    @torch.no_grad()
    def score(files: Sequence[Path], captions: Sequence[str]) -> float:
        scores = []
        for batch, texts in zip(_batches(files, "PickScore"), _cut(captions), strict=True):
            shown = processor(
                images=[_image(file) for file in batch], text=list(texts), padding=True, truncation=True,
                return_tensors="pt",
            )  # fmt: skip
            scores.append(model(**shown.to(device)).logits_per_image.diagonal().cpu())
        return float(torch.cat(scores).mean())

    return score


def _image_reward(path: Path, device: str) -> Callable[[Sequence[Path], Sequence[str]], float]:
    import ImageReward

    checkpoint, config = (path.resolve() / name for name in ("ImageReward.pt", "med_config.json"))
    for part in (checkpoint, config, path / TOKENIZER):
        if not part.exists():
            raise OMSError(f"it lacks {part.name}")
    with redirect_stdout(sys.stderr), _inside(path):  # a folder of the name is taken before the hub is asked
        model = ImageReward.load(str(checkpoint), device=device, med_config=str(config))

    def score(files: Sequence[Path], captions: Sequence[str]) -> float:
        pairs = tqdm(zip(files, captions, strict=True), desc="ImageReward", total=len(files), unit="picture")
        return float(np.mean([model.score(caption, str(file)) for file, caption in pairs]))

    return score


@contextmanager
def _inside(folder: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def _batches(files: Sequence[Path], what: str) -> Iterator[Sequence[Path]]:
    with tqdm(total=len(files), desc=what, unit="picture") as bar:
        for batch in _cut(files):
            yield batch
            bar.update(len(batch))


def _cut(items: Sequence[Any]) -> Iterator[Sequence[Any]]:
    return (items[start : start + BATCH] for start in range(0, len(items), BATCH))


def _bytes(file: Path) -> Tensor:
    """[1, 3, H, W], uint8."""
    return torch.from_numpy(np.array(_image(file))).permute(2, 0, 1)[None]


def _image(file: Path) -> Image.Image:
    return to_image(pixels(file))
