"""Noise from seeds (host file: modules/rng.py). Each picture has a generator of its own, on the CPU."""

import torch
from modules import shared
from torch import Tensor


def create_generator(seed: int) -> torch.Generator:
    return torch.Generator("cpu").manual_seed(int(seed))


def slerp(val: float, low: Tensor, high: Tensor) -> Tensor:
    """Spherical interpolation from `low` (val 0) to `high` (val 1), [C, H, W], angles taken along columns.

    Where the two nearly coincide the host interpolates linearly with the ends exchanged; so does this.
    """
    unit_low, unit_high = (t / torch.norm(t, dim=1, keepdim=True) for t in (low, high))
    cosine = (unit_low * unit_high).sum(1)
    if cosine.mean() > 0.9995:
        return low * val + high * (1 - val)
    omega = torch.acos(cosine)
    weights = torch.stack([torch.sin((1 - val) * omega), torch.sin(val * omega)]) / torch.sin(omega)
    return weights[0].unsqueeze(1) * low + weights[1].unsqueeze(1) * high


class ImageRNG:
    """Noise of a batch: `next` gives [B, *shape], first the initial noise and then what ancestral samplers ask for.

    Subseeds blend in a second noise; with seed-resize the noise of another size is put in the middle.
    """

    def __init__(
        self, shape: tuple[int, int, int], seeds: list[int], subseeds: list[int] | None = None,
        subseed_strength: float = 0.0, seed_resize_from_h: int = 0, seed_resize_from_w: int = 0,
    ) -> None:
        self.shape = tuple(int(n) for n in shape)
        self.seeds = seeds
        self.subseeds = subseeds if subseed_strength != 0 else None
        self.subseed_strength = subseed_strength
        resized = seed_resize_from_h > 0 and seed_resize_from_w > 0
        small = (self.shape[0], int(seed_resize_from_h) // 8, int(seed_resize_from_w) // 8)
        self.drawn_shape = small if resized else self.shape
        self.generators = [create_generator(seed) for seed in seeds]
        self.is_first = True

    def next(self) -> Tensor:
        if not self.is_first:
            return torch.stack([torch.randn(self.shape, generator=g) for g in self.generators])
        self.is_first = False
        noise = torch.stack([self._first(i) for i in range(len(self.seeds))])
        delta = shared.opts.eta_noise_seed_delta or 0
        if delta:
            self.generators = [create_generator(seed + delta) for seed in self.seeds]
        return noise

    def _first(self, i: int) -> Tensor:
        noise = torch.randn(self.shape, generator=self.generators[i])
        drawn = noise
        if self.drawn_shape != self.shape:
            drawn = torch.randn(self.drawn_shape, generator=create_generator(self.seeds[i]))
        if self.subseeds is not None:
            other = torch.randn(self.drawn_shape, generator=create_generator(self.subseeds[i]))
            drawn = slerp(self.subseed_strength, drawn, other)
        return drawn if self.drawn_shape == self.shape else _paste_centred(noise, drawn)


def _paste_centred(target: Tensor, source: Tensor) -> Tensor:
    """`target` [C, H, W] with the middle of `source` [C, h, w] in its middle, cut where it does not fit."""
    to, of = [slice(None)], [slice(None)]
    for size, inner in zip(target.shape[1:], source.shape[1:], strict=True):
        gap = (size - inner) // 2
        length = inner if gap >= 0 else inner + 2 * gap
        start_to, start_of = max(gap, 0), max(-gap, 0)
        to.append(slice(start_to, start_to + length))
        of.append(slice(start_of, start_of + length))
    target[tuple(to)] = source[tuple(of)]
    return target
