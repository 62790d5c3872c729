"""What the trainer draws from: scaled latents and encoded captions, computed once and kept on disk.

The cache holds shards of rows. A row is known by a hash of the picture's content or of the caption, a shard by one of
all else that made it (the encoder's files, the resolution). So nothing stale is ever read, only what is new is encoded,
and a run that was killed while it encoded goes on with the first shard that is missing. Shards of which nothing is
needed any more are deleted.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from lib_oms.devices import channels_last
from lib_oms.errors import OMSError, SettingError
from lib_oms.training.buckets import Size, nearest
from lib_oms.training.dataset import Example, hash_file, hash_json, load_picture, picture_size

if TYPE_CHECKING:
    from diffusers.models import AutoencoderKL

PICTURES_PER_SHARD = 1024
CAPTIONS_PER_SHARD = 512
EMPTY = 0  # the row of the empty caption in TrainingData.text


class Rows:
    """Shards of rows, seen as one tensor. Memory-mapped: only the rows that are asked for are read.

    Args:
        shards: one or more, [n, ...] each.
        order: which of all their rows are row 0, 1, ... here; all of them in their order, if not given.
    """

    def __init__(self, shards: Sequence[torch.Tensor], order: torch.Tensor | None = None):
        self.shards = list(shards)
        self.ends = torch.tensor([len(shard) for shard in self.shards]).cumsum(0)
        self.order = torch.arange(int(self.ends[-1])) if order is None else order
        self.shape = (len(self.order), *self.shards[0].shape[1:])

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: torch.Tensor) -> torch.Tensor:
        at = self.order[index]
        which = torch.searchsorted(self.ends, at, right=True)
        rows = []
        for shard, row in zip(which.tolist(), at.tolist(), strict=True):
            start = int(self.ends[shard - 1]) if shard else 0
            rows.append(self.shards[shard][row - start])
        return torch.stack(rows)


@dataclass
class TrainingData:
    """Pairs of latents and text.

    Attributes:
        latents: [P, C, h, w], x_0 in scaled latent space, one row a picture.
        text: [M, L, D], one row a caption; row 0 is the empty caption.
        pairs: [N, 2], int64: (row of latents, row of text) of each example.
        hashes: what the data was made from, name to SHA-256. A training continues only on data with the same.
    """

    latents: torch.Tensor | Rows
    text: torch.Tensor | Rows
    pairs: torch.Tensor
    hashes: dict[str, str] = field(default_factory=dict)

    @classmethod
    def from_tensors(
        cls, latents: torch.Tensor, text: torch.Tensor, caption: torch.Tensor, empty: torch.Tensor
    ) -> TrainingData:
        """For what is encoded already.

        Args:
            latents: [N, C, h, w], x_0 with the VAE's scaling factor applied.
            text: [M, L, D], the encoded captions, each once.
            caption: [N], the row of `text` that belongs to each latent.
            empty: [L, D], the encoded empty caption.
        """
        text = torch.cat([empty[None], text])
        pairs = torch.stack([torch.arange(len(latents)), caption.long().cpu() + 1], dim=1)
        digest = hashlib.sha256()
        for tensor in (latents, text, pairs):
            digest.update(str((tensor.dtype, tuple(tensor.shape))).encode())
            digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
        return cls(latents, text, pairs, {"dataset": digest.hexdigest()})

    def __len__(self) -> int:
        return len(self.pairs)

    @property
    def description(self) -> str:
        """How much there is of it, for messages and the module's file."""
        return f"{len(self)} examples"

    @property
    def text_width(self) -> int:
        """D of the text."""
        return int(self.text.shape[-1])

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """(C, h, w) of each picture's latents."""
        return tuple(self.latents.shape[1:])

    def batch(self, index: torch.Tensor, drop: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The examples of `index` [B], with the empty caption where `drop` [B] is True.

        Returns:
            x_0 [B, C, h, w] and text [B, L, D], both float32.
        """
        picture, caption = self.pairs[index].unbind(1)
        return self.latents[picture].float(), self.text[caption.masked_fill(drop, EMPTY)].float()


@dataclass
class BucketedData:
    """Pictures of several sizes: for every size its own data, all of it with the same text and hashes."""

    parts: list[TrainingData]
    hashes: dict[str, str]

    def __len__(self) -> int:
        return sum(len(part) for part in self.parts)

    @property
    def description(self) -> str:
        """How much there is of it, for messages and the module's file."""
        return f"{len(self)} examples in {len(self.parts)} sizes"

    @property
    def text_width(self) -> int:
        """D of the text."""
        return self.parts[0].text_width

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """(C, h, w) of the size that most pictures have."""
        return max(self.parts, key=len).latent_shape


@dataclass
class Encoders:
    """Where latents and text come from: loaded only if the cache lacks something.

    Attributes:
        vae: folder of a diffusers VAE.
        load_text: returns the function that encodes captions [B] to [B, L, D], on the given device.
        text_folders: the folders whose files decide what `load_text` computes.
        text_kind: what else does: which of their networks are used, and how.
    """

    vae: Path
    load_text: Callable[[torch.device], Callable[[Sequence[str]], torch.Tensor]]
    text_folders: Sequence[Path]
    text_kind: str


@dataclass
class Workers:
    """Who does the encoding: this process, one of `count`, which then waits for the others."""

    device: torch.device
    rank: int = 0
    count: int = 1
    wait: Callable[[], None] = lambda: None
    threads: int = 4
    progress: Callable[..., Iterable] = lambda items, **_: items


def encode_examples(
    examples: Sequence[Example],
    encoders: Encoders,
    resolution: int,
    cache: Path,
    workers: Workers,
    batch_size: int = 8,
    sizes: Sequence[Size] = (),
) -> TrainingData | BucketedData:
    """Encodes pictures and captions, each different one once, or finds them in the cache.

    `sizes`: a picture gets the one whose shape is most like its own, and there is data for each; without, all are
    squares of `resolution`.

    Latents are the mean of the VAE's distribution, not a sample: the loss is a squared error against x_0 and psi does
    not see which sample was drawn, so the minimum is the same and the gradient less noisy.

    Raises:
        OMSError: a picture cannot be read; the VAE's folder is none.
        SettingError: `resolution` is no multiple of the VAE's factor.
    """
    vae_factor(read_vae_config(encoders.vae), resolution)
    cache.mkdir(parents=True, exist_ok=True)
    paths = sorted({example.picture for example in examples})
    with ThreadPoolExecutor(workers.threads) as pool:
        content = dict(zip(paths, pool.map(hash_file, paths), strict=True))
        own = pool.map(picture_size, paths) if sizes else ()
        size_of = {path: nearest(sizes, size) for path, size in zip(paths, own, strict=True)} if sizes else {}
    square = (resolution, resolution)
    captions = {hash_json(caption): caption for caption in ["", *sorted({e.caption for e in examples} - {""})]}
    hashes = {
        "dataset": hash_json([[content[example.picture], example.caption] for example in examples]),
        **hash_encoders(encoders),
    }

    def encode_pictures(size: Size) -> Callable[[Sequence[Path]], torch.Tensor]:
        # Channels last: convolutions take half the time on a CPU.
        vae = channels_last(load_vae(encoders.vae), workers.device)

        def encode(paths: Sequence[Path]) -> torch.Tensor:
            with ThreadPoolExecutor(workers.threads) as pool:
                pixels = torch.stack(list(pool.map(lambda path: load_picture(path, size), paths)))
            return scaled_latents(vae, pixels.to(workers.device, memory_format=torch.channels_last))

        return encode

    # Text first: it is done sooner, so what is wrong with it is said sooner.
    text, used = _cached(
        "text", cache, captions, [hashes["text_encoder"], encoders.text_kind],
        CAPTIONS_PER_SHARD, lambda: encoders.load_text(workers.device), 4 * batch_size, workers,
    )  # fmt: skip
    caption_row = {caption: row for row, caption in enumerate(captions.values())}
    parts = []
    for size in sizes or [square]:
        shown = [example for example in examples if size_of.get(example.picture, square) == size]
        if not shown and sizes:
            continue
        pictures = {content[example.picture]: example.picture for example in shown}
        made_by = [hashes["vae"], resolution if size == square else list(size)]
        latents, files = _cached(
            "latents", cache, pictures, made_by,
            PICTURES_PER_SHARD, functools.partial(encode_pictures, size), batch_size, workers,
        )  # fmt: skip
        used |= files
        picture_row = {identity: row for row, identity in enumerate(pictures)}
        pairs = [[picture_row[content[example.picture]], caption_row[example.caption]] for example in shown]
        parts.append(TrainingData(latents, text, torch.tensor(pairs), hashes))
    if workers.rank == 0:
        _delete_others(cache, used)
    return BucketedData(parts, hashes) if sizes else parts[0]


def vae_factor(config: Mapping[str, Any], resolution: int) -> int:
    """How many pixels a side of a latent stands for. Raises SettingError if that does not divide the resolution."""
    factor = int(2 ** (len(config["block_out_channels"]) - 1))
    if resolution % factor:
        below = resolution // factor * factor
        raise SettingError(
            f"resolution {resolution} is no multiple of {factor}, the factor of this VAE: "
            f"use {below or factor} or {below + factor}."
        )
    return factor


def hash_encoders(encoders: Encoders) -> dict[str, str]:
    """What VAE and text encoder are, by name."""
    return {
        "vae": hash_folder(encoders.vae),
        "text_encoder": hash_json([hash_folder(folder) for folder in encoders.text_folders]),
    }


@torch.no_grad()
def scaled_latents(vae: AutoencoderKL, pixels: torch.Tensor) -> torch.Tensor:
    """x_0 of pictures [B, 3, H, W] in -1..1: the mean of the VAE's distribution, shifted and scaled as its config says.

    Returns:
        [B, C, H/f, W/f], float32. Computed in float32, for SDXL's VAE overflows in half precision.
    """
    mean = vae.encode(pixels.to(vae.dtype)).latent_dist.mean.float()
    config = vae.config
    if config.get("latents_mean") is not None and config.get("latents_std") is not None:
        shape = (1, -1, 1, 1)
        centre = torch.tensor(config["latents_mean"], device=mean.device).view(shape)
        spread = torch.tensor(config["latents_std"], device=mean.device).view(shape)
        return (mean - centre) * config["scaling_factor"] / spread
    return (mean - (config.get("shift_factor") or 0.0)) * config["scaling_factor"]


def load_vae(folder: Path) -> AutoencoderKL:
    """Loads a VAE in diffusers layout, in float32 and eval mode, from safetensors only."""
    from diffusers.models import AutoencoderKL

    variant = None if list(folder.glob("diffusion_pytorch_model*.safetensors")) != [
        folder / "diffusion_pytorch_model.fp16.safetensors"
    ] else "fp16"  # fmt: skip
    try:
        vae = AutoencoderKL.from_pretrained(
            folder, torch_dtype=torch.float32, use_safetensors=True, local_files_only=True, variant=variant
        )
    except (OSError, ValueError, SafetensorError) as error:
        raise OMSError(f"The VAE in {folder} cannot be loaded: {error}") from error
    return vae.eval().requires_grad_(False)


def read_vae_config(folder: Path) -> dict:
    """The config.json of a VAE's folder. Raises OMSError if the folder holds none."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        if not config["block_out_channels"]:
            raise KeyError("block_out_channels")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise OMSError(f"{folder} is no VAE in diffusers layout (config.json: {error}).") from error
    return config


def hash_folder(folder: Path) -> str:
    """SHA-256 of the names and contents of the files in a folder."""
    return hash_json([[path.name, hash_file(path)] for path in sorted(folder.iterdir()) if path.is_file()])


def _cached(
    kind: str,
    cache: Path,
    items: Mapping[str, Any],
    made_by: object,
    shard_size: int,
    load: Callable[[], Callable[[Sequence], torch.Tensor]],
    batch_size: int,
    workers: Workers,
) -> tuple[Rows, set[Path]]:
    """Rows of `items`, each under its identity, from the cache, and the files that hold them; what it lacks is encoded
    first, shared out among the processes.
    """
    prefix = f"{kind}-{hash_json(made_by)[:16]}-"
    there = {identity for _, identities, _ in _read_shards(cache, prefix) for identity in identities}
    missing = [identity for identity in items if identity not in there]
    # Every process must see the same list before one of them begins to fill it.
    workers.wait()
    parts = [missing[at : at + shard_size] for at in range(0, len(missing), shard_size)]
    mine = parts[workers.rank :: workers.count]
    if mine:
        encode = load()
        batches = [
            (part, [items[identity] for identity in part[at : at + batch_size]], at + batch_size >= len(part))
            for part in mine
            for at in range(0, len(part), batch_size)
        ]
        done: list[torch.Tensor] = []
        for part, batch, is_last in workers.progress(batches, desc=f"encoding {kind}", unit="batch"):
            done.append(encode(batch).cpu().half())
            if is_last:
                _write_shard(cache / f"{prefix}{hash_json(part)[:16]}.safetensors", part, torch.cat(done))
                done = []
        del encode
        if workers.device.type == "cuda":
            torch.cuda.empty_cache()
    workers.wait()
    used = [shard for shard in _read_shards(cache, prefix) if not items.keys().isdisjoint(shard[1])]
    stored = [identity for _, identities, _ in used for identity in identities]
    place = {identity: row for row, identity in enumerate(stored)}
    if not items.keys() <= place.keys():
        raise OMSError(f"The cache {cache} lacks what was just written: all processes must share one output folder.")
    rows = Rows([rows for _, _, rows in used], torch.tensor([place[identity] for identity in items]))
    return rows, {path for path, _, _ in used}


def _delete_others(cache: Path, used: set[Path]) -> None:
    for kind in ("text", "latents"):
        for path in (*cache.glob(f"{kind}-*"), *cache.glob(f".{kind}-*")):
            if path not in used:
                with suppress(OSError):  # another program looks into it; it is tried again next time
                    path.unlink()


def _read_shards(cache: Path, prefix: str) -> list[tuple[Path, list[str], torch.Tensor]]:
    """Path, identities and memory-mapped rows of each shard that is whole, in an order that is always the same."""
    shards = []
    for path in sorted(cache.glob(f"{prefix}*.safetensors")):
        try:
            with safe_open(path, framework="pt") as file:
                identities, rows = json.loads(file.metadata()["identities"]), file.get_tensor("rows")
        except (OSError, SafetensorError, KeyError, TypeError, ValueError):
            continue
        if len(rows) == len(identities):
            shards.append((path, identities, rows))
    return shards


def _write_shard(path: Path, identities: Sequence[str], rows: torch.Tensor) -> None:
    if not bool(torch.isfinite(rows).all()):
        raise OMSError("Encoding gave numbers that are not finite: the VAE or the text encoder does not work.")
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    save_file({"rows": rows.contiguous()}, temporary, {"identities": json.dumps(identities)})
    temporary.replace(path)
