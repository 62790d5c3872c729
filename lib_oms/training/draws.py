"""What a step trains on: which examples, which of them without their caption, and the noise.

Every random draw is a function of (seed, step) alone and is made for the whole batch before it is shared out. So a
continued run needs no generator's state, and the number of processes and of accumulation steps changes the result by
rounding only.
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch

from lib_oms.training.chance import chance, permutation, seed_for
from lib_oms.training.data import BucketedData, TrainingData
from lib_oms.training.settings import TrainingSettings

Draw = tuple[torch.Tensor, torch.Tensor, torch.Tensor]  # noise, text, x_0


def draws(
    settings: TrainingSettings, data: TrainingData | BucketedData, share: Sequence[slice], first_step: int
) -> Iterator[Draw]:
    """What one process trains on from `first_step` on: in every step the parts `share` of the batch."""
    parts = data.parts if isinstance(data, BucketedData) else [data]
    batch = settings.batch_size
    orders = [Order(settings.seed, len(part)) for part in parts]
    ends = list(itertools.accumulate(len(part) for part in parts))
    seen = [0] * len(parts)  # examples of each
    for step in range(settings.steps):
        # All sizes are drawn as often as they have examples, and each one's examples come in the order of its own.
        at = bisect.bisect_right(ends[:-1], chance(settings.seed, "size", step) * ends[-1])
        first, seen[at] = seen[at], seen[at] + batch
        if step < first_step:
            continue
        index = orders[at].examples(first, batch)
        drop, noise = chances(settings, step, parts[at].latent_shape)
        for part in share:
            x_0, text = parts[at].batch(index[part], drop[part])
            yield noise[part], text, x_0


def chances(settings: TrainingSettings, step: int, latent_shape: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Which examples of a step's batch lose their caption [B], and the noise [B, C, h, w] that each is drawn from."""
    generator = torch.Generator().manual_seed(seed_for(settings.seed, "step", step))
    drop = torch.rand(settings.batch_size, generator=generator) < settings.caption_dropout
    return drop, torch.randn((settings.batch_size, *latent_shape), generator=generator)


def ahead(items: Iterator[Draw]) -> Generator[Draw, None, None]:
    """The same items, each fetched in a thread while the one before it is worked on."""
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(next, items, None)
        while (item := coming.result()) is not None:
            coming = pool.submit(next, items, None)
            yield item


class Order:
    """Which examples a step sees: every epoch another permutation, drawn from (seed, epoch)."""

    def __init__(self, seed: int, count: int):
        self.seed, self.count = seed, count
        self._permutations: dict[int, torch.Tensor] = {}

    def examples(self, first: int, count: int) -> torch.Tensor:
        """The examples at the positions first .. first + count - 1 of the endless sequence of epochs."""
        positions = range(first, first + count)
        epochs = range(positions[0] // self.count, positions[-1] // self.count + 1)
        self._permutations = {epoch: self._permutation(epoch) for epoch in epochs}
        return torch.stack([self._permutations[at // self.count][at % self.count] for at in positions])

    def _permutation(self, epoch: int) -> torch.Tensor:
        if epoch in self._permutations:
            return self._permutations[epoch]
        return permutation(self.count, self.seed, "epoch", epoch)
