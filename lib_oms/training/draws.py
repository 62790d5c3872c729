"""What a step trains on: which examples, which of them without their caption, and the noise.

Every random draw is a function of (seed, step) alone and is made for the whole batch before it is shared out. So a
continued run needs no generator's state, and the number of processes and of accumulation steps changes the result by
rounding only.
"""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch

from lib_oms.training.data import TrainingData
from lib_oms.training.settings import TrainingSettings

Draw = tuple[torch.Tensor, torch.Tensor, torch.Tensor]  # noise, text, x_0


def draws(settings: TrainingSettings, data: TrainingData, share: Sequence[slice], first_step: int) -> Iterator[Draw]:
    """What one process trains on from `first_step` on: in every step the parts `share` of the batch."""
    batch = settings.batch_size
    order = Order(settings.seed, len(data))
    for step in range(first_step, settings.steps):
        index = order.examples(step * batch, batch)
        drop, noise = chances(settings, step, data.latent_shape)
        for part in share:
            x_0, text = data.batch(index[part], drop[part])
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


def permutation(count: int, seed: int, purpose: str, number: int) -> torch.Tensor:
    """A shuffled 0 .. count - 1 [count], always the same for the same seed, purpose and number."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed_for(seed, purpose, number)))


def seed_for(seed: int, purpose: str, number: int = 0) -> int:
    """A generator's seed (63 bits) for a purpose, unrelated to those of other purposes, steps and seeds."""
    return int.from_bytes(hashlib.sha256(f"{seed} {purpose} {number}".encode()).digest()[:8], "big") >> 1
