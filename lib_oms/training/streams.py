"""Training on data that is streamed: read in windows that are shuffled, encoded when it is needed, kept nowhere.

The shards are dealt out to streams, another way in every epoch. Of each step's batch every stream gives an equal part,
and a process reads the streams that its own part of the batch comes from. So what is drawn depends on the number of
streams, and not on that of processes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import torch

from lib_oms.devices import channels_last
from lib_oms.errors import OMSError, SettingError
from lib_oms.training.buckets import Size, batches_of_one_size, bucket_sizes, nearest
from lib_oms.training.chance import permutation
from lib_oms.training.data import Encoders, hash_encoders, load_vae, read_vae_config, scaled_latents, vae_factor
from lib_oms.training.dataset import load_picture, picture_size
from lib_oms.training.draws import Draw, chances
from lib_oms.training.settings import TrainingSettings
from lib_oms.training.shards import Reading, Sample, Shards

if TYPE_CHECKING:
    from diffusers.models import AutoencoderKL

Position = dict[str, Any]
"""Where a stream is, in JSON: epoch, shard (of those that it has in this epoch), place in it, window, and how much of
the window is taken; the first three say where the window begins."""
BEGINNING: Position = {"epoch": 0, "shard": 0, "place": None, "window": 0, "taken": 0}


class Stream:
    """The endless sequence of one stream's samples, epoch after epoch.

    Args:
        shards: all of them.
        number, count: which of how many streams this is.
        seed: decides how the shards are dealt out, and every window's order.
        window: how many samples are held and shuffled at a time.
        arrange: gives the samples of a window, with its number, their sizes and their last order.
        position: where to go on.
    """

    def __init__(
        self,
        shards: Shards,
        number: int,
        count: int,
        seed: int,
        window: int,
        arrange: Callable[[list[Sample], int], list[tuple[Sample, Size]]],
        position: Position = BEGINNING,
    ):
        self._shards, self._number, self._count, self._seed = shards, number, count, seed
        self._size, self._arrange = window, arrange
        self._reading: Reading | None = None
        self._next = {**position, "taken": 0}
        self._fill()
        self._taken = position["taken"]

    def __next__(self) -> tuple[Sample, Size]:
        for _ in range(3):  # the last window of an epoch may hold nothing; the next epoch's first one must not
            if self._taken < len(self._window):
                self._taken += 1
                return self._window[self._taken - 1]
            self._fill()
        raise OMSError("data: there is nothing to train on, or fewer pictures than one batch.")

    def position(self) -> Position:
        """Where to go on after the samples so far."""
        return {**self._start, "taken": self._taken}

    def _fill(self) -> None:
        """Reads the next window. None goes beyond an epoch's end, so that every epoch has each sample once."""
        self._start, self._taken = self._next, 0
        epoch, shard, place, number = (self._start[key] for key in ("epoch", "shard", "place", "window"))
        mine = permutation(len(self._shards), self._seed, "shards", epoch).tolist()[self._number :: self._count]
        samples: list[Sample] = []
        while shard < len(mine):
            if self._reading is None:
                self._reading = self._shards.read(mine[shard], place)
            samples += self._reading.take(self._size - len(samples))
            if len(samples) == self._size:
                place = self._reading.place()
                break
            self._reading, shard, place = None, shard + 1, None
        else:
            epoch, shard = epoch + 1, 0
        self._next = {"epoch": epoch, "shard": shard, "place": place, "window": number + 1, "taken": 0}
        order = permutation(len(samples), self._seed, f"window of {self._number}", number).tolist()
        self._window = self._arrange([samples[at] for at in order], number)


class StreamedData:
    """What `draws` takes from streams; as TrainingData, which is encoded beforehand.

    Attributes:
        hashes: as TrainingData's, but of the shards' names and sizes.
        positions: where each stream begins, by its number; a continued training sets it.
    """

    def __init__(self, shards: Shards, encoders: Encoders, settings: TrainingSettings, device: torch.device):
        config = read_vae_config(encoders.vae)
        self._factor = vae_factor(config, settings.resolution)
        self._channels = int(config.get("latent_channels", 4))
        self._sizes = [(settings.resolution, settings.resolution)]
        if settings.buckets:
            self._sizes = bucket_sizes(settings.resolution)
        _check(settings, len(shards))
        self._shards, self._settings, self._device, self._encoders = shards, settings, device, encoders
        self.hashes = {"dataset": shards.identity, **hash_encoders(encoders)}
        self.positions: dict[str, Position] = {}
        self._at_step: dict[int, dict[str, Position]] = {}
        self._encode_text = encoders.load_text(device)
        self.text_width = int(self._encode_text([""]).shape[-1])

    @property
    def description(self) -> str:
        """How much there is of it, for messages and the module's file."""
        return f"{len(self._shards)} shards"

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """(C, h, w) of the latents of a square picture."""
        return self._shape((self._settings.resolution, self._settings.resolution))

    def positions_at(self, step: int) -> dict[str, Position]:
        """Where the streams of this process go on at a step that was drawn lately; where they began, before."""
        return self._at_step.get(step, self.positions)

    def draws(self, share: Sequence[slice], first_step: int) -> Iterator[Draw]:
        """What one process trains on from `first_step` on: in every step the parts `share` of the batch."""
        settings = self._settings
        rows = settings.batch_size // settings.streams
        asked = {at // rows for part in share for at in range(part.start, part.stop)}
        streams = {
            number: Stream(
                self._shards,
                number,
                settings.streams,
                settings.seed,
                settings.shuffle_buffer,
                self._arrange,
                self.positions.get(str(number), BEGINNING),
            )
            for number in sorted(asked)
        }
        vae = channels_last(load_vae(self._encoders.vae), self._device)
        self._remember(first_step, streams)
        for step in range(first_step, settings.steps):
            batch = {number * rows + row: next(streams[number]) for number in streams for row in range(rows)}
            self._remember(step + 1, streams)
            size = next(iter(batch.values()))[1]
            drop, noise = chances(settings, step, self._shape(size))
            for part in share:
                samples = [batch[at][0] for at in range(part.start, part.stop)]
                yield noise[part], self._text(samples, drop[part]), self._latents(vae, samples, size)

    def _remember(self, step: int, streams: dict[int, Stream]) -> None:
        self._at_step[step] = {str(number): stream.position() for number, stream in streams.items()}
        self._at_step.pop(step - 4, None)  # what is drawn runs ahead of what is trained on, but not by as much

    def _arrange(self, samples: list[Sample], number: int) -> list[tuple[Sample, Size]]:
        if not self._settings.buckets:
            return [(sample, self._sizes[0]) for sample in samples]
        with ThreadPoolExecutor(self._settings.threads) as pool:
            found = list(pool.map(lambda sample: picture_size(sample.picture, sample.where), samples))
        wanted = [nearest(self._sizes, size) for size in found]
        settings = self._settings
        order = batches_of_one_size(wanted, self._sizes, settings.batch_size, settings.seed, number)
        return [(samples[at], size) for at, size in order]

    def _shape(self, size: Size) -> tuple[int, ...]:
        return (self._channels, size[1] // self._factor, size[0] // self._factor)

    @torch.no_grad()
    def _text(self, samples: Sequence[Sample], drop: torch.Tensor) -> torch.Tensor:
        captions = ["" if dropped else sample.caption for sample, dropped in zip(samples, drop.tolist(), strict=True)]
        different = list(dict.fromkeys(captions))
        encoded = self._encode_text(different)
        return encoded[torch.tensor([different.index(caption) for caption in captions], device=encoded.device)].float()

    def _latents(self, vae: AutoencoderKL, samples: Sequence[Sample], size: Size) -> torch.Tensor:
        with ThreadPoolExecutor(self._settings.threads) as pool:
            pixels = torch.stack(list(pool.map(lambda each: load_picture(each.picture, size, each.where), samples)))
        parts = pixels.split(self._settings.encode_batch)
        encoded = [scaled_latents(vae, part.to(self._device, memory_format=torch.channels_last)) for part in parts]
        return torch.cat(encoded)


def _check(settings: TrainingSettings, shards: int) -> None:
    if shards < settings.streams:
        raise SettingError(
            f"streams is {settings.streams}, but the data has {shards} shards: allowed is 1 to {shards}."
        )
    if settings.batch_size % settings.streams:
        raise SettingError(f"batch_size {settings.batch_size} is no multiple of the {settings.streams} streams.")
    if settings.buckets and settings.streams > 1:
        raise SettingError("streams: with buckets, where a whole batch has one size, only 1 is possible.")
    if settings.buckets and settings.shuffle_buffer < settings.batch_size:
        raise SettingError(
            f"shuffle_buffer {settings.shuffle_buffer} is less than batch_size {settings.batch_size}: with buckets a "
            "batch is made of what it holds, so it should be many times as much."
        )
